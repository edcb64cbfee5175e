//! Everything that can follow a commit and a run, for benches: `BENCH_WITH=everything` switches it on. Events, readers' keys,
//! follow-ups, a view, a statistics job, and an application on a loopback port whose cached tags are invalidated.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

use refresh_worker::{
    config::{AfterConfig, WorkerConfig},
    maintenance::{jobs::table::JobTable, views::own::OWN_VIEWS},
};
use serde_json::json;
use sqlx::PgPool;

/// The settings, and what they need in the database.
#[derive(Debug)]
pub struct Everything {
    settings: Vec<(String, String)>,
    pool: PgPool,
}

impl Everything {
    /// `None` unless it is asked for. The worker's tables have to be there.
    pub async fn asked_for(database_url: &str) -> Option<Self> {
        match std::env::var("BENCH_WITH").as_deref() {
            Ok("everything") => Some(Self::start(database_url).await),
            Ok("") | Err(_) => None,
            Ok(other) => panic!("BENCH_WITH is `{other}`: expected `everything`, or nothing"),
        }
    }

    async fn start(database_url: &str) -> Self {
        let pool = PgPool::connect(database_url).await.expect("PostgreSQL answers");
        OWN_VIEWS[0].install(&pool).await.expect("the view can be made");
        let function = "CREATE OR REPLACE FUNCTION update_bench() RETURNS bigint LANGUAGE sql AS \
                        'SELECT count(*) FROM refresh_worker.refresh_state'";
        sqlx::raw_sql(function).execute(&pool).await.expect("the function can be made");
        let settings = [
            ("REFRESH_EVENTS_STREAM", "refresh_events"),
            ("CACHE_KEY_TEMPLATES", "snapshot:{kind}:{tag}"),
            ("CACHE_INVALIDATION_URL", &application()),
            ("INTERNAL_API_KEY", "bench"),
            ("FOLLOWUP_WARS", "true"),
            ("FOLLOWUP_PLAYERS_PER_CLAN", "5"),
            ("REFRESH_VIEWS", "clan_leaderboard:1s"),
            ("STATS_FUNCTIONS", "update_bench:season_stats"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        println!("with everything that can follow a commit and a run");
        Self { settings, pool }
    }

    #[allow(dead_code, reason = "a bench in one process needs the configuration only")]
    pub fn settings(&self) -> Vec<(String, String)> {
        self.settings.clone()
    }

    /// What a worker in this process is configured with.
    #[allow(dead_code, reason = "a bench of processes needs the settings only")]
    pub fn configs(&self) -> (WorkerConfig, AfterConfig) {
        let vars = |name: &str| self.settings.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        (WorkerConfig::read(&vars).expect("the settings are right"), AfterConfig::read(&vars).expect("they are"))
    }

    /// One more job for the next run.
    pub async fn enqueue_job(&self) {
        let payload = json!({"triggeredBy": "cron", "requestId": "bench"});
        JobTable::new(self.pool.clone()).enqueue(&payload, 1, 3).await.expect("a job can be queued");
    }

    /// The length of the stream, and the entries left in the outbox.
    pub async fn published(&self, redis_url: &str) -> String {
        let mut redis = super::support::redis::connect(redis_url).await.expect("Redis answers");
        let entries: u64 = redis::cmd("XLEN").arg("refresh_events").query_async(&mut redis).await.expect("XLEN");
        let outbox: i64 = sqlx::query_scalar("SELECT count(*) FROM refresh_worker.outbox")
            .fetch_one(&self.pool)
            .await
            .expect("our table is there");
        format!("{entries} entries in the stream of events, {outbox} outbox entries left")
    }
}

/// Accepts every invalidation, on a thread of its own. Returns its address.
fn application() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let address = listener.local_addr().expect("it has one");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    format!("http://{address}/invalidate")
}

/// Answers every request of one connection; a request is one head and one body.
fn serve(mut stream: std::net::TcpStream) {
    let mut received = Vec::new();
    let mut piece = [0; 16 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        received.extend_from_slice(&piece[..count]);
        if let Some(end) = whole_request(&received) {
            received.drain(..end);
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                return;
            }
        }
    }
}

/// Where the first request ends, when all of it is there.
fn whole_request(received: &[u8]) -> Option<usize> {
    let head = received.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&received[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let end = head + length.unwrap_or(0);
    (received.len() >= end).then_some(end)
}
