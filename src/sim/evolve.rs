//! The changes of the world, step by step. Each step has a die of its own, so that the same moment always shows the same world,
//! however often and whenever it was requested before.

use std::time::Duration;

use super::{
    cast::Part,
    clans::FULL,
    names::{die, pick},
    players::Role,
    world::World,
};
use crate::clock::Timestamp;

/// The length of a step, in the time of the game.
const STEP: Duration = Duration::from_secs(60);

/// The most steps made at once, about a week of the game. In a longer gap people stand still for the rest; wars go on.
const MAX_STEPS_AT_ONCE: u64 = 10_000;

/// The players out of a million who fight or donate in a minute: each about six times a day.
const BUSY_PER_MILLION: u64 = 4_000;

/// The clans out of a million that gain or lose a member in a minute: each about four times a day.
const MOVES_PER_MILLION: u64 = 2_800;

impl World {
    /// Moves the world on to this moment. It never goes back; a frozen world does not move at all.
    pub(super) fn advance_to(&mut self, moment: Timestamp) {
        if self.time.pace.is_frozen() || moment <= self.time.now {
            return;
        }
        self.time.now = moment;
        // At a high pace the scaled step would round to zero.
        let step = self.time.pace.scaled(STEP).max(Duration::from_nanos(1));
        let due = u64::try_from(moment.since(self.time.started).as_nanos() / step.as_nanos()).unwrap_or(u64::MAX);
        self.time.ticks = self.time.ticks.max(due.saturating_sub(MAX_STEPS_AT_ONCE));
        while self.time.ticks < due {
            self.time.ticks += 1;
            self.step();
        }
        for front in 0..self.fronts.len() {
            self.find_new_war(front);
        }
    }

    fn step(&mut self) {
        // Each step has its own random numbers, so that skipped steps do not change later ones.
        let mut random = die(self.seed, 5_000_000 + self.time.ticks);
        for _ in 0..happening(self.players.len(), BUSY_PER_MILLION, &mut random) {
            let player = random.usize(0..self.players.len());
            self.play(player, &mut random);
        }
        for _ in 0..happening(self.clans.len(), MOVES_PER_MILLION, &mut random) {
            let player = random.usize(0..self.players.len());
            self.move_on(player, &mut random);
        }
    }

    /// A battle, won or lost, or a donation to a clanmate.
    fn play(&mut self, player: usize, random: &mut fastrand::Rng) {
        let mates = self.players[player].clan.map(|clan| &self.clans[clan].members);
        // Half of the acts in a clan are donations.
        if let Some(mate) = mates.map(|mates| pick(random, mates)).filter(|mate| *mate != player)
            && random.bool()
        {
            let troops = random.u32(1..=45);
            self.players[player].donations += troops;
            self.players[mate].received += troops;
            return;
        }
        let player = &mut self.players[player];
        // Two battles of three are won, as in the game on average.
        if random.u8(..3) > 0 {
            player.trophies += random.u32(5..40);
            player.attack_wins += 1;
        } else {
            player.trophies = player.trophies.saturating_sub(random.u32(5..40));
        }
    }

    /// A player leaves for another clan or for none; a clanless one joins. Leaders stay.
    fn move_on(&mut self, player: usize, random: &mut fastrand::Rng) {
        if let Some(clan) = self.players[player].clan {
            let stays = self.players[player].role == Role::Leader || Part::of(clan).keeps_its_people();
            // A small clan would die out, and wars need people.
            if stays || self.clans[clan].members.len() < 3 {
                return;
            }
            self.clans[clan].members.retain(|member| *member != player);
            self.players[player].clan = None;
            // Half of those who leave stay without a clan for a while.
            if random.bool() {
                return;
            }
        }
        let clan = random.usize(0..self.clans.len());
        if !Part::of(clan).keeps_its_people() && self.clans[clan].members.len() < FULL {
            self.clans[clan].members.push(player);
            let newcomer = &mut self.players[player];
            newcomer.clan = Some(clan);
            // Everybody begins at the bottom.
            newcomer.role = Role::Member;
            newcomer.previous_rank = 0;
            // The game counts donations per clan.
            newcomer.donations = 0;
            newcomer.received = 0;
        }
    }

    /// Begins the next war when it is time. Wars that nobody requested are skipped, not fought.
    fn find_new_war(&mut self, front: usize) {
        let Some(timetable) = self.fronts[front].timetable.filter(|timetable| timetable.next <= self.time.now) else {
            return;
        };
        // 77 hours from war to war, as in `declare_war`.
        let round = self.time.pace.scaled(Duration::from_secs(77 * 3600)).max(Duration::from_millis(1));
        let skipped = self.time.now.since(timetable.next).as_millis() / round.as_millis();
        let skipped = u32::try_from(skipped).unwrap_or(u32::MAX);
        self.declare_war(front, timetable.next + round.saturating_mul(skipped));
    }
}

/// The number of `count` things with this chance that happen. Its fraction is left to chance.
fn happening(count: usize, per_million: u64, random: &mut fastrand::Rng) -> u64 {
    let expected = count as u64 * per_million;
    expected / 1_000_000 + u64::from(random.u64(0..1_000_000) < expected % 1_000_000)
}
