//! Faults: runs that are killed, stopped and overlap, on the real binary with real parts.
//!
//! `cargo test --features failpoints --test soak` is the long version, in `tests/soak/`.

#[cfg(feature = "failpoints")]
mod crash;
#[cfg_attr(not(feature = "failpoints"), allow(dead_code, reason = "the runs that are killed use the rest"))]
mod evidence;
#[cfg(feature = "failpoints")]
mod outbox;
mod overlap;
#[cfg(feature = "failpoints")]
mod pause;
#[cfg(feature = "failpoints")]
mod planned;
mod thaw;

use crate::lambda::{events, world};
