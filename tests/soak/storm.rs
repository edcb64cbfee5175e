//! Runs that are killed while producers write, and the watchers beside them.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use refresh_worker::{
    clock::Timestamp,
    failpoint,
    model::ObjectId,
    queue::record::{Record, State},
};
use serde_json::json;
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::{
    events,
    evidence::{self, Holdings, is_look},
    support::process::{Outcome, WorkerProcess},
    world::{PLENTY, World, python_time},
};

/// The calls a second that a key allows, as in reality.
pub const CAP: usize = 30;

/// Requests that wait, about.
const BACKLOG: usize = 100;

/// A run that does not come by its failpoint is killed after this.
const LONGEST_LIFE: Duration = Duration::from_millis(2500);

/// The interval at which the watchers look.
const LOOK: Duration = Duration::from_millis(40);

/// Everything that happened.
#[derive(Debug)]
pub struct Storm<'w> {
    world: &'w World,
    workers: usize,
    follow: bool,
    began: Instant,
    unasked: RefCell<Vec<ObjectId>>,
    pub asked: RefCell<BTreeSet<String>>,
    /// The number of requests that may still be made now.
    credit: Cell<usize>,
    started: Cell<usize>,
    pub kills: Cell<usize>,
    pub at_failpoints: RefCell<BTreeMap<&'static str, usize>>,
    /// Of the present kills.
    wanted: Cell<usize>,
    waiting: RefCell<Vec<Abandoned>>,
    pub recoveries: RefCell<Vec<Recovery>>,
    /// Leases that promised to last longer than a lease time from the kill.
    pub overlong: Cell<usize>,
    pub settled_unstored: RefCell<BTreeSet<String>>,
    /// Why runs ended that nobody killed.
    pub ends: RefCell<BTreeMap<String, usize>>,
}

/// An object that a killed run had leased.
#[derive(Clone, Debug)]
struct Abandoned {
    object: String,
    token: Option<String>,
    killed: Timestamp,
    free: Timestamp,
    lease: Duration,
}

/// From the kill on.
#[derive(Clone, Copy, Debug)]
pub struct Recovery {
    pub lease: Duration,
    pub until_free: Duration,
    pub until_leased: Duration,
}

/// The planned end of a process.
#[derive(Clone, Copy, Debug)]
enum Fate {
    At { point: &'static str, passage: u32 },
    After(Duration),
}

impl Fate {
    fn draw() -> Self {
        if fastrand::u8(..10) < 7 {
            // Mostly one of the first passages: a run passes some places once only.
            let passage = [1, 1, 2, 3, fastrand::u32(1..=12)][fastrand::usize(..5)];
            Self::At { point: failpoint::ALL[fastrand::usize(..failpoint::ALL.len())], passage }
        } else {
            Self::After(Duration::from_millis(fastrand::u64(200..2000)))
        }
    }

    fn order(self) -> String {
        match self {
            Self::At { point, passage } => format!("{point}:{passage}=kill"),
            Self::After(_) => String::new(),
        }
    }

    fn latest(self) -> Duration {
        match self {
            Self::At { .. } => LONGEST_LIFE,
            Self::After(time) => time,
        }
    }
}

impl<'w> Storm<'w> {
    pub async fn over(world: &'w World, workers: usize, follow: bool) -> Self {
        let census = world.simulator.world();
        let players = census.player_tags().iter().cloned().map(ObjectId::player);
        let clans = census.clan_tags().iter().cloned().map(ObjectId::clan);
        let wars = census.clans_in_war().iter().cloned().map(ObjectId::war);
        let mut unasked: Vec<ObjectId> = players.chain(clans).chain(wars).collect();
        fastrand::shuffle(&mut unasked);
        if follow {
            evidence::fill_caches(world, &unasked).await;
        }
        Self {
            world,
            workers,
            follow,
            began: Instant::now(),
            unasked: RefCell::new(unasked),
            asked: RefCell::default(),
            credit: Cell::new(BACKLOG),
            started: Cell::new(0),
            kills: Cell::new(0),
            at_failpoints: RefCell::default(),
            wanted: Cell::new(0),
            waiting: RefCell::default(),
            recoveries: RefCell::default(),
            overlong: Cell::new(0),
            settled_unstored: RefCell::default(),
            ends: RefCell::default(),
        }
    }

