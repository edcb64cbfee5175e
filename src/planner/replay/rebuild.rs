//! From records to a world: draws what the records do not say.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{Amount, LONGEST, Object, PAUSE, Record, Sight, Slot, World, slot_of};
use crate::{
    clock::Timestamp,
    model::{Kind, ObjectId},
    planner::{Knowledge, Look, Policy, Reads},
};

/// A rate from a short time of listening would be none, as in [`Reads::before`].
const LEAST_EXPOSED_SECONDS: f64 = 60.0;

/// A change that the first list of a clan shows is at most this old.
const FIRST_LIST: Duration = Duration::from_secs(600);

/// The largest number of changes that are drawn for one object: odd records must not fill the memory.
const MAX_CHANGES: usize = 100_000;

/// Nobody reads an object more often, a second: the estimate from few seconds of listening may be far too high.
const MOST_READS: f64 = 1.0;

/// The largest number of reads of a replay, for the same reason.
const MAX_READS: usize = 20_000_000;

/// The end of the year 9999. A replay could not go on behind the end of all times.
const LAST: Timestamp = Timestamp::from_millis(253_402_300_800_000);

/// All responses for one object, and the lists that showed it, in order of time.
#[derive(Debug, Default)]
struct Seen {
    looks: Vec<Look>,
    active: Vec<Timestamp>,
}

/// What is believed of an object after all of its looks.
#[derive(Clone, Copy, Debug, Default)]
struct Believed {
    /// A second.
    changes: f64,
    reads: f64,
}

impl World {
    /// The world of these records, in any order. Reads count from `wanted_from` on, but never before the planner had a quarter of the
    /// time to learn. Wars are left out. `None` when there is no response.
    #[must_use]
    pub fn rebuild(records: &[Record], wanted_from: Timestamp, seed: u64, policy: Policy) -> Option<Self> {
        // Wars are called by their own clock, which no strategy changes.
        let records = records.iter().filter(|record| record.object.kind != Kind::War);
        let records = records.filter(|record| (Timestamp::EPOCH..LAST).contains(&record.at));
        let until = records.clone().map(|record| record.at).max()?;
        let records = records.filter(|record| until.since(record.at) <= LONGEST);
        let mut times: Vec<Timestamp> = records.clone().map(|record| record.at).collect();
        times.sort_unstable();
        let from = times.first().copied()?;
        let pauses = Pauses::of(&times);
        let histories = sorted(records);
        // An object that only lists show has no copy that could be fresh.
        let histories: Vec<(&ObjectId, Seen)> =
            histories.into_iter().filter(|(_, seen)| !seen.looks.is_empty()).collect();
        if histories.is_empty() {
            return None;
        }
        let learning = until.since(from) / 4;
        let mut world = Self {
            policy,
            from,
            counted_from: wanted_from.max(from + learning),
            until,
            objects: Vec::new(),
            reads: Vec::new(),
            slots: vec![Slot::default(); slot_of(until, from) + 1],
            amount: Amount { covered: until.since(from).saturating_sub(pauses.length()), ..Amount::default() },
            as_recorded: Reads::default(),
        };
        let known: Vec<Option<Believed>> = histories.iter().map(|(id, seen)| world.count(id, seen, &pauses)).collect();
        let usual = usual(&histories, &known);
        let mut random = fastrand::Rng::with_seed(seed);
        let shown = shown(&histories, from, &mut random);
        for (place, ((id, seen), known)) in histories.iter().zip(&known).enumerate() {
            let usual = Believed { changes: usual.get(&id.kind).copied().unwrap_or(0.0), reads: 0.0 };
            let believed = known.unwrap_or(usual);
            let marks = shown.marks.get(&place).map_or(&[][..], Vec::as_slice);
            let changes = Draw { random: &mut random, believed, from, until, pauses: &pauses }.changes(seen, marks);
            world.draw_reads(place, seen, believed, &mut random);
            let shown = shown.lists.get(&place).cloned().unwrap_or_default();
            world.objects.push(Object { id: (*id).clone(), changes, shown });
        }
        world.reads.sort_unstable();
        Some(world)
    }

