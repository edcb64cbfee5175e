//! A client, its keys and a clock that a test moves, in front of a scripted server.

use std::{sync::Arc, time::Duration};

use refresh_worker::{
    api::{
        ApiClient, ApiKey, Fetch, FetchTask, KeyPool, SlotStart, Verdict,
        judge::{SharedJudge, Sign},
        verdict::Ending,
    },
    clock::{ManualClock, ServerTime, Timestamp},
    model::{Answered, Document, Fetched, Fingerprint, ObjectId, WarMemory},
};
use secrecy::SecretString;
use tokio::time::Instant;

use super::scripted::Scripted;

pub const SLOT_LIFETIME: Duration = Duration::from_secs(15);

/// 4 March 2026, a day on which leagues run.
pub const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);

pub struct Rig {
    pub server: Scripted,
    pub client: ApiClient,
    pub keys: KeyPool,
    pub judge: SharedJudge,
    pub clock: Arc<ManualClock>,
    pub time: ServerTime,
}

impl Rig {
    pub async fn new() -> Self {
        Self::with_tokens(&["token-one"]).await
    }

    pub async fn with_tokens(tokens: &[&str]) -> Self {
        let server = Scripted::start().await;
        let clock = ManualClock::at(NOW);
        let keys = KeyPool::new(clock.clone(), 300);
        for token in tokens {
            keys.add(key(token), None, SlotStart::now(&*clock), SLOT_LIFETIME);
        }
        let time = ServerTime::new(clock.clone(), NOW);
        Self {
            client: ApiClient::new(&server.base_url()).unwrap(),
            server,
            keys,
            judge: SharedJudge::default(),
            clock,
            time,
        }
    }

    pub fn ask<'a>(&'a self, object: &'a ObjectId) -> FetchTask<'a> {
        FetchTask {
            object,
            league: None,
            first_permit: None,
            keys: &self.keys,
            judge: &self.judge,
            time: &self.time,
            until: Instant::now() + Duration::from_secs(30),
            quick_tries: 0,
            earlier: None,
        }
    }

    pub async fn fetch(&self, object: &str) -> Fetch {
        self.client.fetch(self.ask(&object.parse().unwrap())).await
    }

    pub async fn fetch_with_quick_tries(&self, object: &str, quick_tries: u32) -> Fetch {
        self.client.fetch(FetchTask { quick_tries, ..self.ask(&object.parse().unwrap()) }).await
    }

    pub async fn fetch_war(&self, clan: &str, league: Option<&WarMemory>) -> Fetch {
        self.client.fetch(FetchTask { league, ..self.ask(&format!("war:{clan}").parse().unwrap()) }).await
    }
}

pub fn key(token: &str) -> ApiKey {
    ApiKey::new(SecretString::from(token))
}

pub fn name(token: &str) -> Fingerprint {
    Fingerprint::of(token)
}

pub fn answered(fetch: Fetch) -> Fetched {
    match fetch.verdict {
        Verdict::Answered(fetched) => *fetched,
        other => panic!("expected an answer: {other:?}"),
    }
}

pub fn document(fetched: Fetched) -> Document {
    match fetched.answered {
        Answered::Document(document) => document,
        other => panic!("expected a document: {other:?}"),
    }
}

/// The code of a failure or an obstacle.
pub fn outcome(fetch: &Fetch) -> String {
    match &fetch.verdict {
        Verdict::Answered(fetched) => match &fetched.answered {
            Answered::Document(document) => format!("a {}", document.kind()),
            Answered::Gone => "gone".to_owned(),
            Answered::PrivateWarLog => "private".to_owned(),
            Answered::UnknownState(state) => format!("unknown state {state}"),
        },
        Verdict::DeadLetter { reason, .. } => format!("dead letter: {}", reason.code),
        Verdict::Bad { accusation, ending } => match (accusation.sign(), ending) {
            (Sign::Failed | Sign::Foreign(_), Ending::Attempt) => format!("transient: {}", accusation.reason.code),
            (Sign::Failed | Sign::Foreign(_), Ending::DeadLetter { .. }) => {
                format!("dead letter: {}", accusation.reason.code)
            }
            (sign, _) => format!("{sign:?}"),
        },
        Verdict::Throttled { .. } => "throttled".to_owned(),
        Verdict::Prevented(obstacle) => format!("prevented: {obstacle:?}"),
    }
}
