//! What a commit tells those who act on it: what became of each answer, and what else it brought to light.

use std::collections::{BTreeMap, HashMap};

use sqlx::FromRow;

use super::{
    Writes,
    claims::{Claims, Winners},
    memberships::Changes,
    players::{Claim, SnapshotWrite, Word},
    snapshots::NewestRows,
};
use crate::{
    model::{Answered, Before, Change, Fetched, Kind, MemberSeen, Move, ObjectId, OutboxEntry, Tag},
    store::{Commit, Committed, Telling, plan::times::from_utc, rows},
};

/// A document that is replaced by this commit, as it lies in its snapshot row.
#[derive(Debug, FromRow)]
pub struct Replaced {
    pub kind: String,
    pub tag: String,
    pub document: Option<String>,
}

/// The rows of ours that hold what the winners replace: clans, players, wars.
pub fn replaced_rows(claims: &Claims<'_>, winners: &Winners) -> [Vec<i64>; 3] {
    let mut rows = [Vec::new(), Vec::new(), Vec::new()];
    for (_, fetched) in &claims.answers {
        let state = winners.of_answer(fetched).filter(|state| state.has_changed());
        rows[fetched.object.kind as usize].extend(state.and_then(|state| state.snapshot_id));
    }
    rows
}

/// Everything that is known before a commit is written.
#[derive(Debug)]
pub struct Facts<'f, 'a> {
    pub batch: &'a [Fetched],
    pub claims: &'f Claims<'a>,
    pub winners: &'f Winners,
    pub words: &'f BTreeMap<&'a Tag, Word<'a>>,
    pub newest: &'f NewestRows,
    pub writes: &'f Writes<'f>,
    pub stays: &'f Changes<'a>,
    pub replaced: Vec<Replaced>,
}

impl Facts<'_, '_> {
    /// What the commit will come to.
    pub fn told(self, telling: Telling) -> Commit {
        let batch = self.batch;
        let mut commit = self.learned(telling);
        let note = note(telling, batch, &commit);
        commit.outbox.extend(Some(note).filter(|note| !note.is_empty()));
        commit
    }

    fn learned(self, telling: Telling) -> Commit {
        let mut commit = Commit::of_nothing(self.batch.len());
        for &(place, fetched) in &self.claims.answers {
            let Some(state) = self.winners.of_answer(fetched) else { continue };
            commit.committed[place] = match &fetched.answered {
                Answered::Gone | Answered::PrivateWarLog | Answered::UnknownState(_) => Committed::Noted,
                Answered::Document(_) if state.has_changed() => Committed::Stored,
                Answered::Document(_) => Committed::Unchanged,
            };
        }
        if telling.members {
            self.tell_members(&mut commit);
        }
        if telling.renewed {
            let by_others = |write: &&super::PlayerWrite<'_>| {
                write.claim != Claim::Document && !matches!(write.snapshot, SnapshotWrite::Leave { .. })
            };
            commit.touched = self.writes.players.iter().filter(by_others).map(|write| write.tag.clone()).collect();
        }
        if telling.events.is_some() {
            commit.moves = self.moves();
            self.tell_changes(&mut commit);
        }
        commit
    }

    fn tell_members(&self, commit: &mut Commit) {
        let mut members: HashMap<&Tag, Vec<MemberSeen>> = HashMap::new();
        for (tag, word) in self.words {
            let Some(listed) = word.listed() else { continue };
            let state = self.winners.of_object(Kind::Player, tag);
            members.entry(listed.clan).or_default().push(MemberSeen {
                tag: (*tag).clone(),
                fetched_at: state.and_then(super::claims::StateRow::fetched_at),
                is_active: word.shows_activity(self.newest.get(Kind::Player, tag)),
            });
        }
        for &(place, fetched) in &self.claims.answers {
            if fetched.object.kind == Kind::Clan {
                commit.learned[place].members = members.remove(&fetched.object.tag).unwrap_or_default();
            }
        }
    }

    /// Those who are listed by a clan, or answered for, for the first time have not just joined.
    fn moves(&self) -> Vec<Move> {
        let was_known =
            |kind, tag: &Tag| self.winners.of_object(kind, tag).is_some_and(|row| row.snapshot_id.is_some());
        let has_joined = |player: &Tag| match self.words.get(player).and_then(Word::listed) {
            Some(listed) => was_known(Kind::Clan, listed.clan),
            None => was_known(Kind::Player, player),
        };
        let arrivals = self.stays.opened.iter().filter(|(player, ..)| has_joined(player));
        let arrivals = arrivals.map(|(player, clan, joined)| Move {
            player: (*player).clone(),
            clan: (*clan).clone(),
            seen: from_utc(*joined),
            joined: true,
        });
        // Who moved has left before.
        self.stays.departures.iter().cloned().chain(arrivals).collect()
    }

    fn tell_changes(self, commit: &mut Commit) {
        let mut replaced: HashMap<(Kind, String), String> = HashMap::new();
        for row in self.replaced {
            if let (Ok(kind), Some(document)) = (row.kind.parse(), row.document) {
                replaced.insert((kind, row.tag), document);
            }
        }
        for &(place, fetched) in &self.claims.answers {
            let object = &fetched.object;
            let Some(state) = self.winners.of_answer(fetched) else { continue };
            let is_document = matches!(fetched.answered, Answered::Document(_));
            if !is_document || !state.has_changed() {
                continue;
            }
            let document = replaced.remove(&(object.kind, object.tag.as_str().to_owned()));
            let before = match (document, rows::deep_link(object.kind, &object.tag)) {
                (Some(document), Some(link)) => Before::Document(rows::without_deep_link(&document, &link)),
                (Some(document), None) => Before::Document(document),
                (None, _) if state.snapshot_id.is_none() => Before::Nothing,
                (None, _) => Before::Unknown,
            };
            commit.learned[place].change = Some(Change { before });
        }
    }
}

/// What others have to be told of this commit.
fn note(telling: Telling, batch: &[Fetched], commit: &Commit) -> OutboxEntry {
    let those = |counts: fn(&Committed) -> bool| {
        let answered = batch.iter().zip(&commit.committed).filter(move |(_, committed)| counts(committed));
        answered.map(|(fetched, _)| fetched.object.clone())
    };
    let mut note = OutboxEntry { id: fastrand::i64(1..), ..OutboxEntry::default() };
    if let Some(events_of) = telling.events {
        note.events = events_of(batch, &commit.learned, &commit.moves);
    }
    if telling.changed {
        note.changed = those(|committed| *committed == Committed::Stored).collect();
    }
    if telling.renewed {
        let answered =
            those(|committed| !matches!(committed, Committed::Superseded | Committed::Poison(_) | Committed::Held(_)));
        note.renewed = answered.chain(commit.touched.iter().cloned().map(ObjectId::player)).collect();
    }
    note
}
