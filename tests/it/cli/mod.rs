//! The command line as people use it: the real binary as a process, its output, its files and its exit codes.

mod addresses;
mod check;
mod check_database;
mod demo;
mod drain;
mod help;
mod keys;
mod queue;
mod readme;
mod redis_acl;
mod sim;
mod tools;

use std::{path::Path, process::Stdio, time::Duration};

use refresh_worker::sim::{SimConfig, Simulator};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// No correct command needs longer here; busy machines may come close to a tenth of it.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);

/// A command line with a folder and an environment of its own.
#[derive(Debug)]
pub struct Shell {
    folder: TempDir,
    environment: Vec<(String, String)>,
}

/// A simulated API that accepts these keys.
pub async fn simulator(keys: &[&str]) -> Simulator {
    let tokens = keys.iter().map(|key| (*key).to_owned()).collect();
    Simulator::start(SimConfig { tokens, ..SimConfig::default() }).await.expect("a simulator")
}

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Shell {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder"), environment: Vec::new() }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// What a variable was set to last.
    pub fn variable(&self, name: &str) -> String {
        let set = self.environment.iter().rfind(|(known, _)| known == name);
        set.map(|(_, value)| value.clone()).expect("it is set")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_refresh-worker"));
        command
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with_input(arguments, "").await
    }

    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let mut child = self.command(arguments).spawn().expect("the binary starts");
        let mut stdin = child.stdin.take().expect("standard input is piped");
        // A command that does not read its input closes it early, and that is fine.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = timeout(COMMAND_TIMEOUT, child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("{arguments:?} did not end")).expect("its output is read");
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

/// A command under way.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    read: String,
}

impl Shell {
    /// Starts a command that is watched while it goes on.
    pub fn start(&self, arguments: &[&str]) -> Running {
        let mut child = self.command(arguments).spawn().expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().expect("standard output is piped"));
        Running { child, stdout, read: String::new() }
    }
}

impl Running {
    /// The next line of its output.
    pub async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(COMMAND_TIMEOUT, self.stdout.read_line(&mut line)).await.expect("a line in time").expect("text");
        self.read.push_str(&line);
        line
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&self) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = std::process::Command::new("kill").args(["-INT", &id]).status().expect("kill is there");
        assert!(sent.success(), "{sent}");
    }

    /// Ends it as a power cut does.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    pub async fn end(mut self) -> Ran {
        let rest = async {
            self.stdout.read_to_string(&mut self.read).await.expect("text");
            self.child.wait_with_output().await.expect("its output is read")
        };
        let output = timeout(COMMAND_TIMEOUT, rest).await.expect("it ends in time");
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: self.read,
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

impl Ran {
    /// The output of a command that went well.
    #[track_caller]
    pub fn well(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// What a command said on standard error when it ended with this code.
    #[track_caller]
    pub fn badly(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        self.stderr
    }
}