    /// Counts the looks at an object, and learns from them; `None` when none has an earlier one.
    fn count(&mut self, id: &ObjectId, seen: &Seen, pauses: &Pauses) -> Option<Believed> {
        let (mut known, mut cycles) = (Knowledge::default(), 0);
        self.amount.objects += 1;
        for &look in &seen.looks {
            // Nothing is known of the time in a pause, so it is as after a first look.
            if known.looked_at.is_some_and(|before| pauses.touch(before, look.at)) {
                known.looked_at = None;
            }
            let has_before = known.looked_at.is_some();
            if has_before && look.at >= self.counted_from {
                self.as_recorded += Reads::before(look, &known, id.kind, self.policy);
            }
            known = known.learn(id.kind, look, Some(self.from), self.policy);
            let is_requested = look.asked.is_some();
            self.amount.responses += 1;
            self.amount.requests += u64::from(is_requested);
            cycles += u64::from(has_before);
            if let Some(slot) = self.slots.get_mut(slot_of(look.at, self.from)) {
                slot.calls += 1.0;
                slot.requests += f64::from(u8::from(is_requested));
            }
        }
        self.amount.cycles += cycles;
        (cycles > 0).then(|| Believed {
            changes: known.rates(id.kind).changes,
            reads: (known.mails / (known.exposed + LEAST_EXPOSED_SECONDS)).min(MOST_READS),
        })
    }

    /// The reads of an object: the requests, and drawn ones of young copies. A copy that was older left a request when it was read.
    fn draw_reads(&mut self, place: usize, seen: &Seen, believed: Believed, random: &mut fastrand::Rng) {
        for (number, look) in seen.looks.iter().enumerate() {
            if let Some(asked) = look.asked {
                self.reads.push((asked.clamp(self.from, self.until), place));
            }
            let next = seen.looks.get(number + 1).map_or(self.until, |next| next.at);
            let quiet = next.min(look.at + self.policy.max_age);
            let room = MAX_READS.saturating_sub(self.reads.len());
            self.reads.extend(moments(random, believed.reads, look.at, quiet).take(room).map(|at| (at, place)));
        }
    }
}

/// The records by object.
fn sorted<'a>(records: impl Iterator<Item = &'a Record>) -> BTreeMap<&'a ObjectId, Seen> {
    let mut all: BTreeMap<&ObjectId, Seen> = BTreeMap::new();
    for Record { at, object, sight } in records {
        let seen = all.entry(object).or_default();
        match *sight {
            // A reader's clock may be ahead.
            Sight::Response { changed, asked } => {
                seen.looks.push(Look { at: *at, changed, asked: asked.map(|asked| asked.min(*at)) });
            }
            Sight::ActiveMember => seen.active.push(*at),
        }
    }
    for seen in all.values_mut() {
        seen.looks.sort_by_key(|look| look.at);
        seen.looks.dedup_by_key(|look| look.at);
        seen.active.sort_unstable();
        seen.active.dedup();
    }
    all
}

/// The mean rate of change by kind, for objects of which nothing else is known.
fn usual(seen: &[(&ObjectId, Seen)], known: &[Option<Believed>]) -> HashMap<Kind, f64> {
    let mut sums: HashMap<Kind, (f64, f64)> = HashMap::new();
    for ((id, _), known) in seen.iter().zip(known) {
        if let Some(known) = known {
            let sum = sums.entry(id.kind).or_default();
            *sum = (sum.0 + known.changes, sum.1 + 1.0);
        }
    }
    sums.into_iter().map(|(kind, (sum, count))| (kind, sum / count)).collect()
}

/// The changes that lists show, by member and by clan.
#[derive(Debug, Default)]
struct Shown {
    marks: HashMap<usize, Vec<Timestamp>>,
    lists: HashMap<usize, Vec<(Timestamp, usize)>>,
}

/// Finds the clan of each member, and draws the moments of the changes between two of the clan's lists.
fn shown(seen: &[(&ObjectId, Seen)], from: Timestamp, random: &mut fastrand::Rng) -> Shown {
    let mut lists: HashMap<Timestamp, Vec<usize>> = HashMap::new();
    for (place, (_, seen)) in seen.iter().enumerate().filter(|(_, (id, _))| id.kind == Kind::Clan) {
        for look in &seen.looks {
            lists.entry(look.at).or_default().push(place);
        }
    }
    let mut all = Shown::default();
    for (member, (_, marked)) in seen.iter().enumerate().filter(|(_, (id, _))| id.kind == Kind::Player) {
        let mut votes: BTreeMap<usize, u32> = BTreeMap::new();
        let found = marked.active.iter().filter_map(|at| lists.get(at)).flatten();
        found.for_each(|&clan| *votes.entry(clan).or_default() += 1);
        // Two clans may have been called in the same millisecond. The member's own is among the candidates each time.
        let Some((&clan, _)) = votes.iter().max_by_key(|(_, votes)| **votes) else { continue };
        let looks = &seen[clan].1.looks;
        for &at in &marked.active {
            let Ok(place) = looks.binary_search_by_key(&at, |look| look.at) else { continue };
            let before = place.checked_sub(1).and_then(|place| looks.get(place)).map(|look| look.at);
            let before = before.unwrap_or(at.saturating_sub(FIRST_LIST)).max(from.min(at));
            let moment = before + at.since(before).mul_f64(random.f64());
            all.marks.entry(member).or_default().push(moment);
            all.lists.entry(clan).or_default().push((moment, member));
        }
    }
    for moments in all.marks.values_mut() {
        moments.sort_unstable();
    }
    for moments in all.lists.values_mut() {
        moments.sort_unstable();
    }
    all
}

