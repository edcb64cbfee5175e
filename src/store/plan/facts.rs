//! The result of a commit, made from all that is known before anything is written.

use std::collections::{BTreeMap, HashMap};

use super::{
    Writes,
    claims::{Claims, Winners},
    memberships::Changes,
    players::{Claim, Observation, SnapshotWrite},
    snapshots::NewestRows,
};
use crate::{
    columns::from_row,
    model::{Answered, Before, Change, Fetched, Kind, MemberSeen, Move, ObjectId, OutboxEntry, Tag},
    store::{Commit, CommitDetails, Committed, plan::times::from_utc, rows},
};

/// A document that this commit replaces, as stored in its snapshot row.
#[derive(Debug)]
pub struct Replaced {
    pub kind: String,
    pub tag: String,
    pub document: Option<String>,
}

from_row!(both: Replaced { kind, tag, document });

/// The ids of our snapshot rows that the winners replace: clans, players, wars.
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
    pub observations: &'f BTreeMap<&'a Tag, Observation<'a>>,
    pub newest: &'f NewestRows,
    pub writes: &'f Writes<'f>,
    pub memberships: &'f Changes<'a>,
    pub replaced: Vec<Replaced>,
}

impl Facts<'_, '_> {
    /// The result of the commit, with its outbox entry.
    pub fn into_commit(self, details: CommitDetails) -> Commit {
        let batch = self.batch;
        let mut commit = self.gather(details);
        let entry = entry(details, batch, &commit);
        commit.outbox.extend(Some(entry).filter(|entry| !entry.is_empty()));
        commit
    }

    fn gather(self, details: CommitDetails) -> Commit {
        let mut commit = Commit::of_nothing(self.batch.len());
        for &(place, fetched) in &self.claims.answers {
            let Some(state) = self.winners.of_answer(fetched) else { continue };
            commit.committed[place] = match &fetched.answered {
                Answered::Gone | Answered::PrivateWarLog | Answered::UnknownState(_) => Committed::Noted,
                Answered::Document(_) if state.has_changed() => Committed::Stored,
                Answered::Document(_) => Committed::Unchanged,
            };
        }
        if details.members {
            self.add_members(&mut commit);
        }
        if details.renewed {
            let by_others = |write: &&super::PlayerWrite<'_>| {
                write.claim != Claim::Document && !matches!(write.snapshot, SnapshotWrite::Leave { .. })
            };
            commit.touched = self.writes.players.iter().filter(by_others).map(|write| write.tag.clone()).collect();
        }
        if details.events.is_some() {
            commit.moves = self.moves();
            self.add_changes(&mut commit);
        }
        commit
    }

    fn add_members(&self, commit: &mut Commit) {
        let mut members: HashMap<&Tag, Vec<MemberSeen>> = HashMap::new();
        for (tag, observation) in self.observations {
            let Some(listed) = observation.listed() else { continue };
            let state = self.winners.of_object(Kind::Player, tag);
            members.entry(listed.clan).or_default().push(MemberSeen {
                tag: (*tag).clone(),
                fetched_at: state.and_then(super::claims::StateRow::fetched_at),
                is_active: observation.shows_activity(self.newest.get(Kind::Player, tag)),
            });
        }
        for &(place, fetched) in &self.claims.answers {
            if fetched.object.kind == Kind::Clan {
                commit.learned[place].members = members.remove(&fetched.object.tag).unwrap_or_default();
            }
        }
    }

    /// Departures and arrivals. A player or clan that is stored for the first time has not just moved.
    fn moves(&self) -> Vec<Move> {
        // Our snapshot row shows that an earlier response was stored.
        let was_known =
            |kind, tag: &Tag| self.winners.of_object(kind, tag).is_some_and(|row| row.snapshot_id.is_some());
        let has_joined = |player: &Tag| match self.observations.get(player).and_then(Observation::listed) {
            Some(listed) => was_known(Kind::Clan, listed.clan),
            None => was_known(Kind::Player, player),
        };
        let arrivals = self.memberships.opened.iter().filter(|(player, ..)| has_joined(player));
        let arrivals = arrivals.map(|(player, clan, joined)| Move {
            player: (*player).clone(),
            clan: (*clan).clone(),
            seen: from_utc(*joined),
            joined: true,
        });
        // Departures first: whoever moves leaves one clan before joining the other.
        self.memberships.departures.iter().cloned().chain(arrivals).collect()
    }

    fn add_changes(self, commit: &mut Commit) {
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

/// The outbox entry of this commit.
fn entry(details: CommitDetails, batch: &[Fetched], commit: &Commit) -> OutboxEntry {
    let those = |counts: fn(&Committed) -> bool| {
        let answered = batch.iter().zip(&commit.committed).filter(move |(_, committed)| counts(committed));
        answered.map(|(fetched, _)| fetched.object.clone())
    };
    // A random id needs no sequence, and so no lock.
    let mut entry = OutboxEntry { id: fastrand::i64(1..), ..OutboxEntry::default() };
    if let Some(events_of) = details.events {
        entry.events = events_of(batch, &commit.learned, &commit.moves);
    }
    if details.changed {
        entry.changed = those(|committed| *committed == Committed::Stored).collect();
    }
    if details.renewed {
        let answered =
            those(|committed| !matches!(committed, Committed::Superseded | Committed::Poison(_) | Committed::Held(_)));
        entry.renewed = answered.chain(commit.touched.iter().cloned().map(ObjectId::player)).collect();
    }
    entry
}
