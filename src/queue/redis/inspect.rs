//! The properties of a Redis server that an operator checks before using it.

use std::collections::BTreeMap;

use super::{RedisQueue, call::Call};
use crate::queue::{Queue as _, QueueError};

/// The keys that one step of a scan looks at.
const SCAN_STEP: usize = 1000;

/// A scan ends after half a million keys.
const MAX_SCAN_STEPS: usize = 500;

/// The properties of a Redis server.
#[derive(Debug)]
pub struct Inspection {
    pub version: String,
    /// True when it belongs to a cluster.
    pub cluster: bool,
    /// `maxmemory-policy`: anything but `noeviction` may drop requests when memory is full.
    pub eviction: Option<String>,
    /// True when `maxmemory` is set, so that the policy applies.
    pub bounded: bool,
    /// The result of a write to a key of our own that lives for a second.
    pub writable: Result<(), QueueError>,
}

impl RedisQueue {
    /// Inspects the server; changes nothing that lasts.
    ///
    /// # Errors
    /// When it does not answer, or refuses `INFO`.
    pub async fn inspect(&self) -> Result<Inspection, QueueError> {
        let info: String = self.link.ask("reading INFO", Call::Here(&::redis::cmd("INFO"))).await?;
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(Inspection {
            version: field("valkey_version").or_else(|| field("redis_version")).unwrap_or("unknown").trim().to_owned(),
            cluster: field("cluster_enabled").is_some_and(|enabled| enabled.trim() == "1"),
            eviction: field("maxmemory_policy").map(|policy| policy.trim().to_owned()),
            bounded: field("maxmemory").is_some_and(|bytes| bytes.trim() != "0"),
            writable: self.try_to_write().await,
        })
    }

    /// Other namespaces of this server that hold requests, with the number of their records. Looks at a bounded part of a
    /// very large server, and at one node of a cluster.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn other_namespaces(&self) -> Result<BTreeMap<String, u64>, QueueError> {
        let (mut cursor, mut found) = ("0".to_owned(), BTreeMap::new());
        for _ in 0..MAX_SCAN_STEPS {
            let mut command = ::redis::cmd("SCAN");
            command.arg(&cursor).arg("MATCH").arg("{*}:objects").arg("COUNT").arg(SCAN_STEP);
            let (next, keys): (String, Vec<Vec<u8>>) =
                self.link.ask("looking for other namespaces", Call::Here(&command)).await?;
            for key in keys.into_iter().filter_map(|key| String::from_utf8(key).ok()) {
                // Another program may use a key of this form.
                let Some(name) = key.strip_prefix('{').and_then(|key| key.strip_suffix("}:objects")) else { continue };
                if key == self.keys.objects() {
                    continue;
                }
                match self.records_of(&key).await {
                    Ok(Some(records)) => _ = found.insert(name.to_owned(), records),
                    Ok(None) => {}
                    // A user with rights for our own keys only sees the names of others.
                    Err(QueueError::Refused { detail, .. }) if detail.starts_with("NOPERM") => {}
                    Err(error) => return Err(error),
                }
            }
            if next == "0" {
                break;
            }
            cursor = next;
        }
        Ok(found)
    }

    /// The number of records under a key of objects; `None` when the key holds something else.
    async fn records_of(&self, key: &str) -> Result<Option<u64>, QueueError> {
        if self.type_of(key).await? != "hash" {
            return Ok(None);
        }
        let mut command = ::redis::cmd("HLEN");
        command.arg(key);
        self.link.ask("counting another namespace", Call::Command(&command)).await.map(Some)
    }

    /// The type of a key; `none` when it is not there.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn type_of(&self, key: &str) -> Result<String, QueueError> {
        let mut command = ::redis::cmd("TYPE");
        command.arg(key);
        self.link.ask("reading the type of a key", Call::Command(&command)).await
    }

    async fn try_to_write(&self) -> Result<(), QueueError> {
        // SET alone would succeed on a replica that accepts writes; this reports such a replica.
        self.time_to_write().await?;
        let mut command = ::redis::cmd("SET");
        command.arg(self.keys.check()).arg("1").arg("PX").arg(1000);
        self.link.ask("a write", Call::Command(&command)).await
    }
}
