//! `queue migrate`: mailbox and queue to another Redis, losing nothing.
//!
//! Mail is admitted at the source, as a run does it, and then moves as records: copied and merged at the target, looked for
//! there, and only then deleted at the source, if it is still as it was copied. So at every moment each request is at the
//! source, at the target, or at both; at both it merges when this is run again.
//!
//! What runs agreed on (rests of keys, learned rates, the calls of a day, open circuits) is copied before the first request, so that
//! a worker at the target knows it. A run of the source that uses a key cannot be moved: it is waited for by the operator.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use url::Url;

use super::{
    Ending, Misuse, connect,
    interrupt::Interrupts,
    text::{self, count, counted},
};
use crate::{
    clock::{SystemClock, Timestamp},
    config::{RedisConfig, WorkerConfig, env::process_var},
    queue::{
        MailLimits, Queue as _, QueueError,
        archive::{Archive as _, Kept, Part, Place, Returning},
        record::{QueueLimits, Record, State},
        redis::{Agreement, InUse, RedisQueue},
    },
};

/// How long to wait before looking again, when nothing could be moved.
const REST: Duration = Duration::from_millis(250);

/// How often a person is told how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// Moves mailbox and queue to another Redis
///
/// Stop the worker's schedule first: while a run at the old Redis uses an API key, nothing is moved, since a worker at the new
/// one would use that key at the same time. Rests of keys, learned rates, the calls of the day and open circuits are
/// copied, each for the rest of its life. Every request is copied, looked for at the target, and only then deleted at the old
/// one, if it did not change meanwhile. It may be interrupted at any point and run again: at worst a request is at both and
/// merges. Leased requests wait until they are settled or their lease runs out. With --follow it goes on moving what producers
/// still write to the old Redis, until Ctrl-C: meanwhile point the worker to the new Redis, start its schedule again, and move
/// the producers one after another. Needs REDIS_URL (the old one), and the new one from --to-file, MIGRATE_TO_REDIS_URL or
/// --to. QUEUE_NAMESPACE holds for both.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  MIGRATE_TO_REDIS_URL=redis://:password@new-redis:6379 refresh-worker queue migrate
  refresh-worker queue migrate --to-file /run/secrets/new-redis-url --follow

A URL given with --to can be read by everybody on this machine in the list of processes; leave passwords out of it.")]
pub struct TransferArgs {
    /// The new Redis
    #[arg(long, value_name = "URL", conflicts_with = "to_file")]
    to: Option<String>,
    /// A file that holds the URL of the new Redis, and nothing else
    #[arg(long, value_name = "FILE")]
    to_file: Option<PathBuf>,
    /// Go on until Ctrl-C, while producers still write to the old Redis
    #[arg(long)]
    follow: bool,
    /// Write the summary as JSON
    #[arg(long)]
    json: bool,
}

