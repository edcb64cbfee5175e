//! A private server process that cannot outlive the test process.
//!
//! Each server has a keeper, a small shell script at the other end of a pipe. The pipe closes when the test process
//! ends (a return, a panic, Ctrl-C, SIGKILL), the keeper reads that end, stops the server and removes its folder.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The limit for a server's start; generous, since test machines are busy.
const START_LIMIT: Duration = Duration::from_mins(1);

/// A kind of server: its commands, and the way to recognise it.
#[derive(Debug)]
pub struct Recipe {
    /// Goes into the folder's name.
    pub name: &'static str,
    /// The folder of the server's programs.
    pub bin: PathBuf,
    /// Shell command run once, before the first start; it may use `$bin` and `$folder`.
    pub prepare: &'static str,
    /// Shell command that becomes the server (`exec`); it may use `$bin`, `$folder` and `$port`.
    pub serve: &'static str,
    /// The signal that ends the server at once.
    pub stop_signal: &'static str,
    /// Asks the server on a port for its folder; `None` while it does not answer. A stranger on the port that was
    /// thought free is recognised by its folder.
    pub folder_of: fn(u16) -> Option<PathBuf>,
}

/// A running (or, for a while, stopped) server.
#[derive(Debug)]
pub struct Server {
    recipe: Recipe,
    keeper: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    folder: PathBuf,
    port: u16,
}

impl Server {
    /// Starts a server and waits until it answers. Blocks: call it from a blocking thread.
    pub fn start(recipe: Recipe) -> Result<Self, String> {
        let mut keeper = Command::new("sh")
            .args(["-c", include_str!("keeper.sh"), "keeper"])
            .env("name", recipe.name)
            .env("bin", &recipe.bin)
            .env("prepare", recipe.prepare)
            .env("serve", recipe.serve)
            .env("stop_signal", recipe.stop_signal)
            .env("TMPDIR", env::temp_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A group of its own: Ctrl-C reaches the test process, and the keeper learns of it by the pipe.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("start `sh` for a private {} server: {error}", recipe.name))?;
        let orders = keeper.stdin.take();
        let answers = BufReader::new(keeper.stdout.take().expect("stdout is piped"));
        let mut server = Self { recipe, keeper, orders, answers, folder: PathBuf::new(), port: 0 };
        server.folder = PathBuf::from(server.answer());
        server.order("prepare")?;
        server.start_on_a_free_port()?;
        Ok(server)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Carries out one of the orders below. That may take a while, and other tasks of the test go on meanwhile.
    pub async fn carry_out(server: &mut Option<Self>, order: fn(&mut Self)) {
        let mut ordered = server.take().expect("a server between orders");
        let work = move || {
            order(&mut ordered);
            ordered
        };
        *server = Some(tokio::task::spawn_blocking(work).await.expect("the order is carried out"));
    }

    /// Stops the server at once, as a crash would; its port refuses connections afterwards.
    pub fn stop(&mut self) {
        self.order("stop").expect("the keeper stops its server");
    }

    /// Starts a stopped server again on the same port.
    pub fn start_again(&mut self) {
        let port = self.port;
        let deadline = Instant::now() + START_LIMIT;
        // Somebody's outgoing connection may sit on the port for a moment.
        while let Err(problem) = self.try_port(port) {
            assert!(Instant::now() < deadline, "{problem}");
        }
    }

    /// Freezes the server: connections stay open, nothing is answered.
    pub fn freeze(&mut self) {
        self.order("freeze").expect("the keeper freezes its server");
    }

    pub fn thaw(&mut self) {
        self.order("thaw").expect("the keeper thaws its server");
    }

    fn start_on_a_free_port(&mut self) -> Result<(), String> {
        let mut last_problem = String::new();
        for _ in 0..5 {
            match self.try_port(free_port()) {
                Ok(()) => return Ok(()),
                Err(problem) => last_problem = problem,
            }
        }
        Err(last_problem)
    }

    fn try_port(&mut self, port: u16) -> Result<(), String> {
        self.port = port;
        self.order(&format!("start {port}"))?;
        let own_folder = fs::canonicalize(&self.folder).unwrap_or_else(|_| self.folder.clone());
        let deadline = Instant::now() + START_LIMIT;
        while Instant::now() < deadline {
            match (self.recipe.folder_of)(port) {
                Some(folder) if fs::canonicalize(&folder).is_ok_and(|folder| folder.starts_with(&own_folder)) => {
                    return Ok(());
                }
                Some(_) => break, // Another server has the port.
                None if self.log_says_the_port_is_taken() => break,
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
        self.order("stop")?;
        let mut problem = format!("a private {} server did not answer on port {port}", self.recipe.name);
        let _ = write!(problem, "; its log ends with:\n{}", tail(&self.folder.join("log"), 12));
        let _ = fs::write(self.folder.join("log"), "");
        Err(problem)
    }

    fn log_says_the_port_is_taken(&self) -> bool {
        fs::read_to_string(self.folder.join("log")).is_ok_and(|log| log.contains("already in use"))
    }

    fn order(&mut self, order: &str) -> Result<(), String> {
        let orders = self.orders.as_mut().expect("the pipe is open until the server is dropped");
        let sent = writeln!(orders, "{order}").and_then(|()| orders.flush());
        match sent {
            Ok(()) if self.answer() == "done" => Ok(()),
            _ => Err(format!(
                "a private {} server could not {order}; its log ends with:\n{}",
                self.recipe.name,
                tail(&self.folder.join("log"), 12)
            )),
        }
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        let _ = self.answers.read_line(&mut line);
        line.trim_end().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.keeper.wait();
    }
}

/// A loopback port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a free loopback port").port()
}

/// The first folder that holds all of `programs`: those of `PATH`, then `others`.
pub fn find_folder_with(programs: &[&str], others: Vec<PathBuf>) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(others).find(|folder| programs.iter().all(|program| folder.join(program).is_file()))
}

/// The folders `parent/*/rest` whose middle starts with `prefix`, the highest version first.
pub fn folders_like(parent: &str, prefix: &str, rest: &str) -> Vec<PathBuf> {
    let mut names: Vec<String> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    let version =
        |name: &String| name.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0_u32);
    names.sort_by_key(|name| std::cmp::Reverse(version(name)));
    names.into_iter().map(|name| Path::new(parent).join(name).join(rest)).collect()
}

fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[test]
fn killed_test_process_leaves_nothing() {
    use super::{postgres::PrivatePostgres, redis::PrivateRedis};

    const ROLE: &str = "REFRESH_WORKER_TESTS_HOLD";
    if env::var_os(ROLE).is_some() {
        // The second process: it starts the servers and is killed here.
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (redis, postgres) =
            runtime.block_on(async { (PrivateRedis::start().await, PrivatePostgres::start().await) });
        println!("\nholding {} {}", redis.port(), postgres.port());
        loop {
            thread::park();
        }
    }

    let temp = tempfile::tempdir().expect("a folder");
    // PostgreSQL drops to another user, who has to pass through.
    fs::set_permissions(temp.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("the folder is ours");
    let mut held = Command::new(env::current_exe().expect("the test binary"))
        .args(["--exact", "--nocapture", "support::server::killed_test_process_leaves_nothing"])
        .env(ROLE, "1")
        .env("TMPDIR", temp.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test binary starts");
    let ports: Vec<u16> = BufReader::new(held.stdout.take().expect("stdout is piped"))
        .lines()
        .map_while(Result::ok)
        .find_map(|line| {
            let ports = line.strip_prefix("holding ")?.split(' ');
            Some(ports.map(|port| port.parse().expect("a port")).collect())
        })
        .expect("the servers start");
    assert_eq!(fs::read_dir(temp.path()).expect("the folder").count(), 2);

    held.kill().expect("SIGKILL");
    held.wait().expect("it ends");

    let deadline = Instant::now() + START_LIMIT;
    let left = || fs::read_dir(temp.path()).expect("the folder").count();
    let listens = |port: &u16| std::net::TcpStream::connect(("127.0.0.1", *port)).is_ok();
    while left() > 0 || ports.iter().any(listens) {
        assert!(Instant::now() < deadline, "left behind: {} folders, ports {ports:?}", left());
        thread::sleep(Duration::from_millis(5));
    }
}
