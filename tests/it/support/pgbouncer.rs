//! A pooler in transaction mode, `PgBouncer`, where it is installed.

use std::path::PathBuf;

use sqlx::{ConnectOptions as _, PgConnection, Row as _, postgres::PgConnectOptions};

use super::server::{Recipe, Server, find_folder_with};

/// A pooler in front of a database. Gone when it is dropped.
#[derive(Debug)]
pub struct Bouncer {
    server: Option<Server>,
    database: String,
}

impl Bouncer {
    /// `settings` are more lines of its file. `None`, with a line that says so, where it is not installed.
    pub async fn in_front_of(url: &str, settings: &'static str) -> Option<Self> {
        let Some(bin) = find_folder_with(&["pgbouncer"], vec![PathBuf::from("/usr/sbin")]) else {
            eprintln!("skipped: PgBouncer is not installed");
            return None;
        };
        let url = url::Url::parse(url).expect("a URL");
        let (host, port) = (url.host_str().expect("a host"), url.port().expect("a port"));
        // What is started is a text of the program's; a few of them may stay for the length of a test.
        let serve: &'static str = Box::leak(
            format!(
                r#"as=
                if [ "$(id -u)" = 0 ]; then
                    chown postgres "$folder"
                    as="setpriv --reuid=postgres --regid=postgres --clear-groups"
                fi
                cat >"$folder/pgbouncer.ini" <<END
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = trust
auth_file = $folder/users.txt
pool_mode = transaction
admin_users = postgres
{settings}
END
                printf '"postgres" ""\n' >"$folder/users.txt"
                exec $as "$bin/pgbouncer" "$folder/pgbouncer.ini""#
            )
            .into_boxed_str(),
        );
        let recipe = Recipe { name: "pgbouncer", bin, prepare: "true", serve, stop_signal: "KILL", folder_of };
        let started = tokio::task::spawn_blocking(move || Server::start(recipe)).await.expect("it starts");
        let server = started.unwrap_or_else(|problem| panic!("{problem}"));
        Some(Self { server: Some(server), database: url.path().to_owned() })
    }

    /// The database through the pooler.
    pub fn url(&self) -> String {
        let port = self.server.as_ref().expect("it runs").port();
        format!("postgres://postgres@127.0.0.1:{port}{}", self.database)
    }
}

/// Its own console knows its file.
fn folder_of(port: u16) -> Option<PathBuf> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port).username("postgres");
        let options = options.database("pgbouncer").extra_float_digits(None);
        let mut connection: PgConnection = options.connect().await.ok()?;
        let rows = sqlx::raw_sql("SHOW CONFIG").fetch_all(&mut connection).await.ok()?;
        let row = rows.iter().find(|row| row.try_get::<String, _>(0).is_ok_and(|name| name == "conffile"))?;
        PathBuf::from(row.try_get::<String, _>(1).ok()?).parent().map(PathBuf::from)
    })
}
