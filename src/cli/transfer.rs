//! `queue migrate`: moves the mailbox and the queue to another Redis without losing a request.
//!
//! Mail is admitted at the source, as a run admits it, and then moves as records. A record is copied to the target, verified
//! there, and deleted at the source if it has not changed. So each request is always at the source, at the target, or at
//! both, and a copy at both merges when the command is run again.
//!
//! The shared state of runs (cooldowns, learned rates, the calls of a day, open circuits) is copied before the first request,
//! so that a worker at the target knows it. A run that uses a key cannot be moved, and the command refuses to start.

use std::{
    fmt::Write as _,
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
    Exit, Misuse, connect,
    interrupt::Interrupts,
    text::{self, count, counted},
};
use crate::{
    clock::{SystemClock, Timestamp},
    config::{RedisConfig, WorkerConfig, env::process_var},
    queue::{
        MailLimits, Queue as _, QueueError,
        admin::{Kept, Part, Place, QueueAdmin as _, Returning},
        record::{QueueLimits, Record, State},
        redis::{InUse, RedisQueue, SharedEntry},
    },
};

/// The pause after a pass that moved nothing.
const IDLE_PAUSE: Duration = Duration::from_millis(250);

const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Moves the mailbox and the queue to another Redis
///
/// Stop the worker's schedule first. The command refuses to start while a run at the old Redis uses an API key, because a
/// worker at the new Redis would use the same key. It copies the cooldowns and learned rates of keys, the calls of the day
/// and open circuits. Then it copies each request, verifies the copy, and deletes the original if it has not changed. You
/// may interrupt it at any point and run it again; a request at both servers merges. Leased requests move when they are
/// settled or their lease runs out. With --follow it keeps moving what producers still write to the old Redis, until
/// Ctrl-C. In the meantime point the worker to the new Redis, start its schedule again, and move the producers one by one.
/// Needs REDIS_URL (the old Redis), and the URL of the new one from --to-file, MIGRATE_TO_REDIS_URL or --to.
/// QUEUE_NAMESPACE applies to both.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  MIGRATE_TO_REDIS_URL=redis://:password@new-redis:6379 refresh-worker queue migrate
  refresh-worker queue migrate --to-file /run/secrets/new-redis-url --follow

Everybody on this machine can read a URL given with --to in the list of processes. Leave passwords out of it.")]
pub struct TransferArgs {
    /// The new Redis
    #[arg(long, value_name = "URL", conflicts_with = "to_file")]
    to: Option<String>,
    /// A file with the URL of the new Redis, and nothing else
    #[arg(long, value_name = "FILE")]
    to_file: Option<PathBuf>,
    /// Keep moving until Ctrl-C, while producers still write to the old Redis
    #[arg(long)]
    follow: bool,
    /// Write the summary as JSON
    #[arg(long)]
    json: bool,
}

/// The progress of the move.
#[derive(Clone, Debug, Default, Serialize)]
struct Moved {
    /// Mail admitted at the old Redis.
    admitted: u64,
    requests: u64,
    dead_letters: u64,
    unreadable: u64,
    /// Copied entries of the shared state: cooldowns, learned rates, calls of a day, open circuits.
    shared_state: u64,
    /// Requests that changed at the old Redis after their copy. They moved again later.
    changed: u64,
    /// The rest at the old Redis.
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

/// The result of one pass over the source.
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
    /// A complete scan for data without an index entry found none.
    scanned: bool,
    /// The current scan has found none so far.
    clean_since_start: bool,
}

pub async fn run(args: TransferArgs) -> anyhow::Result<Exit> {
    let limits = QueueLimits {
        max_attempts: WorkerConfig::read(&process_var)?.max_attempts,
        // Everything only passes through, so nothing may be evicted.
        dead_entries: 1_000_000,
        dead_letters: 1_000_000,
    };
    let source = connect::queue()?.with_limits(limits);
    let target = RedisQueue::connect(&target_config(&args)?, Arc::new(SystemClock));
    let target = target.context("the URL of the new Redis cannot be used")?;
    // A move onto itself would delete every request after its copy.
    refuse_same(&source, &target).await?;
    let mut interrupts = Interrupts::listen()?;
    if !args.json {
        let end = if args.follow { "; Ctrl-C ends it" } else { "" };
        text::print(&format!("moving {} to {}{end}\n", source.server(), target.server()))?;
    }
    let mut transfer = Transfer { source, target, moved: Moved::default(), scanned: false, clean_since_start: false };
    transfer.copy_shared_state().await?;
    // Checked between slices, so that a stopped move leaves no request half moved.
    let stop = AtomicBool::new(false);
    let moving = transfer.move_all(args.follow, &stop);
    interrupts.until_done(moving, || stop.store(true, Ordering::Relaxed)).await?;
    // After an interruption, too: the person must know what is left.
    transfer.count_rest().await?;
    let moved = &transfer.moved;
    text::print(&if args.json { serde_json::to_string(moved)? + "\n" } else { render(moved) })?;
    // With --follow a person ends the move, so a rest is expected.
    Ok(if moved.complete || args.follow { Exit::Success } else { Exit::Failure })
}

