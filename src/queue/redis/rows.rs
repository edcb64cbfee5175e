//! The rows of the scripts' replies, as structs with named fields.

use ::redis::{FromRedisValue, ParsingError, Value, from_redis_value};

/// Declares a row: a struct that is read from the tuple of its fields, in the order of the script's reply.
macro_rules! rows {
    ($($(#[$about:meta])* $name:ident { $($field:ident: $kind:ty),+ $(,)? })+) => {$(
        $(#[$about])*
        #[derive(Debug)]
        pub(super) struct $name {
            $(pub $field: $kind,)+
        }

        impl FromRedisValue for $name {
            fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
                let ($($field,)+): ($($kind,)+) = from_redis_value(value)?;
                Ok(Self { $($field,)+ })
            }
        }
    )+};
}

// The mailbox. Of an id or a value that is too long, `id` and `value` are only the start; `digest` is '' for other ids.
rows! {
    /// `read_mail.lua`
    MailRow {
        source: String, id: Vec<u8>, id_bytes: usize, digest: String, score: String, content: String, bytes: usize,
        value: Vec<u8>,
    }
    /// `cluster/read_index.lua`
    IndexRow { class: u8, id: Vec<u8>, id_bytes: usize, digest: String, score: String }
    /// `cluster/scan_data.lua`
    ScanRow { id: Vec<u8>, id_bytes: usize, digest: String, content: String, bytes: usize, value: Vec<u8> }
    /// `cluster/read_data.lua`
    DataRow { content: String, bytes: usize, value: Vec<u8> }
    /// Mail at the head of its priority, of `stats.lua`.
    HeadRow { id: Vec<u8>, score: String, value: Vec<u8> }
    /// `admit.lua`
    AdmitReply {
        admitted: usize, unreadable: usize, changed: usize, orphaned: usize, orphans_dropped: usize, found_by_scan: usize,
        repaired: RepairCounts,
    }
}

// The queue.
rows! {
    /// `lease.lua`
    LeaseReply {
        suspect_waits: bool, more: bool, lapsed: usize, lapsed_dead: usize, leases: Vec<LeaseRow>, repaired: RepairCounts,
    }
    /// A lease of `lease.lua`; -1 stands for no time.
    LeaseRow {
        object: String, token: String, merges: u64, priority: i64, first_requested: i64, last_requested: i64, attempts: u32,
        lapses: u32, held: u32, held_for: String, asked: i64,
    }
    /// `claim.lua`
    ClaimReply { work_waits: bool, claims: Vec<ClaimRow>, refusals: Vec<RefusalRow>, repaired: RepairCounts }
    /// A planned look of `claim.lua`.
    ClaimRow { object: String, token: String }
    /// An object that `claim.lua` refused, since it has a record.
    RefusalRow { object: String, state: String }
    /// The repairs that a script made on the way.
    RepairCounts { records: usize, places: usize, invalid_entries: usize }
    /// `stats.lua`; -1 stands for no time.
    StatsReply {
        mailbox: u64, ready: Vec<u64>, delayed: u64, leased: u64, dead_letters: u64, dead_letters_evicted: u64, orphans: u64,
        oldest: i64, next_due: i64, heads: Vec<HeadRow>,
    }
}

#[cfg(feature = "cli")]
rows! {
    /// `scan_keys.lua`
    ScannedRow { id: Vec<u8>, id_bytes: usize, digest: String, bytes: usize, value: Vec<u8> }
}
