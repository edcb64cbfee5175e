//! `queue backup`: writes the mailbox and the queue into one file.

use std::{fmt::Write as _, path::PathBuf, sync::Arc};

use clap::Args;

use super::{
    Exit, Misuse,
    archive::{Contents, Folder, Writer},
    text::{self, bytes, count, counted},
};
use crate::{
    clock::SystemClock,
    config::{BackupConfig, RedisConfig, env::process_var},
    queue::{
        Queue as _,
        admin::{Place, QueueAdmin as _},
        redis::RedisQueue,
    },
};

/// Writes the mailbox and the queue into one file
///
/// The file contains the mail, all requests (ready, delayed, leased), the dead letters, and index entries without
/// data. It is named by its time, readable by its owner only, and contains no password. It appears once it is complete
/// and on the disk. Then backups older than QUEUE_BACKUP_RETENTION_DAYS (default 7) are deleted, except the newest. A
/// backup only reads, in small steps, and may be made while runs work. Whatever is there during the whole backup is in
/// the file. Needs REDIS_URL, and QUEUE_BACKUP_DIR or --dir.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker queue backup --dir /var/backups/refresh-worker
  QUEUE_BACKUP_DIR=/var/backups/refresh-worker refresh-worker queue backup --json")]
pub struct BackupArgs {
    /// The folder to write to, created if it is missing [env: QUEUE_BACKUP_DIR]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Write JSON: the file, the number of its entries, and the old backups that were deleted
    #[arg(long)]
    json: bool,
}

pub async fn run(args: BackupArgs) -> anyhow::Result<Exit> {
    let config = BackupConfig::read(&process_var)?;
    let redis = RedisConfig::read(&process_var)?;
    let Some(path) = args.dir.or(config.folder) else {
        return Err(Misuse("nothing was written: set QUEUE_BACKUP_DIR, or name a folder with --dir".to_owned()).into());
    };
    let queue = RedisQueue::connect(&redis, Arc::new(SystemClock))?;
    let now = queue.time().await?;
    let folder = Folder::open(path)?;
    // The server without user and password: a backup may be kept elsewhere.
    let mut writer = Writer::begin(&folder, now, queue.server(), &redis.namespace)?;
    let mut place = Some(Place::start());
    while let Some(from) = place {
        let slice = queue.read_slice(now, &from).await?;
        for entry in &slice.entries {
            writer.add(entry)?;
        }
        place = slice.next;
    }
    let (file, contents) = writer.finish()?;
    // Only after the new backup is complete, so that a failure never leaves fewer backups.
    let deleted = folder.trim(now, config.retention)?;
    let output = if args.json {
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
    text::print(&output)?;
    Ok(Exit::Success)
}

fn render(file: &str, contents: &Contents, deleted: &[String]) -> String {
    let kinds: Vec<String> = contents.kinds.iter().map(|(kind, number)| format!("{kind} {}", count(*number))).collect();
    let entries = counted(contents.entries, "entry", "entries");
    let mut text = format!("backed up {entries} ({}) to {file}\n", bytes(contents.bytes));
    if !kinds.is_empty() {
        let _ = writeln!(text, "  {}", kinds.join(", "));
    }
    if !deleted.is_empty() {
        let old = counted(deleted.len() as u64, "old backup", "old backups");
        let _ = writeln!(text, "deleted {old}: {}", deleted.join(", "));
    }
    text
}
