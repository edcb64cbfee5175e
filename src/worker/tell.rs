//! What follows a commit: the requests that its answers make worth asking for, the changes that others are told of, and the
//! keys of readers that hold something old now. Talks to the queue, which has the stream and those keys, too, and to the
//! store, which keeps what is to be told until it is.
//!
//! **Invariant: what is stored is told.** What a commit has to tell is stored with it, in one transaction, and forgotten only
//! when it is told; a run that dies in between leaves it to the next. Told twice is possible, not told is not. Nothing here
//! fails a request: what cannot be told is noted in the report, and tried again.

use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use super::drain::{Drain, lock};
use crate::{
    derive::{cache_keys, followup},
    model::{Event, Fetched, FollowUp, Kind, Learned, ObjectId, OutboxEntry, WarMemory},
    queue::{Queue, Slots},
    store::{Committed, MAX_OUTBOX_ENTRIES, Store, StoreError},
};

/// So much time is between two runs: what they can do in it is the most that follow-ups may add, and while more than that
/// is ready none is added to be done at leisure.
const ONE_RUN: Duration = Duration::from_secs(2 * 60);

/// What is refused for so long is given up. What only met a queue that did not answer never is: it may be old because no run
/// took place.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What is to be told, and what of it was told already, while a settlement is tried again.
#[derive(Clone, Debug, Default)]
pub struct Telling {
    events: Vec<Event>,
    /// Keys of readers that hold something old now.
    cache_keys: Vec<String>,
    /// The stream refused them: they would be refused again.
    is_refused: bool,
}

impl Telling {
    pub fn of(notes: &[OutboxEntry], templates: &[String]) -> Self {
        Self {
            events: notes.iter().flat_map(|note| note.events.iter().cloned()).collect(),
            cache_keys: cache_keys::of(templates, notes.iter().flat_map(|note| &note.renewed)),
            is_refused: false,
        }
    }

    const fn is_done(&self) -> bool {
        self.events.is_empty() && self.cache_keys.is_empty()
    }
}

