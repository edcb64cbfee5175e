//! The Lambda side of the process: cold start, the invocation loop, and the end of the sandbox.
//!
//! Speaks to the Lambda Runtime API and to nothing else. A wrong configuration is reported at the start, as an init
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
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Mutex, watch},
};
use tracing::{Instrument, debug, error, error_span, warn};

use super::{
    Handlers, Invocation, extension,
    response::{Access, Failure, FailureKind, INIT_ERROR_TYPE, Response},
};
use crate::{
    clock::{Clock as _, SystemClock},
    config::{
        Config, ConfigErrors, Role, TelemetryConfig,
        env::{environment_var, process_var, put_trust_in_force, warnings},
        secrets::{self, Secrets},
    },
    queue::{Queue, SharedState},
    store::Store,
    telemetry,
    worker::{Runs, Stop},
};

// The end of the sandbox waits this long for a run to release what it holds. AWS itself often allows less; then leases
// and key slots run out by themselves.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs the process as a Lambda function; `build` joins the parts.
pub fn main<R, Q, S, E>(
    build: impl Fn(&Config, Role, Stop) -> Result<Handlers<R, Q, S>, E> + Send + Sync + 'static,
) -> ExitCode
where
    R: Runs + 'static,
    Q: Queue + SharedState,
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
                    error!(variable = problem.variable, "the configuration cannot be used: {problem}");
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

impl<R: Runs, Q: Queue + SharedState, S: Store> Parts<R, Q, S> {
    /// Handles an event. When Redis, the database or the API may have denied access, and the secrets are kept elsewhere,
    /// they are read again, once; the event is handled again only when the secrets have changed. When only some keys were
    /// rejected, the run has gone on with the others, and the next one begins with the new secrets.
    async fn handle(&self, event: &Value, invocation: &Invocation) -> Result<Response, Failure> {
        let handlers = self.handlers(secrets::need_the_extension(&environment_var)).await?;
        let response = handlers.handle(event, invocation, &print).await;
        let access = response.as_ref().map_or_else(Failure::access, |response| response.access);
        if access == Access::Granted || !secrets::are_elsewhere(&environment_var) {
            return response;
        }
        let secrets = Secrets::read(&environment_var).await;
        for problem in secrets.problems() {
            warn!("failed to read secrets again: {problem}");
        }
        if !secrets.problems().is_empty() || !secrets.put_in_force() {
            return response;
        }
        *self.handlers.lock().await = None;
        if access == Access::SomeKeysRejected {
            warn!("the secrets have changed since they were read: the next invocation uses the new ones");
            return response;
        }
        warn!("the secrets have changed since they were read: this invocation begins again with the new ones");
        self.handlers(false).await?.handle(event, invocation, &print).await
    }

    /// The parts, built now if they are missing; with `read_secrets`, after the secrets were read.
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
            Failure::new(FailureKind::BadConfig, message)
        };
        let config = Config::from_process_env(self.role).map_err(|errors| failed(errors.to_string()))?;
        put_trust_in_force(&process_var);
        let built = (self.build)(&config, self.role, self.stop.clone());
        let built = Arc::new(built.map_err(|error| failed(format!("cannot start: {error}")))?);
        *handlers = Some(Arc::clone(&built));
        Ok(built)
    }
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

/// Handles events until the sandbox ends.
async fn serve<R, Q, S>(parts: Parts<R, Q, S>) -> ExitCode
where
    R: Runs + 'static,
    Q: Queue + SharedState,
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
    stop_on_signal(parts.stop.clone(), busy.clone());
    telemetry::log_panics();
    let parts = Arc::new(parts);
    let function = service_fn(move |event: LambdaEvent<Value>| handle(Arc::clone(&parts), event));
    match Runtime::new(function).layer(busy).run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("failed to speak to the Lambda Runtime API: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn handle<R, Q, S>(parts: Arc<Parts<R, Q, S>>, event: LambdaEvent<Value>) -> Result<Value, Diagnostic>
where
    R: Runs + 'static,
    Q: Queue + SharedState,
    S: Store,
{
    let LambdaEvent { payload, context } = event;
    // An error span, so that the request id is there at every log level.
    let span = error_span!("invocation", request_id = context.request_id);
    let invocation = Invocation::new(context.request_id, context.deadline, SystemClock.wall());
    let response = async move { parts.handle(&payload, &invocation).await };
    // As a task of its own: every wake of the future that the runtime itself blocks on is a write to the kernel, which at
    // 30 calls a second was a tenth of the processor time.
    match tokio::spawn(response.instrument(span)).await {
        Ok(response) => response.map(|response| response.value).map_err(Diagnostic::from),
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
        Self { error_type: failure.kind.to_string(), error_message: failure.message }
    }
}

/// Prints a line with a single write, so that it is not mixed with a log line.
fn print(line: &str) {
    if let Err(error) = std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()) {
        warn!("failed to write the metrics of a run: {error}");
    }
}

/// Ends the process on SIGTERM, once the run has returned what it holds. Lambda sends SIGTERM only to a sandbox with an
/// extension.
fn stop_on_signal(stop: Stop, busy: Busy) {
    let address = process_var("AWS_LAMBDA_RUNTIME_API").unwrap_or_default();
    let extension = extension::register(&address)
        .inspect_err(|error| warn!("no extension could be registered, so Lambda will not send SIGTERM: {error}"));
    tokio::spawn(async move {
        // Lambda takes a closed connection for the end of the extension.
        let _extension = extension;
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            // Emulators end with Ctrl-C.
            _ = interrupt.recv() => {}
        }
        shut_down(stop, busy).await;
        std::process::exit(0);
    });
}

async fn shut_down(stop: Stop, busy: Busy) {
    stop.ask();
    // Late or not, the sandbox ends now: whatever is still held runs out by itself.
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, busy.idle()).await;
}

/// True while an invocation goes on: from its arrival until its response is delivered.
#[derive(Clone, Debug)]
struct Busy(Arc<watch::Sender<bool>>);

impl Default for Busy {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Busy {
    async fn idle(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|busy| !busy).await;
    }
}

impl<S> Layer<S> for Busy {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Watched { inner, busy: self.clone() }
    }
}

/// A service that is busy for the whole of an invocation, the delivery of its response included.
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
        let delivered = self.inner.call(invocation);
        Box::pin(async move {
            let delivered = delivered.await;
            busy.0.send_replace(false);
            delivered
        })
    }
}

/// Reports to Lambda why the function cannot start. Without this, AWS shows only an exit status.
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
    // The response has nothing we need, but leaving before it comes could cut the request off.
    connection.read_exact(&mut [0; 12])
}
