//! The API room: how a clan, a player or a war is asked for, and what each answer means.
//!
//! [`client`] speaks HTTP, [`wire`] knows the shapes of the answers, [`verdict`] is the table from an answer to what to
//! do about it, [`wallet`] holds the keys and [`limit`] keeps each within its rate. Nothing here knows the queue or
//! the store. **Invariant: no call without a permit of the wallet**, retries and probes included.

pub mod client;
pub mod limit;
pub mod verdict;
pub mod wallet;
pub mod wire;
