//! The lessons of a commit for the freshness planner: pure decisions between one read and one write, for both stores.
//!
//! All rows belong to objects whose `refresh_state` rows the commit holds, so that two commits never learn from the same row at
//! the same time.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use super::{
    looks::{Candidate, Lesson, Seen},
    plan::{
        CLOCK_TOLERANCE,
        claims::{ByObject, Claims, StateRow, Winners, clan_document},
        players::Observation,
        snapshots::NewestRows,
    },
};
use crate::{
    clock::Timestamp,
    model::{Answered, Document, Fetched, InClan, Kind, ObjectId, Tag},
    planner::{Arm, Knowledge, Level, Look, MAX_BUCKET, Strategy, Teaching, usual_floor},
};

/// The time until the next look at an object that does not exist, or that its clan hides.
pub const GONE_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Counts fade within days, so an honest one is far smaller. A larger one would be no number for its column.
const MAX_COUNT: f64 = 1e15;

/// The bucket of a clan and its members: a hash of the clan's tag. A player without a known clan has a bucket of its own.
#[must_use]
pub fn bucket(tag: &Tag) -> u16 {
    // The remainder is below 10,000.
    u16::try_from(hash(tag) % (u64::from(MAX_BUCKET) + 1)).unwrap_or(0)
}

/// A time from now on, spread over `longest` by the tag: objects that become known together are not looked at together.
pub fn spread(tag: &Tag, now: Timestamp, longest: Duration) -> Timestamp {
    #[expect(clippy::cast_precision_loss, reason = "a fraction, to the millisecond")]
    let part = (hash(tag) >> 32) as f64 / f64::from(u32::MAX);
    now + longest.mul_f64(part)
}

