//! What runs agreed on, read whole and carried to another Redis: rests of keys, learned rates, the calls of a day, open
//! circuits.

use std::{collections::BTreeSet, time::Duration};

use ::redis::{FromRedisValue, cmd};

use super::{
    RedisQueue, lifetime_millis,
    link::{Arguments, Call},
    scripts::{CARRY_OVER, KEPT, Keys, shared},
    slots::{LEFT, PAUSED},
};
use crate::queue::QueueError;

/// How many keys of the server one step looks at.
const STEP: usize = 1000;

/// One of them, with the rest of its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Without what stands before it: `rate:3f9a0c…`.
    name: String,
    /// Its value; of a circuit since when it is open, when it is probed next, code and detail of the reason.
    words: Vec<String>,
    left: Duration,
}

/// A run that uses an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse<'a> {
    pub key: &'a str,
    pub run: &'a str,
    /// How long, if the run does not renew it.
    pub left: Duration,
}

impl Agreement {
    /// The run that uses a key, when this is a slot in use.
    #[must_use]
    pub fn in_use(&self) -> Option<InUse<'_>> {
        let (key, run) = (self.name.strip_prefix("key:")?, self.words.first()?);
        (!run.starts_with(PAUSED)).then_some(InUse { key, run, left: self.left })
    }

    /// `rate` of `rate:3f9a0c…`.
    fn kind(&self) -> &str {
        self.name.split(':').next().unwrap_or_default()
    }

    /// Whether it is a slot that nobody has any more and that nobody may have for a moment.
    fn was_left(&self) -> bool {
        self.kind() == "key" && self.words.iter().any(|word| word.starts_with(LEFT))
    }
}

impl RedisQueue {
    /// Everything that runs agree on at this Redis.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub async fn agreements(&self) -> Result<Vec<Agreement>, QueueError> {
        let mut agreements = Vec::new();
        for name in self.names_of_agreements().await? {
            if ["key:", "calls:"].iter().any(|kind| name.starts_with(kind)) {
                let keys = [shared(&name), Keys::copies()];
                let call = Call::Script(&KEPT, &keys, &Arguments::default());
                let kept: Option<(String, u64)> = self.link.ask("reading agreements", call).await?;
                agreements.extend(kept.map(|(word, left)| {
                    let left = Duration::from_millis(left);
                    Agreement { name, words: vec![word], left }
                }));
                continue;
            }
            let words: Option<Vec<String>> = if name.starts_with("circuit:") {
                let words: Vec<Option<String>> =
                    self.read(&["HMGET", &shared(&name), "since", "next_probe", "code", "detail"]).await?;
                words.into_iter().collect()
            } else {
                self.read::<Option<String>>(&["GET", &shared(&name)]).await?.map(|word| vec![word])
            };
            let left: i64 = self.read(&["PTTL", &shared(&name)]).await?;
            // It may have ended meanwhile.
            if let (Some(words), Ok(left @ 1..)) = (words, u64::try_from(left)) {
                agreements.push(Agreement { name, words, left: Duration::from_millis(left) });
            }
        }
        agreements.retain(|agreement| !agreement.was_left());
        Ok(agreements)
    }

    /// Puts in what was agreed on elsewhere, for the rest of its life. Answers whether it says more than what is here.
    ///
    /// # Errors
    /// When Redis does not answer, or refuses.
    pub async fn carry_over(&self, agreement: &Agreement) -> Result<bool, QueueError> {
        let mut arguments = Arguments::default();
        arguments.text(agreement.kind()).number(lifetime_millis(agreement.left));
        for word in &agreement.words {
            arguments.text(word);
        }
        let keys = [shared(&agreement.name), Keys::copies()];
        self.link.ask("carrying over an agreement", Call::Script(&CARRY_OVER, &keys, &arguments)).await
    }

    /// A scan names a key more than once.
    async fn names_of_agreements(&self) -> Result<BTreeSet<String>, QueueError> {
        let copies: Vec<String> = self.read(&["HKEYS", &Keys::copies()]).await?;
        let (prefix, mut cursor, mut names) = (shared(""), "0".to_owned(), BTreeSet::from_iter(copies));
        loop {
            let mut command = cmd("SCAN");
            command.arg(&cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(STEP);
            let (next, keys): (String, Vec<Vec<u8>>) =
                self.link.ask("looking for agreements", Call::Near(&command, &prefix)).await?;
            let keys = keys.iter().filter_map(|key| std::str::from_utf8(key).ok()?.strip_prefix(&prefix));
            let kinds = ["key:", "rate:", "calls:", "circuit:"];
            let is_agreement = |name: &&str| kinds.iter().any(|kind| name.starts_with(kind));
            names.extend(keys.filter(is_agreement).map(ToOwned::to_owned));
            if next == "0" {
                return Ok(names);
            }
            cursor = next;
        }
    }

    async fn read<T: FromRedisValue>(&self, words: &[&str]) -> Result<T, QueueError> {
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        self.link.ask("reading agreements", Call::Command(&command)).await
    }
}
