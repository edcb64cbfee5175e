//! What follows a commit and a run: caches, views, statistics jobs, retention, against real servers.

pub mod application;
mod caches;
mod jobs;
mod jobs_shared;
mod report;
mod retention;
mod views;

pub use self::jobs::TABLE as JOBS_TABLE;
pub use crate::store::migrations::modest_role;
