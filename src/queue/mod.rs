//! The queue of refresh requests: the ports, and the values that cross them.
//!
//! Two layers. The [`mailbox`] (`refresh_queue`, `refresh_requests`) is shared with the producers, who write it with separate
//! commands and in any spelling. The *queue* is ours: one [`record`] per object, leased, settled, delayed or dead. Every run
//! first admits mail into the queue.
//!
//! Four ports, each for one kind of caller: [`Queue`] for a run, [`SharedState`] for what overlapping runs share, [`Publisher`]
//! for what other programs read, and `QueueAdmin` for an operator. [`redis`] implements them with one script from `lua/` for
//! each state change; [`memory`] implements them without a server, and is the model that Redis is tested against.
//!
//! The queue knows the model and the clock's values, and neither the API nor the store. Time is always a parameter, so that a
//! test can move it.

#[cfg(feature = "cli")]
pub mod admin;
#[cfg(feature = "cli")]
mod dead_letters;
mod error;
pub mod lease;
pub mod mailbox;
pub mod memory;
mod port;
pub mod record;
pub mod redis;
mod repaired;
mod shared_state;
mod stats;
mod times;

#[cfg(feature = "cli")]
pub use self::{
    admin::QueueAdmin,
    dead_letters::{DeadFilter, DeadLetter, DeadRequest, Exported},
};
pub use self::{
    error::QueueError,
    lease::{
        ClaimRequest, Claimed, Following, Lease, LeaseRequest, LeaseToken, Leased, MAX_LAPSES, SUSPECT_LAPSES,
        SetAside, Settled, Settlement, suspects_together,
    },
    mailbox::{Admitted, MAX_MAIL_BYTES, MailLimits, ORPHAN_TIMEOUT},
    port::{Enqueued, NotQueued, Publisher, Queue},
    repaired::Repaired,
    shared_state::{
        CALLS_LIFETIME, CIRCUIT_LIFETIME, CallsGranted, Circuit, CircuitReason, CircuitScope, Holder, RATE_LIFETIME,
        SharedState, Slot, SlotView,
    },
    stats::{Oldest, QueueStats, RUN_SUMMARIES_LIFETIME, RunSummaries, RunSummary},
};
pub use crate::model::Fingerprint;
