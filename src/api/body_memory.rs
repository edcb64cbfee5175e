//! The memory that the bodies of responses may take together: while they are read, while they wait to be stored, and until
//! they are stored. Counts bytes and touches nothing.
//!
//! **Invariant: whoever reads can always finish.** The memory may be used up by bodies of which none is complete. Then one of
//! them takes the overflow lane, and goes on without memory of its own. It leaves the lane when its document is stored, which
//! needs no memory from here.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bytes that all bodies together may take, beside the one in the overflow lane.
const MAX_BYTES: usize = 12 * 1024 * 1024;

/// Memory is reserved in steps of this size.
const UNIT: usize = 16 * 1024;

/// No call begins while fewer bytes than this are free.
const MIN_FREE_BYTES: usize = 1024 * 1024;

/// The memory that all bodies share.
#[derive(Clone, Debug)]
pub(super) struct BodyMemory {
    free: Arc<Semaphore>,
    overflow_lane: Arc<Semaphore>,
}

impl Default for BodyMemory {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(MAX_BYTES / UNIT)), overflow_lane: Arc::new(Semaphore::new(1)) }
    }
}

impl BodyMemory {
    /// An empty reservation for the bodies of one fetch.
    #[must_use]
    pub const fn reservation(&self) -> Reservation<'_> {
        Reservation { memory: self, used: 0, share: MemoryShare { permit: None, units: 0, lane: None } }
    }

    /// Returns when there is enough memory to begin a call.
    pub async fn has_some(&self) {
        // The semaphores live as long as `self` and are never closed.
        let _ = self.free.acquire_many(units(MIN_FREE_BYTES)).await;
    }
}

/// The memory that one fetch has reserved.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    memory: &'a BodyMemory,
    used: usize,
    share: MemoryShare,
}

/// The memory of one document. It is free again when this is dropped.
#[derive(Debug, Default)]
pub(super) struct MemoryShare {
    permit: Option<OwnedSemaphorePermit>,
    units: u32,
    lane: Option<OwnedSemaphorePermit>,
}

impl Reservation<'_> {
    /// Reserves more bytes, and waits for them when there are none.
    pub async fn grow(&mut self, bytes: usize) {
        self.used += bytes;
        let missing = units(self.used).saturating_sub(self.share.units);
        if missing == 0 || self.share.lane.is_some() {
            return;
        }
        if let Ok(more) = self.memory.free.clone().try_acquire_many_owned(missing) {
            return self.share.add(missing, more);
        }
        tokio::select! {
            // Memory first: the lane is for the case in which none comes free.
            biased;
            Ok(more) = self.memory.free.clone().acquire_many_owned(missing) => self.share.add(missing, more),
            Ok(lane) = self.memory.overflow_lane.clone().acquire_owned() => self.share.lane = Some(lane),
            // Never: the semaphores are not closed.
            else => {}
        }
    }

    /// Keeps the memory for a document of this size, and frees the rest.
    #[must_use]
    pub fn keep(self, bytes: usize) -> MemoryShare {
        let MemoryShare { mut permit, units: reserved, lane } = self.share;
        let kept = units(bytes).min(reserved);
        if let Some(all) = &mut permit {
            drop(all.split((reserved - kept) as usize));
        }
        MemoryShare { permit, units: kept, lane }
    }
}

impl MemoryShare {
    fn add(&mut self, units: u32, more: OwnedSemaphorePermit) {
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        self.units += units;
    }
}

/// The bytes in whole units; at most all there are, so that a body larger than the memory is read alone.
fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT).min(MAX_BYTES / UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    const MB: usize = 1024 * 1024;

    #[tokio::test]
    async fn dropped_document_frees_its_memory() {
        let memory = BodyMemory::default();
        let mut body = memory.reservation();
        body.grow(8 * MB).await;
        let kept = body.keep(11 * MB);
        assert_eq!(memory.free.available_permits(), 4 * MB / UNIT);
        let mut other = memory.reservation();
        other.grow(4 * MB).await;
        assert!(memory.has_some().now_or_never().is_none());
        let small = other.keep(1);
        assert_eq!(memory.free.available_permits(), 4 * MB / UNIT - 1);
        drop((kept, small));
        assert_eq!(memory.free.available_permits(), MAX_BYTES / UNIT);
    }

    #[tokio::test]
    async fn half_read_bodies_finish_one_by_one() {
        let memory = BodyMemory::default();
        let read = |_| async {
            let mut body = memory.reservation();
            for _ in 0..40 {
                body.grow(MB / 10).await;
                tokio::task::yield_now().await;
            }
            drop(body.keep(4 * MB));
        };
        let all = futures_util::future::join_all((0..50).map(read));
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("all of them end");
    }

    #[tokio::test]
    async fn body_larger_than_memory_is_read() {
        let memory = BodyMemory::default();
        let mut body = memory.reservation();
        body.grow(20 * MB).await;
        body.grow(20 * MB).await;
        assert_eq!(memory.free.available_permits(), 0);
    }
}
