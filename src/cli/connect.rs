//! What the commands share of the real parts: the configuration, the queue in Redis, the store in PostgreSQL.

use std::sync::Arc;

use anyhow::Context as _;

use crate::{
    app,
    clock::SystemClock,
    config::{Config, ConfigErrors, DatabaseConfig, RedisConfig, Role, env, env::process_var},
    queue::{record::QueueLimits, redis::RedisQueue},
    store::postgres::PostgresStore,
    worker::Worker,
};

/// The whole configuration, for commands that run the worker.
pub fn config() -> Result<Config, ConfigErrors> {
    let config = Config::from_process_env(Role::Refresh)?;
    for warning in env::warnings(&process_var) {
        eprintln!("warning: {warning}");
    }
    Ok(config)
}

/// A worker over real servers.
pub fn worker(config: &Config) -> anyhow::Result<Worker<RedisQueue, PostgresStore>> {
    let limits = QueueLimits { max_attempts: config.worker.max_attempts, ..QueueLimits::default() };
    let queue = queue_of(&config.redis)?.with_limits(limits);
    app::worker(Arc::new(queue), Arc::new(store(&config.database)?), &config.api, &config.worker)
}

/// The queue, for commands that need nothing but Redis.
pub fn queue() -> anyhow::Result<RedisQueue> {
    queue_of(&RedisConfig::read(&process_var)?)
}

fn queue_of(config: &RedisConfig) -> anyhow::Result<RedisQueue> {
    RedisQueue::connect(config, Arc::new(SystemClock)).context("failed to use REDIS_URL")
}

/// The store, for commands that need nothing but PostgreSQL.
pub fn store(config: &DatabaseConfig) -> anyhow::Result<PostgresStore> {
    PostgresStore::connect(config).context("failed to use DATABASE_URL")
}
