//! The only place that builds real parts and joins them: once per cold start, lazily connected, borrowed by every run.

use std::sync::Arc;

use anyhow::Context as _;

use crate::{
    api::{client::ApiClient, wallet::Wallet},
    clock::{Clock, SystemClock},
    config::{ApiConfig, Config, DatabaseConfig, Role, WorkerConfig},
    handlers::Handlers,
    queue::{record::QueueLimits, redis::RedisQueue},
    store::postgres::PostgresStore,
    worker::{Stop, Worker},
};

/// The worker as it runs in Lambda and by `drain`.
pub type RealWorker = Worker<RedisQueue, PostgresStore>;

/// What a Lambda function of this role needs. The health role's worker has no keys and is never asked for a run.
pub fn handlers(config: &Config, role: Role) -> anyhow::Result<Handlers<RealWorker, RedisQueue, PostgresStore>> {
    let worker = from_config(config)?;
    let (queue, store) = (Arc::clone(&worker.queue), Arc::clone(&worker.store));
    let (stop, clock) = (worker.stop.clone(), Arc::clone(&worker.clock));
    Ok(Handlers::new(worker, queue, store, stop, clock, config, role))
}

/// Redis, PostgreSQL and the API by the configuration. Nothing is connected yet. Must be called within a runtime.
pub fn from_config(config: &Config) -> anyhow::Result<RealWorker> {
    let limits = QueueLimits { max_attempts: config.worker.max_attempts, ..QueueLimits::default() };
    let queue = RedisQueue::connect(&config.redis, Arc::new(SystemClock)).context("failed to use REDIS_URL")?;
    let queue = queue.with_limits(limits);
    let store = store(&config.database)?;
    worker(Arc::new(queue), Arc::new(store), &config.api, &config.worker)
}

/// The database by the configuration. Must be called within a runtime.
pub fn store(config: &DatabaseConfig) -> anyhow::Result<PostgresStore> {
    PostgresStore::connect(config).context("failed to use DATABASE_URL")
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
        api: ApiClient::new(&api.base_url)?,
        wallet: Wallet::from_tokens(api.tokens.clone()),
        clock,
        config: config.clone(),
        reqs_per_sec: api.reqs_per_sec,
        keys_per_run: api.keys_per_run,
        stop: Stop::default(),
    })
}
