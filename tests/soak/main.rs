//! The soak: many runs over one queue, killed again and again, while producers go on writing. Prints what became of the
//! requests, and fails when a promise is broken.
//!
//! ```text
//! cargo test --features failpoints --test soak -- --kills 1000
//! ```
//!
//! Real binary, real Redis and PostgreSQL of its own, the simulator on a thread of its own. A kill is a SIGKILL at a
//! random failpoint or at a random moment. Meanwhile one sandbox is frozen for as long as idle connections live
//! (`--freeze-seconds`). `--help` lists the options.
//!
//! With `--follow` everything is on that follows a commit. Then it is also looked at whether every document that was stored
//! is in the stream of events, whether any note of a commit is left, and whether any reader's old copy is.

#![allow(clippy::unwrap_used, reason = "a soak may fail as tests do")]

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../it/lambda/events.rs"]
mod events;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../it/faults/evidence.rs"]
mod evidence;
mod failover;
mod freeze;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../it/faults/overlap.rs"]
mod overlap;
mod report;
mod storm;
#[path = "../it/support/mod.rs"]
mod support;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../it/lambda/world.rs"]
mod world;

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use refresh_worker::sim::{SimConfig, Simulator};

use self::{report::Report, storm::Storm, world::World};

/// Kills the worker again and again, and counts what is lost.
#[derive(Clone, Debug, Parser)]
struct Options {
    /// Kills with leases of 2 seconds.
    #[arg(long, default_value_t = 1000)]
    kills: usize,
    /// Kills with leases of 15 seconds, the default, after those.
    #[arg(long, default_value_t = 20)]
    default_lease_kills: usize,
    /// Processes at once.
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// API keys; each run takes one.
    #[arg(long, default_value_t = 6)]
    keys: usize,
    /// With all that follows a commit: events, readers' keys, looks at wars and members of clans.
    #[arg(long)]
    follow: bool,
    /// The seconds for which a sandbox is frozen between two runs; 0 leaves it out.
    #[arg(long, default_value_t = 300)]
    freeze_seconds: u64,
    /// Failovers of Redis after the kills, and one of PostgreSQL among them; 0 leaves them out.
    #[arg(long, default_value_t = 10)]
    failovers: usize,
    /// The soak fails when not all kills have happened by then.
    #[arg(long, default_value_t = 30)]
    minutes: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let world = world(&options).await;
    // The worker's own tables are made here.
    world.worker().await.invoke(&events::schedule(), world::PLENTY).await.response();
    let storm = Storm::over(&world, options.workers, options.follow).await;
    let freeze = freeze::freeze(Duration::from_secs(options.freeze_seconds));
    let limit = Duration::from_secs(options.minutes * 60);
    let kills = async {
        // Alone, since what is measured is time.
        for (runs, keys) in [(2, 1), (2, 2), (2, 5), (5, 1), (5, 2), (5, 5), (10, 1), (10, 2), (10, 5)] {
            let (calls, handovers, busiest) = overlap::overlap(runs, keys).await;
            println!(
                "{runs:2} runs at once, {keys} keys: {calls:3} calls, {handovers:2} handovers, busiest second of a key {busiest}"
            );
        }
        storm.rage(options.kills, Duration::from_secs(2)).await;
        storm.rage(options.default_lease_kills, Duration::from_secs(15)).await;
        Box::pin(failover::fail_over(options.failovers)).await
    };
    let all = async { tokio::join!(kills, freeze) };
    let Ok((failed_over, thawed)) = Box::pin(tokio::time::timeout(limit, all)).await else {
        eprintln!("not done within {} minutes: {}", options.minutes, storm.progress());
        return ExitCode::FAILURE;
    };
    let report = Report::of(&world, storm, (thawed, failed_over), options.follow).await;
    println!("{report}");
    if report.broken().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Enough objects that each is asked for once.
async fn world(options: &Options) -> World {
    let tokens: Vec<String> = (0..options.keys).map(|number| format!("soak-key-{number}")).collect();
    let kills = options.kills + options.default_lease_kills;
    let simulator = Simulator::start_apart(SimConfig {
        clans: (kills * 2).max(100),
        tokens: tokens.clone(),
        latency: Duration::from_millis(50),
        ..SimConfig::default()
    });
    World::around(simulator.expect("a loopback port is free"), tokens).await
}
