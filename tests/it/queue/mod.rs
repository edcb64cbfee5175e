//! The queue: one contract over memory and Redis, the model test that compares them, and what only Redis can do.

mod beds;
mod contract;
mod letters;
mod model;
mod redis_only;
mod slots;
