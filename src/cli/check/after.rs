//! Looks at what follows commits and runs, as far as it is configured: views, statistics jobs, the stream of events, the
//! application whose caches are told. Nothing is refreshed, called or told.

use std::{
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use super::findings::Findings;
use crate::{
    config::{AfterConfig, EventsConfig},
    maintenance::inspect::{self, Finding},
    queue::redis::RedisQueue,
    store::postgres::PostgresStore,
};

const VIEWS: &str = "materialized views";
const JOBS: &str = "statistics jobs";
const EVENTS: &str = "events";
const CACHES: &str = "caches";

/// How long a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(3);

/// What of it is in the database.
pub async fn look_at_database(findings: &mut Findings, config: &AfterConfig, store: &PostgresStore, most: u32) {
    let pool = store.pool();
    if !config.views.is_empty() {
        note(findings, VIEWS, inspect::views(&pool, &config.views).await);
    }
    if let Some(stats) = &config.stats {
        note(findings, JOBS, inspect::jobs(&pool, &stats.functions).await);
        if most < 2 {
            findings.warning(
                JOBS,
                "DB_POOL_MAX=1: while the only connection calls a function, a job gives no sign of life, and others may take it",
                "set DB_POOL_MAX to at least 2",
            );
        }
    }
}

fn note(findings: &mut Findings, area: &'static str, sights: Vec<Finding>) {
    for sight in sights {
        match sight {
            Finding::Fine(what) => findings.fine(area, what),
            Finding::Doubt { what, fix } => findings.warning(area, what, fix),
            Finding::Problem { what, fix } => findings.problem(area, what, fix),
        }
    }
}

/// Whether entries can be appended: the key is a stream, or nothing yet.
pub async fn look_at_stream(findings: &mut Findings, config: &EventsConfig, queue: &RedisQueue) {
    let stream = &config.stream;
    match queue.type_of(stream).await.as_deref() {
        Ok("stream") => findings.fine(EVENTS, format!("{stream} is a stream")),
        Ok("none") => findings.fine(EVENTS, format!("{stream} is not there yet; the first change makes it")),
        Ok(other) => findings.problem(
            EVENTS,
            format!("the key {stream} is a {other}: no change can be told"),
            "give REFRESH_EVENTS_STREAM the name of a key of its own, or delete that key",
        ),
        Err(error) => findings.problem(EVENTS, super::redis::told(error), "see Redis above"),
    }
}

/// Whether the application takes connections. That it does not fails no refresh.
pub async fn look_at_application(findings: &mut Findings, config: &AfterConfig) {
    let Some(invalidation) = &config.invalidation else { return };
    let host = invalidation.url.host_str().unwrap_or_default().to_owned();
    let port = invalidation.url.port_or_known_default().unwrap_or(443);
    let address = format!("{host}:{port}");
    let connected = tokio::task::spawn_blocking(move || connect(&host, port)).await;
    match connected.unwrap_or_else(|_| Err("the attempt panicked".to_owned())) {
        Ok(()) if invalidation.key.is_none() => findings.warning(
            CACHES,
            format!("{address} takes connections, but will get no key"),
            "set INTERNAL_API_KEY, unless the application asks for none",
        ),
        Ok(()) => findings.fine(CACHES, format!("{address} takes connections; nothing was invalidated")),
        Err(why) => findings.warning(
            CACHES,
            format!("no connection to {address}: {why}; refreshes go on, and readers keep old pages"),
            "is CACHE_INVALIDATION_URL (or NEXT_PUBLIC_APP_URL) right, and may this machine connect?",
        ),
    }
}

fn connect(host: &str, port: u16) -> Result<(), String> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = (host, port).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut failure = "the name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIME) {
            Ok(_) => return Ok(()),
            Err(error) => failure = error.to_string(),
        }
    }
    Err(failure)
}
