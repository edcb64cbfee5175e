//! What the commands share: the configuration, and the queue for those that need nothing but Redis.

use std::sync::Arc;

use anyhow::Context as _;

use crate::{
    clock::SystemClock,
    config::{Config, ConfigErrors, RedisConfig, Role, env, env::process_var},
    queue::redis::RedisQueue,
};

/// The whole configuration, for commands that run the worker.
pub fn config() -> Result<Config, ConfigErrors> {
    let config = Config::from_process_env(Role::Refresh)?;
    for warning in env::warnings(&process_var) {
        crate::cli::text::print_error(&format!("warning: {warning}"));
    }
    Ok(config)
}

/// The queue.
pub fn queue() -> anyhow::Result<RedisQueue> {
    let config = RedisConfig::read(&process_var)?;
    RedisQueue::connect(&config, Arc::new(SystemClock)).context("failed to use REDIS_URL")
}
