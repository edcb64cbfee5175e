//! What became of requests, seen from outside: in the queue's keys, in the tables, in the simulator's book of calls.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use refresh_worker::{
    clock::Timestamp,
    model::ObjectId,
    queue::record::{LAPSED, Record, State},
    sim::Call,
};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{
    events,
    world::{PLENTY, World},
};
use crate::support::process::WorkerProcess;

/// Time, records, mail's data and index, orphans.
type Answer = ((i64, i64), BTreeMap<String, String>, Vec<String>, Vec<String>, Vec<String>);

/// What mailbox and queue hold at one moment.
#[derive(Debug, Default)]
pub struct Holdings {
    /// By the queue's own clock.
    pub at: Timestamp,
    /// One record an object, dead letters among them.
    pub records: BTreeMap<String, Record>,
    /// The objects of the mailbox.
    pub mail: BTreeSet<String>,
    /// The objects of index entries that wait for their data.
    pub orphans: BTreeSet<String>,
}

impl Holdings {
    /// All of it in one transaction, so that nothing is seen twice or not at all on its way.
    pub async fn of(world: &World) -> Self {
        Self::over(&mut world.redis().await).await
    }

    pub async fn over(redis: &mut redis::aio::MultiplexedConnection) -> Self {
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("TIME").cmd("HGETALL").arg("{refresh}:objects");
        pipe.cmd("HKEYS").arg("refresh_requests");
        for set in ["refresh_queue", "{refresh}:orphans"] {
            pipe.cmd("ZRANGE").arg(set).arg(0).arg(-1);
        }
        let ((seconds, micros), records, data, index, orphans): Answer =
            pipe.query_async(redis).await.expect("Redis answers");
        let record = |(name, json): (String, String)| Some((name, serde_json::from_str(&json).ok()?));
        Self {
            at: Timestamp::from_millis(seconds * 1000 + micros / 1000),
            records: records.into_iter().filter_map(record).collect(),
            mail: data.iter().chain(&index).map(|id| object_of(id)).collect(),
            orphans: orphans.iter().map(|id| object_of(id)).collect(),
        }
    }

    fn in_state(&self, state: State) -> impl Iterator<Item = (&String, &Record)> {
        self.records.iter().filter(move |(_, record)| record.state == state)
    }

    pub fn leased(&self) -> impl Iterator<Item = (&String, &Record)> {
        self.in_state(State::Leased)
    }

    /// The dead letters that lapsed too often.
    pub fn lapsed(&self) -> BTreeSet<String> {
        let lapsed = self.in_state(State::Dead).filter(|(_, record)| record.code.as_deref() == Some(LAPSED));
        lapsed.map(|(name, _)| name.clone()).collect()
    }

    /// What still waits to be done. Orphans wait for their producer, and looks at wars for their time.
    pub fn waiting(&self) -> usize {
        let waits =
            |(name, record): &(&String, &Record)| record.state != State::Dead && !is_look(name, record, self.at);
        self.mail.len() + self.records.iter().filter(waits).count()
    }

    #[allow(dead_code, reason = "for the soak")]
    pub fn holds(&self, object: &str) -> bool {
        self.records.contains_key(object) || self.mail.contains(object) || self.orphans.contains(object)
    }
}

/// The next look at a war, which waits for its time.
pub fn is_look(object: &str, record: &Record, now: Timestamp) -> bool {
    object.starts_with("war:") && record.state == State::Delayed && record.wanted.due.max(record.hold) > now
}

/// The object that an id of the mailbox means.
fn object_of(id: &str) -> String {
    let object = id.split_once(':').and_then(|(kind, tag)| Some(ObjectId::new(kind.parse().ok()?, tag.parse().ok()?)));
    object.map_or_else(|| id.to_owned(), |object| object.to_string())
}

