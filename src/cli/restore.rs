//! `queue restore`: a backup, ours or the old worker's, merged into the queue.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::{
    Ending,
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

/// How many entries are restored in one step.
const STEP: usize = 500;

/// How many problems are told in full.
const MOST_PROBLEMS: usize = 100;

/// Puts a backup back into the queue
///
/// Takes the files of `queue backup`, and those of the old worker. The whole file is checked first: when an entry cannot
/// be restored, each one is named and nothing at all is written, unless --skip-invalid leaves them out. Restoring merges:
/// a newer request is never overwritten, none is there twice, and doing it again changes nothing, so after an
/// interruption just run it again. Requests that were leased become ready, holds stay, and a dead letter beyond the room
/// for them is left out and counted. Needs REDIS_URL.
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
    /// Restore what can be, and only name what cannot
    #[arg(long)]
    skip_invalid: bool,
    /// Check the file and say what would be done; write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write JSON: the counts and the problems
    #[arg(long)]
    json: bool,
}

/// What restoring came to, or would come to.
#[derive(Debug, Default, Serialize)]
struct Restored {
    origin: String,
    entries: u64,
    /// Was not in the queue.
    new: u64,
    /// Merged into a request that was there.
    merged: u64,
    /// Was there already.
    nothing: u64,
    /// Dead letters for which there was no room.
    no_room: u64,
    invalid: u64,
    problems: Vec<Problem>,
    dry_run: bool,
    written: bool,
}

pub async fn run(args: RestoreArgs) -> anyhow::Result<Ending> {
    let max_attempts = WorkerConfig::read(&process_var)?.max_attempts;
    let queue = connect::queue()?;
    let now = queue.time().await.context("failed to restore")?;
    let mut restored = check(&args, now, max_attempts)?;
    restored.dry_run = args.dry_run;
    let stopped = restored.invalid > 0 && !args.skip_invalid;
    if args.dry_run || !stopped {
        restore(&args, &queue, now, max_attempts, &mut restored).await?;
    }
    tell(&args, &restored, stopped)?;
    Ok(if stopped || restored.no_room > 0 { Ending::Badly } else { Ending::Well })
}

/// Reads the whole file and finds everything that is wrong with it.
fn check(args: &RestoreArgs, now: Timestamp, max_attempts: u32) -> anyhow::Result<Restored> {
    let mut reader = Reader::open(&args.file, now, max_attempts)?;
    let mut found = Restored { origin: reader.origin.clone(), ..Restored::default() };
    while let Some(entry) = reader.next()? {
        match entry {
            Ok(_) => found.entries += 1,
            Err(problem) => {
                found.invalid += 1;
                if found.problems.len() < MOST_PROBLEMS {
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
        anyhow::ensure!(invalid <= restored.invalid, "failed to restore: the file was changed meanwhile; run it again");
        if step.len() == STEP || at_end {
            put_back(queue, now, &step, restored).await.context("failed to restore; run it again, nothing doubles")?;
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

fn tell(args: &RestoreArgs, restored: &Restored, stopped: bool) -> anyhow::Result<()> {
    let name = args.file.display();
    if args.json {
        text::print(&(serde_json::to_string(restored)? + "\n"))?;
    }
    if restored.invalid > 0 {
        let entries = counted(restored.invalid, "entry cannot be", "entries cannot be");
        let done = if stopped { "nothing was restored" } else { "they are left out" };
        eprintln!("{entries} restored, {done}:");
        restored.problems.iter().for_each(|problem| text::print_error(&format!("  {problem}")));
        let more = restored.invalid - restored.problems.len() as u64;
        if more > 0 {
            eprintln!("  and {} more", text::count(more));
        }
    }
    if restored.no_room > 0 {
        eprintln!(
            "{} left out: the room for dead letters is full, and none that is there gives way; redrive or purge some \
             (`refresh-worker dead`), and restore again",
            counted(restored.no_room, "dead letter was", "dead letters were")
        );
    }
    if args.json || stopped && !args.dry_run {
        return Ok(());
    }
    let entries = counted(restored.entries - restored.no_room, "entry", "entries");
    let (new, merged, nothing) = (restored.new, restored.merged, restored.nothing);
    text::print(&if args.dry_run {
        format!(
            "{name} is {}: {entries} can be restored, {nothing} are there already; nothing was written\n",
            restored.origin
        )
    } else {
        format!(
            "restored {entries} of {}: {} new, {} merged with a request that waits, {} there already\n",
            restored.origin,
            text::count(new),
            text::count(merged),
            text::count(nothing)
        )
    })?;
    Ok(())
}
