//! The end of a run: its reason, and its signal to the stages.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::report::StopReason;

/// The request to stop a worker: SIGTERM, or Ctrl-C on the command line.
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
    /// Makes every run of this worker end as soon as it can.
    pub fn ask(&self) {
        self.asked.send_replace(true);
    }

    /// Returns when the worker is asked to stop.
    pub async fn asked(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.asked.subscribe().wait_for(|asked| *asked).await;
    }
}

/// The force with which a run ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Force {
    /// Leased requests are still fetched.
    #[default]
    None,
    /// Requests that were not started are released; calls in flight are finished.
    StartNothing,
    /// Calls in flight are given up, too.
    Abandon,
}

/// The gravity of a reason.
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
struct Ending {
    gravity: Gravity,
    reason: StopReason,
    failure: Option<String>,
}

/// The end of one run. The gravest of its reasons is reported, and the first of equally grave ones. A failure is graver than a reason
/// that keeps requests from being started, and that is graver than an end in good order.
#[derive(Debug, Default)]
pub struct Halt {
    ending: Mutex<Option<Ending>>,
    force: watch::Sender<Force>,
}

impl Halt {
    /// Ends the run for this reason; `failure` says what went wrong, if something did.
    pub fn end(&self, force: Force, reason: StopReason, failure: Option<String>) {
        let gravity = Gravity::of(force, reason);
        let mut ending = self.ending.lock();
        if ending.as_ref().is_none_or(|ending| ending.gravity < gravity) {
            *ending = Some(Ending { gravity, reason, failure });
        }
        drop(ending);
        self.force.send_if_modified(|current| {
            let stronger = force > *current;
            *current = force.max(*current);
            stronger
        });
    }

    pub fn reason(&self) -> Option<(StopReason, Option<String>)> {
        let ending = self.ending.lock();
        ending.as_ref().map(|ending| (ending.reason, ending.failure.clone()))
    }

    /// True when nothing more may be started.
    pub fn is_forced(&self) -> bool {
        *self.force.borrow() >= Force::StartNothing
    }

    /// Returns when the run ends with at least this force.
    pub async fn forced(&self, force: Force) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.force.subscribe().wait_for(|current| *current >= force).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gravest_reason_and_strongest_force_win() {
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