/// FNV-1a, mixed: the same in every process and store. Tags are short, so the plain sum would be uneven.
fn hash(tag: &Tag) -> u64 {
    let sum = tag
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (sum ^ (sum >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A row of `plan`, as it was read: whatever it holds.
#[derive(Clone, Debug, Default)]
pub struct StoredPlan {
    pub kind: String,
    pub tag: String,
    pub looked_at: Option<Timestamp>,
    pub next_look: Timestamp,
    pub heard_at: Option<Timestamp>,
    pub changes: f64,
    pub watched: f64,
    pub mails: f64,
    pub exposed: f64,
    pub bucket: i64,
    pub hinted: bool,
    pub fresh_until: Option<Timestamp>,
}

impl StoredPlan {
    /// What it says, as far as it can be true. A time that lies ahead was written by a wrong clock, and counts as unknown.
    pub fn knowledge(&self, now: Timestamp) -> Knowledge {
        let past = |at: Option<Timestamp>| at.filter(|&at| at >= Timestamp::EPOCH && at <= now + CLOCK_TOLERANCE);
        Knowledge {
            looked_at: past(self.looked_at),
            heard_at: past(self.heard_at),
            changes: count(self.changes),
            watched: count(self.watched),
            mails: count(self.mails),
            exposed: count(self.exposed),
            hinted: self.hinted,
        }
    }

    pub fn bucket(&self) -> u16 {
        u16::try_from(self.bucket).unwrap_or(0).min(MAX_BUCKET)
    }

    /// The candidate; `None` when its name is not one of an object, so that nothing could be done for it.
    pub fn into_candidate(self, now: Timestamp) -> Option<Candidate> {
        let object = ObjectId::new(self.kind.parse().ok()?, self.tag.parse().ok()?);
        // Another spelling would never be found again by the object's name.
        (object.tag.as_str() == self.tag).then(|| Candidate {
            known: self.knowledge(now),
            fresh_until: self.fresh_until.unwrap_or_default(),
            next_look: self.next_look,
            bucket: self.bucket(),
            object,
        })
    }
}

/// A number of a row that may be anything.
fn count(number: f64) -> f64 {
    if number.is_finite() { number.clamp(0.0, MAX_COUNT) } else { 0.0 }
}

/// A row of `plan_level`.
#[derive(Clone, Debug)]
pub struct StoredLevel {
    pub arm: String,
    pub logarithm: f64,
    pub listening_since: Timestamp,
}

/// The level of a logarithm that may be anything.
pub fn level(logarithm: f64) -> Level {
    Level::default().moved(if logarithm.is_finite() { logarithm } else { 0.0 })
}

/// Everything that is stored about the objects of a commit.
#[derive(Debug)]
pub struct Stored {
    rows: ByObject<StoredPlan>,
    levels: Vec<StoredLevel>,
}

impl Stored {
    pub fn new(rows: Vec<StoredPlan>, levels: Vec<StoredLevel>) -> Self {
        Self { rows: ByObject::new(rows, |row| (&row.kind, row.tag.clone())), levels }
    }

    fn level(&self, arm: Arm) -> (Level, Option<Timestamp>) {
        let row = self.levels.iter().find(|row| row.arm == arm.as_str());
        row.map_or((Level::default(), None), |row| (level(row.logarithm), Some(row.listening_since)))
    }
}

/// What a commit says about an object.
#[derive(Clone, Copy, Debug)]
enum Subject<'a> {
    /// A response that won.
    Response { place: usize, fetched: &'a Fetched, changed: bool },
    /// A member of a complete list, with other trophies or donations than the stored ones.
    Active { clan: &'a Tag, began: Timestamp, fetched_at: Option<Timestamp> },
    /// A member that was unknown before.
    New { clan: &'a Tag, fetched_at: Option<Timestamp> },
}

/// The objects that a commit says something about, in the order of the locks.
#[derive(Debug)]
pub struct Subjects<'a>(BTreeMap<(Kind, &'a Tag), Subject<'a>>);

impl<'a> Subjects<'a> {
    pub fn of(
        claims: &Claims<'a>,
        winners: &Winners,
        observations: &BTreeMap<&'a Tag, Observation<'a>>,
        newest: &NewestRows,
    ) -> Self {
        let mut subjects = BTreeMap::new();
        let mut complete_lists = HashSet::new();
        for &(place, fetched) in &claims.answers {
            // A superseded response teaches nothing: a newer one has.
            let Some(state) = winners.of_answer(fetched) else { continue };
            let subject = Subject::Response { place, fetched, changed: state.has_changed() };
            subjects.insert((fetched.object.kind, &fetched.object.tag), subject);
            if clan_document(fetched).is_some_and(|clan| clan.has_all_members) {
                complete_lists.insert(&fetched.object.tag);
            }
        }
        for (&tag, observation) in observations {
            let Some(listed) = observation.listed() else { continue };
            let (clan, began) = (listed.clan, listed.began);
            let fetched_at = winners.of_object(Kind::Player, tag).and_then(StateRow::fetched_at);
            let row = newest.get(Kind::Player, tag);
            let subject = if row.is_none() {
                Subject::New { clan, fetched_at }
            } else if complete_lists.contains(clan) && observation.shows_activity(row) {
                Subject::Active { clan, began, fetched_at }
            } else {
                continue;
            };
            // A response of the player's own has told everything.
            subjects.entry((Kind::Player, tag)).or_insert(subject);
        }
        Self(subjects)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names of the rows to read, in the order of the locks.
    pub fn names(&self) -> impl Iterator<Item = (Kind, &'a Tag)> {
        self.0.keys().copied()
    }

    /// For each of them, in the same order: true when the commit does not know until when its copy is fresh.
    pub fn are_members(&self) -> impl Iterator<Item = bool> {
        self.0.values().map(|subject| !matches!(subject, Subject::Response { .. }))
    }

    /// The lessons, given what is stored.
    pub fn teach(&self, stored: &Stored, teaching: Teaching, now: Timestamp) -> Taught<'a> {
        let mut taught = Taught::default();
        for (&(kind, tag), subject) in &self.0 {
            let row = stored.rows.get(kind, tag);
            let class = Class { kind, tag, row, stored, teaching, now };
            match *subject {
                Subject::Response { place, fetched, changed } => {
                    class.response(place, fetched, changed, &mut taught);
                }
                Subject::Active { clan, began, fetched_at } => class.active(clan, began, fetched_at, &mut taught),
                Subject::New { clan, fetched_at } => {
                    if row.is_none() {
                        taught.rows.push(class.new_row(bucket(clan), fetched_at));
                    }
                }
            }
        }
        taught
    }
}

/// What a commit writes for the planner.
#[derive(Debug, Default)]
pub struct Taught<'a> {
    /// In the order of the locks.
    pub rows: Vec<PlanWrite<'a>>,
    pub recorded: Vec<Record<'a>>,
    /// Each with the place of its response in the batch.
    pub lessons: Vec<(usize, Lesson)>,
}

impl Taught<'_> {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.recorded.is_empty()
    }
}

/// A row of `plan` to write.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanWrite<'a> {
    pub kind: Kind,
    pub tag: &'a Tag,
    pub known: Knowledge,
    pub next_look: Timestamp,
    pub bucket: u16,
}

