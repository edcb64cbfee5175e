//! End-to-end: the binary as a process behind a Lambda Runtime API, with real Redis, real PostgreSQL and the simulated
//! Clash of Clans API over HTTP.

mod drain;
mod events;
mod faults;
mod http;
mod overlap;
mod stopping;
mod telemetry;
mod world;
