//! What happens after a run: materialized views, statistics jobs, retention of snapshots, and HTTP invalidation of an
//! application's caches.
//!
//! Knows the model, the configuration and the database; the queue, the API and the store are unknown here. `app` hands over a
//! pool of the database's connections, and the worker calls [`AfterRun::run`]. A part that is not configured is not built,
//! and costs no statement.

pub mod after;
mod database;
pub mod invalidate;
pub mod jobs;
#[cfg(feature = "cli")]
pub mod look;
pub mod retention;
pub mod views;

pub use after::{AfterReport, AfterRun};
pub use database::Database;