    pub fn lasted(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn progress(&self) -> String {
        format!(
            "{:4} s  {} kills of {}, {} requests, {} calls, {} leased again, {} settled without stored",
            self.began.elapsed().as_secs(),
            self.kills.get(),
            self.wanted.get(),
            self.asked.borrow().len(),
            self.world.simulator.total_calls(),
            self.recoveries.borrow().len(),
            self.settled_unstored.borrow().len(),
        )
    }

    /// Kills so many runs with this lease time, and returns when what they had leased is leased again.
    pub async fn rage(&self, kills: usize, lease: Duration) {
        self.wanted.set(self.kills.get() + kills);
        let works = join_all((0..self.workers).map(|_| self.work(lease)));
        let killed_and_recovered = async {
            works.await;
            // Runs that nobody kills take up what the last killed ones left.
            join_all((0..self.workers).map(|_| self.recover(lease))).await;
        };
        tokio::select! {
            () = killed_and_recovered => {}
            _ = self.watch() => {}
        }
    }

    async fn recover(&self, lease: Duration) {
        let mut worker = self.start(lease, "").await;
        while !self.waiting.borrow().is_empty() {
            worker.invoke(&json!({ "max_requests": 50 }), PLENTY).await;
            sleep(LOOK).await;
        }
    }

    fn is_over(&self) -> bool {
        self.kills.get() >= self.wanted.get()
    }

    async fn start(&self, lease: Duration, order: &str) -> WorkerProcess {
        let (lease, cap) = (lease.as_secs().to_string(), CAP.to_string());
        self.started.set(self.started.get() + 1);
        // So that the simulator's log shows which process called.
        let process = format!("/process-{}/v1", self.started.get());
        let base_url = self.world.simulator.base_url().as_str().replace("/v1", &process);
        let settings = [
            ("FAILPOINT", order),
            ("LEASE_SECONDS", &lease),
            ("KEYS_PER_RUN", "1"),
            ("COC_REQS_PER_SEC", &cap),
            ("COC_MAX_REQS_PER_SEC", &cap),
            ("COC_BASE_URL", &base_url),
        ];
        let following = if self.follow { evidence::FOLLOWING } else { &[] };
        self.world.worker_with(&[&settings, following].concat()).await
    }

    /// Runs process after process, each until its death.
    async fn work(&self, lease: Duration) {
        let mut redis = self.world.redis().await;
        while !self.is_over() {
            let fate = Fate::draw();
            let mut worker = self.start(lease, &fate.order()).await;
            let death = sleep(fate.latest());
            tokio::pin!(death);
            let run = loop {
                let running = worker.begin(&next_event(), PLENTY).await;
                let run = running.request_id().to_owned();
                let finished = tokio::select! {
                    finished = worker.finish(running) => finished.outcome,
                    () = &mut death => {
                        worker.kill().await;
                        break run;
                    }
                };
                match self.is_death(finished, fate) {
                    Some(true) => break run,
                    Some(false) => {}
                    // Turned away: only a run that works is worth killing.
                    None => death.as_mut().reset(tokio::time::Instant::now() + fate.latest()),
                }
                sleep(LOOK).await;
            };
            self.note_kill(&mut redis, &run, lease).await;
        }
    }

    /// True when the process is dead; else the end of its run is recorded. `None`: it was turned away.
    fn is_death(&self, outcome: Outcome, fate: Fate) -> Option<bool> {
        let end = match outcome {
            Outcome::Exited(status) if status.signal() == Some(9) => {
                if let Fate::At { point, .. } = fate {
                    *self.at_failpoints.borrow_mut().entry(point).or_default() += 1;
                }
                return Some(true);
            }
            Outcome::Response(answer) => answer["stopped_because"].as_str().unwrap_or("?").to_owned(),
            other => format!("{other:?}"),
        };
        let is_death = end.starts_with("Exited") || end.starts_with("TimedOut");
        let is_turned_away = end == "already_running";
        *self.ends.borrow_mut().entry(end).or_default() += 1;
        (!is_turned_away).then_some(is_death)
    }

    async fn note_kill(&self, redis: &mut MultiplexedConnection, run: &str, lease: Duration) {
        self.kills.set(self.kills.get() + 1);
        let holdings = Holdings::over(redis).await;
        for (object, record) in holdings.leased() {
            let token = record.token.clone().unwrap_or_default();
            if token.rsplit_once(':').is_some_and(|(holder, _)| holder == run) {
                let free = record.expires.unwrap_or_default();
                if free > holdings.at + lease {
                    self.overlong.set(self.overlong.get() + 1);
                }
                let abandoned =
                    Abandoned { object: object.clone(), token: Some(token), killed: holdings.at, free, lease };
                self.waiting.borrow_mut().push(abandoned);
            }
        }
    }

    /// Producers and watchers; they never end by themselves.
    async fn watch(&self) -> std::convert::Infallible {
        tokio::join!(self.produce(), self.produce(), self.see_recoveries(), self.see_settlements(), self.see_events()).0
    }

    /// Writes requests as producers do: two commands, in either order, sometimes with a pause between them.
    async fn produce(&self) -> std::convert::Infallible {
        let mut redis = self.world.redis().await;
        loop {
            let Some(object) = self.next_object() else {
                sleep(LOOK).await;
                continue;
            };
            let (id, priority, value) = mail(&object);
            let pause =
                if fastrand::u8(..20) == 0 { Duration::from_millis(fastrand::u64(1..300)) } else { Duration::ZERO };
            let index = redis::cmd("ZADD").arg("refresh_queue").arg(priority).arg(&id).to_owned();
            let data = redis::cmd("HSET").arg("refresh_requests").arg(&id).arg(&value).to_owned();
            let (first, second) = if fastrand::bool() { (index, data) } else { (data, index) };
            first.exec_async(&mut redis).await.expect("Redis answers");
            sleep(pause).await;
            second.exec_async(&mut redis).await.expect("Redis answers");
            self.asked.borrow_mut().insert(object.to_string());
        }
    }

    fn next_object(&self) -> Option<ObjectId> {
        if self.credit.get() == 0 || self.is_over() {
            return None;
        }
        self.credit.set(self.credit.get() - 1);
        self.unasked.borrow_mut().pop()
    }

    /// Looks when what killed runs had leased is leased again.
    async fn see_recoveries(&self) -> std::convert::Infallible {
        let mut redis = self.world.redis().await;
        loop {
            sleep(LOOK).await;
            let waiting = self.waiting.borrow().clone();
            if waiting.is_empty() {
                continue;
            }
            let mut pipe = redis::pipe();
            pipe.atomic().cmd("TIME").cmd("HMGET").arg("{refresh}:objects");
            for abandoned in &waiting {
                pipe.arg(&abandoned.object);
            }
            let ((seconds, micros), records): ((i64, i64), Vec<Option<String>>) =
                pipe.query_async(&mut redis).await.expect("Redis answers");
            let now = Timestamp::from_millis(seconds * 1000 + micros / 1000);
            let mut again = BTreeSet::new();
            for (abandoned, json) in waiting.iter().zip(records) {
                let record: Option<Record> = json.and_then(|json| serde_json::from_str(&json).ok());
                if let Some(leased) = leased_again(abandoned, record.as_ref(), now) {
                    again.insert((abandoned.object.clone(), abandoned.token.clone()));
                    self.recoveries.borrow_mut().push(Recovery {
                        lease: abandoned.lease,
                        until_free: abandoned.free.since(abandoned.killed),
                        until_leased: leased.since(abandoned.killed),
                    });
                }
            }
            let is_again = |one: &Abandoned| again.contains(&(one.object.clone(), one.token.clone()));
            self.waiting.borrow_mut().retain(|abandoned| !is_again(abandoned));
        }
    }

    /// Looks for requests that have left the queue and are not in the database, and lets producers go on.
    async fn see_settlements(&self) -> std::convert::Infallible {
        let mut redis = self.world.redis().await;
        loop {
            // In this order: what is not in the queue any more was committed before.
            let asked = self.asked.borrow().clone();
            let holdings = Holdings::over(&mut redis).await;
            let stored = evidence::stored(self.world).await;
            let gone = asked.into_iter().filter(|object| !holdings.holds(object) && !stored.contains(object));
            self.settled_unstored.borrow_mut().extend(gone);
            self.credit.set(BACKLOG.saturating_sub(holdings.waiting()));
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn see_events(&self) -> std::convert::Infallible {
        loop {
            println!("{}", self.progress());
            sleep(Duration::from_secs(15)).await;
        }
    }
}

/// The time at which an abandoned object was leased again, if it was. A lease ends one lease time after it began or was renewed last.
fn leased_again(abandoned: &Abandoned, record: Option<&Record>, now: Timestamp) -> Option<Timestamp> {
    match record {
        Some(record) if record.state == State::Leased && record.token != abandoned.token => {
            Some(record.expires.map_or(now, |expires| (expires - abandoned.lease).min(now)))
        }
        // Its next look waits for its time: it was settled before we looked.
        Some(record) if is_look(&abandoned.object, record, now) => Some(now),
        Some(record) if record.state != State::Dead => None,
        // Settled, or buried, before we looked.
        _ => Some(now),
    }
}

/// Runs of every length.
fn next_event() -> serde_json::Value {
    if fastrand::bool() { events::schedule() } else { json!({ "max_requests": fastrand::u8(3..40) }) }
}

/// Id, class and value as the Python producer writes them, asked five minutes ago.
fn mail(object: &ObjectId) -> (String, u8, String) {
    let (kind, tag, priority) = (object.kind, object.tag.as_str(), fastrand::u8(..4));
    let tag = match fastrand::u8(..4) {
        0 => format!("#{tag}"),
        1 => tag.to_lowercase(),
        _ => tag.to_owned(),
    };
    let id = format!("{kind}:{tag}");
    let requested_at = python_time(OffsetDateTime::now_utc() - Duration::from_secs(300));
    let value = format!(
        r#"{{"id": "{id}", "type": "{kind}", "tag": "{tag}", "priority": {priority}, "requested_at": "{requested_at}", "last_updated": null, "retry_count": 0}}"#
    );
    (id, priority, value)
}
