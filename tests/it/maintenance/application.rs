//! A stand-in for the application whose caches are invalidated: a real HTTP endpoint that fails on request.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

/// What the endpoint does with one request.
#[derive(Clone, Copy, Debug)]
pub enum Does {
    Answer(u16),
    /// Answers with this body.
    Say(u16, &'static str),
    /// A redirect to somewhere else.
    Redirect,
    /// Never answers.
    Silence,
}

/// One request that came.
#[derive(Clone, Debug)]
pub struct Came {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Value,
    /// What was answered; 0 for silence.
    pub status: u16,
}

impl Came {
    pub fn tags(&self) -> Vec<String> {
        let tags = self.body["tags"].as_array().unwrap_or_else(|| panic!("no tags in {}", self.body));
        tags.iter().map(|tag| tag.as_str().unwrap().to_owned()).collect()
    }
}

#[derive(Debug)]
pub struct Application {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// For the next requests; then everything is well.
    plan: Mutex<VecDeque<Does>>,
    came: Mutex<Vec<Came>>,
}

impl Application {
    pub async fn start(plan: impl IntoIterator<Item = Does>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { plan: Mutex::new(plan.into_iter().collect()), came: Mutex::default() });
        let routes = Router::new().fallback(take).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, shared, server }
    }

    /// For `NEXT_PUBLIC_APP_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn came(&self) -> Vec<Came> {
        self.shared.came.lock().clone()
    }

    /// All tags that were taken well, sorted.
    pub fn tags(&self) -> Vec<String> {
        let mut tags: Vec<String> =
            self.came().iter().filter(|came| (200..300).contains(&came.status)).flat_map(Came::tags).collect();
        tags.sort();
        tags
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let does = shared.plan.lock().pop_front().unwrap_or(Does::Answer(200));
    let status = match does {
        Does::Answer(status) | Does::Say(status, _) => status,
        Does::Redirect => 307,
        Does::Silence => 0,
    };
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    shared.came.lock().push(Came { path: uri.path().to_owned(), headers, body, status });
    match does {
        Does::Silence => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            StatusCode::OK.into_response()
        }
        Does::Redirect => (StatusCode::TEMPORARY_REDIRECT, [("location", "/elsewhere")]).into_response(),
        Does::Answer(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Does::Say(status, body) => (StatusCode::from_u16(status).unwrap(), body).into_response(),
    }
}
