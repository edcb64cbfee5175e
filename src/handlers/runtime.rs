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
use tokio::sync::watch;
use tracing::{Instrument, debug, error, error_span, warn};

use super::{Failure, Handlers, Invocation};
use crate::{
    clock::Timestamp,
    config::{
        Config, ConfigErrors, Role, TelemetryConfig,
        env::{process_var, warnings},
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
pub fn main<R, Q, S, E>(build: impl FnOnce(&Config, Role) -> Result<Handlers<R, Q, S>, E>) -> ExitCode
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
        let (config, role) = match read_config() {
            Ok(read) => read,
            Err(errors) => {
                for problem in &errors.problems {
                    error!(variable = problem.variable, "the configuration will not do: {problem}");
                }
                return init_error(&format!("failed to {errors}"));
            }
        };
        match build(&config, role) {
            Ok(handlers) => serve(handlers).await,
            Err(error) => {
                let message = format!("failed to start: {error:#}");
                error!("{message}");
                init_error(&message)
            }
        }
    })
}

fn read_config() -> Result<(Config, Role), ConfigErrors> {
    let role = Role::read(&process_var);
    let config = Config::from_process_env(role.clone().unwrap_or_default());
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
async fn serve<R, Q, S>(handlers: Handlers<R, Q, S>) -> ExitCode
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
    stop_on_signal(handlers.stop.clone(), busy.clone()).await;
    telemetry::log_panics();
    let handlers = Arc::new(handlers);
    let function = service_fn(move |event: LambdaEvent<Value>| answer(Arc::clone(&handlers), event));
    match Runtime::new(function).layer(busy).run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("failed to speak to the Lambda Runtime API: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn answer<R, Q, S>(handlers: Arc<Handlers<R, Q, S>>, event: LambdaEvent<Value>) -> Result<Value, Diagnostic>
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
    let answer = async move { handlers.answer(&payload, &invocation, &print).await };
    answer.instrument(span).await.map_err(Diagnostic::from)
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
