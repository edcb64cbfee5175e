//! The Lambda side of the process: cold start, the invocation loop, and the end of the sandbox.
//!
//! Speaks to the Lambda Runtime API and to nothing else. What an operator did wrong is reported at the start, as an init
//! error that shows in the console and in every failed invocation; it is not hidden behind a first timeout.

use std::{
    fmt,
    future::Future,
    io::{Read, Write},
    net::TcpStream,
    pin::Pin,
    process::ExitCode,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use lambda_runtime::{
    Diagnostic, Error, LambdaEvent, LambdaInvocation, Runtime, service_fn,
    tower::{Layer, Service},
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
use tracing::{Instrument, debug, error, error_span, warn};

use super::{Failure, Handlers, Invocation};
use crate::{
    clock::Timestamp,
    config::{
        Config, ConfigErrors, Role, TelemetryConfig,
        env::{environment_var, process_var, put_trust_in_force, warnings},
        secrets::{self, Secrets},
    },
    queue::{Queue, Slots},
    store::Store,
    telemetry,
    worker::{Runs, Stop},
};

/// How long the end of the sandbox waits for a run to give back what it holds. AWS itself often allows less; then leases
/// and key slots run out by themselves.
const LAST_WAIT: Duration = Duration::from_secs(15);

/// What AWS calls an error of this kind.
const INIT_ERROR_TYPE: &str = "Runtime.ConfigInvalid";

/// Runs the process as a Lambda function; `build` joins the parts.
pub fn main<R, Q, S, E>(
    build: impl Fn(&Config, Role, Stop) -> Result<Handlers<R, Q, S>, E> + Send + Sync + 'static,
) -> ExitCode
where
    R: Runs + 'static,
    Q: Queue + Slots,
    S: Store,
    E: fmt::Display,
{
    telemetry::init_lambda(&TelemetryConfig::read(&process_var).unwrap_or_default());
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return init_error(&format!("failed to start the async runtime: {error}")),
    };
    runtime.block_on(async {
        if secrets::are_elsewhere(&environment_var) && !secrets::need_the_extension(&environment_var) {
            Secrets::read(&environment_var).await.put_in_force();
        }
        let (config, role) = match read_config() {
            Ok(read) => read,
            Err(errors) => {
                for problem in &errors.problems {
                    error!(variable = problem.variable, "the configuration will not do: {problem}");
                }
                return init_error(&errors.to_string());
            }
        };
        let stop = Stop::default();
        let build: Box<Build<R, Q, S>> =
            Box::new(move |config, role, stop| build(config, role, stop).map_err(|error| format!("{error:#}")));
        put_trust_in_force(&process_var);
        let handlers = if secrets::need_the_extension(&environment_var) {
            None
        } else {
            match build(&config, role, stop.clone()) {
                Ok(handlers) => Some(Arc::new(handlers)),
                Err(error) => {
                    let message = format!("cannot start: {error}");
                    error!("{message}");
                    return init_error(&message);
                }
            }
        };
        serve(Parts { build, role, stop, handlers: Mutex::new(handlers) }).await
    })
}

type Build<R, Q, S> = dyn Fn(&Config, Role, Stop) -> Result<Handlers<R, Q, S>, String> + Send + Sync;

/// The parts: built at the start, or at the first invocation when the secrets they need cannot be had before.
struct Parts<R, Q, S> {
    build: Box<Build<R, Q, S>>,
    role: Role,
    stop: Stop,
    handlers: Mutex<Option<Arc<Handlers<R, Q, S>>>>,
}

impl<R: Runs, Q: Queue + Slots, S: Store> Parts<R, Q, S> {
    /// Answers an event. When that fails for want of Redis, the database or a key, and the secrets are kept elsewhere,
    /// they are read again, once; the event is answered again only when that gave other ones. When only some keys were
    /// refused, the run has gone on with the others, and the next one begins with what was read.
    async fn answer(&self, event: &Value, invocation: &Invocation) -> Result<Value, Failure> {
        let answer =
            self.handlers(secrets::need_the_extension(&environment_var)).await?.answer(event, invocation, &print).await;
        let is_locked_out = may_be_locked_out(&answer);
        if !(is_locked_out || lacks_keys(&answer)) || !secrets::are_elsewhere(&environment_var) {
            return answer;
        }
        let secrets = Secrets::read(&environment_var).await;
        for problem in secrets.problems() {
            warn!("failed to read secrets again: {problem}");
        }
        if !secrets.problems().is_empty() || !secrets.put_in_force() {
            return answer;
        }
        *self.handlers.lock().await = None;
        if !is_locked_out {
            warn!("the secrets have changed since they were read: the next invocation uses the new ones");
            return answer;
        }
        warn!("the secrets have changed since they were read: this invocation begins again with the new ones");
        self.handlers(false).await?.answer(event, invocation, &print).await
    }

    /// The parts, built now if need be; after the secrets were read, if that is to be done.
    async fn handlers(&self, read_secrets: bool) -> Result<Arc<Handlers<R, Q, S>>, Failure> {
        let mut handlers = self.handlers.lock().await;
        if let Some(handlers) = &*handlers {
            return Ok(Arc::clone(handlers));
        }
        if read_secrets {
            Secrets::read(&environment_var).await.put_in_force();
        }
        let failed = |message: String| {
            error!("{message}");
            Failure { kind: INIT_ERROR_TYPE.to_owned(), message }
        };
        let config = Config::from_process_env(self.role).map_err(|errors| failed(errors.to_string()))?;
        put_trust_in_force(&process_var);
        let built = (self.build)(&config, self.role, self.stop.clone());
        let built = Arc::new(built.map_err(|error| failed(format!("cannot start: {error}")))?);
        *handlers = Some(Arc::clone(&built));
        Ok(built)
    }
}

/// Whether an invocation failed in a way that other secrets could mend.
fn may_be_locked_out(answer: &Result<Value, Failure>) -> bool {
    match answer {
        Ok(answer) => matches!(answer.get("statusCode").and_then(Value::as_u64), Some(502 | 503)),
        Err(failure) => {
            let reason = failure.kind.rsplit('.').next().unwrap_or_default();
            matches!(reason, "queue_down" | "database_down" | "no_usable_key" | "migrate")
        }
    }
}

/// Whether the API refused a configured key, or an account gave none, in a run that went on with others.
fn lacks_keys(answer: &Result<Value, Failure>) -> bool {
    let refused = |report: &Value| {
        let counts = |name| report.get(name).and_then(Value::as_u64).is_some_and(|count| count > 0);
        counts("keys_rejected") || counts("logins_failed")
    };
    let Ok(answer) = answer else { return false };
    let body = answer.get("body").and_then(Value::as_str).and_then(|body| serde_json::from_str(body).ok());
    refused(body.as_ref().unwrap_or(answer))
}

fn read_config() -> Result<(Config, Role), ConfigErrors> {
    let role = Role::read(&process_var);
    // Secrets that can only be had later are not checked yet.
    let set = |name: &str| process_var(name).filter(|value| !value.trim().is_empty());
    let vars = |name: &str| set(name).or_else(|| secrets::stand_in(&environment_var, name));
    let config = Config::read(&vars, role.clone().unwrap_or_default());
    let (config, role) = match (config, role) {
        (Ok(config), Ok(role)) => (config, role),
        (config, role) => {
            let problems = [role.err(), config.err()].into_iter().flatten().flat_map(|errors| errors.problems);
            return Err(ConfigErrors { problems: problems.collect() });
        }
    };
    for warning in warnings(&process_var) {
        warn!("{warning}");
    }
    for (name, value) in config.effective().settings() {
        debug!(setting = name, value, "effective configuration");
    }
    Ok((config, role))
}

/// Answers events until the sandbox ends.
async fn serve<R, Q, S>(parts: Parts<R, Q, S>) -> ExitCode
where
    R: Runs + 'static,
    Q: Queue + Slots,
    S: Store,
{
    for name in ["AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_VERSION"] {
        if process_var(name).is_none_or(|value| value.is_empty()) {
            let message =
                format!("{name} is not set, but AWS_LAMBDA_RUNTIME_API is: Lambda and its emulators set both");
            error!("{message}");
            return init_error(&message);
        }
    }
    let busy = Busy::default();
    stop_on_signal(parts.stop.clone(), busy.clone()).await;
    telemetry::log_panics();
    let parts = Arc::new(parts);
    let function = service_fn(move |event: LambdaEvent<Value>| answer(Arc::clone(&parts), event));
    match Runtime::new(function).layer(busy).run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("failed to speak to the Lambda Runtime API: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn answer<R, Q, S>(parts: Arc<Parts<R, Q, S>>, event: LambdaEvent<Value>) -> Result<Value, Diagnostic>
where
    R: Runs + 'static,
    Q: Queue + Slots,
    S: Store,
{
    let LambdaEvent { payload, context } = event;
    let deadline = Timestamp::from_millis(i64::try_from(context.deadline).unwrap_or(i64::MAX));
    // An error span, so that the request id is there at every log level.
    let span = error_span!("invocation", request_id = context.request_id);
    let invocation = Invocation { request_id: context.request_id, deadline };
    let answer = async move { parts.answer(&payload, &invocation).await };
    // As a task of its own: every wake of the future that the runtime itself blocks on is a write to the kernel, which at
    // 30 calls a second was a tenth of the processor time.
    match tokio::spawn(answer.instrument(span)).await {
        Ok(answer) => answer.map_err(Diagnostic::from),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(Diagnostic {
                error_type: "Runtime.Cancelled".to_owned(),
                error_message: format!("failed to finish the invocation: {cancelled}"),
            }),
        },
    }
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        Self { error_type: failure.kind, error_message: failure.message }
    }
}

/// One write, so that the line is not mixed with a log line.
fn print(line: &str) {
    if let Err(error) = std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()) {
        warn!("failed to write the metrics of a run: {error}");
    }
}

