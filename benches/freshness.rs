//! A day of readers, with and without the freshness planner, at 60 times the speed of time.
//!
//! The whole worker with the memory queue and SQLite, over the simulator's HTTP, 1 call a second for about 2,000 objects. Readers read
//! them, some far more often than others, and request what is older than ten minutes. Clock and timers of the worker and of the
//! simulator all run 60 times as fast, so that a day takes 24 minutes; both days run side by side.
//!
//! ```text
//! cargo bench --bench freshness
//! ```
//!
//! Prints the reads that met a copy equal to upstream at that moment, those that were flagged as too old (budget: with the planner at most 70 % of
//! those without), and the bracket that `report` would show (budget: the truth lies within it).
//! `BENCH_HOURS` measures fewer hours than 24, after three in which everything is fetched first. `BENCH_READS` is the number of reads
//! a minute.

use std::{
    collections::HashMap,
    fmt::Write as _,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use refresh_worker::{
    api::{client::ApiClient, keys::KeyStore},
    app,
    clock::{Clock, SystemClock, Timestamp},
    config::{FollowUpConfig, PlannerConfig, WorkerConfig},
    model::{Kind, ObjectId},
    queue::memory::MemoryQueue,
    sim::{SimConfig, Simulator},
    store::{Store as _, Teaching, sqlite::SqliteStore},
    worker::{ApiAccess, RunOptions, Runs as _, Stop, Unwatched, Worker, report::RunReport, tables::Tables},
};
use sha2::{Digest as _, Sha256};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime,
    sync::mpsc,
};

const SPEED: u32 = 60;

/// Real time between two ticks of the timers.
const TICK: Duration = Duration::from_millis(5);

const WARM_UP: Duration = Duration::from_secs(3 * 3600);
const MAX_AGE: Duration = Duration::from_secs(600);
const CLANS: usize = 76;
const WORKER: &str = "worker";
const READER: &str = "reader";

/// A clock that goes 60 times as fast as the machine's.
#[derive(Debug)]
struct FastClock {
    began: Instant,
    wall: Timestamp,
}

impl Clock for FastClock {
    fn wall(&self) -> Timestamp {
        self.wall + self.boot()
    }

    fn boot(&self) -> Duration {
        self.began.elapsed() * SPEED
    }
}

/// What readers met.
#[derive(Clone, Copy, Debug, Default)]
struct Reads {
    all: u64,
    fresh: u64,
    flagged: u64,
    flagged_stale: u64,
}

impl Reads {
    fn share(self, part: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a day of reads")]
        let (part, all) = (part as f64, self.all.max(1) as f64);
        100.0 * part / all
    }
}

/// What a day brought.
#[derive(Debug, Default)]
struct Day {
    reads: HashMap<Kind, Reads>,
    calls: u64,
    /// By kind: flagged reads, unflagged reads, fresh ones at least, fresh ones at most; as the reports say.
    told: HashMap<&'static str, [f64; 4]>,
    looks: u64,
    changed: u64,
    level: f64,
    errors: Vec<String>,
}

impl Day {
    fn reads(&self) -> Reads {
        self.reads.values().fold(Reads::default(), |sum, reads| Reads {
            all: sum.all + reads.all,
            fresh: sum.fresh + reads.fresh,
            flagged: sum.flagged + reads.flagged,
            flagged_stale: sum.flagged_stale + reads.flagged_stale,
        })
    }

    fn add(&mut self, report: &RunReport) {
        self.calls += report.api_requests;
        self.errors.extend(report.errors.iter().take(3).cloned());
        let Some(planned) = &report.planned else { return };
        self.looks += planned.looks;
        self.changed += planned.changed;
        self.level = planned.levels.get("main").copied().unwrap_or(self.level);
        for (kind, groups) in planned.arms.values().flat_map(|arm| &arm.kinds) {
            let told = self.told.entry(kind).or_default();
            for group in groups {
                #[expect(clippy::cast_precision_loss, reason = "a day of reads")]
                let numbers = [group.flagged as f64, group.unflagged, group.fresh_low, group.fresh_high];
                for (sum, number) in told.iter_mut().zip(numbers) {
                    *sum += number;
                }
            }
        }
    }

    /// The bracket of these kinds in per cent, rounded outwards as `report` shows it.
    fn bracket(&self, kinds: &[&str]) -> (f64, f64) {
        let told =
            |place: usize| -> f64 { kinds.iter().filter_map(|kind| self.told.get(kind)).map(|told| told[place]).sum() };
        let all = (told(0) + told(1)).max(1.0);
        ((100.0 * told(2) / all).floor(), (100.0 * told(3) / all).ceil())
    }
}

