//! The scripts, each with the rules it shares in front, and the names of our keys.

use std::sync::LazyLock;

use ::redis::Script;

use crate::{
    clock::Timestamp,
    queue::{CircuitScope, mailbox},
};

/// A script, by its text and by its digest.
#[derive(Debug)]
pub(super) struct Lua {
    /// For a node of a cluster that does not know it yet.
    pub code: &'static str,
    pub script: Script,
}

/// Joins the files of each script.
macro_rules! scripts {
    ($($name:ident = $($file:literal)+;)*) => {
        $(pub(super) static $name: LazyLock<Lua> = LazyLock::new(|| {
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
    REDRIVE = "prelude.lua" "redrive.lua";
    RETURN_RECORDS = "prelude.lua" "return_records.lua";
    RETURN_ORPHANS = "prelude.lua" "return_orphans.lua";
    STATS = "prelude.lua" "mail.lua" "stats.lua";
}

// The queue.
scripts! {
    ENQUEUE = "prelude.lua" "enqueue.lua";
    LEASE = "prelude.lua" "lease.lua";
    RENEW = "prelude.lua" "renew.lua";
    SETTLE = "prelude.lua" "settle.lua";
    LIFT_HOLDS = "prelude.lua" "lift_holds.lua";
    RETURN_SET_ASIDE = "prelude.lua" "return_set_aside.lua";
    REPAIR = "prelude.lua" "repair.lua";
}

// What health reads.
scripts! {
    NOTE_RUN = "slots.lua" "record_run.lua";
}

// What others read.
scripts! {
    APPEND_EVENTS = "append_events.lua";
}

// Key slots, circuits, and the calls of a day.
scripts! {
    LOOK_AT_KEY = "slots.lua" "twice.lua" "look_at_key.lua";
    END_REST = "slots.lua" "twice.lua" "end_rest.lua";
    CALLS_TAKEN = "slots.lua" "twice.lua" "calls_taken.lua";
    TAKE_CALLS = "slots.lua" "twice.lua" "take_calls.lua";
    GIVE_BACK_CALLS = "slots.lua" "twice.lua" "give_back_calls.lua";
    TAKE_KEY = "slots.lua" "twice.lua" "take_key.lua";
    REMEMBER_RATE = "slots.lua" "remember_rate.lua";
    RENEW_KEYS = "slots.lua" "twice.lua" "renew_keys.lua";
    PAUSE_KEY = "slots.lua" "twice.lua" "pause_key.lua";
    GIVE_BACK_KEY = "slots.lua" "twice.lua" "give_back_key.lua";
    CIRCUITS = "slots.lua" "circuits.lua";
    OPEN_CIRCUIT = "slots.lua" "open_circuit.lua";
    CLAIM_PROBE = "slots.lua" "claim_probe.lua";
}

// What an operator's tools do: the queue, or one key.
#[cfg(feature = "cli")]
scripts! {
    RESTORE = "prelude.lua" "restore.lua";
    TAKE_AWAY = "prelude.lua" "take_away.lua";
    PURGE = "prelude.lua" "purge.lua";
    KEPT = "slots.lua" "twice.lua" "kept.lua";
    CARRY_OVER = "slots.lua" "twice.lua" "carry_over.lua";
    SCAN_KEYS = "scan_keys.lua";
    HAS_DATA = "has_data.lua";
}

// The mailbox on a cluster: one of its keys each.
scripts! {
    CLUSTER_READ_WAITING = "prelude.lua" "cluster/read_waiting.lua";
    CLUSTER_READ_INDEX = "slots.lua" "mail.lua" "cluster/read_index.lua";
    CLUSTER_SCAN_DATA = "slots.lua" "mail.lua" "cluster/scan_data.lua";
    CLUSTER_READ_DATA = "slots.lua" "mail.lua" "cluster/read_data.lua";
    CLUSTER_MATCH_DATA = "slots.lua" "mail.lua" "cluster/match_data.lua";
    CLUSTER_MATCH_INDEX = "slots.lua" "mail.lua" "cluster/match_index.lua";
    CLUSTER_PLACES = "slots.lua" "cluster/places.lua";
    CLUSTER_PUT_DATA = "slots.lua" "cluster/put_data.lua";
}

/// How many keys of the queue's scripts are ours.
const OURS: usize = 13;

/// What stands before the keys that all runs share which use an API key, whatever their namespace: one hash slot.
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
            "unreadable",
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

    /// The keys of a settlement: ours, and the one that remembers its answer under this name for a minute.
    pub(super) fn settling(&self, batch: &str) -> Vec<String> {
        let mut keys = self.queue().to_vec();
        keys.push(format!("{}:settled:{batch}", self.prefix));
        keys
    }

    pub(super) fn objects(&self) -> &str {
        &self.all[0]
    }

    pub(super) fn dead(&self) -> &str {
        &self.all[7]
    }

    pub(super) fn unreadable(&self) -> &str {
        &self.all[8]
    }

    pub(super) fn orphans(&self) -> &str {
        &self.all[9]
    }

    /// Second copies of what must not be lost: slots, cooldowns and counts of days.
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

    /// A pattern of all keys of this namespace.
    #[cfg(feature = "cli")]
    pub(super) fn every(&self) -> String {
        format!("{}:*", self.prefix)
    }

    /// How the last runs went.
    pub(super) fn runs(&self) -> String {
        format!("{}:runs", self.prefix)
    }

    pub(super) fn circuit(scope: CircuitScope) -> String {
        shared(&format!("circuit:{scope}"))
    }
}

/// A shared key, by its name without what stands before it.
pub(super) fn shared(name: &str) -> String {
    format!("{SHARED}:{name}")
}