/// SIGTERM arrives only when an extension is registered, and only the runtime crate's own helper may exit for it. An
/// emulator without the Extensions API gets a plain signal handler instead.
async fn stop_on_signal(stop: Stop, busy: Busy) {
    let (fallback_stop, fallback_busy) = (stop.clone(), busy.clone());
    let helper = lambda_runtime::spawn_graceful_shutdown_handler(move || shut_down(stop, busy));
    if tokio::spawn(helper).await.is_ok() {
        return;
    }
    warn!("failed to register the extension that SIGTERM needs: this is no real Lambda; listening for signals alone");
    tokio::spawn(async move {
        let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
            return;
        };
        terminate.recv().await;
        shut_down(fallback_stop, fallback_busy).await;
        std::process::exit(0);
    });
}

async fn shut_down(stop: Stop, busy: Busy) {
    stop.ask();
    let _ = tokio::time::timeout(LAST_WAIT, busy.idle()).await;
}

/// Knows whether an invocation goes on: from its arrival until its answer has been delivered.
#[derive(Clone, Debug)]
struct Busy(Arc<watch::Sender<bool>>);

impl Default for Busy {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Busy {
    async fn idle(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|busy| !busy).await;
    }
}

impl<S> Layer<S> for Busy {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Watched { inner, busy: self.clone() }
    }
}

