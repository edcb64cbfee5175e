//! The client of the API: fetches a clan, a player or a war, with the calls that it takes.

use std::time::Duration;

use url::Url;

use super::{
    body_memory::BodyMemory,
    calls::{Caller, FetchTask},
    endpoint::Endpoint,
    league,
    transport::Transport,
    verdict::Verdict,
};
pub use super::{http::ApiError, transport::MAX_BODY_BYTES};
use crate::model::{EndpointKind, Kind};

/// The result of a fetch, and its cost.
#[derive(Debug)]
pub struct Fetch {
    pub verdict: Verdict,
    /// Calls begun, quick tries included.
    pub calls: u32,
    pub slowest_call: Duration,
}

/// The API over HTTP.
#[derive(Debug)]
pub struct ApiClient {
    transport: Transport,
    memory: BodyMemory,
}

impl ApiClient {
    /// `base_url` has the version: `https://api.clashofclans.com/v1`. Connects nowhere yet.
    pub fn new(base_url: &Url) -> Result<Self, ApiError> {
        Ok(Self { transport: Transport::new(base_url)?, memory: BodyMemory::default() })
    }

    /// Sets another bound for the size of a body.
    #[must_use]
    pub fn with_max_body(mut self, bytes: usize) -> Self {
        self.transport.max_body = bytes;
        self
    }

    /// Returns when there is memory for the response to a call.
    pub async fn has_room(&self) {
        self.memory.has_some().await;
    }

    /// Fetches one object: a clan or a player with one call, a war with up to ten, quick tries not counted.
    ///
    /// Before this returns, [`FetchTask::keys`] knows what the API said about a key's rate, and [`FetchTask::judge`] what it
    /// said about anything else than the object. What follows from that is the caller's business.
    pub async fn fetch(&self, task: FetchTask<'_>) -> Fetch {
        // Copied out: the task moves into the caller.
        let (object, league) = (task.object, task.league);
        let mut caller = Caller::new(&self.transport, self.memory.reservation(), task);
        let mut verdict = match object.kind {
            Kind::Clan => caller.call(&Endpoint::Clan(&object.tag)).await.into_verdict(object),
            Kind::Player => caller.call(&Endpoint::Player(&object.tag)).await.into_verdict(object),
            Kind::War => league::fetch_war(&mut caller, object, league).await,
        };
        // Read first: the caller is used up by what follows.
        let (calls, slowest_call) = caller.cost();
        caller.hand_memory_to(&mut verdict);
        Fetch { verdict, calls, slowest_call }
    }

    /// Makes one call for an object that used to be answered well, to find out whether this endpoint works. The judge hears
    /// the result. Returns the number of calls made.
    pub async fn control(&self, task: FetchTask<'_>, endpoint: EndpointKind) -> u32 {
        let tag = &task.object.tag;
        let endpoint = match endpoint {
            EndpointKind::Clan => Endpoint::Clan(tag),
            EndpointKind::Player => Endpoint::Player(tag),
            EndpointKind::LeagueGroup => Endpoint::LeagueGroup(tag),
            // A league war has a tag of its own, which is not known here, so the current war of the clan is called instead.
            EndpointKind::CurrentWar | EndpointKind::LeagueWar => Endpoint::CurrentWar(tag),
        };
        let mut caller = Caller::new(&self.transport, self.memory.reservation(), task);
        caller.call(&endpoint).await;
        caller.cost().0
    }
}