/// What was moved so far.
#[derive(Clone, Debug, Default, Serialize)]
struct Moved {
    /// Mail admitted at the old Redis.
    admitted: u64,
    /// Requests moved.
    requests: u64,
    dead_letters: u64,
    unreadable: u64,
    /// Rests of keys, learned rates, counts of a day's calls and open circuits that were copied.
    agreements: u64,
    /// Copies that changed at the old Redis before they were deleted there; they moved again later.
    changed: u64,
    /// Still at the old Redis.
    left: Left,
    complete: bool,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Left {
    waiting: u64,
    leased: u64,
    mailbox: u64,
    orphans: u64,
    broken: u64,
}

/// One pass over the source.
#[derive(Clone, Debug, Default)]
struct Pass {
    moved: u64,
    leased: u64,
    broken: u64,
}

struct Transfer {
    source: RedisQueue,
    target: RedisQueue,
    moved: Moved,
    /// The scan for data without an index entry has come round without finding any.
    scanned: bool,
    clean_since_start: bool,
}

pub async fn run(args: TransferArgs) -> anyhow::Result<Ending> {
    let limits = QueueLimits {
        max_attempts: WorkerConfig::read(&process_var)?.max_attempts,
        // What is unreadable only passes through.
        unreadable_letters: 1_000_000,
        dead_letters: 1_000_000,
    };
    let source = connect::queue()?.with_limits(limits);
    let target = RedisQueue::connect(&target_config(&args)?, Arc::new(SystemClock));
    let target = target.context("failed to use the new Redis's URL")?;
    refuse_same(&source, &target).await?;
    let mut interrupts = Interrupts::listen().context("failed to listen to Ctrl-C")?;
    if !args.json {
        let end = if args.follow { "; Ctrl-C ends" } else { "" };
        text::print(&format!("moving {} to {}{end}\n", source.server(), target.server()))?;
    }
    let mut transfer = Transfer { source, target, moved: Moved::default(), scanned: false, clean_since_start: false };
    transfer.carry_over_agreements().await?;
    let stop = AtomicBool::new(false);
    let carried_out = transfer.carry_out(args.follow, &stop);
    interrupts.until_done(carried_out, || stop.store(true, Ordering::Relaxed)).await?;
    transfer.look_at_what_is_left().await?;
    let moved = &transfer.moved;
    text::print(&if args.json { serde_json::to_string(moved)? + "\n" } else { render(moved) })?;
    Ok(if moved.complete || args.follow { Ending::Well } else { Ending::Badly })
}

/// `--to`, else `--to-file`, else `MIGRATE_TO_REDIS_URL`.
fn target_config(args: &TransferArgs) -> anyhow::Result<RedisConfig> {
    let given = match (&args.to, &args.to_file) {
        (Some(url), _) => {
            if Url::parse(url).is_ok_and(|url| url.password().is_some()) {
                eprintln!(
                    "warning: the password in --to can be read in the list of processes; use --to-file or \
                     MIGRATE_TO_REDIS_URL"
                );
            }
            Some(url.clone())
        }
        (None, Some(path)) => {
            let text = fs::read_to_string(path).with_context(|| format!("failed to read `{}`", path.display()))?;
            Some(text.trim().to_owned())
        }
        (None, None) => None,
    };
    let vars = |name: &str| match (name, &given) {
        ("MIGRATE_TO_REDIS_URL", Some(url)) => Some(url.clone()),
        _ => process_var(name),
    };
    Ok(RedisConfig::read_migration_target(&vars)?)
}

async fn refuse_same(source: &RedisQueue, target: &RedisQueue) -> anyhow::Result<()> {
    target.time().await.context("failed to ask the new Redis")?;
    // The mark is written at the new one: the old one may be full.
    if target.is_same_database(source).await.context("failed to compare the two Redis")? {
        return Err(Misuse(format!(
            "nothing was moved: {} and {} are the same database; name another server or another database number",
            source.server(),
            target.server()
        ))
        .into());
    }
    let database = target.database();
    if database != 0 {
        eprintln!("warning: the new Redis's URL names database {database}, and producers always write to database 0");
    }
    Ok(())
}

impl Transfer {
    /// Copies what runs agreed on, unless a run goes on: what it holds cannot be moved.
    async fn carry_over_agreements(&mut self) -> anyhow::Result<()> {
        let agreements = self.source.agreements().await;
        let agreements = agreements.context("failed to read what runs agreed on at the old Redis")?;
        if let Some(InUse { key, run, left }) = agreements.iter().find_map(Agreement::in_use) {
            anyhow::bail!(
                "nothing was moved: run {run} at the old Redis uses API key {key}, and a worker at the new one would use it at \
                 the same time; stop the worker's schedule and run this again when that run has ended (should it be \
                 dead, its hold ends in {} s)",
                left.as_secs() + 1
            );
        }
        for agreement in &agreements {
            let carried = self.target.carry_over(agreement).await;
            self.moved.agreements += u64::from(carried.context("failed to copy what runs agreed on")?);
        }
        Ok(())
    }