/// The objects whose own document, or the word that there is none, is in the database.
pub async fn stored(world: &World) -> BTreeSet<String> {
    let query = "SELECT kind || ':' || tag FROM refresh_worker.refresh_state WHERE fetched_at IS NOT NULL";
    let rows: Vec<String> = sqlx::query_scalar(query).fetch_all(&mut world.database().await).await.expect("our tables");
    rows.into_iter().collect()
}

/// The entries of the stream of events, each id once; of one that came twice the last.
#[cfg_attr(not(feature = "failpoints"), allow(dead_code, reason = "for runs that are killed"))]
pub async fn changes_told(redis: &mut redis::aio::MultiplexedConnection) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut command = redis::cmd("XRANGE");
    command.arg("refresh_events").arg("-").arg("+");
    let entries: Vec<(String, BTreeMap<String, String>)> = command.query_async(redis).await.expect("Redis answers");
    entries.into_iter().map(|(_, event)| (event["id"].clone(), event)).collect()
}

/// Settings with which everything follows a commit that can be looked at afterwards.
#[allow(dead_code, reason = "for the soak")]
pub const FOLLOWING: &[(&str, &str)] = &[
    ("REFRESH_EVENTS_STREAM", "refresh_events"),
    ("REFRESH_EVENTS_MAXLEN", "10000000"),
    ("CACHE_KEY_TEMPLATES", "snapshot:{kind}:{tag}"),
    ("FOLLOWUP_WARS", "true"),
    ("FOLLOWUP_PLAYERS_PER_CLAN", "5"),
];

/// An old copy of each for readers.
#[allow(dead_code, reason = "for the soak")]
pub async fn fill_caches(world: &World, objects: &[ObjectId]) {
    for objects in objects.chunks(1000) {
        let mut pipe = redis::pipe();
        for object in objects {
            pipe.cmd("SET").arg(format!("snapshot:{object}")).arg("old");
        }
        pipe.exec_async(&mut world.redis().await).await.expect("Redis answers");
    }
}

/// What became of what others had to be told.
#[allow(dead_code, reason = "for the soak")]
#[derive(Debug)]
pub struct Following {
    /// Documents that are stored.
    pub documents: usize,
    /// Of these, whose first change is not in the stream.
    pub untold: Vec<String>,
    /// Entries of the stream beyond one for each id.
    pub told_twice: usize,
    /// Entries without the fields that changed.
    pub poor: usize,
    /// Notes of commits that are still kept.
    pub notes: i64,
    /// Old copies of readers of what is stored.
    pub copies: Vec<String>,
}

impl Following {
    #[allow(dead_code, reason = "for the soak")]
    pub async fn of(world: &World) -> Self {
        let mut redis = world.redis().await;
        let query = "SELECT kind || ':' || tag FROM refresh_worker.refresh_state WHERE content_hash IS NOT NULL";
        let documents: Vec<String> =
            sqlx::query_scalar(query).fetch_all(&mut world.database().await).await.expect("our tables");
        let told = changes_told(&mut redis).await;
        let length: usize =
            redis::cmd("XLEN").arg("refresh_events").query_async(&mut redis).await.expect("Redis answers");
        let changes = || told.values().filter(|event| event["event"] == "changed");
        let named: BTreeSet<String> = changes().map(|event| format!("{}:{}", event["kind"], event["tag"])).collect();
        let mut copies = Vec::new();
        for chunk in documents.chunks(1000) {
            let mut pipe = redis::pipe();
            for object in chunk {
                pipe.cmd("EXISTS").arg(format!("snapshot:{object}"));
            }
            let there: Vec<bool> = pipe.query_async(&mut redis).await.expect("Redis answers");
            copies.extend(chunk.iter().zip(there).filter(|(_, there)| *there).map(|(object, _)| object.clone()));
        }
        Self {
            untold: documents.iter().filter(|object| !named.contains(*object)).cloned().collect(),
            documents: documents.len(),
            told_twice: length - told.len(),
            poor: changes().filter(|event| !event.contains_key("fields")).count(),
            notes: world.count("SELECT count(*) FROM refresh_worker.outbox").await,
            copies,
        }
    }
}

