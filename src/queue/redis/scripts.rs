//! The scripts, each with the rules it shares in front, and the names of our keys.

use std::sync::LazyLock;

use ::redis::Script;

use crate::queue::mailbox;

macro_rules! queue_scripts {
    ($($name:ident = $file:literal;)*) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(include_str!("../lua/prelude.lua"), include_str!(concat!("../lua/", $file))))
        });)*
    };
}

macro_rules! slot_scripts {
    ($($name:ident = $file:literal;)*) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(include_str!("../lua/slots.lua"), include_str!(concat!("../lua/", $file))))
        });)*
    };
}

queue_scripts! {
    READ_MAIL = "read_mail.lua";
    ADMIT = "admit.lua";
    ENQUEUE = "enqueue.lua";
    LEASE = "lease.lua";
    RENEW = "renew.lua";
    SETTLE = "settle.lua";
    STATS = "stats.lua";
    REDRIVE = "redrive.lua";
    RETURN_RECORDS = "return_records.lua";
    RETURN_ORPHANS = "return_orphans.lua";
}

slot_scripts! {
    TAKE_KEY = "take_key.lua";
    RENEW_KEYS = "renew_keys.lua";
    PAUSE_KEY = "pause_key.lua";
    GIVE_BACK_KEY = "give_back_key.lua";
    BEGIN_MAINTENANCE = "begin_maintenance.lua";
    CLAIM_PROBE = "claim_probe.lua";
}

/// The names of our keys, all in one hash slot: `{refresh}:ready`.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: String,
    /// In the order that `prelude.lua` expects; the last two are the mailbox.
    all: Vec<String>,
}

impl Keys {
    pub(super) fn new(namespace: &str) -> Self {
        let prefix = format!("{{{namespace}}}");
        let ours = [
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
        ];
        let mut all: Vec<String> = ours.iter().map(|name| format!("{prefix}:{name}")).collect();
        all.extend([mailbox::INDEX.to_owned(), mailbox::DATA.to_owned()]);
        Self { prefix, all }
    }

    pub(super) fn with_mailbox(&self) -> &[String] {
        &self.all
    }

    pub(super) fn queue(&self) -> &[String] {
        &self.all[..12]
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

    pub(super) fn slot(&self, fingerprint: &str) -> String {
        format!("{}:key:{fingerprint}", self.prefix)
    }

    pub(super) fn rate(&self, fingerprint: &str) -> String {
        format!("{}:rate:{fingerprint}", self.prefix)
    }

    pub(super) fn check(&self) -> String {
        format!("{}:check", self.prefix)
    }

    pub(super) fn pause(&self) -> String {
        format!("{}:pause", self.prefix)
    }
}
