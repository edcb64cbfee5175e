//! The memory that the bodies of answers may take, all together: while they are read, while they wait to be stored, and until
//! they are. Counts bytes and touches nothing.
//!
//! **Invariant: whoever reads can always finish.** When the room is used up by bodies of which none is whole, one of them
//! goes on without room of its own: it has the lane. It gives it back when its answer is stored, which waits for nobody's room.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What all bodies together may take, beside the one that has the lane.
const ALL_BYTES: usize = 12 * 1024 * 1024;

/// Room is taken in steps of this size.
const UNIT: usize = 16 * 1024;

/// No call begins while less than this is free.
const ENOUGH: usize = 1024 * 1024;

/// The room that all bodies share.
#[derive(Clone, Debug)]
pub struct Rooms {
    free: Arc<Semaphore>,
    lane: Arc<Semaphore>,
}

impl Default for Rooms {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(ALL_BYTES / UNIT)), lane: Arc::new(Semaphore::new(1)) }
    }
}

impl Rooms {
    /// Room for the bodies of one fetch, of which nothing is taken yet.
    #[must_use]
    pub const fn room(&self) -> Room<'_> {
        Room { rooms: self, used: 0, taken: Taken { permit: None, units: 0, lane: None } }
    }

    /// Returns when there is enough room to begin a call.
    pub async fn has_some(&self) {
        // The semaphores live as long as this and are never closed.
        let _ = self.free.acquire_many(units(ENOUGH)).await;
    }
}

/// What one fetch has taken.
#[derive(Debug)]
pub struct Room<'a> {
    rooms: &'a Rooms,
    used: usize,
    taken: Taken,
}

/// The share of one answer, until it is dropped.
#[derive(Debug, Default)]
pub struct Taken {
    permit: Option<OwnedSemaphorePermit>,
    units: u32,
    lane: Option<OwnedSemaphorePermit>,
}

impl Room<'_> {
    /// Takes so many bytes more, and waits for them when there are none.
    pub async fn grow(&mut self, bytes: usize) {
        self.used += bytes;
        let missing = units(self.used).saturating_sub(self.taken.units);
        if missing == 0 || self.taken.lane.is_some() {
            return;
        }
        if let Ok(more) = self.rooms.free.clone().try_acquire_many_owned(missing) {
            return self.taken.add(missing, more);
        }
        tokio::select! {
            biased;
            Ok(more) = self.rooms.free.clone().acquire_many_owned(missing) => self.taken.add(missing, more),
            Ok(lane) = self.rooms.lane.clone().acquire_owned() => self.taken.lane = Some(lane),
            // The semaphores are never closed.
            else => {}
        }
    }

    /// Keeps what an answer of this size needs, and gives back the rest.
    #[must_use]
    pub fn keep(self, bytes: usize) -> Taken {
        let Taken { mut permit, units: held, lane } = self.taken;
        let kept = units(bytes).min(held);
        if let Some(all) = &mut permit {
            drop(all.split((held - kept) as usize));
        }
        Taken { permit, units: kept, lane }
    }
}

impl Taken {
    fn add(&mut self, units: u32, more: OwnedSemaphorePermit) {
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        self.units += units;
    }
}

/// In whole units. More than there is altogether is all there is.
fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT).min(ALL_BYTES / UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    const MB: usize = 1024 * 1024;

    #[tokio::test]
    async fn what_is_taken_is_free_again_when_the_answer_is_dropped() {
        let rooms = Rooms::default();
        let mut room = rooms.room();
        room.grow(8 * MB).await;
        let kept = room.keep(11 * MB);
        assert_eq!(rooms.free.available_permits(), 4 * MB / UNIT);
        let mut other = rooms.room();
        other.grow(4 * MB).await;
        assert!(rooms.has_some().now_or_never().is_none());
        let small = other.keep(1);
        assert_eq!(rooms.free.available_permits(), 4 * MB / UNIT - 1);
        drop((kept, small));
        assert_eq!(rooms.free.available_permits(), ALL_BYTES / UNIT);
    }

    #[tokio::test]
    async fn of_bodies_that_fill_the_room_half_read_one_after_the_other_ends() {
        let rooms = Rooms::default();
        let read = |_| async {
            let mut room = rooms.room();
            for _ in 0..40 {
                room.grow(MB / 10).await;
                tokio::task::yield_now().await;
            }
            drop(room.keep(4 * MB));
        };
        let all = futures_util::future::join_all((0..50).map(read));
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("all of them end");
    }

    #[tokio::test]
    async fn a_body_larger_than_all_room_is_read() {
        let rooms = Rooms::default();
        let mut room = rooms.room();
        room.grow(20 * MB).await;
        room.grow(20 * MB).await;
        assert_eq!(rooms.free.available_permits(), 0);
    }
}
