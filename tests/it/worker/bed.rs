//! A worker over the simulator, with the queue in memory and SQLite: everything of a run but the servers. What the
//! servers do is tested in `queue`, `store` and `lambda`.

use std::{sync::Arc, time::Duration};

use refresh_worker::{
    api::{client::ApiClient, keys::KeyStore},
    app,
    clock::{Clock, ManualClock, SystemClock, Timestamp},
    config::{FollowUpConfig, WorkerConfig},
    model::{ObjectId, Priority, RefreshRequest},
    queue::{DeadFilter, DeadLetter, Queue, QueueAdmin, QueueStats, memory::MemoryQueue},
    sim::{SimConfig, Simulator},
    store::{Store, sqlite::SqliteStore},
    worker::{ApiAccess, RunOptions, Runs, Stop, Unwatched, Worker, report::RunReport, tables::Tables},
};

pub const TOKEN: &str = "token-of-the-bed";

/// Fast enough that a test need not wait, slow enough that the limiter is at work.
pub const RATE: u32 = 200;

pub struct Bed {
    pub worker: Worker<MemoryQueue, SqliteStore>,
    pub simulator: Simulator,
    pub clock: Arc<ManualClock>,
}

impl Bed {
    /// A bed whose clock stands at the present until the test moves it.
    pub async fn start() -> Self {
        Self::with(|_| {}, &[TOKEN]).await
    }

    pub async fn with(change: impl FnOnce(&mut WorkerConfig), tokens: &[&str]) -> Self {
        let clock = ManualClock::at(SystemClock.wall());
        let tokens: Vec<String> = tokens.iter().map(|token| (*token).to_owned()).collect();
        let config = SimConfig { tokens: tokens.clone(), clock: clock.clone(), ..SimConfig::default() };
        let simulator = Simulator::start(config).await.expect("a loopback port is free");
        // Nothing follows by itself unless the test wants it, so that calls can be counted.
        let mut worker_config = WorkerConfig { follow_ups: FollowUpConfig::NONE, ..WorkerConfig::default() };
        change(&mut worker_config);
        let store = SqliteStore::in_memory().await.expect("SQLite opens in memory");
        let store = store.with_details(app::commit_details(&worker_config, false));
        store.migrate().await.expect("the migrations run");
        let worker = Worker {
            queue: Arc::new(MemoryQueue::new(clock.clone())),
            store: Arc::new(store),
            api: ApiAccess {
                client: ApiClient::new(&simulator.base_url()).expect("the simulator's address is one"),
                key_store: KeyStore::from_tokens(tokens.into_iter().map(Into::into).collect()),
                reqs_per_sec: RATE,
                keys_per_run: None,
                reqs_per_day: None,
            },
            clock: clock.clone(),
            config: worker_config,
            stop: Stop::default(),
            tables: Tables::given(),
            after: None,
        };
        Self { worker, simulator, clock }
    }

    /// A second worker on the same queue, store and keys, as another invocation would be.
    pub fn another(&self) -> Worker<MemoryQueue, SqliteStore> {
        self.another_on(Arc::clone(&self.worker.queue))
    }

    /// The same on another queue.
    pub fn another_on<Q>(&self, queue: Arc<Q>) -> Worker<Q, SqliteStore> {
        Worker {
            queue,
            store: Arc::clone(&self.worker.store),
            api: ApiAccess {
                client: ApiClient::new(&self.simulator.base_url()).expect("the simulator's address is one"),
                key_store: self.worker.api.key_store.clone(),
                reqs_per_sec: RATE,
                keys_per_run: None,
                reqs_per_day: None,
            },
            clock: self.clock.clone(),
            config: self.worker.config.clone(),
            stop: Stop::default(),
            tables: Tables::given(),
            after: None,
        }
    }

    pub async fn now(&self) -> Timestamp {
        self.worker.queue.time().await.expect("memory answers")
    }

    pub async fn ask(&self, objects: impl IntoIterator<Item = ObjectId>) {
        self.ask_as(Priority::High, objects).await;
    }

    pub async fn ask_as(&self, priority: Priority, objects: impl IntoIterator<Item = ObjectId>) {
        let now = self.now().await;
        let requests: Vec<RefreshRequest> =
            objects.into_iter().map(|object| RefreshRequest::now(object, priority, now)).collect();
        self.worker.queue.enqueue(now, &requests).await.expect("memory answers");
    }

    pub async fn run(&self) -> RunReport {
        self.run_with(RunOptions::default()).await
    }

    /// Runs to the end; then so much time passes that the key's slot is free again.
    pub async fn run_with(&self, options: RunOptions) -> RunReport {
        let report = self.worker.run(options, &Unwatched).await;
        self.clock.advance(Duration::from_millis(100));
        report
    }

    pub async fn stats(&self) -> QueueStats {
        self.worker.queue.stats(self.now().await).await.expect("memory answers")
    }

    pub async fn dead(&self) -> Vec<DeadLetter> {
        self.worker.queue.dead_letters(&DeadFilter::default(), 100).await.expect("memory answers")
    }

    pub fn players(&self, count: usize) -> Vec<ObjectId> {
        let census = self.simulator.world();
        assert!(census.player_tags().len() >= count, "the world is too small for {count} players");
        census.player_tags()[..count].iter().cloned().map(ObjectId::player).collect()
    }

    pub fn clans(&self, count: usize) -> Vec<ObjectId> {
        self.simulator.world().clan_tags()[..count].iter().cloned().map(ObjectId::clan).collect()
    }
}

/// The outcomes of a report that are not zero.
pub fn outcomes(report: &RunReport) -> Vec<(&'static str, u64)> {
    report.outcomes.iter().filter(|(_, count)| **count > 0).map(|(name, count)| (*name, *count)).collect()
}

pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Lets the bed's clock go with the machine's.
pub fn time_passes(bed: &Bed) -> tokio::task::JoinHandle<()> {
    let clock = bed.clock.clone();
    tokio::spawn(async move {
        let step = Duration::from_millis(10);
        loop {
            tokio::time::sleep(step).await;
            clock.advance(step);
        }
    })
}
