//! The CoC refresh worker: drains a queue of refresh requests, calls the Clash of Clans API within its rate, and keeps
//! the database fresh.
//!
//! The rooms, with arrows from those that use to those that are used:
//!
//! ```text
//! handlers, cli -> worker -> { queue, api, store, follow, maintenance } -> model
//! ```
//!
//! `queue`, `api`, `store`, `follow` and `maintenance` do not know one another; only [`worker`] has seen all of them. [`app`]
//! alone builds the real parts and joins them. [`metrics`] knows the reports of `worker` and `maintenance`. [`clock`],
//! [`columns`], [`config`], [`connections`] and [`retry`] are leaves.

#[macro_use]
pub mod failpoint;

pub mod api;
pub mod app;
mod certificates;
pub mod clock;
pub mod columns;
pub mod config;
pub mod connections;
pub mod follow;
pub mod handlers;
pub mod maintenance;
pub mod metrics;
pub mod model;
mod outbound;
pub mod planner;
pub mod queue;
pub mod retry;
mod signal;
#[cfg(feature = "embedded")]
pub mod sim;
pub mod store;
pub mod telemetry;
pub mod worker;

#[cfg(feature = "cli")]
pub mod cli;
