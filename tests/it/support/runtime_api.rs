//! The Lambda Runtime API and Extensions API, as far as a function process sees them.
//!
//! The worker's binary polls it as it polls AWS: `next` waits for an event, `response` and `error` answer it, `init/error`
//! reports a failed start. The internal extension that makes SIGTERM arrive may register and then waits for events
//! that never come.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

/// AWS refuses larger answers.
const LARGEST_ANSWER_BYTES: usize = 6 * 1024 * 1024;

/// The function's response to an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Response(Value),
    /// `errorType` and `errorMessage`.
    Error(Value),
}

/// A server for one function process.
#[derive(Debug)]
pub struct RuntimeApi {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    events: mpsc::UnboundedSender<Event>,
    waiting: tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>,
    unanswered: Mutex<HashMap<String, oneshot::Sender<Answer>>>,
    polls: watch::Sender<u64>,
    extensions: watch::Sender<Vec<String>>,
    init_error: Mutex<Option<Value>>,
    sends_time_left: AtomicBool,
}

#[derive(Debug)]
struct Event {
    request_id: String,
    body: String,
    budget: Duration,
}

/// An event on its way to the function.
#[derive(Debug)]
pub struct Pending {
    pub request_id: String,
    pub answer: oneshot::Receiver<Answer>,
}

impl RuntimeApi {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let address = listener.local_addr().expect("the port just bound");
        let (events, waiting) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            events,
            waiting: tokio::sync::Mutex::new(waiting),
            unanswered: Mutex::default(),
            polls: watch::Sender::new(0),
            extensions: watch::Sender::new(Vec::new()),
            init_error: Mutex::default(),
            sends_time_left: AtomicBool::default(),
        });
        let routes = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{request_id}/response", post(response))
            .route("/2018-06-01/runtime/invocation/{request_id}/error", post(error))
            .route("/2018-06-01/runtime/init/error", post(init_error))
            .route("/2020-01-01/extension/register", post(register_extension))
            .route("/2020-01-01/extension/event/next", get(next_extension_event))
            .layer(DefaultBodyLimit::max(LARGEST_ANSWER_BYTES))
            .with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.expect("the server goes on") });
        Self { address, shared, server }
    }

    /// For `AWS_LAMBDA_RUNTIME_API`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Hands an event to the next poll; its deadline counts from then.
    pub fn send(&self, body: &Value, budget: Duration) -> Pending {
        let request_id = request_id();
        let (sender, answer) = oneshot::channel();
        self.shared.unanswered().insert(request_id.clone(), sender);
        let event = Event { request_id: request_id.clone(), body: body.to_string(), budget };
        self.shared.events.send(event).expect("the server holds the receiver");
        Pending { request_id, answer }
    }

    /// From now on a deadline is the time left, as `cargo lambda watch` has it.
    pub fn send_time_left(&self) {
        self.shared.sends_time_left.store(true, Ordering::Relaxed);
    }

    /// The number of polls for events. Above n, the function has finished its n-th event.
    pub fn polls(&self) -> watch::Receiver<u64> {
        self.shared.polls.subscribe()
    }

    pub fn extensions(&self) -> Vec<String> {
        self.shared.extensions.borrow().clone()
    }

    /// The error that the function reported for a failed start.
    pub fn init_error(&self) -> Option<Value> {
        self.shared.init_error.lock().clone()
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn unanswered(&self) -> parking_lot::MutexGuard<'_, HashMap<String, oneshot::Sender<Answer>>> {
        self.unanswered.lock()
    }

    fn settle(&self, request_id: &str, answer: Answer) -> StatusCode {
        match self.unanswered().remove(request_id) {
            Some(sender) => {
                let _ = sender.send(answer); // A test that has stopped listening does not mind.
                StatusCode::ACCEPTED
            }
            None => StatusCode::BAD_REQUEST,
        }
    }
}

async fn next(State(shared): State<Arc<Shared>>) -> Response {
    shared.polls.send_modify(|polls| *polls += 1);
    let Some(event) = shared.waiting.lock().await.recv().await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let since = if shared.sends_time_left.load(Ordering::Relaxed) { UNIX_EPOCH } else { SystemTime::now() };
    let deadline_ms = (since + event.budget).duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis();
    let headers = [
        ("lambda-runtime-aws-request-id", event.request_id.clone()),
        ("lambda-runtime-deadline-ms", deadline_ms.to_string()),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:eu-central-1:123456789012:function:coc-refresh:live".to_owned(),
        ),
        ("lambda-runtime-trace-id", format!("Root=1-5759e988-{};Sampled=0", &event.request_id[24..])),
        ("content-type", "application/json".to_owned()),
    ];
    (headers.map(|(name, value)| (name, HeaderValue::from_str(&value).expect("plain ASCII"))), event.body)
        .into_response()
}

async fn response(State(shared): State<Arc<Shared>>, Path(request_id): Path<String>, body: Bytes) -> StatusCode {
    match serde_json::from_slice(&body) {
        Ok(body) => shared.settle(&request_id, Answer::Response(body)),
        Err(problem) => shared.settle(&request_id, Answer::Error(json!({ "errorMessage": problem.to_string() }))),
    }
}

async fn error(State(shared): State<Arc<Shared>>, Path(request_id): Path<String>, body: Bytes) -> StatusCode {
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    shared.settle(&request_id, Answer::Error(body))
}

async fn init_error(State(shared): State<Arc<Shared>>, body: Bytes) -> StatusCode {
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    *shared.init_error.lock() = Some(body);
    StatusCode::ACCEPTED
}

async fn register_extension(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let name = headers.get("lambda-extension-name").and_then(|name| name.to_str().ok()).unwrap_or_default();
    shared.extensions.send_modify(|names| names.push(name.to_owned()));
    let body = json!({ "functionName": "coc-refresh", "functionVersion": "$LATEST", "handler": "refresh" });
    ([("lambda-extension-identifier", request_id())], axum::Json(body)).into_response()
}

/// An extension without subscriptions waits for ever.
async fn next_extension_event() -> StatusCode {
    std::future::pending().await
}

/// A UUID, as AWS's request ids are.
fn request_id() -> String {
    let (high, low) = (fastrand::u64(..), fastrand::u64(..));
    let (one, two, three) = (high >> 32, (high >> 16) & 0xffff, high & 0xfff);
    format!("{one:08x}-{two:04x}-4{three:03x}-a{:03x}-{:012x}", (low >> 48) & 0xfff, low & 0xffff_ffff_ffff)
}
