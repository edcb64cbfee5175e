//! `queue backup`: everything that the mailbox and the queue hold, into one file.

use std::{fmt::Write as _, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use clap::Args;

use super::{
    Ending, Misuse,
    archive::{Contents, Folder, Writer},
    text::{self, bytes, count, counted},
};
use crate::{
    clock::SystemClock,
    config::{BackupConfig, RedisConfig, env::process_var},
    queue::{
        Queue as _,
        archive::{Archive as _, Place},
        redis::RedisQueue,
    },
};

/// Writes everything that the mailbox and the queue hold into one file
///
/// Mail, ready, delayed and leased requests with their next requests, dead and unreadable letters, and index entries that
/// wait for their data. The file is named by its time, is readable by its owner only, and has no password in it; it
/// appears when it is whole and on the disk. Backups older than QUEUE_BACKUP_RETENTION_DAYS (default 7) are deleted
/// afterwards, never the newest. Redis is only read, in small steps, so a backup may be made while everything runs: what
/// was there from its beginning to its end is in it. Needs REDIS_URL, and QUEUE_BACKUP_DIR or --dir.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker queue backup --dir /var/backups/refresh-worker
  QUEUE_BACKUP_DIR=/var/backups/refresh-worker refresh-worker queue backup --json")]
pub struct BackupArgs {
    /// The folder to write to, instead of QUEUE_BACKUP_DIR; it is made when it is missing
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Write JSON: the file, what is in it, and which old backups were deleted
    #[arg(long)]
    json: bool,
}

pub async fn run(args: BackupArgs) -> anyhow::Result<Ending> {
    let config = BackupConfig::read(&process_var)?;
    let redis = RedisConfig::read(&process_var)?;
    let Some(path) = args.dir.or(config.folder) else {
        return Err(Misuse("nothing was written: set QUEUE_BACKUP_DIR, or name a folder with --dir".to_owned()).into());
    };
    let queue = RedisQueue::connect(&redis, Arc::new(SystemClock)).context("failed to use REDIS_URL")?;
    let now = queue.time().await.context("failed to back the queue up")?;
    let folder = Folder::open(path)?;
    let mut writer = Writer::begin(&folder, now, queue.server(), &redis.namespace)?;
    let mut place = Some(Place::start());
    while let Some(from) = place {
        let slice = queue.read_slice(now, &from).await.context("failed to back the queue up")?;
        for entry in &slice.entries {
            writer.add(entry)?;
        }
        place = slice.next;
    }
    let (file, contents) = writer.finish()?;
    let deleted = folder.trim(now, config.retention)?;
    let told = if args.json {
        let json = serde_json::json!({
            "file": file,
            "entries": contents.entries,
            "bytes": contents.bytes,
            "kinds": contents.kinds,
            "deleted": deleted,
        });
        json.to_string() + "\n"
    } else {
        render(&file.display().to_string(), &contents, &deleted)
    };
    text::print(&told)?;
    Ok(Ending::Well)
}

fn render(file: &str, contents: &Contents, deleted: &[String]) -> String {
    let kinds: Vec<String> = contents.kinds.iter().map(|(kind, number)| format!("{kind} {}", count(*number))).collect();
    let entries = counted(contents.entries, "entry", "entries");
    let mut told = format!("backed up {entries} ({}) to {file}\n", bytes(contents.bytes));
    if !kinds.is_empty() {
        let _ = writeln!(told, "  {}", kinds.join(", "));
    }
    if !deleted.is_empty() {
        let old = counted(deleted.len() as u64, "old backup", "old backups");
        let _ = writeln!(told, "deleted {old}: {}", deleted.join(", "));
    }
    told
}
