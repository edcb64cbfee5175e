//! A real `PgBouncer` in transaction mode, where one is installed.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::server::{find_folder_with, free_port};

#[derive(Debug)]
pub struct PgBouncer {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl PgBouncer {
    /// A pooler with so many connections to the server of `url`, and the URL with its place in it. `None` where `PgBouncer`
    /// is not installed, which is said.
    pub async fn in_front_of(url: &str, server_connections: u8) -> Option<(Self, String)> {
        Self::with_setting(url, server_connections, "").await
    }

    /// The same, with one more line in its file.
    pub async fn with_setting(url: &str, server_connections: u8, setting: &str) -> Option<(Self, String)> {
        let places = ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from);
        let Some(bin) = find_folder_with(&["pgbouncer"], places.to_vec()) else {
            eprintln!("not tested: PgBouncer is not installed");
            return None;
        };
        let mut url = url::Url::parse(url).expect("a URL");
        let (port, server) = (free_port(), url.port().expect("a port"));
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        let settings = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = {server_connections}\n\
             max_client_conn = 200\nserver_round_robin = 1\n{setting}\n"
        );
        // With `any` everybody is one user.
        let text = text.replace("* = host", "* = user=postgres host");
        fs::write(&settings, text).expect("the settings");
        // It refuses to run as root.
        let is_root = fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
        let mut command = if is_root { Command::new("setpriv") } else { Command::new(bin.join("pgbouncer")) };
        if is_root {
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=KILL"]);
            command.arg(bin.join("pgbouncer"));
        }
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        command.arg("-q").arg(&settings).current_dir(env::temp_dir());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("PgBouncer starts");
        let pooler = Self { child, port, folder };
        let deadline = Instant::now() + Duration::from_secs(30);
        while tokio::net::TcpStream::connect(("127.0.0.1", pooler.port)).await.is_err() {
            assert!(Instant::now() < deadline, "PgBouncer does not listen: {}", pooler.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        url.set_port(Some(port)).expect("a URL with a port");
        Some((pooler, url.into()))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
