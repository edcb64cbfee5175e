//! Reads a backup, ours or the old worker's, and checks each entry.

use std::{
    fmt,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Seek as _},
    path::Path,
};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use sha2::{Digest as _, Sha256};

use super::{FORMAT, Header, Line, VERSION, escape};
use crate::{
    cli::text::short,
    clock::Timestamp,
    model::text::hex,
    queue::admin::{Kept, Returning},
};

/// The largest mail, with every byte escaped twice, is half as long.
const MAX_LINE: u64 = 4 * 1024 * 1024;

/// An entry of a backup that cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// `line 3`, `queue_items[2]`, or `the file`.
    pub position: String,
    pub id: String,
    pub wrong: String,
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, id, wrong, fix } = self;
        let id = if id.is_empty() { String::new() } else { format!(", `{}`", short(id, 60)) };
        write!(f, "{position}{id}: {wrong}; {fix}")
    }
}

/// An entry of a backup, or the problem with it.
pub type Entry = Result<Returning, Problem>;

/// A backup that is being read.
#[derive(Debug)]
pub struct Reader {
    entries: Entries,
    now: Timestamp,
    max_attempts: u32,
    /// `a backup of redis://cache:6379/0, made 2026-…`.
    pub origin: String,
}

#[derive(Debug)]
enum Entries {
    Ours { lines: BufReader<File>, digest: Sha256, number: u64, read: u64, ended: bool },
    OldWorker { items: std::vec::IntoIter<Box<RawValue>>, number: usize },
}

/// A backup of the old worker. It also holds the URL of its Redis, password included: that is not read.
#[derive(Deserialize)]
struct OldBackup {
    timestamp: Option<Value>,
    queue_items: Vec<Box<RawValue>>,
}

impl Reader {
    /// Opens a backup. Times without an anchor are read as of `now`.
    ///
    /// # Errors
    /// When the file is not a backup, or is of a newer version.
    pub fn open(path: &Path, now: Timestamp, max_attempts: u32) -> anyhow::Result<Self> {
        let name = path.display();
        let file = File::open(path).with_context(|| format!("cannot open `{name}`"))?;
        let mut lines = BufReader::new(file);
        let mut first = Vec::new();
        lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut first).with_context(|| format!("cannot read `{name}`"))?;
        match serde_json::from_slice::<Header>(&first) {
            Ok(header) if header.format == FORMAT && header.version > VERSION => bail!(
                "cannot read `{name}`: its format has version {}, and this program reads {VERSION}; use the program that \
                 wrote it, or a newer one",
                header.version
            ),
            Ok(header) if header.format == FORMAT => {
                let mut digest = Sha256::new();
                digest.update(&first);
                let origin = format!("a backup of {}, made {}", short(&header.server, 80), short(&header.made, 40));
                let entries = Entries::Ours { lines, digest, number: 1, read: 0, ended: false };
                Ok(Self { entries, now, max_attempts, origin })
            }
            _ => {
                // The old worker's backup is a single JSON text, not lines.
                lines.rewind().with_context(|| format!("cannot read `{name}`"))?;
                let old: OldBackup = serde_json::from_reader(lines).with_context(|| {
                    format!(
                        "`{name}` is not a backup: it begins neither as `queue backup` writes it, nor as a backup of the old \
                         worker, {{\"timestamp\", \"redis_url\", \"queue_items\": [...]}}"
                    )
                })?;
                let made = old.timestamp.map(|made| format!(", made {}", short(&made.to_string(), 40)));
                let origin = format!("a backup of the old worker{}", made.unwrap_or_default());
                let entries = Entries::OldWorker { items: old.queue_items.into_iter(), number: 0 };
                Ok(Self { entries, now, max_attempts, origin })
            }
        }
    }

    /// The next entry, or the problem with it. `None` at the end.
    pub fn next(&mut self) -> anyhow::Result<Option<Entry>> {
        let (now, max_attempts) = (self.now, self.max_attempts);
        match &mut self.entries {
            Entries::Ours { ended: true, .. } => Ok(None),
            Entries::Ours { lines, digest, number, read, ended } => {
                let mut line = Vec::new();
                // A bound, so that a file without line breaks cannot fill the memory.
                let bytes = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
                bytes.context("cannot read the backup")?;
                *number += 1;
                let entry = our_entry(&line, *number, *read, digest, now, max_attempts);
                // After the check, since the last line is not a part of the digest.
                digest.update(&line);
                match entry {
                    Step::Entry(entry) => {
                        *read += 1;
                        Ok(Some(entry))
                    }
                    Step::End(problem) => {
                        *ended = true;
                        Ok(problem.map(Err))
                    }
                }
            }
            Entries::OldWorker { items, number } => {
                let Some(item) = items.next() else { return Ok(None) };
                let position = format!("queue_items[{number}]");
                *number += 1;
                Ok(Some(old_entry(&item, &position, now, max_attempts)))
            }
        }
    }
}

