//! Reads an event into a command. Pure: touches nothing.
//!
//! Events come from a schedule (EventBridge rule or Scheduler), from API Gateway or a function URL (REST proxy, HTTP API
//! v2), from API Gateway's asynchronous template, and from whoever invokes the function directly. An HTTP event is
//! routed by method and path, whatever the role; anything else is the command of the role.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::options::{self, KNOWN_OPTIONS, Unknown, shortened};
use crate::{config::Role, maintenance::views::When, worker::RunOptions};

// Names around the options in a direct event that are not options themselves.
const ENVELOPE: [&str; 3] = ["source", "request_id", "options"];

/// The caller that waits for the response, with the form that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A schedule or a direct invocation: the plain body, or a function error.
    Lambda,
    /// A person or program behind API Gateway or a function URL: a status and a body.
    Http,
}

/// The command of an event.
#[derive(Clone, Debug)]
pub enum Command {
    Refresh(RunOptions),
    Health,
    Task(Task),
}

/// A command besides refresh and health; it needs no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Creates the tables that are missing.
    Migrate,
    /// Refreshes the configured materialized views.
    RefreshViews(When),
    /// Runs the statistics jobs that wait.
    Stats,
    /// Thins old snapshots.
    Retention,
}

impl Task {
    pub const NAMES: [&str; 4] = ["migrate", "refresh-views", "stats", "retention"];
}

/// The refusal of an event that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status for an HTTP caller.
    pub status: u16,
    /// The problem in one sentence, with the fix.
    pub message: String,
    /// Each single problem.
    pub problems: Vec<String>,
    /// The methods that the path knows, for a 405.
    pub allow: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), problems: Vec::new(), allow: None }
    }

    fn options(problems: Vec<String>) -> Self {
        let known = KNOWN_OPTIONS.join(", ");
        let message = format!("{}; the options of a refresh are {known}", problems.join("; "));
        Self { status: 400, message, problems, allow: None }
    }
}

/// An event after it was read.
#[derive(Clone, Debug)]
pub struct Interpreted {
    pub caller: Caller,
    /// True when the response has no body, as for `HEAD`.
    pub without_body: bool,
    pub command: Result<Command, Refusal>,
}

/// Reads an event for a function of this role.
#[must_use]
pub fn interpret(event: &Value, role: Role) -> Interpreted {
    match HttpRequest::of(event) {
        Some(request) => Interpreted {
            caller: Caller::Http,
            without_body: request.method.eq_ignore_ascii_case("HEAD"),
            command: route(&request, role),
        },
        None => Interpreted { caller: Caller::Lambda, without_body: false, command: invoked(event, role) },
    }
}

/// The relevant parts of an HTTP event, in either of API Gateway's forms.
struct HttpRequest<'a> {
    method: &'a str,
    /// The path of the request, and the name of the gateway's own route.
    paths: Vec<&'a str>,
    stage: Option<&'a str>,
    body: Option<&'a str>,
    is_base64: bool,
}

