//! What operators do with everything the queue keeps: read it by slices, put it back, move it, look one object up, purge.
//!
//! Values, the rules of putting back, and the port. **Invariant: putting back never overwrites and never doubles.** What
//! is there already merges with what comes, by the rules of mail; what has nothing new in it changes nothing, so that
//! everything here may be interrupted and done again.

use std::future::Future;

use super::{
    DeadLetter, QueueError,
    mailbox::{Content, Decision, Entry, Id, Source},
    record::{Letter, Record, State, Wanted, clamp},
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
    /// Unreadable mail among the dead letters, or mail that is too large to be anything else.
    Letter { name: String, letter: Box<Letter>, stored: Vec<u8> },
    /// Something among the records that is none.
    Broken { name: Vec<u8>, value: Vec<u8> },
}

/// Something that can be put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Returning {
    Record { object: ObjectId, record: Box<Record> },
    Letter { name: String, letter: Box<Letter> },
    Orphan { id: Vec<u8>, class: Priority },
}

/// What putting one entry back came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutBack {
    /// It was not there.
    New,
    /// It was merged into what was there.
    Merged,
    /// What was there has all of it already.
    Nothing,
    /// A dead letter, and their room is full: left out, so that none that is there gives way.
    NoRoom,
}

/// The parts of everything, in the direction in which requests travel: what moves on while it is read is met again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The producers' data, with the score of its index entry.
    Data,
    /// Index entries without data.
    Index,
    Orphans,
    /// Records and unreadable mail.
    Objects,
}

/// How far reading came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) part: Part,
    pub(super) cursor: String,
}

impl Place {
    /// Everything, from the beginning.
    #[must_use]
    pub fn start() -> Self {
        Self::of(Part::Data)
    }

    /// One part and those after it.
    #[must_use]
    pub fn of(part: Part) -> Self {
        Self { part, cursor: "0".to_owned() }
    }

    #[must_use]
    pub const fn part(&self) -> Part {
        self.part
    }

    /// Where to go on after a step that ended at `cursor`; 0 is the end of a part.
    pub(super) fn after(&self, cursor: String) -> Option<Self> {
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
    /// Where to go on; `None` at the end.
    pub next: Option<Place>,
}

/// Where one object stands in the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub record: Option<Record>,
    /// How many ready objects come before it; `None` when it is not ready.
    pub ahead: Option<u64>,
}

/// What operators' tools ask of a queue, beyond what a run does.
pub trait Archive: Send + Sync + 'static {
    /// Reads the next slice of everything; changes nothing.
    fn read_slice(&self, now: Timestamp, from: &Place) -> impl Future<Output = Result<Slice, QueueError>> + Send;

    /// Merges entries into the queue. Answers in order.
    fn put_back(
        &self,
        now: Timestamp,
        entries: &[Returning],
    ) -> impl Future<Output = Result<Vec<PutBack>, QueueError>> + Send;

    /// Whether the queue has all of each entry. Answers in order.
    fn has(&self, entries: &[Returning]) -> impl Future<Output = Result<Vec<bool>, QueueError>> + Send;

    /// Deletes records and letters that are still, byte for byte, as they were read: name and stored text. Answers in
    /// order.
    fn take_away(&self, entries: &[(String, Vec<u8>)]) -> impl Future<Output = Result<Vec<bool>, QueueError>> + Send;

    /// Deletes dead letters for good, each unless it changed since it was listed. Answers how many.
    fn purge(&self, letters: &[DeadLetter]) -> impl Future<Output = Result<usize, QueueError>> + Send;

    /// Where an object stands.
    fn standing(&self, object: &ObjectId) -> impl Future<Output = Result<Standing, QueueError>> + Send;
}

impl Kept {
    /// As it can be put back, at this time. Mail is decoded as admission does it; a lease is not taken along.
    ///
    /// # Errors
    /// Why it cannot be put back.
    pub fn returning(self, now: Timestamp, max_attempts: u32) -> Result<Returning, Reason> {
        match self {
            Self::Mail { id, score, value: None } => {
                let class = score.and_then(|score| score.parse().ok()).map_or(Priority::Low, class_of);
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
                    Decision::Refuse(unreadable) => {
                        let letter = Box::new(unreadable.letter(now));
                        Ok(Returning::Letter { name: unreadable.name, letter })
                    }
                    other => Err(Reason::new("unreadable", format!("mail that would be {other:?}"))),
                }
            }
            Self::Orphan { id, class, .. } => Ok(Returning::Orphan { id, class }),
            Self::Record { object, record, .. } => {
                Ok(Returning::Record { object, record: Box::new(detached(*record, now)?) })
            }
            Self::Letter { name, mut letter, .. } => {
                letter.died = clamp(letter.died, now);
                Ok(Returning::Letter { name, letter })
            }
            Self::Broken { .. } => Err(Reason::new("no_record", "it is no record and no dead letter")),
        }
    }
}

