//! The address of the database: its schema and TLS settings are obeyed or refused.

use std::{os::unix::fs::MetadataExt as _, path::Path};

use refresh_worker::store::{Committed, Store, StoreError, postgres::PostgresStore};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixListener},
};

use super::{
    beds::config,
    documents::{at, clan, player},
};
use crate::support::{
    self,
    pgbouncer::PgBouncer,
    postgres::PrivatePostgres,
    tls::{Authority, in_url},
};

const CONTRACT: &str = include_str!("../support/contract.sql");

async fn run(url: &str, statements: &str) {
    let pool = PgPool::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&pool).await.unwrap();
}

async fn count(url: &str, table: &str) -> i64 {
    let pool = PgPool::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {table}"))).fetch_one(&pool).await.unwrap()
}

/// A database with the six tables in `public` and again in `stats`.
async fn two_sets(url: &str) {
    run(url, &format!("CREATE SCHEMA stats; SET search_path = stats; {CONTRACT}")).await;
}

async fn store_one(url: &str) -> Result<Vec<Committed>, StoreError> {
    let store = PostgresStore::connect(&config(url))?;
    store.migrate().await?;
    let batch = [clan("8GG").with([player("2PP")]).fetched(at(0))];
    Ok(store.commit(at(1), &batch).await?.committed)
}

async fn refused(url: &str) -> String {
    let store = match PostgresStore::connect(&config(url)) {
        Ok(store) => store,
        Err(error) => return error.to_string(),
    };
    store.ping().await.unwrap_err().to_string()
}

#[tokio::test]
async fn commits_write_to_schema_of_url() {
    for parameters in [
        "schema=stats",
        "currentSchema=stats",
        "search_path=stats",
        "options=-csearch_path%3Dstats",
        "schema=stats&sslmode=prefer",
    ] {
        let url = support::postgres::fresh_with_contract().await;
        two_sets(&url).await;
        let stored = store_one(&format!("{url}?{parameters}")).await.unwrap();
        assert_eq!(stored, [Committed::Stored], "{parameters}");
        for table in ["clans", "players", "clan_memberships", "clan_snapshots", "player_snapshots"] {
            let counts = (count(&url, &format!("stats.{table}")).await, count(&url, &format!("public.{table}")).await);
            assert_eq!(counts, (1, 0), "{parameters}: {table}");
        }
    }
}

#[tokio::test]
async fn a_schema_that_does_not_exist_is_refused() {
    let url = support::postgres::fresh_with_contract().await;
    let text = refused(&format!("{url}?schema=stats")).await;
    assert!(text.contains("asks for the schema \"stats\", which does not exist"), "{text}");
    assert_eq!(count(&url, "clans").await, 0);
}

#[tokio::test]
async fn a_pooler_that_drops_the_schema_is_refused() {
    let url = support::postgres::fresh_with_contract().await;
    two_sets(&url).await;
    let Some((_strict, strict_url)) = PgBouncer::in_front_of(&url, 3).await else { return };
    let text = refused(&format!("{strict_url}?schema=stats")).await;
    assert!(text.contains("unsupported startup parameter") && text.contains("pgbouncer=true"), "{text}");

    let silent = PgBouncer::with_setting(&url, 3, "ignore_startup_parameters = options").await;
    let (_silent, silent_url) = silent.expect("it is installed");
    for parameters in
        ["schema=stats", "schema=stats&pgbouncer=true", "options=-csearch_path%3Dstats&statement_cache_size=0"]
    {
        let text = refused(&format!("{silent_url}?{parameters}")).await;
        assert!(text.contains("ALTER ROLE") && text.contains("is in effect"), "{parameters}: {text}");
    }
    assert_eq!((count(&url, "stats.clans").await, count(&url, "public.clans").await), (0, 0));
}

#[tokio::test]
async fn schema_of_role_works_through_pooler() {
    let server = PrivatePostgres::start().await;
    let url = server.url_with_contract().await;
    two_sets(&url).await;
    run(&url, "ALTER ROLE postgres IN DATABASE postgres SET search_path = stats").await;
    let Some((_pooler, pooler_url)) = PgBouncer::in_front_of(&url, 3).await else { return };
    let stored = store_one(&format!("{pooler_url}?schema=stats&pgbouncer=true")).await.unwrap();
    assert_eq!(stored, [Committed::Stored]);
    assert_eq!((count(&url, "stats.clans").await, count(&url, "public.clans").await), (1, 0));
}

/// Passes connections on to a server on this machine.
fn forward<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(mut outside: S, port: u16) {
    tokio::spawn(async move {
        let mut inside = TcpStream::connect(("127.0.0.1", port)).await?;
        copy_bidirectional(&mut outside, &mut inside).await
    });
}

