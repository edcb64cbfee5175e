//! Follow-ups of runs: polls over whole wars, and members whose documents are old.

use std::{future::Future, sync::Arc, time::Duration};

use refresh_worker::{
    api::{client::ApiClient, keys::KeyStore},
    app,
    clock::{Clock, ManualClock, SystemClock, Timestamp},
    config::{FollowUpConfig, WorkerConfig},
    model::{AimdState, Event, Fingerprint, Kind, ObjectId, Priority, RefreshRequest, Tag},
    queue::{
        Admitted, CallsGranted, Circuit, CircuitScope, ClaimRequest, Claimed, Enqueued, Following, Lease, LeaseRequest,
        LeaseToken, Leased, MailLimits, Publisher, Queue, QueueError, QueueStats, Repaired, Settled, Settlement,
        SharedState, Slot, SlotView, mailbox::Mail, memory::MemoryQueue,
    },
    sim::{Misbehaviour, Rule, SimConfig, Simulator},
    store::{Store, sqlite::SqliteStore},
    worker::{ApiAccess, RunOptions, Runs, Stop, Unwatched, Worker, report::RunReport, tables::Tables},
};
use serde_json::Value;

use super::bed::{TOKEN, seconds};
use crate::queue::beds;

const HOUR: Duration = Duration::from_secs(60 * 60);
pub const WARS: FollowUpConfig = FollowUpConfig { wars: true, players_per_clan: 0 };
const MEMBERS: FollowUpConfig = FollowUpConfig { wars: false, players_per_clan: 5 };

/// A queue whose server's clock is the test's. Everything else is the queue's own.
#[derive(Debug)]
pub struct Clocked<Q> {
    pub queue: Q,
    clock: Arc<ManualClock>,
}

macro_rules! as_the_queue {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        $(fn $name(&self, $($argument: $kind),*) -> impl Future<Output = Result<$answer, QueueError>> + Send {
            self.queue.$name($($argument),*)
        })*
    };
}

impl<Q: Queue> Publisher for Clocked<Q> {
    as_the_queue! {
        publish_events(stream: &str, most: u64, events: &[Event]) -> usize;
        delete_cache_keys(keys: &[String]) -> usize;
    }
}

impl<Q: Queue> Queue for Clocked<Q> {
    async fn time(&self) -> Result<Timestamp, QueueError> {
        Ok(self.clock.wall())
    }

