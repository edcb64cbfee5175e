//! The tests that need real parts: Redis and PostgreSQL processes, the simulator over HTTP, the binary itself.
//!
//! One binary, so that the private servers are started once and shared. `support` is the test bed.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod api;
mod cli;
mod config;
mod faults;
mod hostile;
mod infra;
mod lambda;
mod maintenance;
mod queue;
mod recordings;
mod sim;
mod store;
mod support;
mod worker;
