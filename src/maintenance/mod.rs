//! What happens after a run: materialized views, statistics jobs, retention of snapshots, and HTTP invalidation of an
//! application's caches.
//!
//! Knows the model, the configuration and the database; the queue, the API and the store are unknown here. `app` hands over a
//! pool of the database's connections, and the worker calls [`Maintenance::run`]. A part that is not configured is not built,
//! and costs no statement.

pub mod after;
mod database;
#[cfg(feature = "cli")]
pub mod inspect;
pub mod invalidate;
pub mod jobs;
pub mod retention;
pub mod views;

pub use after::{Maintenance, MaintenanceReport};
pub use database::Database;
