//! The worker's binary as a process, driven through a Runtime API of its own, as a Lambda sandbox drives it.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::runtime_api::{Answer, Pending, RuntimeApi};

/// A limit that no correct process reaches; busy machines may need a tenth of it.
const PROCESS_TIMEOUT: Duration = Duration::from_mins(2);

/// A sandbox: the process and the Runtime API that it polls.
#[derive(Debug)]
pub struct WorkerProcess {
    api: RuntimeApi,
    child: Child,
    pid: u32,
    stdout: File,
    stderr: File,
    finished_events: u64,
    read_output: Output,
}

/// An event that was handed over and is not answered yet.
#[derive(Debug)]
pub struct Running {
    pending: Pending,
    budget: Duration,
}

impl Running {
    pub fn request_id(&self) -> &str {
        &self.pending.request_id
    }
}

/// A finished invocation.
#[derive(Debug)]
pub struct Invocation {
    pub request_id: String,
    pub outcome: Outcome,
    /// The output of the process during the invocation.
    pub logs: Output,
}

#[derive(Debug, PartialEq)]
pub enum Outcome {
    Response(Value),
    /// `errorType` and `errorMessage`.
    Error(Value),
    /// The deadline passed without an answer; the process was killed, as Lambda does.
    TimedOut,
    /// The process ended without an answer.
    Exited(ExitStatus),
}

/// Text that a process wrote to standard output and standard error.
#[derive(Clone, Debug, Default)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
}

impl WorkerProcess {
    /// Starts the binary with this environment and nothing else but what Lambda sets. `E2E_BINARY` names another binary,
    /// such as the packaged one.
    pub async fn start<K: AsRef<str>, V: AsRef<str>>(
        handler: &str,
        environment: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let own: Vec<(K, V)> = environment.into_iter().collect();
        let ours = env!("CARGO_BIN_EXE_refresh-worker").to_owned();
        // A package has no failpoints.
        let needs_ours = own.iter().any(|(name, _)| name.as_ref() == "FAILPOINT");
        let binary = env::var("E2E_BINARY").ok().filter(|_| !needs_ours).unwrap_or(ours);
        Self::start_command(Command::new(binary), handler, own).await
    }

    async fn start_command<K: AsRef<str>, V: AsRef<str>>(
        mut command: Command,
        handler: &str,
        environment: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let api = RuntimeApi::start().await;
        // Files, since what was written to them can be read at any moment; without a name, since nobody removes them.
        let (stdout, stderr) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
        let child_end = |file: &File| file.try_clone().expect("a second handle");
        let mut own: BTreeMap<String, String> = environment
            .into_iter()
            .map(|(name, value)| (name.as_ref().to_owned(), value.as_ref().to_owned()))
            .collect();
        // Whoever wants short leases does not want to wait for slots either.
        if let Some(seconds) = own.get("LEASE_SECONDS").cloned() {
            own.entry("SLOT_LIFETIME_MS".to_owned()).or_insert_with(|| format!("{seconds}000"));
        }
        let child = command
            .env_clear()
            .envs(lambda_environment(&api.address(), handler))
            .envs(own)
            .current_dir(env::temp_dir())
            .stdin(Stdio::null())
            .stdout(child_end(&stdout))
            .stderr(child_end(&stderr))
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let pid = child.id().expect("a child that was not waited for has an id");
        Self { api, child, pid, stdout, stderr, finished_events: 0, read_output: Output::default() }
    }

    /// Runs an invocation: hands over an event and waits for the response.
    pub async fn invoke(&mut self, event: &Value, budget: Duration) -> Invocation {
        let running = self.begin(event, budget).await;
        self.finish(running).await
    }

    /// Hands over an event once the process asks for one. The budget counts from then.
    pub async fn begin(&mut self, event: &Value, budget: Duration) -> Running {
        self.wait_until_idle().await;
        Running { pending: self.api.send(event, budget), budget }
    }

