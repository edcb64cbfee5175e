//! The table of environment variables: the one source for the reader, for `.env.example` and for the documents.

use std::fmt::Write;

/// One environment variable that the worker reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    pub name: &'static str,
    /// What holds when it is not set; `None` is described by [`Variable::unset`].
    pub default: Option<&'static str>,
    /// What it means that it is not set and has no default: `required`, `all`, `no limit` …
    pub unset: &'static str,
    pub meaning: &'static str,
    pub example: &'static str,
    /// Its value is never printed.
    pub secret: bool,
}

impl Variable {
    /// The default as documents show it.
    #[must_use]
    pub fn default_text(&self) -> String {
        self.default.map_or_else(|| self.unset.to_owned(), |default| format!("`{default}`"))
    }
}

const fn with_default(
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
    example: &'static str,
) -> Variable {
    Variable { name, default: Some(default), unset: "", meaning, example, secret: false }
}

const fn without_default(
    name: &'static str,
    unset: &'static str,
    meaning: &'static str,
    example: &'static str,
) -> Variable {
    Variable { name, default: None, unset, meaning, example, secret: false }
}

const fn secret(name: &'static str, unset: &'static str, meaning: &'static str, example: &'static str) -> Variable {
    Variable { name, default: None, unset, meaning, example, secret: true }
}

/// What stands for certificates that are kept elsewhere and cannot be had yet.
pub(super) const CA_EXAMPLE: &str = "-----BEGIN CERTIFICATE-----...";

