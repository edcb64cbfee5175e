//! What follows a commit and a run: caches, views, statistics jobs, retention, against real servers.

pub mod application;
mod caches;
mod caches_partly;
mod jobs;
mod jobs_related;
mod jobs_shared;
mod report;
mod retention;
mod views;

pub use self::jobs::TABLE as JOBS_TABLE;
pub use crate::store::migrations::modest_role;

/// As the worker uses it where there is no pooler. A pool alone stands for the other case.
pub fn keeping_statements(pool: &sqlx::PgPool) -> refresh_worker::derive::Database {
    refresh_worker::derive::Database { pool: pool.clone(), keeps_statements: true }
}
