//! Why a run ends, and how its stages learn of it. Touches nothing.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::report::StopReason;

/// Asks a worker to stop: SIGTERM, or Ctrl-C on the command line.
#[derive(Clone, Debug)]
pub struct Stop {
    asked: Arc<watch::Sender<bool>>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { asked: Arc::new(watch::Sender::new(false)) }
    }
}

impl Stop {
    /// From now on every run of this worker ends as soon as it can.
    pub fn ask(&self) {
        self.asked.send_replace(true);
    }

    /// Returns when somebody asked.
    pub async fn asked(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.asked.subscribe().wait_for(|asked| *asked).await;
    }
}

/// How hard a run ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Force {
    /// What is leased is still done.
    #[default]
    None,
    /// What was not started is given back; what is in flight is finished.
    StartNothing,
    /// What is in flight is given up, too.
    Abandon,
}

/// The end of one run. The first reason is the one that is told.
#[derive(Debug, Default)]
pub struct Halt {
    reason: Mutex<Option<(StopReason, Option<String>)>>,
    force: watch::Sender<Force>,
}

impl Halt {
    /// Ends the run for this reason; `failure` says what went wrong, if something did.
    pub fn end(&self, force: Force, reason: StopReason, failure: Option<String>) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((reason, failure));
        self.force.send_if_modified(|current| {
            let stronger = force > *current;
            *current = force.max(*current);
            stronger
        });
    }

    pub fn reason(&self) -> Option<(StopReason, Option<String>)> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether nothing more may be started.
    pub fn is_forced(&self) -> bool {
        *self.force.borrow() >= Force::StartNothing
    }

    /// Returns when the run ends at least this hard.
    pub async fn forced(&self, force: Force) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.force.subscribe().wait_for(|current| *current >= force).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_is_told_and_the_strongest_force_counts() {
        let halt = Halt::default();
        halt.end(Force::None, StopReason::Deadline, None);
        assert!(!halt.is_forced());
        halt.end(Force::Abandon, StopReason::Shutdown, None);
        halt.end(Force::StartNothing, StopReason::DatabaseDown, Some("gone".to_owned()));
        assert_eq!(halt.reason(), Some((StopReason::Deadline, None)));
        assert!(halt.is_forced());
    }
}
