//! The scripts, each with its shared rules in front, and the names of our keys.

use std::sync::LazyLock;

use ::redis::Script;

use crate::{
    clock::Timestamp,
    queue::{CircuitScope, mailbox},
};

/// A script, by its text and by its digest.
#[derive(Debug)]
pub(super) struct Lua {
    /// The whole text, for a node of a cluster that does not know the script yet.
    pub code: &'static str,
    pub script: Script,
}

/// Joins the files of each script.
macro_rules! scripts {
    ($($name:ident = $($file:literal)+;)*) => {
        $(pub(super) static $name: LazyLock<Lua> = LazyLock::new(|| {
            // Joined at build time, so that a script is one text with one digest.
            let code = concat!($(include_str!(concat!("../lua/", $file))),+);
            Lua { code, script: Script::new(code) }
        });)*
    };
}

/// The clock of a server that may be written to.
pub(super) const TIME_TO_WRITE: &str = include_str!("../lua/time_to_write.lua");

// The mailbox and the queue in one.
scripts! {
    READ_MAIL = "prelude.lua" "mail.lua" "read_mail.lua";
    ADMIT = "prelude.lua" "mail.lua" "admit.lua";
    STATS = "prelude.lua" "mail.lua" "stats.lua";
}

// The queue.
scripts! {
    ENQUEUE = "prelude.lua" "enqueue.lua";
    LEASE = "prelude.lua" "lease.lua";
    CLAIM = "prelude.lua" "claim.lua";
    RENEW = "prelude.lua" "renew.lua";
    SETTLE = "prelude.lua" "settle.lua";
    LIFT_HOLDS = "prelude.lua" "lift_holds.lua";
    RETURN_SET_ASIDE = "prelude.lua" "return_set_aside.lua";
    REPAIR = "prelude.lua" "repair.lua";
}

// What health reads.
scripts! {
    RECORD_RUN = "common.lua" "record_run.lua";
}

// What others read.
scripts! {
    PUBLISH_EVENTS = "publish_events.lua";
}

// Key slots, circuits, and the calls of a day.
scripts! {
    LOOK_AT_KEY = "common.lua" "copies.lua" "look_at_key.lua";
    END_COOLDOWN = "common.lua" "copies.lua" "end_cooldown.lua";
    CALLS_TAKEN = "common.lua" "copies.lua" "calls_taken.lua";
    TAKE_CALLS = "common.lua" "copies.lua" "take_calls.lua";
    RETURN_CALLS = "common.lua" "copies.lua" "return_calls.lua";
    TAKE_KEY = "common.lua" "copies.lua" "take_key.lua";
    REMEMBER_RATE = "common.lua" "remember_rate.lua";
    RENEW_KEYS = "common.lua" "copies.lua" "renew_keys.lua";
    COOL_DOWN_KEY = "common.lua" "copies.lua" "cool_down_key.lua";
    RELEASE_KEY = "common.lua" "copies.lua" "release_key.lua";
    CIRCUITS = "common.lua" "circuits.lua";
    OPEN_CIRCUIT = "common.lua" "open_circuit.lua";
    CLAIM_PROBE = "common.lua" "claim_probe.lua";
}

// What an operator's tools do: the queue, or one key.
#[cfg(feature = "cli")]
scripts! {
    REDRIVE = "prelude.lua" "redrive.lua";
    RETURN_RECORDS = "prelude.lua" "return_records.lua";
    RETURN_ORPHANS = "prelude.lua" "return_orphans.lua";
    CLUSTER_PUT_DATA = "common.lua" "cluster/put_data.lua";
    RESTORE = "prelude.lua" "restore.lua";
    TAKE_AWAY = "prelude.lua" "take_away.lua";
    PURGE = "prelude.lua" "purge.lua";
    READ_KEPT = "common.lua" "copies.lua" "read_kept.lua";
    CARRY_OVER = "common.lua" "copies.lua" "carry_over.lua";
    SCAN_KEYS = "scan_keys.lua";
    HAS_DATA = "has_data.lua";
}