/// The address of the new Redis: `--to`, else `--to-file`, else `MIGRATE_TO_REDIS_URL`.
fn target_config(args: &TransferArgs) -> anyhow::Result<RedisConfig> {
    let given = match (&args.to, &args.to_file) {
        (Some(url), _) => {
            if Url::parse(url).is_ok_and(|url| url.password().is_some()) {
                eprintln!(
                    "warning: everybody can read the password in --to in the list of processes; use --to-file or \
                     MIGRATE_TO_REDIS_URL"
                );
            }
            Some(url.clone())
        }
        (None, Some(path)) => {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
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
    target.time().await?;
    // The mark is written at the new Redis, since the old one may be full.
    if target.is_same_database(source).await? {
        return Err(Misuse(format!(
            "nothing was moved: {} and {} are the same database; name another server or another database number",
            source.server(),
            target.server()
        ))
        .into());
    }
    let database = target.database();
    if database != 0 {
        eprintln!(
            "warning: the URL of the new Redis names database {database}, but producers always write to database 0"
        );
    }
    Ok(())
}

impl Transfer {
    /// Copies the shared state of runs, unless a run is active: its key slots cannot be moved.
    async fn copy_shared_state(&mut self) -> anyhow::Result<()> {
        let agreements = self.source.shared_entries().await?;
        if let Some(InUse { key, run, left }) = agreements.iter().find_map(SharedEntry::in_use) {
            anyhow::bail!(
                "nothing was moved: run {run} at the old Redis uses API key {key}, and a worker at the new Redis would use it at \
                 the same time; stop the worker's schedule, and run this again when that run has ended (a dead run loses \
                 the key in {} s)",
                left.as_secs() + 1
            );
        }
        for agreement in &agreements {
            self.moved.shared_state += u64::from(self.target.carry_over(agreement).await?);
        }
        Ok(())
    }

    /// Moves until nothing is left, or with `follow` until it is stopped.
    async fn move_all(&mut self, follow: bool, stop: &AtomicBool) -> anyhow::Result<()> {
        let mut reported = tokio::time::Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let (pause, done) = match self.round(stop).await {
                Ok((pass, idle)) => {
                    // Leases end by themselves; without them one idle pass is enough.
                    let must_wait = idle && (pass.leased > 0 || self.scanned);
                    (if must_wait { IDLE_PAUSE } else { Duration::ZERO }, idle && pass.leased == 0 && self.scanned)
                }
                // A move that follows for days must survive a restart of either server.
                Err(error) if follow && error.is_transient() => {
                    text::print_error(&format!("warning: {error}; trying again"));
                    (Duration::from_secs(1), false)
                }
                Err(error) => {
                    let moved = counted(self.moved.requests, "request", "requests");
                    return Err(anyhow::Error::new(error).context(format!("moved {moved} and stopped; run it again")));
                }
            };
            if done && !follow {
                break;
            }
            if reported.elapsed() >= PROGRESS_INTERVAL {
                reported = tokio::time::Instant::now();
                eprintln!("moved {} so far", counted(self.moved.requests, "request", "requests"));
            }
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Moves every request that can be moved now, then admits a slice of mail. The flag is true when there was nothing to do.
    async fn round(&mut self, stop: &AtomicBool) -> Result<(Pass, bool), QueueError> {
        let pass = self.move_objects(stop).await?;
        self.moved.left.broken = pass.broken;
        let admitted = match self.admit_mail().await {
            // A full Redis admits nothing until requests have left it.
            Err(QueueError::Refused { .. }) if pass.moved > 0 => 1,
            other => other?,
        };
        let idle = pass.moved == 0 && admitted == 0;
        Ok((pass, idle))
    }

    /// Admits a slice of the source's mailbox into its queue. Returns the number of entries.
    async fn admit_mail(&mut self) -> Result<u64, QueueError> {
        let now = self.source.time().await?;
        let mail = self.source.read_mail(now, MailLimits::default()).await?;
        let scan = mail.scan.clone();
        let admitted = self.source.admit(now, mail).await?;
        self.moved.admitted += admitted.admitted as u64;
        let handled = admitted.admitted + admitted.unreadable + admitted.orphaned + admitted.orphans_dropped;
        // Mail may be hidden from the index, so the scan must come round without any.
        let is_clean = handled == 0 && admitted.changed == 0 && !admitted.more;
        let (begins, ends) = scan.map_or((true, true), |scan| (scan.from == "0", scan.to == "0"));
        self.clean_since_start = is_clean && (begins || self.clean_since_start);
        self.scanned = if ends { self.clean_since_start } else { self.scanned && is_clean };
        Ok((handled + admitted.changed) as u64)
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

    /// Copies the entries, verifies the copies, then deletes the originals.
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
        // A read of its own proves that the copies are there.
        let arrived = self.target.has(&copies).await?;
        let verified = copies.iter().zip(stored).zip(arrived).filter(|(_, arrived)| *arrived);
        let (copies, taken): (Vec<&Returning>, Vec<(String, Vec<u8>)>) =
            verified.map(|((copy, stored), _)| (copy, (copy.name(), stored))).unzip();
        // Deletes an original only if its text is unchanged, so that a later change at the source is not lost.
        let gone = self.source.take_away(&taken).await?;
        for (copy, gone) in copies.into_iter().zip(gone) {
            pass.moved += 1;
            match copy {
                // The next pass copies the changed request, which merges.
                _ if !gone => self.moved.changed += 1,
                Returning::DeadEntry { .. } => self.moved.unreadable += 1,
                Returning::Record { record, .. } if record.state == State::Dead => self.moved.dead_letters += 1,
                _ => self.moved.requests += 1,
            }
        }
        Ok(())
    }

    /// Counts what is left at the source.
    async fn count_rest(&mut self) -> anyhow::Result<()> {
        let now = self.source.time().await?;
        let stats = self.source.stats(now).await?;
        let left = &mut self.moved.left;
        left.waiting = stats.ready + stats.delayed + stats.dead_letters;
        (left.leased, left.mailbox, left.orphans) = (stats.leased, stats.mailbox, stats.orphans);
        let all = left.waiting + left.leased + left.mailbox + left.orphans + left.broken;
        self.moved.complete = self.scanned && all == 0;
        Ok(())
    }
}

/// The entry for the target, with its text at the source. A leased request stays. A lease that ran out lapses here, as it
/// would in a run.
fn movable(entry: Kept, now: Timestamp, pass: &mut Pass) -> Option<(Returning, Vec<u8>)> {
    let entry = match entry {
        Kept::Record { object, record, stored } if record.state == State::Leased => {
            if record.expires.unwrap_or_default() > now {
                pass.leased += 1;
                return None;
            }
            let mut record: Record = *record;
            // As a run would, so that a request that kills its workers stays a suspect.
            record.lapse(true, now);
            Kept::Record { object, record: Box::new(record), stored }
        }
        other => other,
    };
    let stored = match &entry {
        Kept::Record { stored, .. } | Kept::DeadEntry { stored, .. } => stored.clone(),
        _ => Vec::new(),
    };
    let returning = entry.returning(now, 1).ok();
    pass.broken += u64::from(returning.is_none());
    returning.map(|returning| (returning, stored))
}

fn render(moved: &Moved) -> String {
    let mut text = format!(
        "moved {}, {} and {} of unreadable mail\n",
        counted(moved.requests, "request", "requests"),
        counted(moved.dead_letters, "dead letter", "dead letters"),
        counted(moved.unreadable, "entry", "entries"),
    );
    if moved.shared_state > 0 {
        let entries = counted(moved.shared_state, "entry", "entries");
        let what = "cooldowns, learned rates, calls of the day, circuits";
        let _ = writeln!(text, "copied {entries} of the shared run state ({what})");
    }
    let left = &moved.left;
    let kinds = [
        (left.waiting, "requests and dead letters"),
        (left.leased, "leased requests: a run settles them, or their lease runs out"),
        (left.mailbox, "entries of the mailbox"),
        (left.orphans, "incomplete entries: no data yet (dropped after 10 min)"),
        (left.broken, "broken records: `refresh-worker queue backup` shows them as `broken`"),
    ];
    let kinds: Vec<String> = kinds
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("  {} {what}\n", count(*number)))
        .collect();
    if moved.complete {
        text.push_str("nothing is left at the old Redis\n");
    } else if kinds.is_empty() {
        text.push_str("producers wrote to the old Redis in the meantime: run it again\n");
    } else {
        text.push_str("left at the old Redis; run it again to move this:\n");
        text.push_str(&kinds.concat());
    }
    text
}
