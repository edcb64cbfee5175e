//! A counter of log events of the driver or the store: of one target, on one thread.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tracing::{Event, Metadata, Subscriber, span, subscriber::DefaultGuard};

/// Counts events of a target on this thread until dropped.
pub struct EventCount {
    count: Arc<AtomicUsize>,
    _guard: DefaultGuard,
}

impl EventCount {
    pub fn of(target: &'static str) -> Self {
        let count = Arc::new(AtomicUsize::new(0));
        let guard = tracing::subscriber::set_default(Counter { target, count: Arc::clone(&count) });
        Self { count, _guard: guard }
    }

    /// The number of events since the last call.
    pub fn take(&self) -> usize {
        // When another thread came first, `tracing` has cached that nobody listens.
        tracing::callsite::rebuild_interest_cache();
        self.count.swap(0, Ordering::Relaxed)
    }
}

struct Counter {
    target: &'static str,
    count: Arc<AtomicUsize>,
}

impl Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with(self.target)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        if self.enabled(event.metadata()) {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
