//! The file of a backup: one JSON text per line, so that it can be read and written in slices, and searched with `grep`.
//!
//! The first line is a header. The last line has the number of entries and their digest, so that a truncated file is
//! detected. Ids and values of mail are escaped text (see [`escape`]). No line holds a secret. Backups of the old worker can
//! be read, too.

mod read;
mod write;

use serde::{Deserialize, Serialize};

pub use self::{
    read::{Problem, Reader},
    write::{Contents, Folder, Writer},
};
use crate::{
    clock::Timestamp,
    model::Priority,
    queue::{
        admin::Kept,
        mailbox::DeadEntry,
        mailbox::{escape, unescape},
        record::Record,
    },
};

/// The `format` of the header.
const FORMAT: &str = "refresh-worker queue backup";

/// The version of the format that this program writes.
const VERSION: u32 = 1;

/// The first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    made: String,
    /// Without user and password.
    server: String,
    namespace: String,
}

/// Every other line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Mail {
        id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        score: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<String>,
    },
    Orphan {
        id: String,
        class: u8,
        since: Timestamp,
    },
    Record {
        name: String,
        record: Box<Record>,
    },
    DeadEntry {
        name: String,
        dead_entry: Box<DeadEntry>,
    },
    Broken {
        name: String,
        value: String,
    },
    End {
        entries: u64,
        sha256: String,
    },
}

/// True for a score that Redis accepts.
fn is_score(text: &str) -> bool {
    text.parse::<f64>().is_ok_and(|score| !score.is_nan())
}

impl Line {
    fn of(kept: &Kept) -> Self {
        match kept {
            Kept::Mail { id, score, value } => {
                Self::Mail { id: escape(id), score: score.clone(), value: value.as_deref().map(escape) }
            }
            Kept::Orphan { id, class, since } => {
                Self::Orphan { id: escape(id), class: class.as_number(), since: *since }
            }
            Kept::Record { object, record, .. } => Self::Record { name: object.to_string(), record: record.clone() },
            Kept::DeadEntry { name, dead_entry, .. } => {
                Self::DeadEntry { name: name.clone(), dead_entry: dead_entry.clone() }
            }
            Kept::Broken { name, value } => Self::Broken { name: escape(name), value: escape(value) },
        }
    }

    /// The entry of this line. The last line of the file is not an entry.
    fn kept(self) -> Result<Kept, String> {
        match self {
            Self::Mail { score: Some(score), .. } if !is_score(&score) => {
                Err(format!("the score `{score}` is not a number"))
            }
            Self::Mail { id, score, value } => {
                Ok(Kept::Mail { id: unescape(&id), score, value: value.map(|value| unescape(&value)) })
            }
            Self::Orphan { id, class, since } => {
                Ok(Kept::Orphan { id: unescape(&id), class: Priority::nearest(i64::from(class)), since })
            }
            Self::Record { name, record } => {
                let object = name.parse().map_err(|error| format!("it does not name an object: {error}"))?;
                Ok(Kept::Record { object, record, stored: Vec::new() })
            }
            Self::DeadEntry { name, .. } if !name.starts_with("mail:") => {
                Err("the name of unreadable mail must begin with `mail:`".to_owned())
            }
            Self::DeadEntry { dead_entry, .. } if !is_score(&dead_entry.score) => {
                Err(format!("the score `{}` is not a number", dead_entry.score))
            }
            Self::DeadEntry { name, dead_entry } => Ok(Kept::DeadEntry { name, dead_entry, stored: Vec::new() }),
            Self::Broken { name, value } => Ok(Kept::Broken { name: unescape(&name), value: unescape(&value) }),
            Self::End { .. } => Err("the last line of a backup is not at its end".to_owned()),
        }
    }

    fn id(&self) -> &str {
        match self {
            Self::Mail { id, .. } | Self::Orphan { id, .. } => id,
            Self::Record { name, .. } | Self::DeadEntry { name, .. } | Self::Broken { name, .. } => name,
            Self::End { .. } => "",
        }
    }
}
