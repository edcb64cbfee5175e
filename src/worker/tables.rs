//! Missing tables, made by the first run of a cold start. Talks to the store only.

use std::time::Duration;

use tokio::{
    sync::OnceCell,
    time::{Instant, timeout_at},
};
use tracing::debug;

use super::report::StopReason;
use crate::store::{Store, StoreError};

/// How long making tables may take, waiting for others who make them included.
const LONGEST: Duration = Duration::from_secs(20);

/// Why there may be none.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoTables {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot create the missing tables: not done after {LONGEST:?}")]
    TookTooLong,
    #[error("cannot create the missing tables: the run is at its end")]
    Deadline,
}

impl NoTables {
    pub(super) const fn stops(&self) -> StopReason {
        match self {
            Self::Deadline => StopReason::Deadline,
            Self::Store(_) | Self::TookTooLong => StopReason::DatabaseDown,
        }
    }
}

/// What is known about the tables.
#[derive(Debug)]
pub struct Tables(OnceCell<()>);

impl Tables {
    /// They are there, or somebody else makes them.
    #[must_use]
    pub const fn given() -> Self {
        Self(OnceCell::const_new_with(()))
    }

    /// They may be missing, and are ours to make.
    #[must_use]
    pub const fn to_make() -> Self {
        Self(OnceCell::const_new())
    }

    /// Makes what is missing, unless that was done before. `until` is the end of the run.
    pub(super) async fn make(&self, store: &impl Store, until: Instant) -> Result<(), NoTables> {
        let made = self.0.get_or_try_init(|| async {
            match timeout_at(until.min(Instant::now() + LONGEST), store.migrate()).await {
                Ok(Ok(applied)) => {
                    debug!(migrations = applied.len(), "the database is up to date");
                    Ok(())
                }
                Ok(Err(error)) => Err(NoTables::Store(error)),
                Err(_) if Instant::now() >= until => Err(NoTables::Deadline),
                Err(_) => Err(NoTables::TookTooLong),
            }
        });
        made.await.copied()
    }
}