/// The whole of one invocation, the delivery of its answer included.
#[derive(Clone, Debug)]
struct Watched<S> {
    inner: S,
    busy: Busy,
}

impl<S> Service<LambdaInvocation> for Watched<S>
where
    S: Service<LambdaInvocation, Response = (), Error = Error>,
    S::Future: 'static,
{
    type Response = ();
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<(), Error>>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, invocation: LambdaInvocation) -> Self::Future {
        let busy = self.busy.clone();
        busy.0.send_replace(true);
        let answered = self.inner.call(invocation);
        Box::pin(async move {
            let answered = answered.await;
            busy.0.send_replace(false);
            answered
        })
    }
}

/// Tells Lambda that the function cannot start, and why. Without this, AWS shows only an exit status.
fn init_error(message: &str) -> ExitCode {
    let address = process_var("AWS_LAMBDA_RUNTIME_API").unwrap_or_default();
    if let Err(error) = post_init_error(&address, message) {
        error!("failed to report the failed start to the Lambda Runtime API: {error}");
    }
    ExitCode::FAILURE
}

/// By hand and blocking: it is the last thing that the process does, and works when nothing else could be built.
fn post_init_error(address: &str, message: &str) -> std::io::Result<()> {
    let body = json!({"errorType": INIT_ERROR_TYPE, "errorMessage": message, "stackTrace": []}).to_string();
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    connection.set_write_timeout(Some(Duration::from_secs(2)))?;
    let request = format!(
        "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Lambda-Runtime-Function-Error-Type: {INIT_ERROR_TYPE}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes())?;
    // The answer says nothing we need, but leaving before it comes could cut the request off.
    connection.read_exact(&mut [0; 12])
}
