//! The missing tables, created by the first run of a cold start. Talks to the store only.

use std::time::Duration;

use tokio::{
    sync::OnceCell,
    time::{Instant, timeout_at},
};
use tracing::debug;

use super::report::StopReason;
use crate::store::{Store, StoreError};

// Creating the tables takes moments; most of this is for waiting until another process has created them.
const CREATE_TIMEOUT: Duration = Duration::from_secs(20);

/// The error of creating tables.
#[derive(Debug, thiserror::Error)]
pub(super) enum TablesError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot create the missing tables: not done after {CREATE_TIMEOUT:?}")]
    TookTooLong,
    #[error("cannot create the missing tables: the run is at its end")]
    Deadline,
}

impl TablesError {
    pub(super) const fn stops(&self) -> StopReason {
        match self {
            Self::Deadline => StopReason::Deadline,
            Self::Store(_) | Self::TookTooLong => StopReason::DatabaseDown,
        }
    }
}

/// The state of the tables, as far as this process knows it.
#[derive(Debug)]
pub struct Tables(OnceCell<()>);

impl Tables {
    /// The tables exist, or somebody else creates them.
    #[must_use]
    pub const fn given() -> Self {
        Self(OnceCell::const_new_with(()))
    }

    /// The tables may be missing, and this worker creates them.
    #[must_use]
    pub const fn to_create() -> Self {
        Self(OnceCell::const_new())
    }

    /// Creates what is missing, unless that was done before. `until` is the end of the run.
    pub(super) async fn create(&self, store: &impl Store, until: Instant) -> Result<(), TablesError> {
        let created = self.0.get_or_try_init(|| async {
            match timeout_at(until.min(Instant::now() + CREATE_TIMEOUT), store.migrate()).await {
                Ok(Ok(applied)) => {
                    debug!(migrations = applied.len(), "the database is up to date");
                    Ok(())
                }
                Ok(Err(error)) => Err(TablesError::Store(error)),
                Err(_) if Instant::now() >= until => Err(TablesError::Deadline),
                Err(_) => Err(TablesError::TookTooLong),
            }
        });
        created.await.copied()
    }
}