impl<'a> PlanWrite<'a> {
    /// A known object without a place in the plan.
    pub fn unknown(
        kind: Kind,
        tag: &'a Tag,
        bucket: u16,
        fetched_at: Option<Timestamp>,
        now: Timestamp,
        longest: Duration,
    ) -> Self {
        let fetched_at = fetched_at.filter(|&at| at <= now + CLOCK_TOLERANCE);
        let known = Knowledge { looked_at: fetched_at, ..Knowledge::default() };
        Self { kind, tag, known, next_look: spread(tag, now, longest), bucket }
    }

    /// The counts as their columns hold them.
    pub fn counts(&self) -> [f32; 4] {
        let Knowledge { changes, watched, mails, exposed, .. } = self.known;
        #[expect(clippy::cast_possible_truncation, reason = "seven digits are enough, and the range fits")]
        [changes, watched, mails, exposed].map(|number| count(number) as f32)
    }
}

/// A row of `looks` to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub at: Timestamp,
    pub kind: Kind,
    pub tag: &'a Tag,
    pub seen: Seen,
}

/// A lesson about one object.
#[derive(Clone, Copy)]
struct Class<'s, 'a> {
    kind: Kind,
    tag: &'a Tag,
    row: Option<&'s StoredPlan>,
    stored: &'s Stored,
    teaching: Teaching,
    now: Timestamp,
}

