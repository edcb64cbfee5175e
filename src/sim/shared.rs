//! The state of a running simulator, and the responses of a service that nobody disturbs.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use super::{
    SimConfig,
    answer::Answer,
    cache::Copies,
    calls::CallBook,
    misbehave::Rules,
    portal::{Portal, Standing},
    request::Asked,
    source::Source,
};
use crate::clock::Clock;

/// The state that all handlers share.
#[derive(Debug)]
pub(super) struct Shared {
    limits: Limits,
    pub(super) latency: Duration,
    clock: Arc<dyn Clock>,
    maintenance: AtomicBool,
    pub(super) rules: Rules,
    pub(super) book: CallBook,
    pub(super) portal: Arc<Portal>,
    content: Mutex<Content>,
}

/// The limits of the service for its callers.
#[derive(Debug)]
struct Limits {
    /// The accepted tokens; empty for any.
    tokens: HashSet<String>,
    /// Calls a second and token.
    rate: Option<u32>,
}

/// The world and its shared copies. Under one lock, since a copy is made from the world.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) source: Source,
    pub(super) copies: Copies,
}

impl Shared {
    pub(super) fn new(config: SimConfig, source: Source) -> Self {
        Self {
            limits: Limits { tokens: config.tokens.into_iter().collect(), rate: config.rate_limit },
            latency: config.latency,
            clock: config.clock,
            maintenance: AtomicBool::new(false),
            rules: Rules::default(),
            book: CallBook::open(),
            portal: Arc::default(),
            content: Mutex::new(Content { source, copies: Copies::new(config.asked_by_others) }),
        }
    }

    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock()
    }

    pub(super) fn set_maintenance(&self, on: bool) {
        self.maintenance.store(on, Ordering::Relaxed);
    }

    /// The response of an undisturbed service, and the time for which a copy of it is good.
    pub(super) fn behave(&self, asked: &Asked, token: &str, in_last_second: usize) -> (Arc<Answer>, Duration) {
        let refusal = if self.maintenance.load(Ordering::Relaxed) {
            Some(Answer::maintenance())
        } else if let Some(refusal) = self.refusal(token) {
            Some(refusal)
        } else if self.limits.rate.is_some_and(|limit| in_last_second > limit as usize) {
            Some(Answer::throttled(None))
        } else {
            None
        };
        refusal.map_or_else(|| self.truth(asked), |answer| (Arc::new(answer), Duration::ZERO))
    }

    fn refusal(&self, token: &str) -> Option<Answer> {
        match self.portal.standing(token) {
            Standing::Accepted => None,
            Standing::WrongAddress(ours) => Some(Answer::invalid_ip(&ours)),
            // A token that the portal does not know may be a configured one.
            Standing::Unknown if !token.is_empty() && self.accepts_foreign(token) => None,
            Standing::Unknown | Standing::Revoked => Some(Answer::invalid_authorization()),
        }
    }

    /// True when a token that is not the portal's is accepted.
    fn accepts_foreign(&self, token: &str) -> bool {
        self.limits.tokens.contains(token) || (self.limits.tokens.is_empty() && !self.portal.has_accounts())
    }

    /// The requested document, from the shared copy or from the world as it is now.
    pub(super) fn truth(&self, asked: &Asked) -> (Arc<Answer>, Duration) {
        let mut content = self.content();
        let Content { source, copies } = &mut *content;
        copies.get_or_make(&asked.path, self.clock.boot(), || source.answer(asked))
    }
}