    as_the_queue! {
        read_mail(now: Timestamp, limits: MailLimits) -> Mail;
        admit(now: Timestamp, mail: Mail) -> Admitted;
        enqueue(now: Timestamp, requests: &[RefreshRequest]) -> Enqueued;
        lease(now: Timestamp, request: &LeaseRequest) -> Leased;
        claim(now: Timestamp, request: &ClaimRequest) -> Claimed;
        renew(now: Timestamp, leases: &[(ObjectId, LeaseToken)], until: Timestamp) -> Vec<bool>;
        settle_and_follow(now: Timestamp, settlements: &[(Lease, Settlement)], following: Following<'_>) -> (Vec<Settled>, usize);
        reconcile(now: Timestamp) -> Repaired;
        lift_holds(now: Timestamp, code: &str) -> usize;
        return_set_aside(now: Timestamp, kind: Kind, until: Timestamp) -> usize;
        stats(now: Timestamp) -> QueueStats;
    }
}

impl<Q: SharedState> SharedState for Clocked<Q> {
    as_the_queue! {
        take_key(key: &Fingerprint, run: &str, lifetime: Duration) -> Slot;
        renew_keys(keys: &[Fingerprint], run: &str, lifetime: Duration) -> Vec<bool>;
        cool_down_key(key: &Fingerprint, run: &str, reason: &str, rest: Duration) -> ();
        release_key(key: &Fingerprint, run: &str, linger: Duration) -> ();
        remember_rate(key: &Fingerprint, learned: AimdState) -> ();
        look_at_key(key: &Fingerprint) -> SlotView;
        end_cooldown(key: &Fingerprint) -> bool;
        take_calls(day: Timestamp, wanted: u64, per_day: u64) -> CallsGranted;
        return_calls(day: Timestamp, calls: u64) -> ();
        calls_taken(day: Timestamp) -> u64;
        circuits() -> Vec<Circuit>;
        open_circuit(circuit: &Circuit) -> ();
        claim_probe(scope: CircuitScope, seen: Timestamp, next: Timestamp) -> bool;
        close_circuit(scope: CircuitScope) -> ();
    }
}

/// A worker over a world that goes on with the test's clock.
pub struct Stage<Q> {
    pub worker: Worker<Clocked<Q>, SqliteStore>,
    pub simulator: Simulator,
    pub clock: Arc<ManualClock>,
}

pub async fn in_memory(follow_ups: FollowUpConfig) -> Stage<MemoryQueue> {
    stage(follow_ups, |clock| MemoryQueue::new(clock)).await
}

async fn stage<Q: Queue + SharedState>(
    follow_ups: FollowUpConfig,
    queue: impl FnOnce(Arc<ManualClock>) -> Q,
) -> Stage<Q> {
    stage_with(WorkerConfig { follow_ups, ..WorkerConfig::default() }, queue).await
}

pub async fn stage_with<Q: Queue + SharedState>(
    config: WorkerConfig,
    queue: impl FnOnce(Arc<ManualClock>) -> Q,
) -> Stage<Q> {
    let clock = ManualClock::at(SystemClock.wall());
    let world = SimConfig {
        tokens: vec![TOKEN.to_owned()],
        clock: clock.clone(),
        evolve: 1.0,
        clans: 32,
        ..SimConfig::default()
    };
    let simulator = Simulator::start(world).await.unwrap();
    let store = SqliteStore::in_memory().await.unwrap().with_details(app::commit_details(&config, false));
    store.migrate().await.unwrap();
    let worker = Worker {
        queue: Arc::new(Clocked { queue: queue(clock.clone()), clock: clock.clone() }),
        store: Arc::new(store),
        api: ApiAccess {
            client: ApiClient::new(&simulator.base_url()).unwrap(),
            key_store: KeyStore::from_tokens(vec![TOKEN.into()]),
            reqs_per_sec: 500,
            keys_per_run: None,
            reqs_per_day: None,
        },
        clock: clock.clone(),
        config,
        stop: Stop::default(),
        tables: Tables::given(),
        after: None,
    };
    Stage { worker, simulator, clock }
}

impl<Q: Queue + SharedState> Stage<Q> {
    pub async fn ask(&self, object: &ObjectId, priority: Priority) {
        let now = self.clock.wall();
        self.worker.queue.enqueue(now, &[RefreshRequest::now(object.clone(), priority, now)]).await.unwrap();
    }

    pub async fn run(&self) -> RunReport {
        let report = self.worker.run(RunOptions::default(), &Unwatched).await;
        assert!(report.failure.is_none(), "{report:?}");
        // The slot of the key lives on for a moment: in memory by this clock, in Redis by its own.
        self.clock.advance(Duration::from_millis(100));
        tokio::time::sleep(Duration::from_millis(3)).await;
        report
    }

    /// Another clan's war had a good response before: a control call shows that the endpoint works.
    async fn know_another_war(&self, but: &Tag) {
        let other = self.simulator.world().clan_tags().iter().find(|tag| *tag != but).unwrap().clone();
        sqlx::query(
            "insert into refresh_worker_refresh_state (kind, tag, fetched_at, fresh_until, last_outcome)
             values ('war', ?, '2999-01-01 00:00:00.000000', '2020-01-01 00:00:00.000000', 'stored')",
        )
        .bind(other.as_str())
        .execute(self.worker.store.pool())
        .await
        .unwrap();
    }

    pub async fn stats(&self) -> QueueStats {
        self.worker.queue.stats(self.clock.wall()).await.unwrap()
    }

    /// Sleeps until the next request is due; false when none is.
    pub async fn sleep_until_due(&self) -> bool {
        let Some(due) = self.stats().await.next_due else { return false };
        self.clock.advance(due.since(self.clock.wall()) + seconds(1));
        true
    }

    async fn state_of(&self, clan: &Tag) -> String {
        let newest: Option<String> = sqlx::query_scalar(
            "select data ->> 'state' from war_snapshots where clan_tag = ? order by ts desc limit 1",
        )
        .bind(clan.as_str())
        .fetch_optional(self.worker.store.pool())
        .await
        .unwrap();
        newest.unwrap_or_default()
    }