impl<'a> Class<'_, 'a> {
    fn response(self, place: usize, fetched: &'a Fetched, changed: bool, taught: &mut Taught<'a>) {
        let Self { kind, tag, teaching, now, .. } = self;
        let policy = teaching.policy;
        let mut before = self.row.map(|row| row.knowledge(now)).unwrap_or_default();
        // A batch that is sent again, because it was not known to be stored, teaches once.
        if before.looked_at == Some(fetched.began) {
            return;
        }
        let bucket = self.bucket_after(fetched);
        let arm = teaching.arm(bucket);
        let (level, listening_since) = self.stored.level(arm);
        // Looks during a pause of the planner are not recorded, so a span over one would count wrong.
        let is_after_pause =
            before.watched > 0.0 && listening_since.is_some_and(|since| before.looked_at.is_some_and(|at| at < since));
        let is_document = matches!(fetched.answered, Answered::Document(_));
        if is_after_pause || !is_document || before.looked_at.is_some_and(|at| at > fetched.began) {
            before.looked_at = None;
        }
        // A reader's clock may be ahead.
        let asked = fetched.asked.map(|asked| asked.min(fetched.began));
        let look = Look { at: fetched.began, changed, asked };
        let known = before.learn(kind, look, listening_since, policy);
        let next_look = match fetched.answered {
            Answered::Document(_) => {
                let strategy = teaching.strategy(arm);
                let next = strategy.next_look(kind, &known, fetched.fresh_until, level.reads(), now, policy);
                next.unwrap_or(now + policy.longest)
            }
            Answered::Gone | Answered::PrivateWarLog => now + GONE_FOR,
            Answered::UnknownState(_) => now + policy.longest,
        };
        taught.rows.push(PlanWrite { kind, tag, known, next_look, bucket });
        if !is_document {
            return;
        }
        taught.lessons.push((place, Lesson { before, look, bucket }));
        if teaching.records(bucket) {
            taught.recorded.push(Record { at: look.at, kind, tag, seen: Seen::Response { changed, asked } });
        }
    }

    fn active(self, clan: &Tag, began: Timestamp, fetched_at: Option<Timestamp>, taught: &mut Taught<'a>) {
        let Self { kind, tag, row, teaching, now, .. } = self;
        let bucket = bucket(clan);
        if teaching.records(bucket) {
            taught.recorded.push(Record { at: began, kind, tag, seen: Seen::ActiveMember });
        }
        let planned = match row {
            Some(row) => {
                let known = row.knowledge(now);
                PlanWrite { kind, tag, known, next_look: row.next_look, bucket }
            }
            None => self.new_row(bucket, fetched_at),
        };
        let arm = teaching.arm(bucket);
        let level = self.stored.level(arm).0.reads();
        // A change that is not worth a call now changes no row: most members are active for hours.
        let is_worth_it = !planned.known.hinted
            && teaching.strategy(arm) == Strategy::Value
            && planned.known.rates(kind).most() >= level;
        if is_worth_it {
            let known = planned.known.hint();
            let fresh_until = row.and_then(|row| row.fresh_until);
            let fresh_until =
                fresh_until.or_else(|| Some(known.looked_at? + usual_floor(kind))).unwrap_or(Timestamp::EPOCH);
            let due = known.next_look(kind, fresh_until, level, now, teaching.policy).unwrap_or(now);
            // A look that is late already keeps its place in front.
            taught.rows.push(PlanWrite { known, next_look: due.min(planned.next_look), ..planned });
        } else if row.is_none() {
            taught.rows.push(planned);
        }
    }

    fn new_row(self, bucket: u16, fetched_at: Option<Timestamp>) -> PlanWrite<'a> {
        PlanWrite::unknown(self.kind, self.tag, bucket, fetched_at, self.now, self.teaching.policy.longest)
    }

    /// The bucket by the clan that the response names; the stored one when it names none that can be read.
    fn bucket_after(&self, fetched: &Fetched) -> u16 {
        match &fetched.answered {
            Answered::Document(Document::Player(player)) => match &player.clan {
                InClan::Known(clan) => bucket(clan),
                InClan::None => bucket(self.tag),
                InClan::Unknown => self.stored_bucket(),
            },
            _ if fetched.object.kind == Kind::Player => self.stored_bucket(),
            _ => bucket(self.tag),
        }
    }

    fn stored_bucket(&self) -> u16 {
        self.row.map_or_else(|| bucket(self.tag), StoredPlan::bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tags that differ by their last characters, as those of new players do.
    fn tags() -> impl Iterator<Item = Tag> {
        const DIGITS: [char; 14] = ['0', '2', '8', '9', 'P', 'Y', 'L', 'Q', 'G', 'R', 'J', 'C', 'U', 'V'];
        let ends = DIGITS.into_iter().flat_map(|a| DIGITS.into_iter().flat_map(move |b| DIGITS.map(|c| [a, b, c])));
        ends.map(|end| format!("2QGJ8VV{}", String::from_iter(end)).parse().unwrap())
    }

    #[test]
    fn buckets_and_times_are_even() {
        let (mut buckets, mut hours) = ([0; 10], [0; 24]);
        for tag in tags() {
            buckets[usize::from(bucket(&tag) / 1000)] += 1;
            let at = spread(&tag, Timestamp::EPOCH, Duration::from_secs(24 * 3600 - 1));
            hours[usize::try_from(at.as_millis() / 3_600_000).unwrap()] += 1;
        }
        // 2,744 tags: 274 a bucket, 114 an hour.
        assert!(buckets.iter().all(|count| (210..340).contains(count)), "{buckets:?}");
        assert!(hours.iter().all(|count| (70..160).contains(count)), "{hours:?}");
    }

    #[test]
    fn bucket_of_a_tag_never_changes() {
        assert_eq!(bucket(&"2PYL0Q8".parse().unwrap()), 9219);
    }

    #[test]
    fn odd_numbers_and_times_of_a_row_count_as_none() {
        let now = Timestamp::from_millis(1_772_600_767_089);
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            let row = StoredPlan { changes: odd, watched: odd, mails: odd, exposed: odd, ..StoredPlan::default() };
            assert_eq!(row.knowledge(now), Knowledge::default(), "{odd}");
            assert!(level(odd).logarithm.is_finite());
        }
        for odd in [i64::MIN, -1, i64::MAX, now.as_millis() + 3_600_000] {
            let at = Some(Timestamp::from_millis(odd));
            let row = StoredPlan { looked_at: at, heard_at: at, ..StoredPlan::default() };
            assert_eq!(row.knowledge(now), Knowledge::default(), "{odd}");
        }
        let large = StoredPlan { mails: 1e300, bucket: i64::MAX, ..StoredPlan::default() };
        assert_eq!((large.knowledge(now).mails, large.bucket()), (MAX_COUNT, 0));
    }
}