    /// Moves until nothing is left, or for ever; ends early when it is asked to.
    async fn carry_out(&mut self, follow: bool, stop: &AtomicBool) -> anyhow::Result<()> {
        let mut told = tokio::time::Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let (rest, done) = match self.round(stop).await {
                Ok((pass, idle)) => {
                    let must_wait = idle && (pass.leased > 0 || self.scanned);
                    (if must_wait { REST } else { Duration::ZERO }, idle && pass.leased == 0 && self.scanned)
                }
                Err(error) if follow && error.is_transient() => {
                    text::print_error(&format!("warning: {error}; trying again"));
                    (Duration::from_secs(1), false)
                }
                Err(error) => {
                    let told =
                        format!("failed to move everything ({} so far; run it again)", count(self.moved.requests));
                    return Err(anyhow::Error::new(error).context(told));
                }
            };
            if done && !follow {
                break;
            }
            if told.elapsed() >= TOLD_EVERY {
                told = tokio::time::Instant::now();
                eprintln!("moved {} so far", counted(self.moved.requests, "request", "requests"));
            }
            tokio::time::sleep(rest).await;
        }
        Ok(())
    }

    /// Moves everything that can be moved now, then takes one slice of mail in. Says whether there was nothing to do.
    async fn round(&mut self, stop: &AtomicBool) -> Result<(Pass, bool), QueueError> {
        let pass = self.move_objects(stop).await?;
        self.moved.left.broken = pass.broken;
        let taken_in = match self.take_mail_in().await {
            // A full Redis takes nothing in until something has left it.
            Err(QueueError::Refused { .. }) if pass.moved > 0 => 1,
            other => other?,
        };
        let idle = pass.moved == 0 && taken_in == 0;
        Ok((pass, idle))
    }

    /// Admits a slice of the source's mailbox into its queue. Answers how many entries it dealt with.
    async fn take_mail_in(&mut self) -> Result<u64, QueueError> {
        let now = self.source.time().await?;
        let mail = self.source.read_mail(now, MailLimits::default()).await?;
        let scan = mail.scan.clone();
        let admitted = self.source.admit(now, mail).await?;
        self.moved.admitted += admitted.admitted as u64;
        let taken_in = admitted.admitted + admitted.unreadable + admitted.orphaned + admitted.orphans_dropped;
        let is_clean = taken_in == 0 && admitted.changed == 0 && !admitted.more;
        let (begins, ends) = scan.map_or((true, true), |scan| (scan.from == "0", scan.to == "0"));
        self.clean_since_start = is_clean && (begins || self.clean_since_start);
        self.scanned = if ends { self.clean_since_start } else { self.scanned && is_clean };
        Ok((taken_in + admitted.changed) as u64)
    }

    async fn move_objects(&mut self, stop: &AtomicBool) -> Result<Pass, QueueError> {
        let mut pass = Pass::default();
        let mut place = Some(Place::of(Part::Objects));
        while let Some(from) = place.filter(|_| !stop.load(Ordering::Relaxed)) {
            let now = self.source.time().await?;
            let slice = self.source.read_slice(now, &from).await?;
            self.move_slice(slice.entries, now, &mut pass).await?;
            place = slice.next;
        }
        Ok(pass)
    }

