//! Writes a backup into a temporary file, which gets its name only when it is complete and on the disk.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use super::{FORMAT, Header, Line, VERSION};
use crate::{
    clock::Timestamp,
    model::text::hex,
    queue::{admin::Kept, record::State},
};

const PREFIX: &str = "refresh-queue-";
const SUFFIX: &str = ".jsonl";
const UNFINISHED: &str = ".unfinished";

/// The number of entries in a backup, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub entries: u64,
    pub bytes: u64,
    pub kinds: BTreeMap<&'static str, u64>,
}

impl Contents {
    fn count(&mut self, kept: &Kept) {
        self.entries += 1;
        let kind = match kept {
            Kept::Mail { .. } => "mailbox",
            Kept::Orphan { .. } => "orphans",
            Kept::Record { record, .. } => match record.state {
                State::Ready => "ready",
                State::Delayed => "delayed",
                State::Leased if record.planned => "planned looks",
                State::Leased => "leased",
                State::Dead => "dead letters",
            },
            Kept::DeadEntry { .. } => "unreadable",
            Kept::Broken { .. } => "broken",
        };
        *self.kinds.entry(kind).or_default() += 1;
        if matches!(kept, Kept::Record { record, .. } if record.next.is_some()) {
            *self.kinds.entry("next requests").or_default() += 1;
        }
    }
}

/// The folder of backups.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Opens the folder. A missing one is created, readable by its owner alone.
    pub fn open(path: PathBuf) -> anyhow::Result<Self> {
        if !path.is_dir() {
            // Requests are not secret, but nobody else needs them.
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.with_context(|| format!("cannot create the folder `{}`", path.display()))?;
        }
        Ok(Self { path })
    }

    /// Deletes backups older than `retention`, except the newest, and the remains of interrupted ones. Returns their names. A
    /// file without the header of a backup stays, whatever its name.
    pub fn trim(&self, now: Timestamp, retention: Duration) -> anyhow::Result<Vec<String>> {
        let cannot = || format!("cannot read the folder `{}`", self.path.display());
        let mut names: Vec<String> = Vec::new();
        for entry in fs::read_dir(&self.path).with_context(cannot)? {
            names.extend(entry.with_context(cannot)?.file_name().into_string());
        }
        names.retain(|name| time_of(name).is_some() && is_backup(&self.path.join(name)));
        // By name, which is by time.
        names.sort_unstable();
        // An interrupted backup does not count as the newest one.
        let newest = names.iter().rposition(|name| !name.ends_with(UNFINISHED));
        let mut deleted = Vec::new();
        for (place, name) in names.iter().enumerate() {
            let is_old = time_of(name).is_some_and(|time| time + retention < now);
            if is_old && Some(place) != newest {
                let path = self.path.join(name);
                fs::remove_file(&path).with_context(|| format!("cannot delete `{}`", path.display()))?;
                deleted.push(name.clone());
            }
        }
        Ok(deleted)
    }
}

/// `refresh-queue-20260304T050607089Z.jsonl`. Sorted by name, backups are sorted by time.
fn name_of(time: Timestamp) -> String {
    let plain: String = time.to_string().chars().filter(|c| !matches!(c, '-' | ':' | '.')).collect();
    format!("{PREFIX}{plain}{SUFFIX}")
}

/// The time in the name of a backup, finished or not.
fn time_of(name: &str) -> Option<Timestamp> {
    let finished = name.strip_suffix(UNFINISHED).unwrap_or(name);
    let plain = finished.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let format = time::macros::format_description!("[year][month][day]T[hour][minute][second][subsecond digits:3]Z");
    let time = time::PrimitiveDateTime::parse(plain, format).ok()?;
    Some(Timestamp::from_utc(time.assume_utc()))
}

fn is_backup(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut line = String::new();
    // A process that was killed early leaves an empty file, which has no header.
    if path.as_os_str().to_string_lossy().ends_with(UNFINISHED) && file.metadata().is_ok_and(|file| file.len() == 0) {
        return true;
    }
    // A header is short, and a foreign file may have no line break at all.
    let read = BufReader::new(file.take(4096)).read_line(&mut line);
    read.is_ok() && serde_json::from_str::<Header>(&line).is_ok_and(|header| header.format == FORMAT)
}

