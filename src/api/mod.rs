//! The API room: fetches a clan, a player or a war from the Clash of Clans API, within the budget of calls.
//!
//! - A fetch: [`client`] is the door, `calls` makes the calls of one fetch, `league` finds a clan's league war, `endpoint`
//!   names what can be requested, `transport` speaks HTTP (with the client of `http`), and `body_memory` bounds the memory for
//!   bodies.
//! - A response: [`wire`] knows its shapes, [`response`] classifies it, [`judge`] finds out whose fault a bad one is, and
//!   [`verdict`] is the outcome of the fetch.
//! - A call: [`budget`] decides when it begins and on which key, and [`keys`] holds the keys that there are.
//!
//! Nothing here knows the queue or the store. **Invariant: no call without a permit of the [`KeyPool`]**, retries and probes
//! included.

mod body_memory;
pub mod budget;
mod calls;
pub mod client;
mod endpoint;
mod http;
pub mod judge;
pub mod keys;
mod league;
pub mod response;
mod transport;
pub mod verdict;
pub mod wire;

pub use budget::{KeyPool, NoPermit, Permit, SlotStart};
pub use calls::FetchTask;
pub use client::{ApiClient, ApiError, Fetch};
pub use keys::{ApiKey, KeyStore};
pub use verdict::{Obstacle, Verdict};
