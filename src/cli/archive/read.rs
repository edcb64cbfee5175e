//! Reading a backup, ours or the old worker's: entry by entry, each checked, nothing believed.

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
    hex::hex,
    queue::archive::{Kept, Returning},
};

/// No line of a backup is longer: the largest mail, with every byte escaped twice, is half of it.
const LONGEST_LINE: u64 = 4 * 1024 * 1024;

/// Something in a backup that cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// `line 3`, `queue_items[2]`, or `the file`.
    pub position: String,
    pub id: String,
    pub wrong: String,
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, id, wrong, remedy } = self;
        let id = if id.is_empty() { String::new() } else { format!(", `{}`", short(id, 60)) };
        write!(f, "{position}{id}: {wrong}; {remedy}")
    }
}

/// One entry of a backup.
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
    /// Opens a backup, and makes sure that it is one. Times without an anchor are read as of `now`.
    pub fn open(path: &Path, now: Timestamp, max_attempts: u32) -> anyhow::Result<Self> {
        let name = path.display();
        let file = File::open(path).with_context(|| format!("failed to open `{name}`"))?;
        let mut lines = BufReader::new(file);
        let mut first = Vec::new();
        lines
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut first)
            .with_context(|| format!("failed to read `{name}`"))?;
        match serde_json::from_slice::<Header>(&first) {
            Ok(header) if header.format == FORMAT && header.version > VERSION => bail!(
                "failed to read `{name}`: it has version {} of the format, and this program knows {VERSION}: use the \
                 version that made it, or a newer one",
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
                lines.rewind().with_context(|| format!("failed to read `{name}`"))?;
                let old: OldBackup = serde_json::from_reader(lines).with_context(|| {
                    format!(
                        "failed to read `{name}`: it is no backup: neither begins it as `queue backup` writes it, nor is it \
                         a whole backup of the old worker, {{\"timestamp\", \"redis_url\", \"queue_items\": [...]}}"
                    )
                })?;
                let made = old.timestamp.map(|made| format!(", made {}", short(&made.to_string(), 40)));
                let origin = format!("a backup of the old worker{}", made.unwrap_or_default());
                let entries = Entries::OldWorker { items: old.queue_items.into_iter(), number: 0 };
                Ok(Self { entries, now, max_attempts, origin })
            }
        }
    }

    /// The next entry, or what is wrong with it; `None` at the end.
    pub fn next(&mut self) -> anyhow::Result<Option<Entry>> {
        let (now, max_attempts) = (self.now, self.max_attempts);
        match &mut self.entries {
            Entries::Ours { ended: true, .. } => Ok(None),
            Entries::Ours { lines, digest, number, read, ended } => {
                let mut line = Vec::new();
                let bytes = lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
                bytes.context("failed to read the backup")?;
                *number += 1;
                let entry = our_entry(&line, *number, *read, digest, now, max_attempts);
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
    /// Nothing more can be read, well or not.
    End(Option<Problem>),
}

const CUT_OFF: &str = "take another backup, or restore what is there with --skip-invalid";
const MEND: &str = "mend it in the file, or leave it out with --skip-invalid";

fn our_entry(line: &[u8], number: u64, read: u64, digest: &Sha256, now: Timestamp, max_attempts: u32) -> Step {
    let whole = |wrong: String| {
        let (position, id) = ("the file".to_owned(), String::new());
        Step::End(Some(Problem { position, id, wrong, remedy: CUT_OFF.to_owned() }))
    };
    if line.last() != Some(&b'\n') {
        let length = line.len() as u64;
        let what = if length == LONGEST_LINE { "has a line that is too long" } else { "is cut off" };
        return whole(format!("it {what} after {read} entries"));
    }
    let broken = |id: &str, wrong: String| {
        let position = format!("line {number}");
        Step::Entry(Err(Problem { position, id: id.to_owned(), wrong, remedy: MEND.to_owned() }))
    };
    let line: Line = match serde_json::from_slice(line) {
        Ok(line) => line,
        Err(error) => return broken("", format!("it is no entry of a backup: {error}")),
    };
    if let Line::End { entries, sha256 } = &line {
        return if *entries != read {
            whole(format!("it has {read} entries, and its end says {entries}"))
        } else if *sha256 == hex(&digest.clone().finalize()) {
            Step::End(None)
        } else {
            whole("its digest is wrong: it was changed after it was made".to_owned())
        };
    }
    let id = line.id().to_owned();
    match line.kept().and_then(|kept| kept.returning(now, max_attempts).map_err(|reason| reason.to_string())) {
        Ok(returning) => Step::Entry(Ok(returning)),
        Err(problem) => broken(&id, problem),
    }
}

/// An item of an old backup: id, priority, and data as JSON text or as an object.
fn old_entry(item: &RawValue, position: &str, now: Timestamp, max_attempts: u32) -> Entry {
    #[derive(Deserialize)]
    struct Item<'a> {
        id: Option<Value>,
        priority: Option<Value>,
        #[serde(borrow)]
        data: Option<&'a RawValue>,
    }
    let broken = |id: &str, wrong: String| {
        Err(Problem { position: position.to_owned(), id: id.to_owned(), wrong, remedy: MEND.to_owned() })
    };
    let item: Item<'_> = match serde_json::from_str(item.get()) {
        Ok(item) => item,
        Err(error) => return broken("", format!("it is no object with id, priority and data: {error}")),
    };
    let id = match item.id {
        Some(Value::String(id)) if !id.is_empty() => id,
        other => return broken("", format!("its `id` is {}: expected a text", told(other.as_ref()))),
    };
    let score = match item.priority.as_ref().map(|priority| (priority.as_f64(), priority)) {
        Some((Some(score), _)) => score.to_string(),
        Some((None, Value::String(text))) if text.trim().parse::<f64>().is_ok_and(f64::is_finite) => {
            text.trim().to_owned()
        }
        other => {
            let found = told(other.map(|(_, value)| value));
            return broken(&id, format!("its `priority` is {found}: expected 0, 1, 2 or 3"));
        }
    };
    let value = match item.data.map(|data| (serde_json::from_str::<String>(data.get()), data.get())) {
        Some((Ok(text), _)) => text,
        Some((Err(_), text)) if text != "null" => text.to_owned(),
        _ => return broken(&id, "it has no data: its request had not come when the backup was made".to_owned()),
    };
    let mail = Kept::Mail { id: id.clone().into_bytes(), score: Some(score), value: Some(value.into_bytes()) };
    match mail.returning(now, max_attempts) {
        Ok(Returning::Letter { letter, .. }) => broken(&id, format!("{}: {}", letter.code, letter.reason)),
        Ok(returning) => Ok(returning),
        Err(reason) => broken(&id, reason.to_string()),
    }
}

fn told(value: Option<&Value>) -> String {
    value
        .map_or_else(|| "missing".to_owned(), |value| format!("`{}`", short(&escape(value.to_string().as_bytes()), 40)))
}
