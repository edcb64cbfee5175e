//! The API room: how a clan, a player or a war is asked for, and what each answer means.
//!
//! [`client`] speaks HTTP, `endpoint` names what can be asked, `calls` makes the calls of one fetch, `league` finds a clan's
//! league war, [`wire`] knows the shapes of the answers, [`verdict`] is the table from an answer to what it says, [`judge`]
//! finds out whose fault a bad answer is, `key` is one key, [`key_store`] holds those there are, [`portal`] gets them from the developer portal, [`run_keys`] those that this
//! run may use, [`limit`] keeps each within its rate, [`learn`] and [`latency`] say what that rate is, and [`allowance`]
//! counts the calls of a day. Nothing here knows the queue or the store.
//! **Invariant: no call without a permit of the [`KeyPool`]**, retries and probes included.

pub mod allowance;
mod calls;
pub mod client;
mod connects;
mod endpoint;
pub mod judge;
mod key;
pub mod latency;
mod league;
pub mod learn;
pub mod limit;
pub mod portal;
mod room;
pub mod run_keys;
pub mod verdict;
pub mod wallet;
pub mod wire;

pub use client::{ApiClient, ApiError, FetchTask, Fetch};
pub use key::ApiKey;
pub use run_keys::{NoPermit, Permit, KeyPool, SlotStart};
pub use verdict::{Obstacle, Verdict};
pub use wallet::KeyStore;