fn main() {
    let number =
        |name: &str, preset: u32| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(preset);
    let (hours, reads) = (number("BENCH_HOURS", 24), number("BENCH_READS", 40));
    let day = |planned: bool| {
        thread::spawn(move || {
            let runtime =
                runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
            runtime.block_on(fast(day(planned, Duration::from_secs(3600) * hours, reads)))
        })
    };
    let (without, with) = (day(false), day(true));
    let [without, with] = [without, with].map(|day| day.join().expect("a day never panics"));
    println!("{hours} hours, {reads} reads a minute, about 2,000 objects, 1 call a second:");
    for (name, day) in [("without", &without), ("with", &with)] {
        let reads = day.reads();
        println!(
            "  {name:8} fresh {:.1} %, flagged {:.1} % of {} reads ({} really stale of {}); {} calls, {} looks of which {} had changed, level {:.1e}",
            reads.share(reads.fresh),
            reads.share(reads.flagged),
            reads.all,
            reads.flagged_stale,
            reads.flagged,
            day.calls,
            day.looks,
            day.changed,
            day.level
        );
        for (kind, reads) in &day.reads {
            println!(
                "           {kind}: fresh {:.1} %, flagged {:.1} % of {}",
                reads.share(reads.fresh),
                reads.share(reads.flagged),
                reads.all
            );
        }
        println!("           errors: {:?}", day.errors.iter().take(5).collect::<Vec<_>>());
    }
    #[expect(clippy::cast_precision_loss, reason = "a day of reads")]
    let ratio = with.reads().flagged as f64 / without.reads().flagged.max(1) as f64;
    println!("  flagged with / without      {:.1} % (budget: <= 70 %) {}", 100.0 * ratio, verdict(ratio <= 0.7));
    for (name, kinds, kind) in [
        ("all", &["clan", "player"][..], None),
        ("clans", &["clan"], Some(Kind::Clan)),
        ("players", &["player"], Some(Kind::Player)),
    ] {
        let reads = kind.map_or_else(|| with.reads(), |kind| with.reads.get(&kind).copied().unwrap_or_default());
        let (truth, (low, high)) = (reads.share(reads.fresh), with.bracket(kinds));
        let holds = (low..=high).contains(&truth);
        println!("  bracket of {name:16} {low} to {high} %, truth {truth:.1} % (budget: within) {}", verdict(holds));
    }
}

const fn verdict(passes: bool) -> &'static str {
    if passes { "PASS" } else { "FAIL" }
}

/// Lets the runtime's timers run as fast as the clock while something goes on.
async fn fast<T>(work: impl Future<Output = T>) -> T {
    let (ticks, mut ticking) = mpsc::channel(1);
    // As long as a blocking task runs, the timers never jump ahead by themselves.
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let metronome = tokio::task::spawn_blocking(move || {
        while stopped.recv_timeout(TICK).is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout) {
            if ticks.try_send(Instant::now()).is_err_and(|error| matches!(error, mpsc::error::TrySendError::Closed(_)))
            {
                return;
            }
        }
    });
    let timers = async {
        let mut last = Instant::now();
        while let Some(now) = ticking.recv().await {
            tokio::time::advance(now.duration_since(last) * SPEED).await;
            last = now;
        }
    };
    let done = tokio::select! {
        done = work => done,
        () = timers => unreachable!("the metronome outlives the work"),
    };
    drop(stop);
    metronome.await.expect("the metronome never panics");
    done
}

async fn day(planned: bool, time: Duration, reads: u32) -> Day {
    let clock: Arc<dyn Clock> = Arc::new(FastClock { began: Instant::now(), wall: SystemClock.wall() });
    let tokens = vec![WORKER.to_owned(), READER.to_owned()];
    let config = SimConfig { clans: CLANS, tokens, clock: Arc::clone(&clock), evolve: 1.0, ..SimConfig::default() };
    let simulator = Simulator::start_apart(config).expect("a loopback port is free");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("freshness.sqlite");
    let worker = worker(&simulator, &clock, &file, planned).await;
    // Readers have a connection of their own, as in reality.
    let copies =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&file)).await.expect("the file is there");
    let census = simulator.world();
    let clans: Vec<ObjectId> = census.clan_tags().iter().cloned().map(ObjectId::clan).collect();
    let players: Vec<ObjectId> = census.player_tags().iter().cloned().map(ObjectId::player).collect();
    for object in clans.iter().chain(&players) {
        put_mail(&worker.queue, object, clock.wall());
    }
    let mut readers = Readers::new(&simulator, copies, [clans, players]);
    let mut day = Day::default();
    // As the schedule does: the next run begins on a tick, every two minutes.
    let tick = Duration::from_secs(120);
    let end = clock.boot() + WARM_UP + time;
    let measured_from = clock.boot() + WARM_UP;
    let runs = async {
        while clock.boot() < end {
            let options = RunOptions { time_left: Some(Duration::from_secs(235)), ..RunOptions::default() };
            let report = Box::pin(worker.run(options, &Unwatched)).await;
            if clock.boot() > measured_from {
                day.add(&report);
            }
            let now = clock.boot().as_secs();
            tokio::time::sleep(Duration::from_secs(tick.as_secs() - now % tick.as_secs())).await;
        }
    };
    let reading = async {
        let mut turn = tokio::time::interval(Duration::from_secs(60) / reads);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            turn.tick().await;
            readers.read(&worker, &clock, clock.boot() > measured_from).await;
        }
    };
    tokio::select! {
        () = runs => {}
        () = reading => {}
    }
    day.reads = readers.met;
    day
}

