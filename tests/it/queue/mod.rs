//! The queue: one contract over memory and Redis, the model test that compares them, and what only Redis can do.

mod archive;
pub mod beds;
mod cluster;
mod contract;
mod failover;
mod holds;
mod letters;
mod model;
mod redis_only;
mod run_summaries;
mod slots;
mod trouble;
