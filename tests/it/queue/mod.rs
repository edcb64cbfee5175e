//! The queue: one contract over memory and Redis, the model test that compares them, and what only Redis can do.

mod admin;
pub mod beds;
mod cluster;
mod contract;
mod dead_letters;
mod failover;
mod holds;
mod model;
mod planned;
mod redis_only;
mod run_summaries;
mod shared_state;
mod trouble;
