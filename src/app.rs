//! The only place that builds real parts and joins them: once per cold start, lazily connected, borrowed by every run.

use std::sync::Arc;

use crate::{
    api::{client::ApiClient, wallet::Wallet},
    clock::{Clock, SystemClock},
    config::{ApiConfig, WorkerConfig},
    worker::{Stop, Worker},
};

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
