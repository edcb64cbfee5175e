//! What follows a commit and a run: follow-ups, caches that are told, views, statistics, retention.
//!
//! Knows the model and the configuration only; the worker joins it with queue and store, and `app` hands it a pool of the
//! database's connections. [`followup`], [`events`] and [`cache_keys`] are pure decisions. A part that is not configured is
//! not built, and costs no statement.

pub mod after;
pub mod cache_keys;
mod database;
pub mod events;
pub mod followup;
pub mod invalidate;
pub mod jobs;
#[cfg(feature = "cli")]
pub mod look;
pub mod retention;
pub mod views;

pub use after::{MaintenanceReport, Maintenance};
pub use database::Database;