fn class_of(score: f64) -> Priority {
    super::mailbox::class_of_score(score)
}

impl Returning {
    /// `clan:2PP`, `mail:<id>`.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Record { object, .. } => object.to_string(),
            Self::Letter { name, .. } => name.clone(),
            Self::Orphan { id, .. } => super::mailbox::escape(id),
        }
    }
}

/// A record as another server, or the same one later, can keep it: without its lease, its times in bounds.
fn detached(mut record: Record, now: Timestamp) -> Result<Record, Reason> {
    record.token = None;
    record.expires = None;
    if let Some(next) = record.next.take() {
        record.wanted.merge(&next);
    }
    let wanted = &mut record.wanted;
    (wanted.first, wanted.last) = (clamp(wanted.first, now), clamp(wanted.last, now));
    wanted.due = clamp(wanted.due, now);
    record.hold = clamp(record.hold, now);
    // Lua writes numbers with 14 digits.
    record.merges = record.merges.min(1_000_000_000_000);
    match (record.state, record.died) {
        (State::Dead, None) => return Err(Reason::new("no_record", "it is dead, and has no time of death")),
        (State::Dead, Some(died)) => record.died = Some(clamp(died, now)),
        _ => record.place(now),
    }
    Ok(record)
}

/// What a record becomes when another one for its object is put back; `None` when it stays as it is. `lua/restore.lua` is
/// the same rules for Redis.
pub(super) fn merged(current: &Record, new: &Record, now: Timestamp) -> Option<Record> {
    let wanted = &new.wanted;
    match (current.state, new.state) {
        // The later death counts. What is alive counts more than any death.
        (State::Dead, State::Dead) if new.died > current.died => Some(new.clone()),
        (_, State::Dead) => None,
        // What died of this request, or of a newer one, stays dead; and a lease for such a one answers it.
        (State::Dead | State::Leased, _) if wanted.last <= current.wanted.last => None,
        (State::Dead, _) if current.code.as_deref() == Some(super::record::LAPSED) => {
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
    let has_changed = record != *current;
    record.merges += 1;
    has_changed.then_some(record)
}

/// Whether a record has everything that was put back for its object.
pub(super) fn covers(current: &Record, new: &Record) -> bool {
    if new.state == State::Dead {
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
    fn an_older_request_is_merged_and_overwrites_nothing() {
        let current = record(Priority::Low, NOW);
        let merged = merged(&current, &record(Priority::High, NOW - MINUTE), NOW).unwrap();
        assert_eq!(merged.wanted.last, NOW);
        assert_eq!((merged.wanted.first, merged.wanted.priority), (NOW - MINUTE, Priority::High));
    }

    #[test]
    fn putting_the_same_back_again_changes_nothing() {
        for new in [record(Priority::High, NOW), dead(NOW, NOW)] {
            assert_eq!(merged(&new, &new, NOW), None);
            assert!(covers(&new, &new));
        }
    }

    #[test]
    fn a_dead_letter_is_revived_by_a_newer_request_only() {
        let current = dead(NOW, NOW);
        assert_eq!(merged(&current, &record(Priority::High, NOW), NOW), None);
        let revived = merged(&current, &record(Priority::High, NOW + MINUTE), NOW + MINUTE).unwrap();
        assert_eq!((revived.state, revived.code), (State::Ready, None));
    }

    #[test]
    fn a_dead_letter_never_replaces_what_is_alive() {
        assert_eq!(merged(&record(Priority::Low, NOW), &dead(NOW, NOW + MINUTE), NOW), None);
    }

    #[test]
    fn a_lease_answers_what_was_requested_before_it_and_nothing_else() {
        let mut leased = record(Priority::Low, NOW);
        leased.lease("clan:2PP".parse().unwrap(), "run:1".to_owned(), NOW + MINUTE);
        assert_eq!(merged(&leased, &record(Priority::High, NOW), NOW), None);
        let with_next = merged(&leased, &record(Priority::High, NOW + MINUTE), NOW).unwrap();
        assert_eq!(with_next.next.as_ref().unwrap().last, NOW + MINUTE);
        assert_eq!(merged(&with_next, &record(Priority::High, NOW + MINUTE), NOW), None);
    }

    #[test]
    fn a_leased_record_is_put_back_without_its_lease_and_with_its_next_request() {
        let mut leased = record(Priority::Low, NOW);
        leased.lease("clan:2PP".parse().unwrap(), "run:1".to_owned(), NOW + MINUTE);
        leased.next = Some(record(Priority::Critical, NOW + MINUTE).wanted);
        let free = detached(leased, NOW + MINUTE).unwrap();
        assert_eq!((free.state, free.token.as_ref(), free.next.as_ref()), (State::Ready, None, None));
        assert_eq!((free.wanted.priority, free.wanted.last), (Priority::Critical, NOW + MINUTE));
    }
}
