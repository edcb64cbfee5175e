//! Why a run ends, and how its stages learn of it. Touches nothing.

use std::sync::Arc;

use parking_lot::Mutex;
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

/// How much a reason says about a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Gravity {
    GoodOrder,
    Prevented,
    Failed,
}

impl Gravity {
    const fn of(force: Force, reason: StopReason) -> Self {
        match force {
            _ if reason.is_failure() => Self::Failed,
            Force::None => Self::GoodOrder,
            Force::StartNothing | Force::Abandon => Self::Prevented,
        }
    }
}

#[derive(Debug)]
struct Told {
    gravity: Gravity,
    reason: StopReason,
    failure: Option<String>,
}

/// The end of one run. Of its reasons the gravest is told, and of equally grave ones the first: a failure before anything
/// that keeps requests from being started, and that before an end in good order, which the others may interrupt.
#[derive(Debug, Default)]
pub struct Halt {
    told: Mutex<Option<Told>>,
    force: watch::Sender<Force>,
}

impl Halt {
    /// Ends the run for this reason; `failure` says what went wrong, if something did.
    pub fn end(&self, force: Force, reason: StopReason, failure: Option<String>) {
        let gravity = Gravity::of(force, reason);
        let mut told = self.told.lock();
        if told.as_ref().is_none_or(|told| told.gravity < gravity) {
            *told = Some(Told { gravity, reason, failure });
        }
        drop(told);
        self.force.send_if_modified(|current| {
            let stronger = force > *current;
            *current = force.max(*current);
            stronger
        });
    }

    pub fn reason(&self) -> Option<(StopReason, Option<String>)> {
        let told = self.told.lock();
        told.as_ref().map(|told| (told.reason, told.failure.clone()))
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
    fn the_gravest_reason_is_told_the_first_of_equals_and_the_strongest_force_counts() {
        let halt = Halt::default();
        let reason = || halt.reason().unwrap();
        halt.end(Force::None, StopReason::MaxRequests, None);
        halt.end(Force::None, StopReason::Deadline, None);
        assert_eq!((reason(), halt.is_forced()), ((StopReason::MaxRequests, None), false));
        halt.end(Force::StartNothing, StopReason::Maintenance, None);
        halt.end(Force::Abandon, StopReason::Shutdown, None);
        assert_eq!((reason(), halt.is_forced()), ((StopReason::Maintenance, None), true));
        let gone = || Some("gone".to_owned());
        halt.end(Force::StartNothing, StopReason::DatabaseDown, gone());
        halt.end(Force::StartNothing, StopReason::QueueDown, gone());
        halt.end(Force::None, StopReason::QueueEmpty, None);
        assert_eq!(reason(), (StopReason::DatabaseDown, gone()));
    }
}