// The mailbox on a cluster: one of its keys each.
scripts! {
    CLUSTER_READ_WAITING = "prelude.lua" "cluster/read_waiting.lua";
    CLUSTER_READ_INDEX = "common.lua" "mail.lua" "cluster/read_index.lua";
    CLUSTER_SCAN_DATA = "common.lua" "mail.lua" "cluster/scan_data.lua";
    CLUSTER_READ_DATA = "common.lua" "mail.lua" "cluster/read_data.lua";
    CLUSTER_MATCH_DATA = "common.lua" "mail.lua" "cluster/match_data.lua";
    CLUSTER_MATCH_INDEX = "common.lua" "mail.lua" "cluster/match_index.lua";
    CLUSTER_PLACES = "common.lua" "cluster/places.lua";
}

/// The number of our keys in the queue's scripts.
const OURS: usize = 13;

/// The prefix of the keys that all runs share, whatever their namespace: one hash slot.
pub(super) const SHARED: &str = "{coc-api}";

/// The names of our keys: those of the queue in one hash slot (`{refresh}:ready`), those of the API's keys in another.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: String,
    /// In the order that `prelude.lua` expects; the last two are the mailbox.
    all: Vec<String>,
}

impl Keys {
    pub(super) fn new(namespace: &str) -> Self {
        // In braces: all keys of a namespace lie in one hash slot of a cluster.
        let prefix = format!("{{{namespace}}}");
        let ours: [&str; OURS] = [
            "objects",
            "ready",
            "delayed:critical",
            "delayed:high",
            "delayed:medium",
            "delayed:low",
            "leased",
            "dead",
            "dead_entries",
            "orphans",
            "scan",
            "counters",
            "held",
        ];
        let mut all: Vec<String> = ours.iter().map(|name| format!("{prefix}:{name}")).collect();
        all.extend([mailbox::INDEX.to_owned(), mailbox::DATA.to_owned()]);
        Self { prefix, all }
    }

    pub(super) fn with_mailbox(&self) -> &[String] {
        &self.all
    }

    pub(super) fn mailbox_index(&self) -> &[String] {
        &self.all[OURS..=OURS]
    }

    pub(super) fn mailbox_data(&self) -> &[String] {
        &self.all[OURS + 1..]
    }

    pub(super) fn queue(&self) -> &[String] {
        &self.all[..OURS]
    }

    /// The keys of a settlement: ours, and the one that remembers the reply to this batch for a minute.
    pub(super) fn settling(&self, batch: &str) -> Vec<String> {
        let mut keys = self.queue().to_vec();
        keys.push(format!("{}:settled:{batch}", self.prefix));
        keys
    }

    #[cfg(feature = "cli")]
    pub(super) fn ready(&self) -> &str {
        &self.all[1]
    }

    pub(super) fn objects(&self) -> &str {
        &self.all[0]
    }

    #[cfg(feature = "cli")]
    pub(super) fn dead(&self) -> &str {
        &self.all[7]
    }

    #[cfg(feature = "cli")]
    pub(super) fn dead_entries(&self) -> &str {
        &self.all[8]
    }

    #[cfg(feature = "cli")]
    pub(super) fn orphans(&self) -> &str {
        &self.all[9]
    }

    /// Second copies of the state that must not be lost: slots, cooldowns and counts of days.
    pub(super) fn copies() -> String {
        shared("copies")
    }

    pub(super) fn slot(fingerprint: &str) -> String {
        shared(&format!("key:{fingerprint}"))
    }

    pub(super) fn rate(fingerprint: &str) -> String {
        shared(&format!("rate:{fingerprint}"))
    }

    /// `{coc-api}:calls:2026-03-04`
    pub(super) fn calls(day: Timestamp) -> String {
        shared(&format!("calls:{}", day.to_utc().date()))
    }

    pub(super) fn check(&self) -> String {
        format!("{}:check", self.prefix)
    }

    /// A pattern for all keys of this namespace.
    #[cfg(feature = "cli")]
    pub(super) fn every(&self) -> String {
        format!("{}:*", self.prefix)
    }

    /// The summaries of the last runs.
    pub(super) fn runs(&self) -> String {
        format!("{}:runs", self.prefix)
    }

    pub(super) fn circuit(scope: CircuitScope) -> String {
        shared(&format!("circuit:{scope}"))
    }
}

/// A shared key, by its name without the prefix.
pub(super) fn shared(name: &str) -> String {
    format!("{SHARED}:{name}")
}
