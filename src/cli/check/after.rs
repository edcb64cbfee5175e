//! Checks what follows commits and runs, as far as it is configured: views, statistics jobs, the event stream, and the
//! application whose caches are invalidated. Refreshes, calls and invalidates nothing.

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

/// A host that drops packets would hold the check for minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Checks the views and functions in the database, with at most this many connections.
pub async fn check_database(findings: &mut Findings, config: &AfterConfig, store: &PostgresStore, connections: u32) {
    let pool = store.pool();
    if !config.views.is_empty() {
        add(findings, VIEWS, inspect::views(&pool, &config.views).await);
    }
    if let Some(stats) = &config.stats {
        add(findings, JOBS, inspect::jobs(&pool, &stats.functions).await);
        // The renewal of a lease needs a connection while a function uses another.
        if connections < 2 {
            findings.warning(
                JOBS,
                "DB_POOL_MAX=1: while a function uses the only connection, the job cannot renew its lease, and another worker may take it",
                "set DB_POOL_MAX to at least 2",
            );
        }
    }
}

fn add(findings: &mut Findings, area: &'static str, sights: Vec<Finding>) {
    for sight in sights {
        match sight {
            Finding::Fine(what) => findings.fine(area, what),
            Finding::Doubt { what, fix } => findings.warning(area, what, fix),
            Finding::Problem { what, fix } => findings.problem(area, what, fix),
        }
    }
}

/// Checks that events can be appended: the key is a stream, or does not exist yet.
pub async fn check_stream(findings: &mut Findings, config: &EventsConfig, queue: &RedisQueue) {
    let stream = &config.stream;
    match queue.type_of(stream).await.as_deref() {
        Ok("stream") => findings.fine(EVENTS, format!("{stream} is a stream")),
        Ok("none") => findings.fine(EVENTS, format!("{stream} does not exist yet; the first event creates it")),
        Ok(other) => findings.problem(
            EVENTS,
            format!("the key {stream} is a {other}, not a stream: no event can be published"),
            "set REFRESH_EVENTS_STREAM to an unused name, or delete that key",
        ),
        Err(error) => findings.problem(EVENTS, error.to_string(), "see Redis above"),
    }
}

/// Checks that the application accepts connections. Refreshes do not depend on it, so it is never a problem.
pub async fn check_application(findings: &mut Findings, config: &AfterConfig) {
    let Some(invalidation) = &config.invalidation else { return };
    let host = invalidation.url.host_str().unwrap_or_default().to_owned();
    let port = invalidation.url.port_or_known_default().unwrap_or(443);
    let address = format!("{host}:{port}");
    // Name resolution blocks, and the runtime has one thread.
    let connected = tokio::task::spawn_blocking(move || connect(&host, port)).await;
    match connected.unwrap_or_else(|_| Err("the attempt panicked".to_owned())) {
        Ok(()) if invalidation.key.is_none() => findings.warning(
            CACHES,
            format!("{address} accepts connections, but INTERNAL_API_KEY is not set"),
            "set INTERNAL_API_KEY, unless the application requires none",
        ),
        Ok(()) => findings.fine(CACHES, format!("{address} accepts connections")),
        Err(why) => findings.warning(
            CACHES,
            format!("cannot connect to {address}: {why}; readers keep outdated pages"),
            "check CACHE_INVALIDATION_URL (or NEXT_PUBLIC_APP_URL), and whether this machine may connect",
        ),
    }
}

fn connect(host: &str, port: u16) -> Result<(), String> {
    // The resolver takes an IPv6 address without the brackets of a URL.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = (host, port).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut failure = "the name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => failure = error.to_string(),
        }
    }
    Err(failure)
}