    pub async fn finish(&mut self, running: Running) -> Invocation {
        let Running { pending, budget } = running;
        let outcome = tokio::select! {
            biased;
            answer = pending.answer => match answer.expect("the server keeps the sender") {
                Answer::Response(body) => Outcome::Response(body),
                Answer::Error(body) => Outcome::Error(body),
            },
            status = self.child.wait() => Outcome::Exited(status.expect("the process can be waited for")),
            () = tokio::time::sleep(budget) => Outcome::TimedOut,
        };
        self.finished_events += 1;
        match outcome {
            // The output is complete when the process asks for its next event.
            Outcome::Response(_) | Outcome::Error(_) => self.wait_until_idle().await,
            Outcome::TimedOut => self.kill().await,
            Outcome::Exited(_) => {}
        }
        Invocation { request_id: pending.request_id, outcome, logs: self.new_output() }
    }

    /// Waits until the process asks for an event; returns also when it has ended instead.
    pub async fn wait_until_idle(&mut self) {
        let mut polls = self.api.polls();
        let finished = self.finished_events;
        let idle = async {
            tokio::select! {
                _ = polls.wait_for(|polls| *polls > finished) => {}
                _ = self.child.wait() => {}
            }
        };
        let in_time = timeout(PROCESS_TIMEOUT, idle).await.is_ok();
        assert!(in_time, "the worker neither asks for an event nor ends; it wrote:\n{}", self.output());
    }

    /// Waits until the process ends by itself.
    pub async fn wait(&mut self) -> ExitStatus {
        let ended = timeout(PROCESS_TIMEOUT, self.child.wait()).await.ok();
        let status = ended.unwrap_or_else(|| panic!("the worker does not end; it wrote:\n{}", self.output()));
        status.expect("the process can be waited for")
    }

    /// From now on the process gets the time left in place of a point in time, as from `cargo lambda watch`.
    pub fn send_time_left(&self) {
        self.api.send_time_left();
    }

    /// The error that the process reported for a failed start.
    pub fn init_error(&self) -> Option<Value> {
        self.api.init_error()
    }

    /// The names of the extensions that the process registered.
    pub fn extensions(&self) -> Vec<String> {
        self.api.extensions()
    }

    /// Sends a signal by its short name: `TERM`, `STOP`, `CONT`.
    pub async fn signal(&self, name: &str) {
        // The shell has `kill` built in; a small machine may lack the program.
        let kill = format!("kill -s {name} {}", self.pid);
        let status = Command::new("sh").args(["-c", &kill]).status().await.expect("sh");
        assert!(status.success(), "{kill}: {status}");
    }

    /// Stops the process where it is, as Lambda freezes a sandbox between invocations.
    pub async fn freeze(&self) {
        self.signal("STOP").await;
    }

    pub async fn thaw(&self) {
        self.signal("CONT").await;
    }

    pub async fn kill(&mut self) {
        self.child.kill().await.expect("the process can be killed");
    }

    /// Everything that the process has written so far.
    pub fn output(&self) -> Output {
        Output { stdout: read_whole(&self.stdout), stderr: read_whole(&self.stderr) }
    }

    /// The most memory that the process has held at once; `None` where the system does not report it.
    pub fn peak_memory_bytes(&self) -> Option<u64> {
        self.bytes_of("VmHWM:")
    }

    /// The most memory, less what is only the program's own file: of that a debug build has tens of MiB.
    pub fn peak_memory_of_data_bytes(&self) -> Option<u64> {
        Some(self.peak_memory_bytes()?.saturating_sub(self.bytes_of("RssFile:")?))
    }

    fn bytes_of(&self, name: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
    }

    /// The processor time that the process has used, in steps of 10 ms; `None` where the system does not report it.
    pub fn cpu_time(&self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        // The name in brackets may hold spaces; user and system time are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(Duration::from_millis(ticks * 10))
    }

    fn new_output(&mut self) -> Output {
        let all = self.output();
        let new = Output {
            stdout: all.stdout[self.read_output.stdout.len()..].to_owned(),
            stderr: all.stderr[self.read_output.stderr.len()..].to_owned(),
        };
        self.read_output = all;
        new
    }
}

impl Invocation {
    /// The answer, which must not be an error.
    pub fn response(&self) -> &Value {
        match &self.outcome {
            Outcome::Response(body) => body,
            other => panic!("the invocation has no response but {other:?}; the worker wrote:\n{}", self.logs),
        }
    }