    pub fn clan_in_preparation(&self) -> Tag {
        self.simulator.world().preparation()[0].clone()
    }
}

/// A clan's war from its preparation to its end, requested once.
async fn a_whole_war<Q: Queue + SharedState>(
    stage: &Stage<Q>,
    meddle: impl AsyncFn(&ObjectId, usize),
) -> (Vec<String>, Vec<Timestamp>) {
    let clan = stage.clan_in_preparation();
    let war = ObjectId::war(clan.clone());
    stage.ask(&war, Priority::High).await;
    let (mut states, mut looks) = (Vec::new(), Vec::new());
    loop {
        let calls = stage.simulator.total_calls();
        stage.run().await;
        if stage.simulator.total_calls() > calls {
            looks.push(stage.clock.wall());
            states.push(stage.state_of(&clan).await);
        }
        let queue = stage.stats().await;
        assert!(queue.delayed + queue.ready <= 1, "one live entry: {queue:?}");
        meddle(&war, looks.len()).await;
        if stage.stats().await.ready == 0 && !stage.sleep_until_due().await {
            return (states, looks);
        }
        assert!(looks.len() < 1000);
    }
}

/// The simulator's world is found nine hours after the war was: 14 hours of preparation and 24 of war are left.
fn assert_clocked(states: &[String], looks: &[Timestamp]) {
    let count = |state: &str| states.iter().filter(|one| *one == state).count();
    assert!((14..=16).contains(&count("preparation")), "hourly: {}", count("preparation"));
    assert!((280..=300).contains(&count("inWar")), "every five minutes: {}", count("inWar"));
    assert!((1..=2).contains(&count("warEnded")), "when it ends, and once when all is in: {}", count("warEnded"));
    assert_eq!(states.last().unwrap(), "warEnded");
    assert!(looks.windows(2).all(|pair| pair[1].since(pair[0]) <= HOUR + seconds(5)));
}

#[tokio::test]
async fn war_is_polled_to_its_end_only() {
    let stage = in_memory(WARS).await;
    let (states, looks) = Box::pin(a_whole_war(&stage, async |_, _| {})).await;
    println!("calls of a war from 14 h before its start: {}", stage.simulator.total_calls());
    assert_clocked(&states, &looks);
    let calls = stage.simulator.total_calls();
    assert!(
        calls <= looks.len() as u64 + 2,
        "a look is one call, and after the war one more asks for a league: {calls}"
    );
    let left = stage.stats().await;
    assert_eq!((left.ready, left.delayed, left.leased, left.dead_letters), (0, 0, 0, 0));
}

/// Requests for a war add no polls of its own.
#[tokio::test]
async fn requested_war_has_no_extra_polls() {
    let stage = in_memory(WARS).await;
    // A producer asks after every look, at a time of its own.
    let (_, looks) = a_whole_war(&stage, async |war, look| {
        if look % 3 == 1 && look < 300 {
            stage.clock.advance(seconds(130));
            stage.ask(war, Priority::Medium).await;
        }
    })
    .await;
    let quiet = 14 + 300 + 3;
    assert!(looks.len() <= quiet + 101, "{} looks, of which a hundred were asked for", looks.len());
}

#[tokio::test]
async fn redis_queue_polls_wars_likewise() {
    let url = crate::support::redis::fresh().await;
    let stage = stage(WARS, |_| beds::connect(&url)).await;
    let (states, looks) = Box::pin(a_whole_war(&stage, async |_, _| {})).await;
    assert_clocked(&states, &looks);
}

#[tokio::test]
async fn switched_off_wars_are_not_polled() {
    let stage = in_memory(FollowUpConfig::NONE).await;
    stage.ask(&ObjectId::war(stage.clan_in_preparation()), Priority::High).await;
    let report = stage.run().await;
    assert_eq!((report.followups, stage.stats().await.delayed), (0, 0));
}

/// From what is stored with the war.
#[tokio::test]
async fn poll_lost_with_its_run_is_recovered() {
    let stage = in_memory(WARS).await;
    let war = ObjectId::war(stage.clan_in_preparation());
    stage.ask(&war, Priority::High).await;
    stage.run().await;
    let due = stage.stats().await.next_due;
    assert!(due.is_some());
    // As after a death between storing and settling: stored, and nothing waits but the lapsed request itself.
    let forget = LeaseRequest {
        max: 1,
        duration: seconds(1),
        priorities: Vec::new(),
        alone: true,
        seed: 1,
        run: "forgets".to_owned(),
        first: Vec::new(),
        ..LeaseRequest::default()
    };
    let later = due.unwrap() + seconds(1);
    let leased = stage.worker.queue.lease(later, &forget).await.unwrap();
    stage.worker.queue.settle(later, &[(leased.leases[0].clone(), Settlement::Done)]).await.unwrap();
    assert_eq!(stage.stats().await.delayed, 0);
    stage.ask(&war, Priority::High).await;
    let calls = stage.simulator.total_calls();
    let report = stage.run().await;
    assert_eq!((report.outcomes["fresh"], stage.simulator.total_calls()), (1, calls));
    assert_eq!(stage.stats().await.next_due, due, "the same look, from memory");
}

#[tokio::test]
async fn failing_polls_do_not_end_a_war() {
    let stage = in_memory(WARS).await;
    let clan = stage.clan_in_preparation();
    stage.know_another_war(&clan).await;
    let war = ObjectId::war(clan.clone());
    stage.ask(&war, Priority::High).await;
    stage.run().await;
    // More than the attempts of one request.
    stage.simulator.misbehave(Rule::new(Misbehaviour::Status500).on_tag(clan.as_str()));
    for _ in 0..4 {
        assert!(stage.sleep_until_due().await, "it waits for its next look");
        stage.run().await;
        let queue = stage.stats().await;
        assert_eq!((queue.delayed, queue.dead_letters), (1, 0), "{queue:?}");
    }
    stage.simulator.clear();
    while stage.sleep_until_due().await {
        stage.run().await;
    }
    assert_eq!(stage.state_of(&clan).await, "warEnded");
    assert_eq!(stage.stats().await.dead_letters, 0);
}

/// Polls that fail for good make a dead letter, but only long after the war's end.
#[tokio::test]
async fn war_failing_past_its_end_dies() {
    let stage = in_memory(WARS).await;
    let clan = stage.clan_in_preparation();
    stage.know_another_war(&clan).await;
    stage.ask(&ObjectId::war(clan.clone()), Priority::High).await;
    stage.run().await;
    stage.simulator.misbehave(Rule::new(Misbehaviour::Status500).on_tag(clan.as_str()));
    stage.clock.advance(3 * 24 * HOUR);
    let mut looks = 0;
    while stage.sleep_until_due().await {
        stage.run().await;
        looks += 1;
        assert!(looks < 10);
    }
    stage.run().await;
    assert_eq!(stage.stats().await.dead_letters, 1);
}

#[tokio::test]
async fn private_war_log_is_polled_by_opponent() {
    let stage = in_memory(WARS).await;
    let clan = stage.clan_in_preparation();
    let war = ObjectId::war(clan.clone());
    stage.ask(&war, Priority::High).await;
    stage.run().await;
    let memory: String =
        sqlx::query_scalar("select league from refresh_worker_refresh_state where kind = 'war' and tag = ?")
            .bind(clan.as_str())
            .fetch_one(stage.worker.store.pool())
            .await
            .unwrap();
    let memory: Value = serde_json::from_str(&memory).unwrap();
    let opponent = memory["war"]["opponent"].as_str().unwrap().to_owned();
    stage.simulator.misbehave(Rule::new(Misbehaviour::PrivateWarLog).on_tag(clan.as_str()));
    stage.sleep_until_due().await;
    stage.run().await;
    let asked = stage.simulator.calls_to(&format!("%23{opponent}/currentwar")).len();
    let followed = stage.stats().await.delayed;
    // The other clan is one of this world or a stranger that nobody can ask.
    let is_known = stage.simulator.world().clan_tags().iter().any(|tag| tag.as_str() == opponent);
    assert_eq!((asked, followed), (1, u64::from(is_known)), "one call, and on with the clock if it shows the war");
    if !is_known {
        stage.clock.advance(HOUR);
        stage.ask(&war, Priority::High).await;
        stage.run().await;
        assert_eq!(stage.simulator.calls_to(&format!("%23{opponent}/")).len(), 1, "once");
    }
}

/// Each round is polled to its end.
#[tokio::test]
async fn league_rounds_are_polled_one_by_one() {
    let stage = in_memory(WARS).await;
    let world = stage.simulator.world();
    let clan = world.in_league()[0].clone();
    stage.ask(&ObjectId::war(clan.clone()), Priority::High).await;
    let (mut ended, mut calls) = (0, 0);
    let until = stage.clock.wall() + 3 * 24 * HOUR;
    let mut last = String::new();
    while stage.clock.wall() < until {
        stage.run().await;
        let now_it_is = stage.state_of(&clan).await;
        ended += usize::from(now_it_is == "warEnded" && last != "warEnded");
        last = now_it_is;
        assert!(stage.stats().await.delayed <= 1);
        if !stage.sleep_until_due().await {
            break;
        }
        calls += 1;
        assert!(calls < 2000);
    }
    assert_eq!(ended, 3, "three rounds ended in three days");
    assert!(calls < 3 * 300, "{calls} looks at three rounds");
    assert_eq!(last, "inWar");
}

/// At most as many as the settings allow.
#[tokio::test]
async fn outdated_members_follow_their_clan() {
    let stage = in_memory(MEMBERS).await;
    let clan = stage.simulator.world().clan_tags()[0].clone();
    stage.ask(&ObjectId::clan(clan.clone()), Priority::High).await;
    let first = stage.run().await;
    assert_eq!((first.followups, first.outcomes_by_kind["player"]["stored"]), (5, 5), "{first:?}");
    assert_eq!(stage.simulator.total_calls(), 6, "and the run ends");

    // As long as they are fresh, others get their turn; each is asked for once.
    let members: i64 = sqlx::query_scalar("select count(*) from players where clan_tag = ?")
        .bind(clan.as_str())
        .fetch_one(stage.worker.store.pool())
        .await
        .unwrap();
    let mut asked = 5;
    for _ in 0..20 {
        stage.clock.advance(seconds(130));
        stage.ask(&ObjectId::clan(clan.clone()), Priority::High).await;
        asked += stage.run().await.followups;
    }
    let members = u64::try_from(members).unwrap();
    assert!(asked >= members && asked <= members + 5, "{asked} of {members}: all once, and who came since");
    assert_eq!(stage.stats().await.ready, 0);
}

#[tokio::test]
async fn no_member_is_added_to_a_full_queue() {
    let stage = in_memory(MEMBERS).await;
    let world = stage.simulator.world();
    // A slow key: what it can do in two minutes is little.
    let api = ApiAccess { reqs_per_sec: 1, ..stage.worker.api };
    let worker = Worker { api, ..stage.worker };
    let stage = Stage { worker, ..stage };
    for player in &world.player_tags()[..130] {
        stage.ask(&ObjectId::player(player.clone()), Priority::Low).await;
    }
    stage.ask(&ObjectId::clan(world.clan_tags()[0].clone()), Priority::Critical).await;
    let options = RunOptions { max_requests: Some(1), ..RunOptions::default() };
    let report = stage.worker.run(options, &Unwatched).await;
    assert_eq!((report.processed_requests, report.followups), (1, 0), "{report:?}");
    assert_eq!(stage.stats().await.ready, 130);
}

#[tokio::test]
async fn follow_up_revives_no_dead_letter() {
    let stage = in_memory(FollowUpConfig { wars: true, players_per_clan: 50 }).await;
    let clan = stage.simulator.world().clan_tags()[0].clone();
    stage.simulator.misbehave(Rule::new(Misbehaviour::BadRequest).on(refresh_worker::sim::Endpoint::Player));
    stage.ask(&ObjectId::clan(clan.clone()), Priority::High).await;
    stage.run().await;
    let dead = stage.stats().await.dead_letters;
    assert!(dead > 0);
    let calls = stage.simulator.total_calls();
    stage.clock.advance(seconds(130));
    stage.ask(&ObjectId::clan(clan), Priority::High).await;
    stage.run().await;
    assert!(stage.simulator.total_calls() - calls <= 3, "the clan, and at most who came since");
}
