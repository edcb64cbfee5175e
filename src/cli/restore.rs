//! `queue restore`: merges a backup, ours or the old worker's, into the queue.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::{
    Exit,
    archive::{Problem, Reader},
    connect,
    text::{self, counted},
};
use crate::{
    clock::Timestamp,
    config::{WorkerConfig, env::process_var},
    queue::{
        Queue as _,
        admin::{PutBack, QueueAdmin as _, Returning},
        redis::RedisQueue,
    },
};

/// The entries of one call to Redis.
const STEP: usize = 500;

/// The problems that are listed. Further ones are only counted.
const MAX_PROBLEMS: usize = 100;

/// Restores a backup into the queue
///
/// Reads the files of `queue backup`, and those of the old worker. The whole file is checked first. If an entry cannot be
/// restored, it is named and nothing is written; --skip-invalid skips such entries instead. A restore merges: it
/// overwrites no newer request and duplicates none. After an interruption, run it again. Leased requests become ready,
/// and held requests stay held. Dead letters are skipped and counted when there is no room for them. Needs REDIS_URL.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker queue restore backup.jsonl --dry-run
  refresh-worker queue restore backup.jsonl
  refresh-worker queue restore old-worker-backup.json --skip-invalid")]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Restore the valid entries, and name the others
    #[arg(long)]
    skip_invalid: bool,
    /// Check the file and count its entries; write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write JSON: the counts and the problems
    #[arg(long)]
    json: bool,
}

/// The result of a restore, or of a dry run.
#[derive(Debug, Default, Serialize)]
struct Restored {
    origin: String,
    entries: u64,
    /// Entries that were not in the queue.
    new: u64,
    /// Entries merged into a request in the queue.
    merged: u64,
    /// Entries that were in the queue already.
    nothing: u64,
    /// Dead letters for which there was no room.
    no_room: u64,
    invalid: u64,
    problems: Vec<Problem>,
    dry_run: bool,
    written: bool,
}

pub async fn run(args: RestoreArgs) -> anyhow::Result<Exit> {
    let max_attempts = WorkerConfig::read(&process_var)?.max_attempts;
    let queue = connect::queue()?;
    let now = queue.time().await?;
    // The whole file first, so that an invalid entry cannot leave half of it restored.
    let mut restored = check(&args, now, max_attempts)?;
    restored.dry_run = args.dry_run;
    let stopped = restored.invalid > 0 && !args.skip_invalid;
    // A dry run counts the valid entries even if a restore would refuse the file.
    if args.dry_run || !stopped {
        restore(&args, &queue, now, max_attempts, &mut restored).await?;
    }
    print(&args, &restored, stopped)?;
    Ok(if stopped || restored.no_room > 0 { Exit::Failure } else { Exit::Success })
}

/// Reads the whole file and finds every problem in it.
fn check(args: &RestoreArgs, now: Timestamp, max_attempts: u32) -> anyhow::Result<Restored> {
    let mut reader = Reader::open(&args.file, now, max_attempts)?;
    let mut found = Restored { origin: reader.origin.clone(), ..Restored::default() };
    while let Some(entry) = reader.next()? {
        match entry {
            Ok(_) => found.entries += 1,
            Err(problem) => {
                found.invalid += 1;
                if found.problems.len() < MAX_PROBLEMS {
                    found.problems.push(problem);
                }
            }
        }
    }
    Ok(found)
}

async fn restore(
    args: &RestoreArgs,
    queue: &RedisQueue,
    now: Timestamp,
    max_attempts: u32,
    restored: &mut Restored,
) -> anyhow::Result<()> {
    let mut reader = Reader::open(&args.file, now, max_attempts)?;
    let mut step = Vec::with_capacity(STEP);
    let mut invalid = 0;
    loop {
        let entry = reader.next()?;
        let at_end = entry.is_none();
        match entry {
            Some(Ok(entry)) => step.push(entry),
            Some(Err(_)) => invalid += 1,
            None => {}
        }
        // The second pass trusts the first one only as far as the file is unchanged.
        anyhow::ensure!(invalid <= restored.invalid, "the file changed during the restore; run it again");
        if step.len() == STEP || at_end {
            put_back(queue, now, &step, restored)
                .await
                .context("the restore is incomplete; run it again, no request is duplicated")?;
            step.clear();
        }
        if at_end {
            return Ok(());
        }
    }
}

async fn put_back(
    queue: &RedisQueue,
    now: Timestamp,
    entries: &[Returning],
    restored: &mut Restored,
) -> anyhow::Result<()> {
    // `put_back` has no dry mode, so a dry run only looks for the entries.
    if restored.dry_run {
        let there = queue.has(entries).await?.into_iter().filter(|there| *there).count() as u64;
        restored.nothing += there;
        restored.new += entries.len() as u64 - there;
        return Ok(());
    }
    for answer in queue.put_back(now, entries).await? {
        match answer {
            PutBack::New => restored.new += 1,
            PutBack::Merged => restored.merged += 1,
            PutBack::Nothing => restored.nothing += 1,
            PutBack::NoRoom => restored.no_room += 1,
        }
    }
    restored.written = true;
    Ok(())
}

fn print(args: &RestoreArgs, restored: &Restored, stopped: bool) -> anyhow::Result<()> {
    let name = args.file.display();
    if args.json {
        text::print(&(serde_json::to_string(restored)? + "\n"))?;
    }
    if restored.invalid > 0 {
        let entries = counted(restored.invalid, "entry cannot be", "entries cannot be");
        let done = if stopped { "nothing was restored" } else { "they were skipped" };
        eprintln!("{entries} restored, {done}:");
        restored.problems.iter().for_each(|problem| text::print_error(&format!("  {problem}")));
        let more = restored.invalid - restored.problems.len() as u64;
        if more > 0 {
            eprintln!("  and {} more", text::count(more));
        }
    }
    if restored.no_room > 0 {
        eprintln!(
            "{} skipped: there is no room for more dead letters; redrive or purge some (`refresh-worker dead`), and restore \
             again",
            counted(restored.no_room, "dead letter was", "dead letters were")
        );
    }
    // Programs have the JSON, and a refused restore has nothing to sum up.
    if args.json || stopped && !args.dry_run {
        return Ok(());
    }
    let entries = counted(restored.entries - restored.no_room, "entry", "entries");
    let (new, merged, nothing) = (restored.new, restored.merged, restored.nothing);
    text::print(&if args.dry_run {
        format!(
            "{name} is {}: {entries} can be restored, {nothing} are in the queue already; nothing was written\n",
            restored.origin
        )
    } else {
        format!(
            "restored {entries} of {}: {} new, {} merged with a queued request, {} in the queue already\n",
            restored.origin,
            text::count(new),
            text::count(merged),
            text::count(nothing)
        )
    })?;
    Ok(())
}
