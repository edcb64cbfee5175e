//! What follows a commit and a run: caches, views, statistics jobs, retention, against real servers.

pub mod application;
mod caches;
mod caches_partly;
mod failover;
mod jobs;
mod jobs_related;
mod jobs_shared;
mod report;
mod report_planned;
mod retention;
mod values;
mod view_locks;
mod views;
mod years;

pub use self::jobs::TABLE as JOBS_TABLE;
pub use crate::store::migrations::modest_role;

/// As the worker uses it where there is no pooler. A pool alone stands for the other case.
pub fn keeping_statements(pool: &sqlx::PgPool) -> refresh_worker::maintenance::Database {
    let connections = refresh_worker::connections::Connections::new("a test's database".to_owned(), true);
    refresh_worker::maintenance::Database::new(pool.clone(), connections)
}
