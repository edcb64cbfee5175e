//! Decisions about the consequences of a commit, made within the drain: follow-up requests, events for other programs, and the
//! cache keys of readers.
//!
//! Pure functions of values of the model: nothing here knows the queue, the API or the store. The worker carries the
//! decisions out.

pub mod cache_keys;
pub mod events;
pub mod followup;
