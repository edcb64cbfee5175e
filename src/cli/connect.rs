//! What the commands share of the real parts: the configuration, the queue in Redis.

use std::sync::Arc;

use anyhow::Context as _;

use crate::{
    clock::SystemClock,
    config::{Config, ConfigErrors, RedisConfig, Role, env::process_var},
    queue::redis::RedisQueue,
};

/// The whole configuration, for commands that run the worker.
pub fn config() -> Result<Config, ConfigErrors> {
    let config = Config::from_process_env(Role::Refresh)?;
    for warning in crate::config::env::warnings(&process_var) {
        eprintln!("warning: {warning}");
    }
    Ok(config)
}

/// The queue, for commands that need nothing but Redis.
pub fn queue() -> anyhow::Result<RedisQueue> {
    let config = RedisConfig::read(&process_var)?;
    queue_of(&config)
}

pub fn queue_of(config: &RedisConfig) -> anyhow::Result<RedisQueue> {
    RedisQueue::connect(config, Arc::new(SystemClock)).context("failed to use REDIS_URL")
}