    /// Copies, verifies, deletes.
    async fn move_slice(&mut self, entries: Vec<Kept>, now: Timestamp, pass: &mut Pass) -> Result<(), QueueError> {
        let mut copies: Vec<(Returning, Vec<u8>)> = Vec::new();
        for entry in entries {
            if let Some(copy) = movable(entry, now, pass) {
                copies.push(copy);
            }
        }
        if copies.is_empty() {
            return Ok(());
        }
        let (copies, stored): (Vec<Returning>, Vec<Vec<u8>>) = copies.into_iter().unzip();
        let there = self.target.time().await?;
        self.target.put_back(there, &copies).await?;
        let arrived = self.target.has(&copies).await?;
        let verified = copies.iter().zip(stored).zip(arrived).filter(|(_, arrived)| *arrived);
        let (copies, taken): (Vec<&Returning>, Vec<(String, Vec<u8>)>) =
            verified.map(|((copy, stored), _)| (copy, (copy.name(), stored))).unzip();
        let gone = self.source.take_away(&taken).await?;
        for (copy, gone) in copies.into_iter().zip(gone) {
            pass.moved += 1;
            match copy {
                _ if !gone => self.moved.changed += 1,
                Returning::Letter { .. } => self.moved.unreadable += 1,
                Returning::Record { record, .. } if record.state == State::Dead => self.moved.dead_letters += 1,
                _ => self.moved.requests += 1,
            }
        }
        Ok(())
    }

    async fn look_at_what_is_left(&mut self) -> anyhow::Result<()> {
        let told = "failed to look at what is left at the old Redis";
        let now = self.source.time().await.context(told)?;
        let stats = self.source.stats(now).await.context(told)?;
        let left = &mut self.moved.left;
        left.waiting = stats.ready + stats.delayed + stats.dead_letters;
        (left.leased, left.mailbox, left.orphans) = (stats.leased, stats.mailbox, stats.orphans);
        let all = left.waiting + left.leased + left.mailbox + left.orphans + left.broken;
        self.moved.complete = self.scanned && all == 0;
        Ok(())
    }
}

/// An entry as it goes to the target, with its text at the source. What is leased stays; a lease that ran out lapses on
/// the way, as it would in a run.
fn movable(entry: Kept, now: Timestamp, pass: &mut Pass) -> Option<(Returning, Vec<u8>)> {
    let entry = match entry {
        Kept::Record { object, record, stored } if record.state == State::Leased => {
            if record.expires.unwrap_or_default() > now {
                pass.leased += 1;
                return None;
            }
            let mut record: Record = *record;
            record.lapse(true, now);
            Kept::Record { object, record: Box::new(record), stored }
        }
        other => other,
    };
    let stored = match &entry {
        Kept::Record { stored, .. } | Kept::Letter { stored, .. } => stored.clone(),
        _ => Vec::new(),
    };
    let returning = entry.returning(now, 1).ok();
    pass.broken += u64::from(returning.is_none());
    returning.map(|returning| (returning, stored))
}

fn render(moved: &Moved) -> String {
    let mut told = format!(
        "moved {}, {} and {} of unreadable mail\n",
        counted(moved.requests, "request", "requests"),
        counted(moved.dead_letters, "dead letter", "dead letters"),
        counted(moved.unreadable, "letter", "letters"),
    );
    if moved.agreements > 0 {
        let agreements = counted(moved.agreements, "agreement", "agreements");
        let what = "rests of keys, learned rates, calls of a day, circuits";
        let carried = format!("carried over {agreements} of runs ({what})\n");
        told.push_str(&carried);
    }
    let left = &moved.left;
    let kinds = [
        (left.waiting, "requests and dead letters"),
        (left.leased, "leased: their runs settle them, or they lapse"),
        (left.mailbox, "in the mailbox"),
        (left.orphans, "index entries whose data has not come; they are dropped after 10 minutes"),
        (left.broken, "that are no records: `refresh-worker queue backup` shows them as `broken`"),
    ];
    let kinds: Vec<String> = kinds
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("  {} {what}\n", count(*number)))
        .collect();
    if moved.complete {
        told.push_str("nothing is left at the old Redis\n");
    } else if kinds.is_empty() {
        told.push_str("what producers wrote meanwhile is left at the old Redis: run it again\n");
    } else {
        told.push_str("left at the old Redis, to be moved by running it again:\n");
        told.push_str(&kinds.concat());
    }
    told
}