impl<Q: Queue + Slots, S: Store> Drain<'_, Q, S> {
    /// What an answer that counts leads to.
    pub fn follow_ups(&self, fetched: &Fetched, committed: &Committed, learned: &Learned) -> Vec<FollowUp> {
        let config = self.worker.config.follow_ups;
        if matches!(committed, Committed::Superseded | Committed::Poison(_) | Committed::Held(_)) {
            return Vec::new();
        }
        match fetched.object.kind {
            Kind::War if config.wars => {
                let memory = fetched.league.as_ref();
                let next = |memory| followup::next_look(&fetched.object, memory, fetched.began, fetched.fresh_until);
                memory.and_then(next).into_iter().collect()
            }
            Kind::Clan => followup::stale_members(&learned.members, config.players_per_clan, self.time.now()),
            _ => Vec::new(),
        }
    }

    /// The next look at a war that is known to go on, for when no attempt is left to look at it now.
    pub fn next_look_after_failures(&self, object: &ObjectId, memory: Option<&WarMemory>) -> Option<FollowUp> {
        let memory = memory.filter(|_| self.worker.config.follow_ups.wars)?;
        followup::next_look_after_failures(object, memory, self.time.now())
    }

    /// Tells others what changed, and deletes the copies of readers. What is told is not told again.
    pub async fn tell(&self, telling: &mut Telling) {
        let Telling { events, cache_keys, is_refused } = telling;
        tokio::join!(self.tell_events(events, is_refused), self.forget_cache_keys(cache_keys));
    }

    async fn tell_events(&self, events: &mut Vec<Event>, is_refused: &mut bool) {
        let Some(config) = self.worker.config.events.as_ref().filter(|_| !events.is_empty()) else {
            return events.clear();
        };
        *is_refused = false;
        match self.worker.queue.append_events(&config.stream, config.max_len, events).await {
            Ok(appended) => {
                events.clear();
                lock(self.tally).events += appended as u64;
            }
            Err(error) => {
                *is_refused = !error.is_transient();
                warn!(error = %error, events = events.len(), "could not tell of changes");
            }
        }
    }

    async fn forget_cache_keys(&self, keys: &mut Vec<String>) {
        if keys.is_empty() {
            return;
        }
        match self.worker.queue.forget_keys(keys).await {
            Ok(deleted) => {
                keys.clear();
                lock(self.tally).cache_keys_deleted += deleted as u64;
            }
            Err(error) if error.is_transient() => {
                warn!(error = %error, keys = keys.len(), "could not delete old copies of readers");
            }
            // It would be refused again, and the events beside it told again each time.
            Err(error) => {
                warn!(error = %error, keys = keys.len(), "could not delete old copies of readers; they are left");
                lock(self.tally).error(format!("{} keys of readers could not be deleted: {error}", keys.len()));
                keys.clear();
            }
        }
    }

    /// Notes that are told may be forgotten; the others are told later, by this run or another.
    pub fn close_notes(&self, notes: &[OutboxEntry], telling: &Telling) {
        if telling.is_done() {
            for note in notes {
                self.caches.all_else_told(note);
            }
        }
        if !telling.events.is_empty() {
            let events = telling.events.len();
            lock(self.tally).error(format!("{events} changes could not be told to the stream of events yet"));
        }
        if !telling.cache_keys.is_empty() {
            let keys = telling.cache_keys.len();
            lock(self.tally).error(format!("{keys} keys of readers could not be deleted yet"));
        }
    }

    /// Tells what runs have stored and not told, again and again. Never ends.
    pub async fn keep_telling(&self) {
        loop {
            sleep(self.worker.config.lease).await;
            self.tell_what_was_left().await;
        }
    }

    /// Tells what a run that died, or met a queue that did not answer, has stored and not told. What was stored within a
    /// lease time is left to its own run.
    pub async fn tell_what_was_left(&self) {
        let config = &self.worker.config;
        if config.events.is_none() && config.cache_key_templates.is_empty() && !self.caches.are_told() {
            return;
        }
        let mut are_more = true;
        while are_more {
            are_more = match self.tell_some_of_what_was_left().await {
                Ok(are_more) => are_more,
                Err(error) => return warn!(error = %error, "could not read or forget what is to be told"),
            }
        }
    }

    /// The oldest notes of all. Answers whether there are more that can be told.
    async fn tell_some_of_what_was_left(&self) -> Result<bool, StoreError> {
        let config = &self.worker.config;
        let now = self.time.now();
        let mut notes = self.worker.store.outbox(now - config.lease).await?;
        let was_full = notes.len() == MAX_OUTBOX_ENTRIES;
        notes.retain(|note| !self.caches.knows(note));
        if notes.is_empty() {
            return Ok(false);
        }
        let mut telling = Telling::of(&notes, &config.cache_key_templates);
        let (count, events) = (notes.len(), telling.events.len());
        warn!(notes = count, events, "{count} commits were not told to others yet; telling them now");
        self.tell(&mut telling).await;
        let are_told = telling.is_done();
        if !are_told {
            notes.retain(|note| telling.is_refused && now.since(note.stored_at) > GIVEN_UP_AFTER);
            if !notes.is_empty() {
                let given_up = notes.len();
                lock(self.tally)
                    .error(format!("what {given_up} commits had to tell is given up: it was refused for a day"));
            }
        }
        for note in &notes {
            for object in &note.changed {
                self.caches.changed(object);
            }
            self.caches.all_else_told(note);
        }
        let told = self.caches.told_notes();
        if !told.is_empty() {
            self.worker.store.delete_from_outbox(&told).await?;
            self.caches.forgotten(&told);
        }
        Ok(was_full && are_told)
    }

    /// Those that may be made, and how much may be ready before the spare ones among them are left out.
    pub fn follow_ups_that_fit(&self, follow_ups: &[FollowUp]) -> (Vec<FollowUp>, usize) {
        let (most_ready, room) = self.room_for_follow_ups();
        (that_fit(follow_ups, room), most_ready)
    }

    /// How many requests one run can do at the rate of now, and how many spare follow-ups this one may still make of them.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are small and positive")]
    fn room_for_follow_ups(&self) -> (usize, usize) {
        let one_run = (self.keys.total_rate() * ONE_RUN.as_secs_f64()) as usize;
        let made = usize::try_from(lock(self.tally).followups).unwrap_or(usize::MAX);
        (one_run, one_run.saturating_sub(made))
    }
}

/// Without the spare ones for which there is no room.
fn that_fit(follow_ups: &[FollowUp], room: usize) -> Vec<FollowUp> {
    let mut spare = 0;
    let fits = |follow_up: &&FollowUp| {
        spare += usize::from(follow_up.is_spare);
        !follow_up.is_spare || spare <= room
    };
    follow_ups.iter().filter(fits).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Timestamp,
        model::{Priority, RefreshRequest},
    };

    #[test]
    fn a_run_makes_no_more_spare_follow_ups_than_it_has_room_for_and_every_other_one() {
        let follow_up = |object: &str, is_spare| {
            let request = RefreshRequest::now(object.parse().unwrap(), Priority::Low, Timestamp::default());
            FollowUp { request, is_spare }
        };
        let all = [("player:2PP", true), ("war:2QQ", false), ("player:8LL", true), ("player:9YY", true)];
        let all = all.map(|(object, is_spare)| follow_up(object, is_spare));
        let fitting = |room| -> Vec<String> {
            that_fit(&all, room).into_iter().map(|one| one.request.object.to_string()).collect()
        };
        assert_eq!(fitting(0), ["war:2QQ"]);
        assert_eq!(fitting(2), ["player:2PP", "war:2QQ", "player:8LL"]);
        assert_eq!(fitting(9).len(), 4);
    }
}