    /// The error, which must not be an answer.
    pub fn error(&self) -> &Value {
        match &self.outcome {
            Outcome::Error(body) => body,
            other => panic!("the invocation has no error but {other:?}; the worker wrote:\n{}", self.logs),
        }
    }
}

impl Output {
    /// The lines that are JSON objects, and a panic for one that is not: CloudWatch would not find it.
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("not a JSON line: {line}"));
        self.stdout.lines().filter(|line| !line.is_empty()).map(parse).collect()
    }

    /// The metric lines (CloudWatch embedded metric format).
    pub fn metrics(&self) -> Vec<Value> {
        self.json_lines().into_iter().filter(|line| line.get("_aws").is_some()).collect()
    }

    /// The log lines of a level, such as `INFO`.
    pub fn logs(&self, level: &str) -> Vec<Value> {
        let logs = self.json_lines().into_iter().filter(|line| line.get("_aws").is_none());
        logs.filter(|line| line["level"] == level).collect()
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}{}", self.stdout, self.stderr)
    }
}

/// The file's text so far, without moving the place where the process writes on.
fn read_whole(file: &File) -> String {
    let length = file.metadata().expect("an open file").len();
    let mut bytes = vec![0; usize::try_from(length).expect("output fits the memory")];
    file.read_exact_at(&mut bytes, 0).expect("what was written can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The variables that Lambda sets for a custom runtime.
fn lambda_environment(api: &str, handler: &str) -> [(&'static str, String); 14] {
    [
        ("AWS_LAMBDA_RUNTIME_API", api.to_owned()),
        ("AWS_LAMBDA_FUNCTION_NAME", "coc-refresh".to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256".to_owned()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/coc-refresh".to_owned()),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/01/01/[$LATEST]0123456789abcdef0123456789abcdef".to_owned()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("AWS_EXECUTION_ENV", "AWS_Lambda_provided.al2023".to_owned()),
        ("AWS_REGION", "eu-central-1".to_owned()),
        ("AWS_DEFAULT_REGION", "eu-central-1".to_owned()),
        ("LAMBDA_TASK_ROOT", "/var/task".to_owned()),
        ("LANG", "en_US.UTF-8".to_owned()),
        ("TZ", ":UTC".to_owned()),
        ("_HANDLER", handler.to_owned()),
    ]
}

/// The harness drives a small function of its own: this test in a second process.
#[tokio::test]
async fn the_harness_sees_responses_errors_timeouts_and_ends() {
    const ROLE: &str = "REFRESH_WORKER_TESTS_FUNCTION";
    if env::var_os(ROLE).is_some() {
        let function = |event: lambda_runtime::LambdaEvent<Value>| async move {
            println!("\n{}", event.payload);
            match event.payload["do"].as_str() {
                Some("answer") => Ok(event.payload),
                Some("fail") => Err("as requested"),
                Some("end") => std::process::exit(3),
                _ => std::future::pending().await,
            }
        };
        lambda_runtime::run(lambda_runtime::service_fn(function)).await.unwrap();
    }

    let start = || {
        let mut command = Command::new(env::current_exe().unwrap());
        let name = "support::process::the_harness_sees_responses_errors_timeouts_and_ends";
        command.args(["--exact", "--nocapture", name]);
        WorkerProcess::start_command(command, "refresh", [(ROLE, "1")])
    };
    let minute = Duration::from_mins(1);
    let order = |what| serde_json::json!({ "do": what });
    let mut process = start().await;

    let answered = process.invoke(&order("answer"), minute).await;
    assert_eq!(answered.response(), &order("answer"));
    assert!(answered.logs.stdout.contains(r#"{"do":"answer"}"#));

    let failed = process.invoke(&order("fail"), minute).await;
    assert_eq!(failed.error()["errorMessage"], "as requested");
    assert!(!failed.logs.stdout.contains("answer"), "only its own output: {}", failed.logs);

    let ended = process.invoke(&order("end"), minute).await;
    assert!(matches!(ended.outcome, Outcome::Exited(status) if status.code() == Some(3)), "{ended:?}");

    let mut process = start().await;
    let hung = process.invoke(&order("hang"), Duration::from_millis(300)).await;
    assert_eq!(hung.outcome, Outcome::TimedOut);
    assert!(!process.wait().await.success());
}