/// Every variable, in the order in which people read them.
pub const VARIABLES: &[Variable] = &[
    secret(
        "REDIS_URL",
        "required",
        "Where the queue is: `redis://`, `rediss://` (TLS) or `unix://`, with user, password and database number. \
         Producers always write to database 0.",
        "redis://localhost:6379",
    ),
    with_default(
        "REDIS_CLUSTER",
        "false",
        "`true` when REDIS_URL names a node, or the configuration endpoint, of a cluster. A cluster has only database 0.",
        "true",
    ),
    secret(
        "DATABASE_URL",
        "required",
        "The PostgreSQL database, in any spelling in use: `postgres://`, `postgresql://`, `postgresql+psycopg://`, \
         `jdbc:postgresql://`. Its parameters are below.",
        "postgresql://worker:password@localhost:5432/coc",
    ),
    without_default(
        "RDS_PROXY_ENDPOINT",
        "`DATABASE_URL` holds",
        "A second spelling of the database, of which `DATABASE_URL` is the first: the host, with the four settings below. Its \
         certificate is verified for that name.",
        "worker.proxy-abc.eu-central-1.rds.amazonaws.com",
    ),
    with_default("RDS_PORT", "5432", "The port that belongs to `RDS_PROXY_ENDPOINT`.", "5432"),
    without_default("RDS_DBNAME", "none", "The database that belongs to `RDS_PROXY_ENDPOINT`.", "coc"),
    without_default("RDS_USERNAME", "none", "The user that belongs to `RDS_PROXY_ENDPOINT`.", "worker"),
    secret("RDS_PASSWORD", "none", "The password that belongs to `RDS_PROXY_ENDPOINT`.", "its-password"),
    secret(
        "CA_CERTIFICATES",
        "none",
        "Certificates, as PEM, of authorities that are trusted beside the built-in ones: for Redis, the database, the API and the \
         application. `CA_CERTIFICATES_FILE` names a file of them.",
        CA_EXAMPLE,
    ),
    without_default(
        "SSL_CERT_FILE",
        "the built-in authorities",
        "A file of certificates, as PEM, of the authorities that are trusted in place of the built-in ones.",
        "/etc/ssl/certs/ca-certificates.crt",
    ),
    secret(
        "COC_API_TOKEN",
        "required (refresh), unless `COC_API_TOKENS` or `COC_EMAIL` is set",
        "A key of the Clash of Clans API, made at <https://developer.clashofclans.com> for this machine's address.",
        "put-your-key-here",
    ),
    secret(
        "COC_API_TOKENS",
        "none",
        "Several keys, separated by commas; used together with `COC_API_TOKEN`, each within its own rate.",
        "first-key,second-key",
    ),
    secret(
        "COC_EMAIL",
        "none",
        "An account of the developer portal, whose keys the worker makes and renews by itself, with `COC_PASSWORD`. More \
         accounts: `COC_EMAIL_2` and `COC_PASSWORD_2`, up to 9.",
        "you@example.com",
    ),
    secret("COC_PASSWORD", "none", "The password that belongs to `COC_EMAIL`.", "its-password"),
    secret(
        "COC_ACCOUNTS",
        "none",
        "Several accounts in one variable, beside the above: `email:password` separated by commas, or a JSON list of \
         objects with `email` and `password` (for passwords with a comma).",
        "one@example.com:its-password,two@example.com:its-password",
    ),
    without_default(
        "COC_KEY_NAME",
        "`refresh-worker-` and `ENVIRONMENT`",
        "What our keys are called in the portal. Keys of another name are never touched, so every deployment needs a name \
         of its own.",
        "refresh-worker-production",
    ),
    with_default("COC_KEY_COUNT", "1", "How many keys to have in each account, 1 to 10.", "5"),
    without_default(
        "EGRESS_IPS",
        "the address that the portal sees",
        "The addresses that our calls come from, separated by commas, when they are known: the worker's keys are made for them.",
        "203.0.113.7",
    ),
    with_default(
        "COC_PORTAL_URL",
        "https://developer.clashofclans.com",
        "Where the developer portal is; for the simulator.",
        "http://127.0.0.1:8080",
    ),
    with_default(
        "COC_BASE_URL",
        "https://api.clashofclans.com/v1",
        "Where the API is, with the version; for a proxy or the simulator.",
        "http://127.0.0.1:8080/v1",
    ),
    with_default(
        "COC_REQS_PER_SEC",
        "30",
        "Calls a second with each key, 1 to `COC_MAX_REQS_PER_SEC`; a higher number is capped with a warning.",
        "20",
    ),
    with_default(
        "COC_MAX_REQS_PER_SEC",
        "30",
        "The cap above: a second, deliberate switch for test servers and keys of a higher tier.",
        "30",
    ),
    without_default(
        "COC_REQS_PER_DAY",
        "no limit",
        "Calls a day, from midnight to midnight in UTC, over all keys and all runs. When they are made, runs stop with \
         `daily_quota` until the next day.",
        "1000000",
    ),
    without_default("KEYS_PER_RUN", "all", "How many keys one run may hold; the others are left to other runs.", "2"),
    with_default(
        "MAX_BODY_BYTES",
        "4194304",
        "The largest answer of the API that is read, in bytes after decompression; a larger one ends as a dead letter. All \
         answers together take no more than three times the default, so that a run stays below 128 MB.",
        "4194304",
    ),
    with_default(
        "QUEUE_NAMESPACE",
        "refresh",
        "Names the queue's keys in Redis, as in `{refresh}:ready`. What runs share about API keys is in `{coc-api}:...`, whatever the namespace.",
        "refresh",
    ),
    with_default(
        "LEASE_SECONDS",
        "15",
        "How long a lease lasts before it must be renewed; after a crash its objects are free again by then. 2 or more.",
        "15",
    ),
    with_default("MAX_ATTEMPTS", "3", "Failed attempts until a request becomes a dead letter; 1 means no retry.", "5"),
    with_default(
        "DEADLINE_BUFFER_MS",
        "5000",
        "How long before the end of the invocation, in milliseconds, a run must be done; the timeout of the function has to be a second longer at least.",
        "5000",
    ),
    without_default(
        "MAX_RUNTIME_SECONDS",
        "no limit",
        "How long one run may take, in seconds, however much time the invocation has.",
        "230",
    ),
    with_default(
        "REFRESH_PAUSED",
        "false",
        "`true` stops every run at once; the answer says so. Mail is still taken into the queue.",
        "true",
    ),
    with_default(
        "DISABLE_AUTO_REFRESH_QUEUE",
        "false",
        "The producers' switch. When the worker sees it, it stops in the same way and warns.",
        "true",
    ),
    with_default(
        "FOLLOWUP_WARS",
        "true",
        "Whether a war that was stored is looked at again by itself: at its start, hourly before, every 5 minutes in war, every \
         2 near the end, and once when it is over.",
        "false",
    ),
    with_default(
        "FOLLOWUP_PLAYERS_PER_CLAN",
        "5",
        "Of a refreshed clan, how many members at most are queued whose full documents are older than 2 h (active ones) or \
         8 h; 0 to 50, 0 turns it off.",
        "0",
    ),
    without_default(
        "REFRESH_EVENTS_STREAM",
        "none",
        "The Redis stream that is told of every change, of starts and ends of wars, and of who joins and leaves a clan: \
         docs/events.md.",
        "refresh_events",
    ),
    with_default(
        "REFRESH_EVENTS_MAXLEN",
        "100000",
        "About how many of the newest entries that stream keeps.",
        "1000000",
    ),
    without_default(
        "CACHE_KEY_TEMPLATES",
        "none",
        "Keys of readers in the same Redis that are deleted after a commit that makes them old, separated by commas; `{tag}` \
         is the object's tag without `#`, `{kind}` is clan, player or war. A key that names a kind is for that kind alone.",
        "snapshot:clan:{tag},snapshot:player:{tag}",
    ),
    without_default(
        "QUEUE_BACKUP_DIR",
        "none",
        "The folder that `queue backup` writes to; `--dir` names another one.",
        "/var/backups/refresh-worker",
    ),
    with_default(
        "QUEUE_BACKUP_RETENTION_DAYS",
        "7",
        "Backups older than this, made by `queue backup`, are deleted by the next one; never the newest.",
        "30",
    ),
    secret(
        "MIGRATE_TO_REDIS_URL",
        "none",
        "Where `queue migrate` moves everything to, when neither `--to` nor `--to-file` says it.",
        "redis://new-redis:6379",
    ),
    with_default(
        "DB_POOL_MAX",
        "5",
        "Connections to the database, 1 to 100; at least 2 with `STATS_FUNCTIONS`. The health role uses 1 unless this is set.",
        "5",
    ),
    with_default(
        "DB_STATEMENT_CACHE",
        "100",
        "Prepared statements kept for each connection; 0 for PgBouncer in transaction mode.",
        "0",
    ),
    with_default(
        "AUTO_MIGRATE",
        "true",
        "Whether missing tables are created at cold start; with `false`, run `refresh-worker migrate` or the task `migrate`.",
        "false",
    ),
    without_default(
        "CACHE_INVALIDATION_URL",
        "made of `NEXT_PUBLIC_APP_URL`",
        "Where the tags of what changed are posted, so that an application drops its cached pages.",
        "https://stats.example.com/api/internal/cache/invalidate",
    ),
    without_default(
        "NEXT_PUBLIC_APP_URL",
        "nobody is told",
        "The application's address, to which `/api/internal/cache/invalidate` is added.",
        "https://stats.example.com",
    ),
    secret(
        "INTERNAL_API_KEY",
        "none",
        "The key for that address, sent as `Authorization: Bearer` and as `x-api-key`.",
        "its-key",
    ),
    without_default(
        "REFRESH_VIEWS",
        "none",
        "Materialized views to refresh, separated by commas, each with the least time between two refreshes (`s`, `m`, `h`, \
         `d`; 60s when it has none).",
        "clan_leaderboard:5m,job_progress:60s",
    ),
    without_default(
        "VIEW_STATISTICS",
        "a count of the rows",
        "What is told of a refreshed view: a JSON object of views and queries that give one row. `job_progress` has its own.",
        r#"{"clan_leaderboard":"SELECT count(*) AS clans FROM refresh_worker.clan_leaderboard"}"#,
    ),
    without_default(
        "STATS_FUNCTIONS",
        "no statistics jobs",
        "SQL functions that a statistics job runs, separated by commas, each with the cache tags that it makes stale, \
         separated by `+`.",
        "update_power_ratings:player_power_rating,update_half_and_full_season_stats:season_stats+half_season_stats",
    ),
    with_default(
        "STATS_LEASE_SECONDS",
        "300",
        "A statistics job whose worker was silent for so long is taken up again. 2 or more.",
        "300",
    ),
    without_default(
        "WORKER_ID",
        "`refresh-worker-` and `ENVIRONMENT`",
        "Names this worker in the results of statistics jobs.",
        "stats-1",
    ),
    without_default(
        "SNAPSHOT_RETENTION_DAYS",
        "all are kept",
        "Snapshots older than this many days are thinned to one a day and object, the newest of the day.",
        "90",
    ),
    with_default("ENVIRONMENT", "development", "Labels the metrics: the dimension `Environment`.", "production"),
    with_default(
        "LOG_LEVEL",
        "INFO",
        "`TRACE`, `DEBUG`, `INFO`, `WARN`, `ERROR` or `OFF`, or levels by module. In Lambda, `AWS_LAMBDA_LOG_LEVEL` holds when \
         this is not set.",
        "info,refresh_worker::queue=debug",
    ),
    without_default(
        "WORKER_ROLE",
        "`refresh`",
        "`refresh` or `health`: what this function does when the Lambda handler's name does not say it.",
        "health",
    ),
];