impl<'a> HttpRequest<'a> {
    fn of(event: &'a Value) -> Option<Self> {
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
        // Form 1 is the REST API's proxy event, form 2 that of HTTP APIs and function URLs.
        let method = text("/httpMethod").or_else(|| text("/requestContext/http/method"))?;
        let route = text("/routeKey").and_then(|route| route.split_once(' ')).map(|(_method, path)| path);
        let paths = [text("/resource"), route, text("/rawPath"), text("/path")];
        Some(Self {
            method,
            paths: paths.into_iter().flatten().filter(|path| !path.contains('{')).collect(),
            stage: text("/requestContext/stage"),
            body: text("/body"),
            is_base64: event.get("isBase64Encoded").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    /// `refresh`, `health` or something else. A stage or a custom domain's base path may stand in front.
    fn endpoint(&self) -> Option<Endpoint> {
        self.paths.iter().find_map(|path| {
            let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
            let segments = match (segments.as_slice(), self.stage) {
                ([first, rest @ ..], Some(stage)) if *first == stage && !rest.is_empty() => rest,
                (all, _) => all,
            };
            match segments {
                ["refresh"] | [_, "refresh"] => Some(Endpoint::Refresh),
                ["health"] | [_, "health"] => Some(Endpoint::Health),
                _ => None,
            }
        })
    }

    fn options(&self) -> Result<Map<String, Value>, Refusal> {
        let expected = "expected a JSON object with options, or nothing";
        let body = self.body.unwrap_or_default();
        let bytes = if self.is_base64 {
            STANDARD
                .decode(body.trim())
                .map_err(|_| Refusal::new(400, format!("the body is not base64: {expected}")))?
        } else {
            body.as_bytes().to_vec()
        };
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            return Err(Refusal::new(400, format!("the body is UTF-16, expected UTF-8: {expected}")));
        }
        if bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes).trim_ascii().is_empty() {
            return Ok(Map::new());
        }
        match serde_json::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes)) {
            Ok(Value::Object(options)) => Ok(options),
            Ok(Value::Null) => Ok(Map::new()),
            Ok(_) => Err(Refusal::new(400, format!("the body is not a JSON object: {expected}"))),
            Err(error) => Err(Refusal::new(400, format!("the body is not JSON ({error}): {expected}"))),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Refresh,
    Health,
}

fn route(request: &HttpRequest<'_>, role: Role) -> Result<Command, Refusal> {
    let exists = match role {
        Role::Refresh => "this function knows POST /refresh and GET /health",
        Role::Health => "this function knows GET /health",
    };
    let (endpoint, allow) = match request.endpoint() {
        Some(Endpoint::Health) => (Endpoint::Health, "GET, HEAD"),
        Some(Endpoint::Refresh) if role == Role::Refresh => (Endpoint::Refresh, "POST"),
        _ => return Err(Refusal::new(404, format!("this path is unknown: {exists}"))),
    };
    if !allow.split(", ").any(|method| request.method.eq_ignore_ascii_case(method)) {
        let mut refusal = Refusal::new(405, format!("{} is not allowed here: {exists}", shortened(request.method)));
        refusal.allow = Some(allow);
        return Err(refusal);
    }
    match endpoint {
        Endpoint::Health => Ok(Command::Health),
        Endpoint::Refresh => refresh(&request.options()?, Unknown::Refused),
    }
}

fn invoked(event: &Value, role: Role) -> Result<Command, Refusal> {
    if role == Role::Health {
        return Ok(Command::Health);
    }
    let fields = match event {
        Value::Object(fields) => fields,
        Value::Null => return Ok(Command::Refresh(RunOptions::default())),
        _ => return Err(Refusal::new(400, "the event is not a JSON object: expected options, or an event of AWS")),
    };
    if fields.contains_key("detail-type") {
        return event_bridge(fields);
    }
    match fields.get("task") {
        Some(task) => self::task(task, fields),
        // The test event of the related system's view refresher.
        None if fields.len() == 1 && fields.get("source").and_then(Value::as_str) == Some("manual-test") => {
            Ok(Command::Task(Task::RefreshViews(When::Now)))
        }
        None => refresh(&direct_options(fields)?, Unknown::Refused),
    }
}

/// A rule's or a schedule's event: `detail` may hold options. The Scheduler gives its own `detail` as a text.
fn event_bridge(event: &Map<String, Value>) -> Result<Command, Refusal> {
    let by_aws = event.get("source").and_then(Value::as_str).is_some_and(|source| source.starts_with("aws."));
    let unknown = if by_aws { Unknown::Ignored } else { Unknown::Refused };
    let detail = match event.get("detail") {
        Some(Value::String(text)) if text.trim_start_matches('\u{feff}').trim().is_empty() => Value::Null,
        Some(Value::String(text)) => {
            serde_json::from_str(text.trim_start_matches('\u{feff}')).unwrap_or(Value::String(text.clone()))
        }
        Some(detail) => detail.clone(),
        None => Value::Null,
    };
    match detail {
        Value::Object(options) => refresh(&options, unknown),
        Value::Null => refresh(&Map::new(), unknown),
        _ if by_aws => refresh(&Map::new(), unknown),
        _ => Err(Refusal::new(400, "`detail` is not a JSON object: expected options")),
    }
}

/// Options at the top of the event, in `options`, or both.
fn direct_options(event: &Map<String, Value>) -> Result<Map<String, Value>, Refusal> {
    let outer = event.iter().filter(|(name, _)| !ENVELOPE.contains(&name.as_str()));
    let mut all: Map<String, Value> = outer.map(|(name, value)| (name.clone(), value.clone())).collect();
    let inner = match event.get("options") {
        None | Some(Value::Null) => return Ok(all),
        Some(Value::Object(inner)) => inner,
        Some(_) => return Err(Refusal::options(vec!["`options` is not a JSON object".to_owned()])),
    };
    for (name, value) in inner {
        if all.insert(name.clone(), value.clone()).is_some() {
            return Err(Refusal::options(vec![format!("`{}` is given twice", shortened(name))]));
        }
    }
    Ok(all)
}

fn refresh(options: &Map<String, Value>, unknown: Unknown) -> Result<Command, Refusal> {
    options::parse(options, unknown).map(Command::Refresh).map_err(Refusal::options)
}

fn task(name: &Value, fields: &Map<String, Value>) -> Result<Command, Refusal> {
    let task = match name.as_str() {
        Some("migrate") => Task::Migrate,
        Some("refresh-views") => match fields.get("due_only").unwrap_or(&Value::Bool(false)) {
            Value::Bool(true) => Task::RefreshViews(When::Due),
            Value::Bool(false) | Value::Null => Task::RefreshViews(When::Now),
            _ => return Err(Refusal::new(400, "`due_only` must be true or false")),
        },
        Some("stats") => Task::Stats,
        Some("retention") => Task::Retention,
        _ => {
            let (name, known) = (shortened(&name.to_string()), Task::NAMES.join(", "));
            return Err(Refusal::new(400, format!("task {name} is unknown: expected {known}")));
        }
    };
    Ok(Command::Task(task))
}

#[cfg(test)]
#[path = "lambda_tests.rs"]
mod tests;
