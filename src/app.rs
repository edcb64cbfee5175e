//! Builds the real parts and joins them, here alone: once per cold start, lazily connected, borrowed by every run.

use std::sync::Arc;

use anyhow::Context as _;

use crate::{
    api::{ApiError, client::ApiClient, keys::KeyStore},
    clock::{Clock, SystemClock},
    config::{ApiConfig, Config, DatabaseConfig, PlannerConfig, Role, WorkerConfig},
    follow::events,
    handlers::Handlers,
    maintenance::{Database, Maintenance},
    queue::{record::QueueLimits, redis::RedisQueue},
    store::{CommitDetails, EventsOf, postgres::PostgresStore},
    worker::{ApiAccess, Stop, Worker, tables::Tables},
};

/// The worker as it runs in Lambda and by `drain`.
pub type RealWorker = Worker<RedisQueue, PostgresStore>;

/// The parts of a Lambda function. With the health role, the worker has no keys and never runs. `stop` ends its runs.
pub fn handlers(
    config: &Config,
    role: Role,
    stop: Stop,
) -> anyhow::Result<Handlers<RealWorker, RedisQueue, PostgresStore>> {
    let worker = Worker { stop: stop.clone(), ..from_config(config)? };
    let (queue, store) = (Arc::clone(&worker.queue), Arc::clone(&worker.store));
    let (clock, after) = (Arc::clone(&worker.clock), worker.after.clone());
    let mut handlers = Handlers::new(worker, queue, store, stop, clock, config, role);
    handlers.after = after;
    Ok(handlers)
}

/// The worker of a configuration: Redis, PostgreSQL and the API. Nothing is connected yet. Must be called within a runtime.
pub fn from_config(config: &Config) -> anyhow::Result<RealWorker> {
    let limits = QueueLimits { max_attempts: config.worker.max_attempts, ..QueueLimits::default() };
    let queue = RedisQueue::connect(&config.redis, Arc::new(SystemClock))?.with_limits(limits);
    let store =
        store(&config.database)?.with_details(commit_details(&config.worker, config.after.invalidation.is_some()));
    let after = after(config, &store)?;
    let worker = worker(Arc::new(queue), Arc::new(store), &config.api, &config.worker)?;
    let tables = if config.database.auto_migrate { Tables::to_create() } else { Tables::given() };
    Ok(Worker { tables, after, ..worker })
}

/// The details that the store gathers with each commit, for follow-ups and outbox.
#[must_use]
pub fn commit_details(config: &WorkerConfig, invalidates: bool) -> CommitDetails {
    CommitDetails {
        members: config.follow_ups.players_per_clan > 0,
        events: config.events.as_ref().map(|_| events::of_commit as EventsOf),
        renewed: !config.cache_key_templates.is_empty(),
        changed: invalidates,
        teaching: config.planner.map(|planner| planner.teaching),
    }
}

/// The database of a configuration. Must be called within a runtime.
pub fn store(config: &DatabaseConfig) -> anyhow::Result<PostgresStore> {
    Ok(PostgresStore::connect(config)?)
}

/// The work after a run by the configuration, if there is any.
pub fn after(config: &Config, store: &PostgresStore) -> anyhow::Result<Option<Arc<Maintenance>>> {
    let database = Database::new(store.pool(), store.connections());
    let database = database.beside(config.worker.planner.map_or(0, |_| PlannerConfig::CONNECTIONS));
    Ok(Maintenance::new(&config.after, &database).context("cannot prepare what follows a run")?.map(Arc::new))
}

/// The configured keys, and those that the developer portal will give.
///
/// # Errors
/// When the portal's address cannot be used.
pub fn key_store(api: &ApiConfig) -> Result<KeyStore, ApiError> {
    let key_store = KeyStore::from_tokens(api.tokens.clone());
    match &api.portal {
        Some(portal) => key_store.with_portal(portal),
        None => Ok(key_store),
    }
}

/// Joins a queue and a store with the API into a worker.
///
/// # Errors
/// When the API's address cannot be used.
pub fn worker<Q, S>(
    queue: Arc<Q>,
    store: Arc<S>,
    api: &ApiConfig,
    config: &WorkerConfig,
) -> anyhow::Result<Worker<Q, S>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Ok(Worker {
        queue,
        store,
        api: ApiAccess {
            client: ApiClient::new(&api.base_url)?.with_max_body(api.max_body),
            key_store: key_store(api)?,
            reqs_per_sec: api.reqs_per_sec,
            keys_per_run: api.keys_per_run,
            reqs_per_day: api.reqs_per_day,
        },
        clock,
        config: config.clone(),
        stop: Stop::default(),
        tables: Tables::given(),
        after: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::PlannerConfig, planner::Teaching};

    #[test]
    fn commits_teach_the_planner_instead_of_listing_members() {
        let off = WorkerConfig::default();
        let details = commit_details(&off, false);
        assert!(details.members && details.teaching.is_none());
        let planner = PlannerConfig { calls_per_second: 10, teaching: Teaching::default() };
        let details = commit_details(&off.with_planner(Some(planner)), false);
        assert!(!details.members && details.teaching == Some(Teaching::default()));
    }
}
