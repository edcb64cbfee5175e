//! The operator's port, [`QueueAdmin`]: dead letters, repair, export, and reading, moving and putting back everything.
//!
//! The port, its values, and the rules of putting back. **Invariant: putting back never overwrites and never doubles.** What
//! comes merges with what is there, by the rules of mail. An entry with nothing new in it changes nothing, so that everything
//! here may be interrupted and done again.

use std::future::Future;

use super::{
    DeadFilter, DeadLetter, Exported, Queue, QueueError, Repaired,
    mailbox::{Content, DeadEntry, Decision, Entry, Id, Source, class_of_score, escape},
    record::{LAPSED, Record, State, Wanted, clamp},
};
use crate::{
    clock::Timestamp,
    model::{ObjectId, Priority, Reason},
};

/// Something that the mailbox or the queue keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Mail that is not admitted yet: an index entry, its data, or both.
    Mail { id: Vec<u8>, score: Option<String>, value: Option<Vec<u8>> },
    /// An index entry whose data is awaited.
    Orphan { id: Vec<u8>, class: Priority, since: Timestamp },
    /// The record of an object, in whatever state. `stored` is its text, byte for byte, to compare with.
    Record { object: ObjectId, record: Box<Record>, stored: Vec<u8> },
    /// An invalid entry among the dead letters, or mail that is too large to become anything else.
    DeadEntry { name: String, dead_entry: Box<DeadEntry>, stored: Vec<u8> },
    /// A text among the records that is not a record.
    Broken { name: Vec<u8>, value: Vec<u8> },
}

/// Something that can be put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Returning {
    Record { object: ObjectId, record: Box<Record> },
    DeadEntry { name: String, dead_entry: Box<DeadEntry> },
    Orphan { id: Vec<u8>, class: Priority },
}

/// The result of putting one entry back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutBack {
    /// It was not there.
    New,
    /// It was merged into what was there.
    Merged,
    /// The queue has all of it already.
    Nothing,
    /// A dead letter for which there is no room: left out, so that none that is there is evicted.
    NoRoom,
}

/// The parts of everything, in the direction in which requests travel: a request that moves on while it is read is met again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The producers' data, with the score of its index entry.
    Data,
    /// Index entries without data.
    Index,
    Orphans,
    /// Records and dead entries.
    Objects,
}

/// The place in everything at which reading goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) part: Part,
    pub(super) cursor: String,
}

impl Place {
    /// The beginning of everything.
    #[must_use]
    pub fn start() -> Self {
        Self::of(Part::Data)
    }

    /// The beginning of one part; the parts after it follow.
    #[must_use]
    pub fn of(part: Part) -> Self {
        Self { part, cursor: "0".to_owned() }
    }

    #[must_use]
    pub const fn part(&self) -> Part {
        self.part
    }

    /// The next place after a step that ended at `cursor`; 0 is the end of a part.
    pub(super) fn after(&self, cursor: String) -> Option<Self> {
        // Redis ends a scan with the cursor 0.
        if cursor != "0" {
            return Some(Self { part: self.part, cursor });
        }
        match self.part {
            Part::Data => Some(Self::of(Part::Index)),
            Part::Index => Some(Self::of(Part::Orphans)),
            Part::Orphans => Some(Self::of(Part::Objects)),
            Part::Objects => None,
        }
    }
}

/// One bounded slice of everything. An entry may be met twice.
#[derive(Clone, Debug)]
pub struct Slice {
    pub entries: Vec<Kept>,
    /// The next place; `None` at the end.
    pub next: Option<Place>,
}

/// The position of one object in the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub record: Option<Record>,
    /// The number of ready objects before it; `None` when it is not ready.
    pub ahead: Option<u64>,
}

/// The queue as an operator uses it, beyond what a run does.
pub trait QueueAdmin: Queue {
    /// Repairs all records and sets. A second call finds nothing.
    fn repair(&self, now: Timestamp) -> impl Future<Output = Result<Repaired, QueueError>> + Send;

