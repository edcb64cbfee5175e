//! The API room: how a clan, a player or a war is asked for, and what each answer means.
//!
//! [`client`] speaks HTTP, `calls` makes the calls of one fetch, `league` finds a clan's league war, [`wire`] knows
//! the shapes of the answers, [`verdict`] is the table from an answer to what to do about it, [`wallet`] holds the keys
//! there are, [`run_keys`] those that this run may use, and [`limit`] keeps each within its rate. Nothing here knows the
//! queue or the store.
//! **Invariant: no call without a permit of the [`RunKeys`]**, retries and probes included.

mod calls;
pub mod client;
mod league;
pub mod limit;
pub mod run_keys;
pub mod verdict;
pub mod wallet;
pub mod wire;

pub use client::{ApiClient, ApiError, Ask, Fetch};
pub use run_keys::{NoPermit, Permit, RunKeys, SlotStart};
pub use verdict::{Obstacle, Verdict};
pub use wallet::{ApiKey, Wallet};