/// Draws the changes of one object.
struct Draw<'a> {
    random: &'a mut fastrand::Rng,
    believed: Believed,
    from: Timestamp,
    until: Timestamp,
    pauses: &'a Pauses,
}

impl Draw<'_> {
    /// `marks`: changes that lists have shown.
    fn changes(&mut self, seen: &Seen, marks: &[Timestamp]) -> Vec<Timestamp> {
        let mut changes = Vec::new();
        let mut before: Option<Look> = None;
        for &look in &seen.looks {
            match before {
                Some(last) if !self.pauses.touch(last.at, look.at) => {
                    if look.changed {
                        self.at_least_one(last.at, look.at, marks, &mut changes);
                    }
                }
                last => self.unknown(last.map_or(self.from, |last| last.at), look.at, marks, &mut changes),
            }
            before = Some(look);
        }
        self.unknown(before.map_or(self.from, |last| last.at), self.until, marks, &mut changes);
        changes.sort_unstable();
        changes
    }

    /// A time after which a look says nothing.
    fn unknown(&mut self, from: Timestamp, until: Timestamp, marks: &[Timestamp], changes: &mut Vec<Timestamp>) {
        let room = MAX_CHANGES.saturating_sub(changes.len());
        changes.extend(moments(self.random, self.believed.changes, from, until).take(room));
        changes.extend(within(marks, from, until));
    }

    /// A time after which a look shows a change.
    fn at_least_one(&mut self, from: Timestamp, until: Timestamp, marks: &[Timestamp], changes: &mut Vec<Timestamp>) {
        let (rate, span) = (self.believed.changes, until.since(from).as_secs_f64());
        // The first of one or more changes; with a low rate it is anywhere.
        let (chance, expected) = (self.random.f64(), rate * span);
        let first = if expected > 1e-6 { -(-chance * (1.0 - (-expected).exp())).ln_1p() / rate } else { chance * span };
        let first = from + Duration::from_secs_f64(first.clamp(0.0, span));
        // A response shows what was before it, and the one before showed the rest.
        let first = first.clamp(from + Duration::from_millis(1), until.max(from + Duration::from_millis(1)));
        changes.push(first);
        self.unknown(first, until, &[], changes);
        changes.extend(within(marks, from, until));
    }
}

/// The moments after `from`, up to `until`.
fn within(moments: &[Timestamp], from: Timestamp, until: Timestamp) -> &[Timestamp] {
    let first = moments.partition_point(|&at| at <= from);
    let last = moments.partition_point(|&at| at <= until);
    &moments[first..last.max(first)]
}

/// Moments at this rate a second.
fn moments(
    random: &mut fastrand::Rng,
    rate: f64,
    from: Timestamp,
    until: Timestamp,
) -> impl Iterator<Item = Timestamp> {
    let mut now = from;
    std::iter::from_fn(move || {
        // A day is far longer than any wait that matters, and a shorter step than a millisecond would be none.
        let wait = -(1.0 - random.f64()).ln() / rate.max(1e-9);
        now = now + Duration::from_secs_f64(wait.clamp(1e-3, 1e8));
        (rate > 0.0 && now <= until).then_some(now)
    })
}

/// The pauses of the planner.
#[derive(Debug)]
struct Pauses(Vec<(Timestamp, Timestamp)>);

impl Pauses {
    /// `times` in order.
    fn of(times: &[Timestamp]) -> Self {
        let gaps = times.windows(2).filter_map(|pair| match *pair {
            [before, after] if after.since(before) > PAUSE => Some((before, after)),
            _ => None,
        });
        Self(gaps.collect())
    }

    fn length(&self) -> Duration {
        self.0.iter().map(|(from, until)| until.since(*from)).sum()
    }

    /// True when a pause lies between two looks.
    fn touch(&self, from: Timestamp, until: Timestamp) -> bool {
        let next = self.0.partition_point(|(begin, _)| *begin < from);
        self.0.get(next).is_some_and(|(_, end)| *end <= until)
    }
}
