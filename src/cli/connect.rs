//! The configuration and the queue, as the commands share them.

use std::sync::Arc;

use crate::{
    clock::SystemClock,
    config::{Config, ConfigErrors, RedisConfig, Role, env, env::process_var},
    queue::redis::RedisQueue,
};

/// The whole configuration, for commands that run the worker. Prints its warnings.
pub fn config() -> Result<Config, ConfigErrors> {
    let config = Config::from_process_env(Role::Refresh)?;
    for warning in env::warnings(&process_var) {
        super::text::print_error(&format!("warning: {warning}"));
    }
    Ok(config)
}

/// The queue, for commands that need nothing but Redis.
pub fn queue() -> anyhow::Result<RedisQueue> {
    Ok(RedisQueue::connect(&RedisConfig::read(&process_var)?, Arc::new(SystemClock))?)
}