/// A backup that is being written. If it is dropped unfinished, its file is deleted.
#[derive(Debug)]
pub struct Writer {
    out: BufWriter<File>,
    digest: Sha256,
    contents: Contents,
    unfinished: PathBuf,
    path: PathBuf,
}

impl Writer {
    /// Begins a backup. `server` is the address without user and password.
    pub fn begin(folder: &Folder, now: Timestamp, server: &str, namespace: &str) -> anyhow::Result<Self> {
        let path = folder.path.join(name_of(now));
        let unfinished = folder.path.join(format!("{}{UNFINISHED}", name_of(now)));
        // `create_new`, so that two backups of one millisecond do not mix.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished);
        let file = file.with_context(|| format!("cannot write `{}`", unfinished.display()))?;
        let (out, digest, contents) = (BufWriter::new(file), Sha256::new(), Contents::default());
        let mut writer = Self { out, digest, contents, unfinished, path };
        let header = Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            made: now.to_string(),
            server: server.to_owned(),
            namespace: namespace.to_owned(),
        };
        writer.line(&header)?;
        Ok(writer)
    }

    pub fn add(&mut self, kept: &Kept) -> anyhow::Result<()> {
        self.contents.count(kept);
        self.line(&Line::of(kept))
    }

    /// Ends the backup. Everything is on the disk before the file gets its name.
    pub fn finish(mut self) -> anyhow::Result<(PathBuf, Contents)> {
        let end = Line::End { entries: self.contents.entries, sha256: hex(self.digest.clone().finalize()) };
        self.line(&end)?;
        let cannot = format!("cannot write `{}`", self.path.display());
        // The data before the name: after a power loss a named backup is complete.
        self.out.flush().and_then(|()| self.out.get_ref().sync_all()).with_context(|| cannot.clone())?;
        // A link, since a rename would overwrite another backup of the same millisecond.
        fs::hard_link(&self.unfinished, &self.path).with_context(|| cannot.clone())?;
        fs::remove_file(&self.unfinished).with_context(|| cannot.clone())?;
        // The new name is on the disk only when the folder is synced.
        if let Some(folder) = self.path.parent() {
            File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| cannot)?;
        }
        Ok((self.path.clone(), std::mem::take(&mut self.contents)))
    }

    fn line(&mut self, line: &impl serde::Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec(line).context("cannot write an entry as JSON")?;
        text.push(b'\n');
        self.digest.update(&text);
        self.contents.bytes += text.len() as u64;
        self.out.write_all(&text).with_context(|| format!("cannot write `{}`", self.unfinished.display()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // After `finish` there is no such file.
        let _: io::Result<()> = fs::remove_file(&self.unfinished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn name_holds_the_time() {
        assert_eq!(name_of(NOW), "refresh-queue-20260304T050607089Z.jsonl");
        assert_eq!(time_of(&name_of(NOW)), Some(NOW));
        assert_eq!(time_of("refresh-queue-20260304T050607089Z.jsonl.unfinished"), Some(NOW));
        for other in ["refresh-queue-.jsonl", "backup.jsonl", "refresh-queue-20260304T050607089Z.jsonl.gz"] {
            assert_eq!(time_of(other), None, "{other}");
        }
    }

    #[test]
    fn trim_keeps_newest_and_foreign_files() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(temporary.path().join("backups")).unwrap();
        let at = |days: u32| NOW - DAY * days;
        for days in [9, 8, 6] {
            Writer::begin(&folder, at(days), "redis://cache", "refresh").unwrap().finish().unwrap();
        }
        let foreign = folder.path.join(name_of(at(20)));
        fs::write(&foreign, "{}\n").unwrap();
        assert_eq!(folder.trim(NOW, DAY * 7).unwrap(), [name_of(at(9)), name_of(at(8))]);
        assert_eq!(folder.trim(NOW + DAY * 90, DAY * 7).unwrap(), Vec::<String>::new(), "the newest stays");
        assert!(foreign.exists());
    }

    #[test]
    fn unfinished_backup_leaves_no_file() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(temporary.path().to_owned()).unwrap();
        drop(Writer::begin(&folder, NOW, "redis://cache", "refresh").unwrap());
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }
}