#[tokio::test]
async fn sockets_are_reached_in_every_spelling() {
    let url = url::Url::parse(&support::postgres::fresh().await).unwrap();
    let (port, database) = (url.port().unwrap(), url.path().trim_start_matches('/').to_owned());
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            forward(stream, port);
        }
    });
    let place = in_url(folder.path());
    for url in [
        format!("postgresql:///{database}?host={}&user=postgres", folder.path().display()),
        format!("postgresql://postgres@{place}/{database}"),
        format!("postgresql+psycopg2://postgres@/{database}?host={place}&sslmode=require"),
    ] {
        let store = PostgresStore::connect(&config(&url)).unwrap();
        store.ping().await.unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(store.server(), format!("{}/{database}", folder.path().display()));
    }
}

#[tokio::test]
async fn an_ipv6_address_is_reached() {
    let url = url::Url::parse(&support::postgres::fresh().await).unwrap();
    let (server, database) = (url.port().unwrap(), url.path().to_owned());
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        return eprintln!("skipped: this machine has no IPv6 loopback");
    };
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            forward(stream, server);
        }
    });
    for url in [
        format!("postgres://postgres@[::1]:{port}{database}"),
        format!("postgres:///?host=::1&port={port}&user=postgres&dbname={}", &database[1..]),
    ] {
        let store = PostgresStore::connect(&config(&url)).unwrap();
        store.ping().await.unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(store.server(), format!("[::1]:{port}{database}"));
    }
}

#[tokio::test]
async fn password_in_user_field_is_hidden() {
    let url = support::postgres::fresh().await;
    for secret in ["hunter2hunter2".to_owned(), "hunter2".repeat(12)] {
        let (in_front, behind) = (format!("{secret}@"), format!("?user={secret}"));
        for url in [url.replace("postgres@", &in_front), url.replace("postgres@", "") + &behind] {
            let text = refused(&url).await;
            assert!(text.contains("\"***\"") && !text.contains("hunter2"), "{text}");
        }
    }
    let mut without_database = url::Url::parse(&url.replace("postgres@", "hunter2hunter2@")).unwrap();
    without_database.set_path("");
    assert!(!refused(without_database.as_str()).await.contains("hunter2"));
}

/// A server that shows a certificate for `localhost`, and its port.
async fn secured(authority: &Authority) -> (PrivatePostgres, u16) {
    let server = PrivatePostgres::start().await;
    let (certificate, key) = authority.files_for(&["localhost"]);
    let pool = PgPool::connect(&server.url()).await.unwrap();
    let folder: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&pool).await.unwrap();
    give_to_owner_of(&folder, &key);
    for statement in [
        format!("ALTER SYSTEM SET ssl_cert_file = '{}'", certificate.display()),
        format!("ALTER SYSTEM SET ssl_key_file = '{}'", key.display()),
        "ALTER SYSTEM SET ssl = on".to_owned(),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&pool).await.unwrap();
    }
    loop {
        let is_on: bool = sqlx::query_scalar("SELECT current_setting('ssl')::bool").fetch_one(&pool).await.unwrap();
        if is_on {
            break;
        }
    }
    let port = server.port();
    (server, port)
}

/// The server reads only a key that is its own.
fn give_to_owner_of(folder: &str, key: &Path) {
    let owner = std::fs::metadata(folder).unwrap();
    std::fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(key, Some(owner.uid()), Some(owner.gid())).unwrap();
}

#[tokio::test]
async fn certificates_are_verified_as_libpq_does() {
    let (right, wrong) = (Authority::new("the right one"), Authority::new("another one"));
    let (_server, port) = secured(&right).await;
    let file = in_url(&right.file());
    let inline: String = url::form_urlencoded::byte_serialize(right.pem().as_bytes()).collect();
    let other = in_url(&wrong.file());
    let try_with = async |host: &str, parameters: String| {
        let url = format!("postgres://postgres@{host}:{port}/postgres?{parameters}");
        PostgresStore::connect(&config(&url)).unwrap().ping().await.map_err(|error| error.to_string())
    };
    for (host, parameters) in [
        ("127.0.0.1", "sslmode=require".to_owned()),
        ("127.0.0.1", format!("sslrootcert={file}")),
        ("127.0.0.1", format!("sslmode=require&sslrootcert={file}")),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={inline}")),
        ("localhost", format!("sslmode=verify-full&sslrootcert={file}")),
    ] {
        try_with(host, parameters.clone()).await.unwrap_or_else(|error| panic!("{parameters}: {error}"));
    }
    for parameters in [
        format!("sslrootcert={other}"),
        format!("sslmode=require&sslrootcert={other}"),
        format!("sslmode=prefer&sslrootcert={other}"),
        format!("sslmode=verify-ca&sslrootcert={other}"),
        "sslmode=verify-full".to_owned(),
        "sslrootcert=system".to_owned(),
    ] {
        let text = try_with("localhost", parameters.clone()).await.expect_err(&parameters);
        assert!(text.contains("authority that is not trusted here"), "{parameters}: {text}");
    }
    let text = try_with("127.0.0.1", format!("sslmode=verify-full&sslrootcert={file}")).await.unwrap_err();
    assert!(text.contains("for another host name"), "{text}");
}
