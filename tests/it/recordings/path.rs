//! The way of a recording: served over HTTP as it was recorded, fetched by the real client, committed to a store.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::Response,
};
use parking_lot::Mutex;
use refresh_worker::{
    api::{ApiClient, ApiKey, FetchTask, KeyPool, SlotStart, Verdict, judge::SharedJudge},
    clock::{Clock, ServerTime, SystemClock, Timestamp},
    model::{Fetched, Kind, ObjectId, Tag, WarMemory},
    store::Committed,
};
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};

use super::folder::Recording;
use crate::store::Bed;

const MINUTE: Duration = Duration::from_secs(60);

/// An API with a few recorded responses, and its client.
pub struct Replay {
    routes: Arc<Mutex<HashMap<String, Recording>>>,
    asked: Arc<Mutex<Vec<String>>>,
    client: ApiClient,
    clock: Arc<dyn Clock>,
    server: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    routes: Arc<Mutex<HashMap<String, Recording>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Replay {
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (routes, asked) = (Arc::default(), Arc::default());
        let shared = Shared { routes: Arc::clone(&routes), asked: Arc::clone(&asked) };
        let service = Router::new().fallback(answer).with_state(shared);
        let server = tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
        let client = ApiClient::new(&url.parse().unwrap()).unwrap();
        Self { routes, asked, client, clock: Arc::new(SystemClock), server }
    }

    /// From now on the recording is the response to this path below the version.
    pub fn serve(&self, path: &str, recording: &Recording) {
        self.routes.lock().insert(format!("/v1/{path}"), recording.clone());
    }

    /// The paths requested since the last time, below the version.
    pub fn asked(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.asked.lock());
        asked.iter().map(|path| path.trim_start_matches("/v1/").to_owned()).collect()
    }

    /// Fetches, as if it were `at` now.
    pub async fn fetch(&self, at: Timestamp, object: &ObjectId, league: Option<&WarMemory>) -> Verdict {
        let keys = KeyPool::new(self.clock.clone(), 1000);
        keys.add(ApiKey::new("a token".into()), None, SlotStart::now(&*self.clock), MINUTE);
        let time = ServerTime::new(self.clock.clone(), at);
        let ask = FetchTask {
            object,
            league,
            first_permit: None,
            keys: &keys,
            judge: &SharedJudge::default(),
            time: &time,
            until: Instant::now() + MINUTE,
            quick_tries: 0,
            earlier: None,
        };
        self.client.fetch(ask).await.verdict
    }

    /// Fetches the object.
    pub async fn fetched(&self, at: Timestamp, object: &ObjectId) -> Fetched {
        match self.fetch(at, object, None).await {
            Verdict::Answered(fetched) => *fetched,
            other => panic!("{object}: {other:?}"),
        }
    }

    /// Fetches and commits. Returns the outcome and the `ts`.
    pub async fn refresh(&self, bed: &impl Bed, at: Timestamp, object: &ObjectId) -> (Committed, Timestamp) {
        let fetched = self.fetched(at, object).await;
        let began = fetched.began;
        (bed.commit_one(fetched).await, began)
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The API's own "not found", for paths that are not served.
async fn answer(State(shared): State<Shared>, request: Request) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let recording = shared.routes.lock().get(&path).cloned();
    shared.asked.lock().push(path);
    let Some(recording) = recording else {
        return Response::builder().status(404).body(Body::from(r#"{"reason":"notFound"}"#)).unwrap();
    };
    let mut response = Response::builder().status(recording.status);
    for (name, value) in &recording.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(recording.body)).unwrap()
}

/// The path of an object's first call.
pub fn path_of(object: &ObjectId) -> String {
    let tag = object.tag.path_segment();
    match object.kind {
        Kind::Clan => format!("clans/{tag}"),
        Kind::Player => format!("players/{tag}"),
        Kind::War => format!("clans/{tag}/currentwar"),
    }
}

pub fn group_path(clan: &Tag) -> String {
    format!("clans/{}/currentwar/leaguegroup", clan.path_segment())
}

pub fn league_war_path(war: &str) -> String {
    format!("clanwarleagues/wars/%23{}", war.trim_start_matches('#'))
}

/// A moment of the tests: hours after noon of 4 March 2026.
pub fn at(hours: i64) -> Timestamp {
    Timestamp::from_millis(1_772_625_600_000 + hours * 3_600_000)
}
