//! A client with one key before an API that counts, in a time of their own.
//!
//! The time stands still while a call is on the wire, and otherwise passes a few milliseconds at a time. However busy the
//! machine is, the same happens at the same moment, and minutes pass in seconds.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use parking_lot::Mutex;
use refresh_worker::{
    api::{ApiClient, FetchTask, KeyPool, SlotStart, judge::SharedJudge},
    clock::{ManualClock, ServerTime},
    model::AimdState,
};
use tokio::{
    net::TcpListener,
    task::yield_now,
    time::{Instant, advance, sleep},
};

use super::rig::{NOW, key, name};

const TOKEN: &str = "learning";

/// The time that passes at once. The limiter's window is a multiple of it. A window that always ended late would be longer than
/// the gaps between its calls, and they would come in bunches.
const TICK: Duration = Duration::from_millis(2);

/// The turns after which all tasks that the last tick woke are done.
const TURNS: u32 = 2;

/// The most calls under way at once: more than the rate allows within the slowest response.
const CALLERS: usize = 80;

/// The document of the requested player.
fn player(path: &str) -> String {
    let tag = path.rsplit("%23").next().unwrap_or_default();
    format!(r##"{{"tag":"#{tag}","name":"x","trophies":7}}"##)
}

/// The reaction of the API to a call.
#[derive(Clone, Copy, Debug)]
pub struct Treatment {
    pub is_refused: bool,
    pub takes: Duration,
}

/// By how many calls the second up to this one has seen, itself included.
pub type Judge = fn(usize) -> Treatment;

pub struct Laboratory {
    api: Arc<Api>,
    client: ApiClient,
    keys: KeyPool,
    clock: Arc<ManualClock>,
    time: ServerTime,
    answered: AtomicU64,
}

struct Api {
    judge: Mutex<Judge>,
    last_second: Mutex<VecDeque<Instant>>,
    /// Calls whose response is due later.
    waiting: AtomicU64,
    refused: AtomicU64,
}

impl Laboratory {
    /// Calls as often as the limiter allows, from now on. The test has to run in paused time.
    pub async fn open(cap_per_second: u32, judge: Judge) -> Arc<Self> {
        let api = Arc::new(Api {
            judge: Mutex::new(judge),
            last_second: Mutex::default(),
            waiting: AtomicU64::default(),
            refused: AtomicU64::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap()).parse().unwrap();
        let server = Router::new().fallback(answer).with_state(api.clone());
        tokio::spawn(async move { axum::serve(listener, server).await });

        let clock = ManualClock::at(NOW);
        let keys = KeyPool::new(clock.clone(), cap_per_second);
        keys.add(key(TOKEN), None, SlotStart::now(&*clock), Duration::from_secs(100_000));
        let (client, time) = (ApiClient::new(&url).unwrap(), ServerTime::new(clock.clone(), NOW));
        let laboratory = Arc::new(Self { api, client, keys, clock, time, answered: AtomicU64::default() });
        for caller in 0..CALLERS {
            tokio::spawn(laboratory.clone().call_for_ever(caller));
        }
        laboratory
    }

    pub fn judge(&self, judge: Judge) {
        *self.api.judge.lock() = judge;
    }

    /// The calls begun, and those of them that were refused.
    pub fn calls(&self) -> (u64, u64) {
        (self.keys.calls_made(), self.api.refused.load(Ordering::Relaxed))
    }

    pub fn rate(&self) -> f64 {
        self.keys.rates()[0].1
    }

    pub fn aimd_state(&self) -> Option<AimdState> {
        self.keys.aimd_state(&name(TOKEN))
    }

    /// Lets time pass. Returns the rate at the end of each second.
    pub async fn pass(&self, seconds: u32) -> Vec<f64> {
        let mut rates = Vec::new();
        for _ in 0..seconds {
            for _ in 0..Duration::from_secs(1).as_millis() / TICK.as_millis() {
                self.clock.advance(TICK);
                advance(TICK).await;
                self.come_to_rest().await;
            }
            rates.push(self.rate());
        }
        rates
    }

    /// Returns when nothing happens any more until time passes.
    async fn come_to_rest(&self) {
        let (mut turns_at_rest, began) = (0, std::time::Instant::now());
        while turns_at_rest < TURNS {
            yield_now().await;
            turns_at_rest = if self.on_the_wire() == 0 { turns_at_rest + 1 } else { 0 };
            assert!(began.elapsed() < Duration::from_mins(2), "{} calls never came back", self.on_the_wire());
        }
    }

    /// Calls between client and server, either way.
    fn on_the_wire(&self) -> u64 {
        self.keys.calls_made() - self.answered.load(Ordering::Relaxed) - self.api.waiting.load(Ordering::Relaxed)
    }

    /// Each caller requests a player of its own: a refusal of one player alone is not about the key.
    async fn call_for_ever(self: Arc<Self>, caller: usize) {
        let digit = |place: usize| char::from(b"0289PYLQG"[caller / place % 9]);
        let player = format!("player:2{}{}", digit(9), digit(1)).parse().unwrap();
        let judge = SharedJudge::default();
        loop {
            let ask = FetchTask {
                object: &player,
                league: None,
                first_permit: None,
                keys: &self.keys,
                judge: &judge,
                time: &self.time,
                until: Instant::now() + Duration::from_mins(2),
                quick_tries: 0,
                earlier: None,
            };
            match self.client.fetch(ask).await.calls {
                // The key is cooling down.
                0 => sleep(Duration::from_millis(100)).await,
                calls => drop(self.answered.fetch_add(calls.into(), Ordering::Relaxed)),
            }
        }
    }
}

impl Api {
    fn arrive(&self) -> Treatment {
        let now = Instant::now();
        let mut last_second = self.last_second.lock();
        last_second.retain(|at| now.duration_since(*at) < Duration::from_secs(1));
        last_second.push_back(now);
        (self.judge.lock())(last_second.len())
    }
}

async fn answer(State(api): State<Arc<Api>>, uri: Uri) -> Response {
    let Treatment { is_refused, takes } = api.arrive();
    api.waiting.fetch_add(1, Ordering::Relaxed);
    sleep(takes).await;
    api.waiting.fetch_sub(1, Ordering::Relaxed);
    if is_refused {
        api.refused.fetch_add(1, Ordering::Relaxed);
        return (StatusCode::TOO_MANY_REQUESTS, r#"{"reason":"requestThrottled"}"#).into_response();
    }
    ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], player(uri.path())).into_response()
}
