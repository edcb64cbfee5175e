//! What an operator should know about a Redis server before work is given to it.

use super::{RedisQueue, link::Call};
use crate::queue::QueueError;

/// A server, looked at.
#[derive(Debug)]
pub struct Inspection {
    pub version: String,
    /// Whether it belongs to a cluster.
    pub cluster: bool,
    /// `maxmemory-policy`: anything but `noeviction` may drop requests when memory is full.
    pub eviction: Option<String>,
    /// Whether `maxmemory` is set, so that the policy ever acts.
    pub bounded: bool,
    /// Whether we may write, tried on a key of our own that lives for a second.
    pub writable: Result<(), QueueError>,
}

impl RedisQueue {
    /// Looks at the server; changes nothing that lasts.
    ///
    /// # Errors
    /// When it does not answer, or will not tell about itself.
    pub async fn inspect(&self) -> Result<Inspection, QueueError> {
        let info: String = self.link.ask("telling about itself", Call::Here(&::redis::cmd("INFO"))).await?;
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(Inspection {
            version: field("valkey_version").or_else(|| field("redis_version")).unwrap_or("unknown").trim().to_owned(),
            cluster: field("cluster_enabled").is_some_and(|enabled| enabled.trim() == "1"),
            eviction: field("maxmemory_policy").map(|policy| policy.trim().to_owned()),
            bounded: field("maxmemory").is_some_and(|bytes| bytes.trim() != "0"),
            writable: self.try_to_write().await,
        })
    }

    /// The type of a key; `none` when it is not there.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn type_of(&self, key: &str) -> Result<String, QueueError> {
        let mut command = ::redis::cmd("TYPE");
        command.arg(key);
        self.link.ask("telling the type of a key", Call::Command(&command)).await
    }

    async fn try_to_write(&self) -> Result<(), QueueError> {
        let mut command = ::redis::cmd("SET");
        command.arg(self.keys.check()).arg("1").arg("PX").arg(1000);
        self.link.ask("a write", Call::Command(&command)).await
    }
}