    /// Lists dead letters, the newest first.
    fn dead_letters(
        &self,
        filter: &DeadFilter,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<DeadLetter>, QueueError>> + Send;

    /// Returns dead letters: objects to the queue with attempts and lapses 0, entries to the mailbox as they were. Returns how
    /// many.
    fn redrive(&self, now: Timestamp, filter: &DeadFilter) -> impl Future<Output = Result<usize, QueueError>> + Send;

    /// Deletes dead letters for good, each unless it changed since it was listed. Returns how many.
    fn purge(&self, letters: &[DeadLetter]) -> impl Future<Output = Result<usize, QueueError>> + Send;

    /// Lists everything that waits in the mailbox's format, without removing it. Dead letters are not part of it.
    fn export(&self, now: Timestamp) -> impl Future<Output = Result<Vec<Exported>, QueueError>> + Send;

    /// Moves everything that waits back into the mailbox, where the old worker finds it. Returns how many.
    fn return_to_mailbox(&self, now: Timestamp) -> impl Future<Output = Result<usize, QueueError>> + Send;

    /// Reads the next slice of everything; changes nothing.
    fn read_slice(&self, now: Timestamp, from: &Place) -> impl Future<Output = Result<Slice, QueueError>> + Send;

    /// Merges entries into the queue. Returns the results in order.
    fn put_back(
        &self,
        now: Timestamp,
        entries: &[Returning],
    ) -> impl Future<Output = Result<Vec<PutBack>, QueueError>> + Send;

    /// Returns, in order, whether the queue has all of each entry.
    fn has(&self, entries: &[Returning]) -> impl Future<Output = Result<Vec<bool>, QueueError>> + Send;

    /// Deletes records and dead entries that are still, byte for byte, as they were read: name and stored text. Returns the
    /// results in order.
    fn take_away(&self, entries: &[(String, Vec<u8>)]) -> impl Future<Output = Result<Vec<bool>, QueueError>> + Send;

    /// Looks one object up.
    fn position(&self, object: &ObjectId) -> impl Future<Output = Result<Position, QueueError>> + Send;
}

impl Kept {
    /// Its form for putting it back at this time. Mail is decoded as in admission; a lease is not taken along.
    ///
    /// # Errors
    /// The reason why it cannot be put back.
    pub fn returning(self, now: Timestamp, max_attempts: u32) -> Result<Returning, Reason> {
        match self {
            Self::Mail { id, score, value: None } => {
                let class = score.and_then(|score| score.parse().ok()).map_or(Priority::Low, class_of_score);
                Ok(Returning::Orphan { id, class })
            }
            Self::Mail { id, score, value: Some(value) } => {
                let source = score.map_or(Source::Scan, |score| Source::Index { score });
                let entry = Entry { id: Id::Whole(id), source, content: Content::Value(value) };
                match entry.decide(now, max_attempts) {
                    Decision::Admit(request) => {
                        let record = Box::new(Record::with_request(None, &request, now));
                        Ok(Returning::Record { object: request.object, record })
                    }
                    Decision::Refuse(invalid) => {
                        let dead_entry = Box::new(invalid.dead_entry(now));
                        Ok(Returning::DeadEntry { name: invalid.name, dead_entry })
                    }
                    // Cannot happen: an entry with a value is admitted or refused.
                    other => Err(Reason::new("unreadable", format!("mail that would be {other:?}"))),
                }
            }
            Self::Orphan { id, class, .. } => Ok(Returning::Orphan { id, class }),
            Self::Record { object, record, .. } => {
                Ok(Returning::Record { object, record: Box::new(detached(*record, now)?) })
            }
            Self::DeadEntry { name, mut dead_entry, .. } => {
                dead_entry.died = clamp(dead_entry.died, now);
                Ok(Returning::DeadEntry { name, dead_entry })
            }
            Self::Broken { .. } => Err(Reason::new("no_record", "it is neither a record nor a dead letter")),
        }
    }
}

impl Returning {
    /// `clan:2PP`, `mail:<id>`.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Record { object, .. } => object.to_string(),
            Self::DeadEntry { name, .. } => name.clone(),
            Self::Orphan { id, .. } => escape(id),
        }
    }
}

/// Prepares a record for another server, or for the same one later: no lease, and times in bounds.
fn detached(mut record: Record, now: Timestamp) -> Result<Record, Reason> {
    // A lease belongs to a run of the other server. A planned look becomes a request, as if its run had died.
    record.end_lease();
    let wanted = &mut record.wanted;
    (wanted.first, wanted.last) = (clamp(wanted.first, now), clamp(wanted.last, now));
    wanted.due = clamp(wanted.due, now);
    wanted.asked = wanted.asked.map(|asked| clamp(asked, now));
    record.hold = clamp(record.hold, now);
    // Lua writes numbers with 14 digits.
    record.merges = record.merges.min(1_000_000_000_000);
    match (record.state, record.died) {
        // The time of death is its score: without it no set could hold it.
        (State::Dead, None) => return Err(Reason::new("no_record", "it is dead, and has no time of death")),
        (State::Dead, Some(died)) => record.died = Some(clamp(died, now)),
        _ => record.place(now),
    }
    Ok(record)
}