fn put_mail(queue: &MemoryQueue, object: &ObjectId, now: Timestamp) {
    let (kind, tag) = (object.kind, object.tag.as_str());
    let value = format!(r#"{{"id":"{object}","type":"{kind}","tag":"{tag}","priority":2,"requested_at":"{now}"}}"#);
    queue.put_mail(object.to_string(), 2.0, value);
}

async fn worker(
    simulator: &Simulator,
    clock: &Arc<dyn Clock>,
    file: &Path,
    planned: bool,
) -> Worker<MemoryQueue, SqliteStore> {
    let settings = planned.then(|| PlannerConfig { calls_per_second: 1, teaching: Teaching::default() });
    let follow_ups = FollowUpConfig { wars: false, players_per_clan: if planned { 0 } else { 5 } };
    let config = WorkerConfig { planner: settings, follow_ups, ..WorkerConfig::default() };
    let store = SqliteStore::open(file).await.expect("the folder can be written");
    let store = store.with_details(app::commit_details(&config, false));
    store.migrate().await.expect("the migrations run");
    Worker {
        queue: Arc::new(MemoryQueue::new(Arc::clone(clock))),
        store: Arc::new(store),
        api: ApiAccess {
            client: ApiClient::new(&simulator.base_url()).expect("the simulator's address is one"),
            key_store: KeyStore::from_tokens(vec![WORKER.into()]),
            reqs_per_sec: 1,
            keys_per_run: None,
            reqs_per_day: None,
        },
        clock: Arc::clone(clock),
        config,
        stop: Stop::default(),
        tables: Tables::given(),
        after: None,
    }
}

/// Readers of clans and of players, in equal parts. The first object of a list is read most.
struct Readers {
    objects: [Vec<ObjectId>; 2],
    /// The sums of the weights up to each object.
    weights: [Vec<f64>; 2],
    copies: SqliteConnection,
    address: SocketAddr,
    random: fastrand::Rng,
    met: HashMap<Kind, Reads>,
}

impl Readers {
    fn new(simulator: &Simulator, copies: SqliteConnection, mut objects: [Vec<ObjectId>; 2]) -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        for list in &mut objects {
            random.shuffle(list);
        }
        let weights = [0, 1].map(|list: usize| {
            let mut sum = 0.0;
            let weigh = |rank: usize| {
                #[expect(clippy::cast_precision_loss, reason = "two thousand objects")]
                let weight = 1.0 / ((rank + 1) as f64).powf(0.9);
                sum += weight;
                sum
            };
            (0..objects[list].len()).map(weigh).collect()
        });
        Self { objects, weights, copies, address: simulator.address(), random, met: HashMap::new() }
    }

    /// One read: the stored copy against the world as it is now.
    async fn read(&mut self, worker: &Worker<MemoryQueue, SqliteStore>, clock: &Arc<dyn Clock>, counts: bool) {
        let list = usize::from(self.random.bool());
        let weights = &self.weights[list];
        let place = self.random.f64() * weights.last().copied().unwrap_or_default();
        let object = &self.objects[list][weights.partition_point(|sum| *sum < place).min(weights.len() - 1)];
        // A query of its own makes a copy of its own: what upstream is now, and nothing that the worker's calls would meet.
        let path = format!("/v1/{}s/%23{}?at={}", object.kind.as_str(), object.tag.as_str(), clock.boot().as_millis());
        let truth = hex(&Sha256::digest(ask(self.address, &path).await));
        let copy: Option<(Option<String>, Option<String>)> = sqlx::query_as(
            "select content_hash, fetched_at from refresh_worker_refresh_state where kind = ?1 and tag = ?2",
        )
        .bind(object.kind.as_str())
        .bind(object.tag.as_str())
        .fetch_optional(&mut self.copies)
        .await
        .expect("our table");
        let (hash, fetched_at) = copy.unwrap_or_default();
        // As the column has it; such texts are in the order of their times.
        let oldest = (clock.wall() - MAX_AGE).to_string().replace('T', " ").replace('Z', "");
        let is_flagged = fetched_at.is_none_or(|at| at < oldest);
        if is_flagged {
            put_mail(&worker.queue, object, clock.wall());
        }
        if counts {
            let is_fresh = hash.as_ref() == Some(&truth);
            let met = self.met.entry(object.kind).or_default();
            met.all += 1;
            met.fresh += u64::from(is_fresh);
            met.flagged += u64::from(is_flagged);
            met.flagged_stale += u64::from(is_flagged && !is_fresh);
        }
    }
}

/// The body of the API's response.
async fn ask(address: SocketAddr, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("the simulator listens");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {READER}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("the simulator reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("the simulator answers");
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head and a body");
    answer.split_off(head + 4)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