/// The objects with two history rows of the same content. The simulated world must stand still.
pub async fn doubled(world: &World) -> Vec<String> {
    let query = "SELECT 'clan:' || clan_tag FROM clan_snapshots GROUP BY clan_tag, data::text HAVING count(*) > 1
        UNION ALL SELECT 'war:' || clan_tag FROM war_snapshots GROUP BY clan_tag, data::text HAVING count(*) > 1
        UNION ALL SELECT 'player:' || player_tag FROM player_snapshots
            GROUP BY player_tag, data::text HAVING count(*) > 1";
    sqlx::query_scalar(query).fetch_all(&mut world.database().await).await.expect("the contract's tables")
}

/// Everything in the tables that other programs read, as one short text.
pub async fn digest(world: &World) -> String {
    let query = "SELECT md5(string_agg(line, '|' ORDER BY line)) FROM (
            SELECT clans::text AS line FROM clans UNION ALL SELECT players::text FROM players
            UNION ALL SELECT clan_snapshots::text FROM clan_snapshots
            UNION ALL SELECT player_snapshots::text FROM player_snapshots
            UNION ALL SELECT war_snapshots::text FROM war_snapshots
            UNION ALL SELECT clan_memberships::text FROM clan_memberships
        ) AS lines";
    let digest: Option<String> =
        sqlx::query_scalar(query).fetch_one(&mut world.database().await).await.expect("the contract's tables");
    digest.unwrap_or_default()
}

/// All that was asked for is stored, once, and nothing waits any more.
#[track_caller]
pub fn assert_all_kept(what: &str, asked: &[ObjectId], found: (&Holdings, &BTreeSet<String>, &[String])) {
    let (holdings, stored, doubled) = found;
    let left = (holdings.waiting(), holdings.records.len(), holdings.orphans.len());
    assert_eq!(left, (0, 0, 0), "{what}: {holdings:?}");
    let lost: Vec<&ObjectId> = asked.iter().filter(|object| !stored.contains(&object.to_string())).collect();
    assert!(lost.is_empty(), "{what}: lost {lost:?}");
    assert!(doubled.is_empty(), "{what}: stored twice {doubled:?}");
}

/// Runs until nothing waits. Each has to end well; gives their answers. A slot that a dead run held is waited for.
pub async fn drain(world: &World, worker: &mut WorkerProcess) -> Vec<Value> {
    let mut answers = Vec::new();
    let drained = async {
        loop {
            answers.push(worker.invoke(&events::schedule(), PLENTY).await.response().clone());
            if Holdings::of(world).await.waiting() == 0 {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(timeout(PLENTY, drained).await.is_ok(), "still {:?}", Holdings::of(world).await);
    answers
}

/// Calls that arrived when the second before them, they included, had seen more calls of their key than the cap.
///
/// Each with what is needed to understand it: how many there were, within what time, and whose calls they were.
pub fn calls_over(calls: &[Call], cap: usize) -> Vec<String> {
    let mut recent: BTreeMap<&str, VecDeque<&Call>> = BTreeMap::new();
    let mut over = Vec::new();
    for call in calls {
        let recent = recent.entry(&call.token).or_default();
        while recent.front().is_some_and(|first| call.at.saturating_sub(first.at) >= Duration::from_secs(1)) {
            recent.pop_front();
        }
        recent.push_back(call);
        if recent.len() > cap {
            let within = call.at.saturating_sub(recent[0].at);
            let callers: BTreeSet<&str> = recent.iter().map(|call| caller(call)).collect();
            let times: Vec<u128> = recent.iter().map(|call| call.at.saturating_sub(recent[0].at).as_millis()).collect();
            over.push(format!("{}: {} calls within {within:?} by {callers:?}, at {times:?}", call.token, recent.len()));
        }
    }
    over
}

/// Who called: what stands before the version in the path, as tests tell workers apart.
pub fn caller(call: &Call) -> &str {
    call.path.split('/').nth(1).unwrap_or_default()
}
