//! The planner in a rebuilt world.

use std::time::Duration;

use super::{Budget, Record, SLOT, Sight, World, slot_of};
use crate::{
    clock::Timestamp,
    planner::{Index, Look, Reads, Strategy},
};

/// Candidates are chosen in steps of this length, as a run fills its buffer.
const STEP: Duration = Duration::from_secs(4);

/// The result of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Played {
    /// In the time that counts. `unflagged` are drawn reads, and `fresh_high` follows from drawn changes.
    pub reads: Reads,
    pub looks: u64,
    pub planned: u64,
    pub planned_changed: u64,
}

impl Played {
    /// The lower and the upper share of fresh reads; `None` without reads.
    #[must_use]
    pub fn bracket(&self) -> Option<(f64, f64)> {
        bracket(&self.reads)
    }
}

/// The lower and the upper share of fresh reads; `None` without reads.
#[must_use]
pub fn bracket(reads: &Reads) -> Option<(f64, f64)> {
    let all = reads.all();
    (all > 0.0).then(|| (reads.fresh_low / all, reads.fresh_high / all))
}

/// The stored copy of an object.
#[derive(Clone, Copy, Debug)]
struct Copy {
    fetched: Timestamp,
    /// Its reads so far, in the time that counts.
    reads: f64,
}

struct Game<'a, F> {
    world: &'a World,
    index: Index,
    copies: Vec<Copy>,
    played: Played,
    observe: F,
}

impl World {
    /// Lets the planner spend a budget.
    #[must_use]
    pub fn play(&self, strategy: Strategy, budget: Budget) -> Played {
        self.play_observed(strategy, budget, |_| {})
    }

    /// The same; `observe` gets what a run would have recorded.
    pub(super) fn play_observed(&self, strategy: Strategy, budget: Budget, observe: impl FnMut(Record)) -> Played {
        let mut index = Index::new(strategy, self.policy);
        for (place, object) in self.objects.iter().enumerate() {
            // The copies of the time before are not known. The time that does not count makes them like any other.
            index.add(id(place), object.kind(), self.from);
        }
        let copies = vec![Copy { fetched: self.from, reads: 0.0 }; self.objects.len()];
        let mut game = Game { world: self, index, copies, played: Played::default(), observe };
        let (mut reads, mut now, mut room) = (self.reads.iter().peekable(), self.from, 0.0);
        while now <= self.until {
            while let Some((at, place)) = reads.next_if(|(at, _)| *at <= now) {
                room -= game.read(*at, *place);
            }
            let rate = self.rate(budget, now);
            // Demand takes what it needs, but it never takes more than a slot from the planned looks that follow.
            room = (room + rate * STEP.as_secs_f64()).max(-rate * SLOT.as_secs_f64());
            if room >= 1.0 {
                let made = game.plan(now, whole(room));
                // Calls that are left over are lost.
                room = if made < whole(room) { 0.0 } else { room - room.floor() };
            }
            now = now + STEP;
        }
        for place in 0..self.objects.len() {
            game.close(place, self.until);
        }
        game.played
    }

    /// The calls a second.
    fn rate(&self, budget: Budget, now: Timestamp) -> f64 {
        let slot = self.slots.get(slot_of(now, self.from)).copied().unwrap_or_default();
        let seconds = SLOT.as_secs_f64();
        match budget {
            Budget::Times(factor) => slot.calls * factor / seconds,
            // Without any call there was no run that could have planned.
            Budget::Planned(_) if slot.calls <= 0.0 => 0.0,
            Budget::Planned(planned) => slot.requests / seconds + planned,
        }
    }
}

impl<F: FnMut(Record)> Game<'_, F> {
    /// A read, and the calls that it costs.
    fn read(&mut self, at: Timestamp, place: usize) -> f64 {
        let (world, copy) = (self.world, self.copies[place]);
        let is_flagged = at.since(copy.fetched) > world.policy.max_age;
        if at >= world.counted_from {
            let is_stale = world.objects[place].has_changed(copy.fetched, at);
            let reads = &mut self.played.reads;
            if is_flagged {
                reads.flagged += 1.0;
                reads.flagged_stale += f64::from(u8::from(is_stale));
            } else {
                reads.unflagged += 1.0;
            }
            reads.fresh_high += f64::from(u8::from(!is_stale));
            self.copies[place].reads += 1.0;
        }
        // A reader's request is answered at once.
        if is_flagged {
            self.look(at, place, Some(at));
            return 1.0;
        }
        0.0
    }

    /// Makes at most this many planned looks, and returns their number.
    fn plan(&mut self, now: Timestamp, most: usize) -> usize {
        let chosen = self.index.choose(now, most);
        for &id in &chosen {
            let place = usize::try_from(id).unwrap_or(usize::MAX);
            let changed = self.look(now, place, None);
            self.played.planned += 1;
            self.played.planned_changed += u64::from(changed);
        }
        chosen.len()
    }

    /// Calls for an object. True when it had changed.
    fn look(&mut self, at: Timestamp, place: usize, asked: Option<Timestamp>) -> bool {
        let (object, fetched) = (&self.world.objects[place], self.copies[place].fetched);
        let changed = self.close(place, at);
        self.played.looks += 1;
        self.copies[place] = Copy { fetched: at, reads: 0.0 };
        self.index.learn(id(place), Look { at, changed, asked });
        (self.observe)(Record { at, object: object.id.clone(), sight: Sight::Response { changed, asked } });
        let first = object.shown.partition_point(|(moment, _)| *moment <= fetched);
        for &(moment, member) in object.shown[first..].iter().take_while(|(moment, _)| *moment <= at) {
            // A member that was fetched since is stored as the list shows it.
            if self.copies[member].fetched < moment {
                self.index.hint(id(member), at);
                let object = self.world.objects[member].id.clone();
                (self.observe)(Record { at, object, sight: Sight::ActiveMember });
            }
        }
        changed
    }

    /// Ends the life of a copy. True when it was outdated.
    fn close(&mut self, place: usize, at: Timestamp) -> bool {
        let copy = self.copies[place];
        let changed = self.world.objects[place].has_changed(copy.fetched, at);
        if !changed {
            self.played.reads.fresh_low += copy.reads;
        }
        changed
    }
}

fn id(place: usize) -> u64 {
    u64::try_from(place).unwrap_or(u64::MAX)
}

/// The whole calls of a budget.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "limited before")]
fn whole(room: f64) -> usize {
    room.clamp(0.0, 1e6) as usize
}