/// Merges a record that is put back into the current one of its object; `None` when nothing changes. `lua/restore.lua` has the
/// same rules for Redis.
pub(super) fn merged(current: &Record, new: &Record, now: Timestamp) -> Option<Record> {
    let wanted = &new.wanted;
    match (current.state, new.state) {
        // The later death wins, and a live record wins over any death.
        (State::Dead, State::Dead) if new.died > current.died => Some(new.clone()),
        // A planned look has not revived it.
        (_, State::Dead) if current.is_only_planned() => Some(new.clone()),
        (_, State::Dead) => None,
        // An object that died of this request, or of a newer one, stays dead. A lease for such a request will serve it; a planned
        // look may end without a response.
        (State::Dead | State::Leased, _) if !current.planned && wanted.last <= current.wanted.last => None,
        (State::Dead, _) if current.code.as_deref() == Some(LAPSED) => {
            let mut record = current.clone();
            record.wanted.merge(wanted);
            record.merges += 1;
            Some(record)
        }
        (State::Dead, _) => {
            let mut record = new.clone();
            record.merges = current.merges + 1;
            record.place(now);
            Some(record)
        }
        (State::Leased, _) => {
            let mut record = current.clone();
            match &mut record.next {
                Some(next) => next.merge(wanted),
                None => record.next = Some(wanted.clone()),
            }
            changed(record, current)
        }
        (State::Ready | State::Delayed, _) => {
            let mut record = current.clone();
            record.wanted.merge(wanted);
            if new.hold > record.hold {
                (record.hold, record.held, record.held_for) = (new.hold, new.held, new.held_for.clone());
            }
            record.lapses = record.lapses.max(new.lapses);
            let mut record = changed(record, current)?;
            record.place(now);
            Some(record)
        }
    }
}

fn changed(mut record: Record, current: &Record) -> Option<Record> {
    // The counter grows only with a real change, so that a second put-back finds nothing.
    let has_changed = record != *current;
    record.merges += 1;
    has_changed.then_some(record)
}

/// True when a record has everything that was put back for its object.
pub(super) fn covers(current: &Record, new: &Record) -> bool {
    // A planned look is no request: it may end without a response, and leaves nothing.
    if current.is_only_planned() {
        return false;
    }
    if new.state == State::Dead {
        // A live record covers a dead one, since a request revived it.
        return current.state != State::Dead || current.died >= new.died;
    }
    let all: Wanted = current.wanted_in_all();
    all.last >= new.wanted.last
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::RefreshRequest;

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);
    const MINUTE: Duration = Duration::from_secs(60);

    fn record(priority: Priority, asked: Timestamp) -> Record {
        Record::with_request(None, &RefreshRequest::now("clan:2PP".parse().unwrap(), priority, asked), asked)
    }

    fn dead(asked: Timestamp, died: Timestamp) -> Record {
        Record {
            state: State::Dead,
            died: Some(died),
            code: Some("wrong_tag".to_owned()),
            ..record(Priority::Low, asked)
        }
    }

    #[test]
    fn older_request_merges_and_overwrites_nothing() {
        let current = record(Priority::Low, NOW);
        let merged = merged(&current, &record(Priority::High, NOW - MINUTE), NOW).unwrap();
        assert_eq!(merged.wanted.last, NOW);
        assert_eq!((merged.wanted.first, merged.wanted.priority), (NOW - MINUTE, Priority::High));
    }

    #[test]
    fn putting_same_record_back_changes_nothing() {
        for new in [record(Priority::High, NOW), dead(NOW, NOW)] {
            assert_eq!(merged(&new, &new, NOW), None);
            assert!(covers(&new, &new));
        }
    }

    #[test]
    fn only_newer_request_revives_dead_letter() {
        let current = dead(NOW, NOW);
        assert_eq!(merged(&current, &record(Priority::High, NOW), NOW), None);
        let revived = merged(&current, &record(Priority::High, NOW + MINUTE), NOW + MINUTE).unwrap();
        assert_eq!((revived.state, revived.code), (State::Ready, None));
    }

    #[test]
    fn dead_letter_never_replaces_live_record() {
        assert_eq!(merged(&record(Priority::Low, NOW), &dead(NOW, NOW + MINUTE), NOW), None);
    }

    #[test]
    fn lease_serves_only_earlier_requests() {
        let mut leased = record(Priority::Low, NOW);
        leased.lease("clan:2PP".parse().unwrap(), "run:1".to_owned(), NOW + MINUTE);
        assert_eq!(merged(&leased, &record(Priority::High, NOW), NOW), None);
        let with_next = merged(&leased, &record(Priority::High, NOW + MINUTE), NOW).unwrap();
        assert_eq!(with_next.next.as_ref().unwrap().last, NOW + MINUTE);
        assert_eq!(merged(&with_next, &record(Priority::High, NOW + MINUTE), NOW), None);
    }

    #[test]
    fn detached_record_keeps_next_request_without_lease() {
        let mut leased = record(Priority::Low, NOW);
        leased.lease("clan:2PP".parse().unwrap(), "run:1".to_owned(), NOW + MINUTE);
        leased.next = Some(record(Priority::Critical, NOW + MINUTE).wanted);
        let free = detached(leased, NOW + MINUTE).unwrap();
        assert_eq!((free.state, free.token.as_ref(), free.next.as_ref()), (State::Ready, None, None));
        assert_eq!((free.wanted.priority, free.wanted.last), (Priority::Critical, NOW + MINUTE));
    }
}