/// The variable of this name. Only names of [`VARIABLES`] are asked for.
pub(super) fn variable(name: &str) -> &'static Variable {
    VARIABLES.iter().find(|variable| variable.name == name).expect("every variable that is read is in the table")
}

/// The table of the documents, in Markdown.
#[must_use]
pub fn markdown_table() -> String {
    let mut table = String::from("| variable | default | meaning | example |\n|---|---|---|---|\n");
    for variable in VARIABLES {
        let (name, default) = (variable.name, variable.default_text());
        let _ = writeln!(table, "| `{name}` | {default} | {} | `{}` |", variable.meaning, variable.example);
    }
    table
}

/// The text of `.env.example`: every setting with its default, ready to be copied.
#[must_use]
pub fn sample_file() -> String {
    let mut sample = String::from(
        "# Every setting of the refresh worker. A line that is commented out shows the default, or an example where there is none.\n\
         # To use a copy in a shell: set -a; . ./.env; set +a\n",
    );
    for variable in VARIABLES {
        let meaning = variable.meaning.replace('`', "");
        let default = variable.default_text().replace('`', "");
        let required = variable.default.is_none() && variable.unset == "required";
        let value = variable.default.unwrap_or(variable.example);
        // What a shell would take apart.
        let value = if value.contains([' ', '"', '(', '&', ';']) { format!("'{value}'") } else { value.to_owned() };
        let mark = if required || variable.name == "COC_API_TOKEN" { "" } else { "#" };
        let _ = write!(sample, "\n# {meaning}\n# Default: {default}.\n{mark}{}={value}\n", variable.name);
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_variable_is_listed_twice_and_each_says_what_holds_without_it() {
        for (index, variable) in VARIABLES.iter().enumerate() {
            assert!(VARIABLES[..index].iter().all(|other| other.name != variable.name), "{}", variable.name);
            assert_eq!(variable.default.is_none(), !variable.unset.is_empty(), "{}", variable.name);
            assert!(!variable.meaning.is_empty() && !variable.example.is_empty(), "{}", variable.name);
            assert!(!(variable.meaning.contains('|') || variable.example.contains('|')), "{}", variable.name);
        }
    }
}
