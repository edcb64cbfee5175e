//! The CoC refresh worker: drains a queue of refresh requests, asks the Clash of Clans API within its rate, and keeps
//! the database fresh.
//!
//! The rooms of the house, and which way they look:
//!
//! ```text
//! handlers, cli -> worker -> { queue, api, store } -> model
//! ```
//!
//! `queue`, `api` and `store` do not know one another; only [`worker`] has seen all three. [`app`] alone builds the real
//! parts and joins them. [`clock`], [`config`] and [`metrics`] are leaves.

pub mod api;
pub mod app;
pub mod clock;
pub mod config;
pub mod handlers;
pub mod metrics;
pub mod model;
pub mod queue;
#[cfg(feature = "embedded")]
pub mod sim;
pub mod store;
pub mod telemetry;
pub mod worker;

#[cfg(feature = "cli")]
pub mod cli;
