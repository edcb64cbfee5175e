//! The rights that our Redis user needs, tried one by one. `DEPLOYMENT.md` has them as one line, and a test reads it.

use ::redis::cmd;
use futures_util::future::join_all;

use super::{RedisQueue, call::Call, scripts::shared};
use crate::queue::{QueueError, mailbox};

/// The rights that a user lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MissingRights {
    /// In the words of `ACL SETUSER`: `+hget`.
    pub commands: Vec<String>,
    /// Likewise: `~refresh_queue`.
    pub keys: Vec<String>,
}

impl MissingRights {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.keys.is_empty()
    }
}

/// Every command that a run, `check` and the commands of an operator send, themselves or in a script, each in a form that
/// changes nothing but a key of our own (`KEY`), which the last one deletes.
const COMMANDS: &[&[&str]] = &[
    &["TIME"],
    &["INFO", "server"],
    &["SCAN", "0", "COUNT", "1"],
    &["EVAL", "return 1", "1", "KEY"],
    // The digest of no script: a user with the right gets NOSCRIPT.
    &["EVALSHA", "0000000000000000000000000000000000000000", "1", "KEY"],
    &["SCRIPT", "LOAD", "return 1"],
    &["DEL", "KEY"],
    &["SET", "KEY", "1", "PX", "1000"],
    &["GET", "KEY"],
    &["PTTL", "KEY"],
    &["PEXPIRE", "KEY", "1000"],
    &["TYPE", "KEY"],
    &["EXISTS", "KEY"],
    &["UNLINK", "KEY"],
    &["HSET", "KEY", "a", "1"],
    &["PEXPIRE", "KEY", "1000"],
    &["HSETNX", "KEY", "a", "1"],
    &["HINCRBY", "KEY", "a", "1"],
    &["HGET", "KEY", "a"],
    &["HMGET", "KEY", "a"],
    &["HEXISTS", "KEY", "a"],
    &["HKEYS", "KEY"],
    &["HLEN", "KEY"],
    &["HSTRLEN", "KEY", "a"],
    &["HSCAN", "KEY", "0"],
    &["HDEL", "KEY", "a"],
    &["UNLINK", "KEY"],
    &["ZADD", "KEY", "1", "a"],
    &["PEXPIRE", "KEY", "1000"],
    &["ZCARD", "KEY"],
    &["ZCOUNT", "KEY", "0", "1"],
    &["ZRANGE", "KEY", "0", "0"],
    &["ZREVRANGE", "KEY", "0", "0"],
    &["ZRANGEBYSCORE", "KEY", "0", "1"],
    &["ZREVRANGEBYSCORE", "KEY", "1", "0"],
    &["ZSCORE", "KEY", "a"],
    &["ZMSCORE", "KEY", "a"],
    &["ZRANK", "KEY", "a"],
    &["ZSCAN", "KEY", "0"],
    &["ZREM", "KEY", "a"],
    &["UNLINK", "KEY"],
];

impl RedisQueue {
    /// The user of our URL.
    #[must_use]
    pub fn user(&self) -> &str {
        self.link.user()
    }

    /// Returns the rights that our user lacks.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn missing_rights(&self) -> Result<MissingRights, QueueError> {
        let mut missing = MissingRights::default();
        let own = self.keys.check();
        let commands: Vec<_> = COMMANDS
            .iter()
            .map(|words| {
                let mut command = cmd(words[0]);
                for word in &words[1..] {
                    command.arg(if *word == "KEY" { own.as_str() } else { *word });
                }
                command
            })
            .collect();
        // Pipelined on one connection.
        let answers = join_all(commands.iter().map(|command| self.may(command))).await;
        for (words, answer) in COMMANDS.iter().zip(answers) {
            let may = answer?;
            let name = match *words {
                ["SCRIPT", "LOAD", ..] => "+script|load".to_owned(),
                _ => format!("+{}", words[0].to_lowercase()),
            };
            if may == May::NotRun && !missing.commands.contains(&name) {
                missing.commands.push(name);
            }
        }
        let families = [
            (own.as_str(), format!("~{}", self.keys.every())),
            (&shared("check"), format!("~{}", shared("*"))),
            (mailbox::INDEX, format!("~{}", mailbox::INDEX)),
            (mailbox::DATA, format!("~{}", mailbox::DATA)),
        ];
        for (key, pattern) in families {
            let (mut read, mut write) = (cmd("TYPE"), if key == mailbox::INDEX { cmd("ZREM") } else { cmd("HDEL") });
            read.arg(key);
            write.arg(key).arg("");
            // A right for reading alone is not enough.
            if self.may(&read).await? == May::NotTouch || self.may(&write).await? == May::NotTouch {
                missing.keys.push(pattern);
            }
        }
        Ok(missing)
    }

    /// Tries a command. Any refusal but `NOPERM` shows that it is allowed.
    async fn may(&self, command: &::redis::Cmd) -> Result<May, QueueError> {
        let has_key = !UNKEYED.iter().any(|name| is_called(command, name));
        let call = if has_key { Call::Command(command) } else { Call::Here(command) };
        let answer: Result<::redis::Value, _> = self.link.ask("trying our rights", call).await;
        match answer {
            Err(QueueError::Refused { detail, .. }) if detail.starts_with("NOPERM") => {
                Ok(if detail.contains("command") && !detail.contains("one of the keys") {
                    May::NotRun
                } else {
                    May::NotTouch
                })
            }
            // Without a server nothing is known about rights.
            Err(error @ QueueError::Unreachable { .. }) => Err(error),
            Ok(_) | Err(_) => Ok(May::Yes),
        }
    }
}

/// Commands without a key, for which any node of a cluster will do.
const UNKEYED: [&str; 4] = ["TIME", "INFO", "SCAN", "SCRIPT"];

fn is_called(command: &::redis::Cmd, name: &str) -> bool {
    matches!(command.args_iter().next(), Some(::redis::Arg::Simple(first)) if first == name.as_bytes())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    Yes,
    /// The command is forbidden.
    NotRun,
    /// The key is.
    NotTouch,
}
