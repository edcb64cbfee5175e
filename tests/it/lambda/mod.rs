//! End-to-end: the binary as a process behind a Lambda Runtime API, with real Redis, real PostgreSQL and the simulated
//! Clash of Clans API over HTTP.

mod api_trouble;
mod clocks;
mod cluster;
mod database_trouble;
mod drain;
pub mod events;
mod failover;
mod faults;
mod followed;
mod http;
mod judgement;
mod last_runs;
mod locked;
mod memory;
mod overlap;
mod planned;
mod portal;
mod redis_database;
mod redis_failover;
mod stopping;
mod telemetry;
pub mod world;