enum Step {
    Entry(Entry),
    /// Nothing more can be read: the file ended, or it is damaged.
    End(Option<Problem>),
}

const FIX_FILE: &str = "use another backup, or restore the rest with --skip-invalid";
const FIX_ENTRY: &str = "fix it in the file, or skip it with --skip-invalid";

fn our_entry(line: &[u8], number: u64, read: u64, digest: &Sha256, now: Timestamp, max_attempts: u32) -> Step {
    let whole = |wrong: String| {
        let (position, id) = ("the file".to_owned(), String::new());
        Step::End(Some(Problem { position, id, wrong, fix: FIX_FILE.to_owned() }))
    };
    // Every line ends in a line break, so its absence means a truncated file.
    if line.last() != Some(&b'\n') {
        let length = line.len() as u64;
        let what = if length == MAX_LINE { "has a line that is too long" } else { "is truncated" };
        return whole(format!("it {what} after {read} entries"));
    }
    let broken = |id: &str, wrong: String| {
        let position = format!("line {number}");
        Step::Entry(Err(Problem { position, id: id.to_owned(), wrong, fix: FIX_ENTRY.to_owned() }))
    };
    let line: Line = match serde_json::from_slice(line) {
        Ok(line) => line,
        Err(error) => return broken("", format!("it is not an entry of a backup: {error}")),
    };
    if let Line::End { entries, sha256 } = &line {
        // The number first: its message says more than a wrong digest.
        return if *entries != read {
            whole(format!("it has {read} entries, but its last line says {entries}"))
        } else if *sha256 == hex(digest.clone().finalize()) {
            Step::End(None)
        } else {
            whole("its digest is wrong: it was changed after it was written".to_owned())
        };
    }
    let id = line.id().to_owned();
    match line.kept().and_then(|kept| kept.returning(now, max_attempts).map_err(|reason| reason.to_string())) {
        Ok(returning) => Step::Entry(Ok(returning)),
        Err(problem) => broken(&id, problem),
    }
}

/// Reads an item of the old worker's backup: id, priority, and data as JSON text or as an object.
fn old_entry(item: &RawValue, position: &str, now: Timestamp, max_attempts: u32) -> Entry {
    #[derive(Deserialize)]
    struct Item<'a> {
        id: Option<Value>,
        priority: Option<Value>,
        #[serde(borrow)]
        data: Option<&'a RawValue>,
    }
    let broken = |id: &str, wrong: String| {
        Err(Problem { position: position.to_owned(), id: id.to_owned(), wrong, fix: FIX_ENTRY.to_owned() })
    };
    let item: Item<'_> = match serde_json::from_str(item.get()) {
        Ok(item) => item,
        Err(error) => return broken("", format!("it is not an object with id, priority and data: {error}")),
    };
    let id = match item.id {
        Some(Value::String(id)) if !id.is_empty() => id,
        other => return broken("", format!("its `id` is {}: expected a text", shown(other.as_ref()))),
    };
    let score = match item.priority.as_ref().map(|priority| (priority.as_f64(), priority)) {
        Some((Some(score), _)) => score.to_string(),
        // Scores may be texts in old backups.
        Some((None, Value::String(text))) if text.trim().parse::<f64>().is_ok_and(f64::is_finite) => {
            text.trim().to_owned()
        }
        other => {
            let found = shown(other.map(|(_, value)| value));
            return broken(&id, format!("its `priority` is {found}: expected 0, 1, 2 or 3"));
        }
    };
    let value = match item.data.map(|data| (serde_json::from_str::<String>(data.get()), data.get())) {
        Some((Ok(text), _)) => text,
        // Some versions of the old worker wrote the data as an object, not as a text.
        Some((Err(_), text)) if text != "null" => text.to_owned(),
        _ => return broken(&id, "it has no data: the producer had not written it when the backup was made".to_owned()),
    };
    let mail = Kept::Mail { id: id.clone().into_bytes(), score: Some(score), value: Some(value.into_bytes()) };
    match mail.returning(now, max_attempts) {
        Ok(Returning::DeadEntry { dead_entry, .. }) => {
            broken(&id, format!("{}: {}", dead_entry.code, dead_entry.reason))
        }
        Ok(returning) => Ok(returning),
        Err(reason) => broken(&id, reason.to_string()),
    }
}

fn shown(value: Option<&Value>) -> String {
    value
        .map_or_else(|| "missing".to_owned(), |value| format!("`{}`", short(&escape(value.to_string().as_bytes()), 40)))
}
