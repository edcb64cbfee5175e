//! The planned looks in the store: what crosses the port between the freshness planner's parts.
//!
//! The planner decides ([`crate::planner`]), commits teach it ([`super::lessons`]), and a run asks here what comes next. Nothing
//! of this is read or written while the planner is off.

use std::{collections::BTreeMap, future::Future, time::Duration};

use super::{
    StoreError,
    lessons::{self, PlanWrite},
};
use crate::{
    clock::Timestamp,
    model::ObjectId,
    planner::{Arm, Knowledge, Level, Look},
};

/// The records for replays are kept for this long.
pub const LOOKS_RETENTION: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// At most this many old records are deleted at once.
pub const MAX_DELETED_LOOKS: usize = 10_000;

/// A look that a commit has learned from. A run adds them up for its report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lesson {
    /// The knowledge before; `looked_at` is `None` when the look taught nothing but its own time.
    pub before: Knowledge,
    pub look: Look,
    pub bucket: u16,
}

/// An object with its place in the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub object: ObjectId,
    pub known: Knowledge,
    /// The API gives the same bytes again until then; the epoch when no response tells.
    pub fresh_until: Timestamp,
    pub next_look: Timestamp,
    /// The hash that decides the side of a trial: of the clan's tag where the clan is known.
    pub bucket: u16,
}

/// A look to be put off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutOff {
    pub object: ObjectId,
    pub until: Timestamp,
    /// The last look and the hint that the decision was made with. Whatever a commit has learned since then counts more.
    pub seen: Option<(Option<Timestamp>, bool)>,
}

impl PutOff {
    /// Because of what is known of the object.
    #[must_use]
    pub fn as_seen(candidate: &Candidate, until: Timestamp) -> Self {
        let Candidate { object, known, .. } = candidate;
        Self { object: object.clone(), until, seen: Some((known.looked_at, known.hinted)) }
    }

    /// Whatever is known of it.
    #[must_use]
    pub const fn anyway(object: ObjectId, until: Timestamp) -> Self {
        Self { object, until, seen: None }
    }
}

/// A question for the next planned looks.
#[derive(Clone, Copy, Debug)]
pub struct NextLooks<'a> {
    pub now: Timestamp,
    /// Looks that are planned for later are left out.
    pub until: Timestamp,
    /// The last candidate of the page before. The first candidate of the first page is the head of the plan.
    pub after: Option<&'a Candidate>,
    /// The first and the last bucket, as [`Teaching::buckets`](crate::planner::Teaching::buckets) gives them.
    pub buckets: (u16, u16),
    pub limit: usize,
}

/// A step of the walk that gives every known object a place in the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// The objects that got a place.
    pub planned: usize,
    /// Nothing is left to do for now.
    pub is_finished: bool,
}

/// A record for replays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedLook {
    pub at: Timestamp,
    pub object: ObjectId,
    pub seen: Seen,
}

/// What was seen of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A response, and the first request of a reader that it answered.
    Response { changed: bool, asked: Option<Timestamp> },
    /// A change in a clan's member list.
    ActiveMember,
}

/// A known object without a place in the plan.
#[derive(Clone, Debug)]
pub(super) struct Unplanned {
    object: ObjectId,
    fetched_at: Option<Timestamp>,
    bucket: u16,
}

impl Unplanned {
    /// `None` for a row that is not one of an object.
    pub(super) fn read(kind: &str, tag: &str, fetched_at: Option<Timestamp>, clan: Option<&str>) -> Option<Self> {
        let object = ObjectId::new(kind.parse().ok()?, tag.parse().ok()?);
        // The column is empty for a player without a clan.
        let clan = clan.and_then(|clan| clan.parse().ok());
        let bucket = lessons::bucket(clan.as_ref().unwrap_or(&object.tag));
        (object.tag.as_str() == tag).then_some(Self { object, fetched_at, bucket })
    }
}

/// The places of these objects, in the order of the locks.
pub(super) fn plan_unplanned(objects: &[Unplanned], now: Timestamp, longest: Duration) -> Vec<PlanWrite<'_>> {
    objects
        .iter()
        .map(|Unplanned { object, fetched_at, bucket }| {
            PlanWrite::unknown(object.kind, &object.tag, *bucket, *fetched_at, now, longest)
        })
        .collect()
}

/// The latest time for each object, in the order of the locks.
pub(super) fn latest(looks: &[PutOff]) -> Vec<&PutOff> {
    let mut latest: BTreeMap<&ObjectId, &PutOff> = BTreeMap::new();
    for look in looks {
        let kept = latest.entry(&look.object).or_insert(look);
        if look.until > kept.until {
            *kept = look;
        }
    }
    latest.into_values().collect()
}

/// No look is planned for later, except by a wrong clock.
pub(super) fn far_ahead(now: Timestamp, longest: Duration) -> Timestamp {
    now + longest.max(lessons::GONE_FOR) + Duration::from_secs(24 * 60 * 60)
}

/// The planned looks of a store. A store without a planner has none.
pub trait Looks: Send + Sync {
    /// The next planned looks, the earliest first. Rows that are not those of objects are deleted, so that a page may be shorter
    /// than the limit although more follow.
    fn next_looks(&self, _: NextLooks<'_>) -> impl Future<Output = Result<Vec<Candidate>, StoreError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Puts the next looks of these objects off. None is brought forward.
    fn put_off(&self, _: &[PutOff]) -> impl Future<Output = Result<(), StoreError>> + Send {
        async { Ok(()) }
    }

    /// The present level.
    fn level(&self, _: Arm) -> impl Future<Output = Result<Level, StoreError>> + Send {
        async { Ok(Level::default()) }
    }

    /// Adds a step to the logarithm of the level. Steps of several runs add up in any order. A run begins with a step of zero:
    /// readers can be counted from then on, if nobody has planned for an hour.
    fn move_level(
        &self,
        _: Arm,
        _step: f64,
        _now: Timestamp,
    ) -> impl Future<Output = Result<Level, StoreError>> + Send {
        async { Ok(Level::default()) }
    }

    /// Gives known objects a place in the plan, spread over `longest`: a step of a walk over all of them, which looks at no more
    /// than `limit`. A finished walk begins anew after a day, and after an hour in which nobody planned; until then a call costs
    /// one statement that changes nothing.
    fn plan_known_objects(
        &self,
        _now: Timestamp,
        _longest: Duration,
        _limit: usize,
    ) -> impl Future<Output = Result<Walked, StoreError>> + Send {
        async { Ok(Walked { planned: 0, is_finished: true }) }
    }

    /// The number of objects with a place in the plan, about.
    fn planned_objects(&self) -> impl Future<Output = Result<u64, StoreError>> + Send {
        async { Ok(0) }
    }

    /// Commits of this process plan no look later than this, if it is more than [`Policy::longest`](crate::planner::Policy).
    fn stretch_longest(&self, _longest: Duration) {}

    /// The place of an object in the plan.
    fn plan_of(
        &self,
        _: &ObjectId,
        _now: Timestamp,
    ) -> impl Future<Output = Result<Option<Candidate>, StoreError>> + Send {
        async { Ok(None) }
    }

    /// The records from then until before then, the oldest first.
    fn looks(
        &self,
        _from: Timestamp,
        _until: Timestamp,
    ) -> impl Future<Output = Result<Vec<RecordedLook>, StoreError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Deletes records from before then, at most [`MAX_DELETED_LOOKS`], and returns their number.
    fn delete_looks(&self, _before: Timestamp) -> impl Future<Output = Result<u64, StoreError>> + Send {
        async { Ok(0) }
    }
}
