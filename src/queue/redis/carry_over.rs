//! The shared state, read whole and carried over to another Redis: cooldowns of keys, learned rates, the calls of a day, open
//! circuits.

use std::{collections::BTreeSet, time::Duration};

use ::redis::{FromRedisValue, cmd};

use super::{
    RedisQueue,
    arguments::{Arguments, lifetime_millis},
    call::Call,
    scripts::{CARRY_OVER, Keys, READ_KEPT, shared},
    shared_state::{COOLDOWN, RELEASED},
};
use crate::queue::QueueError;

/// The keys that one step of a scan looks at.
// A larger step would block Redis for longer; a smaller one costs more round trips.
const SCAN_STEP: usize = 1000;

/// An entry of the shared state, with the rest of its lifetime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedEntry {
    /// Its key without the prefix: `rate:3f9a0c…`.
    name: String,
    /// Its value; for a circuit its fields: since, next probe, code and detail of the reason.
    values: Vec<String>,
    left: Duration,
}

/// A run that uses an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse<'a> {
    pub key: &'a str,
    pub run: &'a str,
    /// The time until the slot is free, if the run does not renew it.
    pub left: Duration,
}

impl SharedEntry {
    /// The run that uses a key, when this entry is a slot in use.
    #[must_use]
    pub fn in_use(&self) -> Option<InUse<'_>> {
        let (key, run) = (self.name.strip_prefix("key:")?, self.values.first()?);
        (!run.starts_with(COOLDOWN)).then_some(InUse { key, run, left: self.left })
    }

    /// `rate` of `rate:3f9a0c…`.
    fn kind(&self) -> &str {
        self.name.split(':').next().unwrap_or_default()
    }

    /// True for a slot that was just released: nothing of it is worth carrying over.
    fn was_released(&self) -> bool {
        self.kind() == "key" && self.values.iter().any(|value| value.starts_with(RELEASED))
    }
}

impl RedisQueue {
    /// Reads the whole shared state of this Redis.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub async fn shared_entries(&self) -> Result<Vec<SharedEntry>, QueueError> {
        let mut entries = Vec::new();
        for name in self.names_of_shared_entries().await? {
            if ["key:", "calls:"].iter().any(|kind| name.starts_with(kind)) {
                let keys = [shared(&name), Keys::copies()];
                let call = Call::Script(&READ_KEPT, &keys, &Arguments::default());
                // Either copy may be lost, so the script reads both.
                let kept: Option<(String, u64)> = self.link.ask("reading the shared state", call).await?;
                entries.extend(kept.map(|(value, left)| {
                    let left = Duration::from_millis(left);
                    SharedEntry { name, values: vec![value], left }
                }));
                continue;
            }
            let values: Option<Vec<String>> = if name.starts_with("circuit:") {
                let values: Vec<Option<String>> =
                    self.read(&["HMGET", &shared(&name), "since", "next_probe", "code", "detail"]).await?;
                values.into_iter().collect()
            } else {
                self.read::<Option<String>>(&["GET", &shared(&name)]).await?.map(|value| vec![value])
            };
            let left: i64 = self.read(&["PTTL", &shared(&name)]).await?;
            // The entry may have expired between the two reads.
            if let (Some(values), Ok(left @ 1..)) = (values, u64::try_from(left)) {
                entries.push(SharedEntry { name, values, left: Duration::from_millis(left) });
            }
        }
        entries.retain(|entry| !entry.was_released());
        Ok(entries)
    }

    /// Puts in an entry of another Redis, for the rest of its lifetime. Returns false when ours has all of it already.
    ///
    /// # Errors
    /// When Redis does not answer, or refuses.
    pub async fn carry_over(&self, entry: &SharedEntry) -> Result<bool, QueueError> {
        let mut arguments = Arguments::default();
        arguments.text(entry.kind()).number(lifetime_millis(entry.left));
        for value in &entry.values {
            arguments.text(value);
        }
        let keys = [shared(&entry.name), Keys::copies()];
        self.link.ask("carrying over shared state", Call::Script(&CARRY_OVER, &keys, &arguments)).await
    }

    /// Returns each name once, although a scan may name a key more than once.
    async fn names_of_shared_entries(&self) -> Result<BTreeSet<String>, QueueError> {
        // If Redis evicted the key of a slot, only this copy still names the slot.
        let copies: Vec<String> = self.read(&["HKEYS", &Keys::copies()]).await?;
        let (prefix, mut cursor, mut names) = (shared(""), "0".to_owned(), BTreeSet::from_iter(copies));
        loop {
            let mut command = cmd("SCAN");
            command.arg(&cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(SCAN_STEP);
            let (next, keys): (String, Vec<Vec<u8>>) =
                self.link.ask("reading the shared state", Call::Near(&command, &prefix)).await?;
            let keys = keys.iter().filter_map(|key| std::str::from_utf8(key).ok()?.strip_prefix(&prefix));
            let kinds = ["key:", "rate:", "calls:", "circuit:"];
            let is_shared = |name: &&str| kinds.iter().any(|kind| name.starts_with(kind));
            names.extend(keys.filter(is_shared).map(ToOwned::to_owned));
            if next == "0" {
                return Ok(names);
            }
            cursor = next;
        }
    }

    async fn read<T: FromRedisValue>(&self, words: &[&str]) -> Result<T, QueueError> {
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        self.link.ask("reading the shared state", Call::Command(&command)).await
    }
}
