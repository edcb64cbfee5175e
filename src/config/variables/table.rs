//! The table of settings, grouped as people read them: the required ones first.

use super::{Section, secret, with_default, without_default};

/// The example of `CA_CERTIFICATES`. It also stands for certificates that are kept elsewhere and are not read yet.
pub(in crate::config) const CA_EXAMPLE: &str = "-----BEGIN CERTIFICATE-----...";

pub const SECTIONS: &[Section] = &[
    Section {
        title: "Required",
        variables: &[
            secret(
                "REDIS_URL",
                "required",
                "The address of Redis: `redis://`, `rediss://` (TLS) or `unix://`, with user, password and database number. \
                 Producers always write to database 0.",
                "redis://localhost:6379",
            ),
            secret(
                "DATABASE_URL",
                "required",
                "The address of the PostgreSQL database: `postgres://`, `postgresql://`, `postgresql+psycopg://` or \
                 `jdbc:postgresql://`. Its parameters are described below. `RDS_PROXY_ENDPOINT` is an alternative.",
                "postgresql://worker:password@localhost:5432/coc",
            ),
            secret(
                "COC_API_TOKEN",
                "required (refresh), unless `COC_API_TOKENS` or `COC_EMAIL` is set",
                "A key of the Clash of Clans API, created at <https://developer.clashofclans.com> for this machine's address.",
                "put-your-key-here",
            ),
        ],
    },
    Section {
        title: "API keys",
        variables: &[
            secret(
                "COC_API_TOKENS",
                "none",
                "Several keys, separated by commas. They are used together with `COC_API_TOKEN`, each within its own rate.",
                "first-key,second-key",
            ),
            secret(
                "COC_EMAIL",
                "none",
                "An account of the developer portal, with `COC_PASSWORD`. The worker creates and renews its keys there. More \
                 accounts: `COC_EMAIL_2` and `COC_PASSWORD_2`, up to 9.",
                "you@example.com",
            ),
            secret("COC_PASSWORD", "none", "The password for `COC_EMAIL`.", "its-password"),
            secret(
                "COC_ACCOUNTS",
                "none",
                "Several accounts in one variable, in addition to the above: `email:password` separated by commas, or a JSON list \
                 of objects with `email` and `password` (for passwords with a comma).",
                "one@example.com:its-password,two@example.com:its-password",
            ),
            without_default(
                "COC_KEY_NAME",
                "`DEPLOYMENT`, `ENVIRONMENT`, and the region in AWS",
                "The name of the worker's keys in the portal. Keys of other names are never touched, so every deployment needs a \
                 name of its own.",
                "refresh-worker-production-eu-central-1",
            ),
            with_default("COC_KEY_COUNT", "1", "The number of keys in each account, 1 to 10.", "5"),
            without_default(
                "EGRESS_IPS",
                "the address that the portal sees",
                "The addresses from which the worker calls the API, separated by commas. Its keys are created for them.",
                "203.0.113.7",
            ),
            without_default(
                "KEYS_PER_RUN",
                "all",
                "The largest number of keys that one run holds. The others are left to other runs.",
                "2",
            ),
        ],
    },
    Section {
        title: "API and budget",
        variables: &[
            with_default(
                "COC_BASE_URL",
                "https://api.clashofclans.com/v1",
                "The address of the API, with the version. Set it for a proxy or the simulator.",
                "http://127.0.0.1:8080/v1",
            ),
            with_default(
                "COC_PORTAL_URL",
                "https://developer.clashofclans.com",
                "The address of the developer portal. Set it for the simulator.",
                "http://127.0.0.1:8080",
            ),
            with_default(
                "COC_REQS_PER_SEC",
                "30",
                "Calls per second with each key, 1 to `COC_MAX_REQS_PER_SEC`. A higher number is capped with a warning.",
                "20",
            ),
            with_default(
                "COC_MAX_REQS_PER_SEC",
                "30",
                "The cap of `COC_REQS_PER_SEC`. Raise it only for test servers and keys with a higher limit.",
                "30",
            ),
            without_default(
                "COC_REQS_PER_DAY",
                "no limit",
                "Calls per day (midnight to midnight UTC), over all keys and runs. When they are used up, runs stop with \
                 `daily_quota` until the next day.",
                "1000000",
            ),
            with_default(
                "MAX_BODY_BYTES",
                "4194304",
                "The largest response that is read, in bytes after decompression. A larger one becomes a dead letter. All \
                 responses in memory share three times the default, so that a run stays below 128 MB.",
                "4194304",
            ),
        ],
    },
    Section {
        title: "Queue",
        variables: &[
            with_default(
                "REDIS_CLUSTER",
                "false",
                "`true` when `REDIS_URL` names a node, or the configuration endpoint, of a cluster. A cluster has only database 0.",
                "true",
            ),
            with_default(
                "QUEUE_NAMESPACE",
                "refresh",
                "The prefix of the queue's keys in Redis, as in `{refresh}:ready`. The state of API keys is in `{coc-api}:...` for \
                 all namespaces.",
                "refresh",
            ),
            with_default(
                "LEASE_SECONDS",
                "15",
                "The duration of a lease until it must be renewed, at least 2. After a crash its requests are free after this time.",
                "15",
            ),
            with_default(
                "MAX_ATTEMPTS",
                "3",
                "Failed attempts until a request becomes a dead letter. 1 means no retry.",
                "5",
            ),
        ],
    },
    Section {
        title: "Database",
        variables: &[
            without_default(
                "RDS_PROXY_ENDPOINT",
                "`DATABASE_URL` is used",
                "The database behind RDS Proxy, as host name plus the four settings below: an alternative to `DATABASE_URL`. The \
                 certificate is verified for this name.",
                "worker.proxy-abc.eu-central-1.rds.amazonaws.com",
            ),
            with_default("RDS_PORT", "5432", "The port for `RDS_PROXY_ENDPOINT`.", "5432"),
            without_default("RDS_DBNAME", "none", "The database for `RDS_PROXY_ENDPOINT`.", "coc"),
            without_default("RDS_USERNAME", "none", "The user for `RDS_PROXY_ENDPOINT`.", "worker"),
            secret("RDS_PASSWORD", "none", "The password for `RDS_PROXY_ENDPOINT`.", "its-password"),
            with_default(
                "DB_POOL_MAX",
                "5",
                "Connections to the database, 1 to 100, and at least 2 with `STATS_FUNCTIONS`, at least 4 with `PLANNED_CALLS_PER_SEC` and \
                 views, jobs or retention. The health role uses 1 unless this \
                 is set.",
                "5",
            ),
            with_default(
                "DB_STATEMENT_CACHE",
                "100",
                "Prepared statements per connection. Set 0 for PgBouncer in transaction mode.",
                "0",
            ),
            with_default(
                "AUTO_MIGRATE",
                "true",
                "`true` creates missing tables at cold start. With `false`, run `refresh-worker migrate` or the task `migrate`.",
                "false",
            ),
        ],
    },
    Section {
        title: "Certificates",
        variables: &[
            secret(
                "CA_CERTIFICATES",
                "none",
                "Certificates (PEM) of authorities that are trusted in addition to the built-in ones: for Redis, the database, the \
                 API and the application. `CA_CERTIFICATES_FILE` names a file of them.",
                CA_EXAMPLE,
            ),
            without_default(
                "SSL_CERT_FILE",
                "the built-in authorities",
                "A file of certificates (PEM) of authorities that are trusted instead of the built-in ones.",
                "/etc/ssl/certs/ca-certificates.crt",
            ),
        ],
    },
    Section {
        title: "Runs",
        variables: &[
            with_default(
                "DEADLINE_BUFFER_MS",
                "5000",
                "Milliseconds before the end of the invocation by which a run is done. The timeout of the function must be at \
                 least a second longer.",
                "5000",
            ),
            without_default(
                "MAX_RUNTIME_SECONDS",
                "no limit",
                "The longest run in seconds, even if the invocation has more time.",
                "230",
            ),
            with_default(
                "REFRESH_PAUSED",
                "false",
                "`true` pauses refreshes: runs stop at once and report it. Mail is still admitted into the queue.",
                "true",
            ),
            with_default(
                "DISABLE_AUTO_REFRESH_QUEUE",
                "false",
                "The switch of the producers. The worker obeys it like `REFRESH_PAUSED`, with a warning.",
                "true",
            ),
            without_default(
                "WORKER_ROLE",
                "`refresh`",
                "`refresh` or `health`: the role of the function when the name of its handler is neither.",
                "health",
            ),
        ],
    },
    Section {
        title: "Follow-ups",
        variables: &[
            with_default(
                "FOLLOWUP_WARS",
                "true",
                "`true` polls a stored war again: hourly before its start, at its start, every 5 minutes during the war, every 2 \
                 minutes near the end, and once after it.",
                "false",
            ),
            with_default(
                "FOLLOWUP_PLAYERS_PER_CLAN",
                "5",
                "After a clan is refreshed, at most this many of its members are queued if their full documents are older than 2 h \
                 (active members) or 8 h. 0 to 50; 0 turns it off. Not used with `PLANNED_CALLS_PER_SEC`, which chooses members better.",
                "0",
            ),
        ],
    },
    Section {
        title: "Fresh reads",
        variables: &[
            with_default(
                "PLANNED_CALLS_PER_SEC",
                "0",
                "Calls a second, at most, with which all runs together refresh ahead of requests once none is ready; 0 turns it off, 10000 is all \
                 that the keys allow. Runs then go on until their time is up (docs/design/freshness.md).",
                "10",
            ),
            with_default(
                "SNAPSHOT_MAX_AGE",
                "600",
                "The readers' own variable: the age in seconds from which they request a refresh, 60 to 86400. Give the planner the \
                 value that they have.",
                "600",
            ),
            with_default(
                "PLANNED_AT_LEAST_EVERY",
                "1d",
                "No known object stays without a look for longer (`m`, `h`, `d`), while there are spare calls: 1h to 30d, and longer than \
                 `SNAPSHOT_MAX_AGE`.",
                "12h",
            ),
            without_default(
                "PLANNED_TRIAL",
                "none",
                "A trial of another strategy (`tiers`, `age`, or `value` against itself) on a share of the clans, with their members, in \
                 per cent (1 to 99). `report --trial` compares the two sides.",
                "tiers:50",
            ),
            with_default(
                "PLANNED_RECORD",
                "1",
                "Per cent of the clans, with their members, whose looks are kept for `replay`, for 14 days. 0 to 100; 0 keeps none.",
                "5",
            ),
        ],
    },
    Section {
        title: "Events and readers' caches",
        variables: &[
            without_default(
                "REFRESH_EVENTS_STREAM",
                "none",
                "The Redis stream for events: changes, starts and ends of wars, members who join and leave (docs/events.md).",
                "refresh_events",
            ),
            with_default(
                "REFRESH_EVENTS_MAXLEN",
                "100000",
                "The approximate number of newest entries that the stream keeps.",
                "1000000",
            ),
            without_default(
                "CACHE_KEY_TEMPLATES",
                "none",
                "Readers' keys in the same Redis, separated by commas, that are deleted when a commit makes them outdated. `{tag}` \
                 is the tag without `#`, `{kind}` is clan, player or war. A key that names a kind is deleted for that kind only.",
                "snapshot:clan:{tag},snapshot:player:{tag}",
            ),
            without_default(
                "CACHE_INVALIDATION_URL",
                "derived from `NEXT_PUBLIC_APP_URL`",
                "The address to which the cache tags of changed objects are posted, so that an application drops its cached pages.",
                "https://stats.example.com/api/internal/cache/invalidate",
            ),
            without_default(
                "NEXT_PUBLIC_APP_URL",
                "no invalidation",
                "The address of the application, to which `/api/internal/cache/invalidate` is appended.",
                "https://stats.example.com",
            ),
            secret(
                "INTERNAL_API_KEY",
                "none",
                "The key for that address, sent as `Authorization: Bearer` and as `x-api-key`.",
                "its-key",
            ),
        ],
    },
    Section {
        title: "After a run",
        variables: &[
            without_default(
                "REFRESH_VIEWS",
                "none",
                "Materialized views to refresh, separated by commas, each with the shortest interval between two refreshes (`s`, \
                 `m`, `h`, `d`; 60s if it is missing).",
                "clan_leaderboard:5m,job_progress:60s",
            ),
            without_default(
                "VIEW_STATISTICS",
                "a count of the rows",
                "The statistics of refreshed views: a JSON object of views and queries that return one row. `job_progress` has its \
                 own.",
                r#"{"clan_leaderboard":"SELECT count(*) AS clans FROM refresh_worker.clan_leaderboard"}"#,
            ),
            without_default(
                "STATS_FUNCTIONS",
                "no statistics jobs",
                "SQL functions that a statistics job runs, separated by commas, each with the cache tags to invalidate, separated \
                 by `+`.",
                "update_power_ratings:player_power_rating,update_half_and_full_season_stats:season_stats+half_season_stats",
            ),
            with_default(
                "STATS_LEASE_SECONDS",
                "300",
                "The lease of a statistics job, at least 2. If its worker does not renew it, another worker takes the job.",
                "300",
            ),
            without_default(
                "WORKER_ID",
                "`DEPLOYMENT`, `ENVIRONMENT`, and the region in AWS",
                "The name of this worker in the results of statistics jobs.",
                "stats-1",
            ),
            without_default(
                "SNAPSHOT_RETENTION_DAYS",
                "all are kept",
                "Older snapshots are deleted, except the newest per object and day.",
                "90",
            ),
        ],
    },
    Section {
        title: "Logs and metrics",
        variables: &[
            with_default(
                "DEPLOYMENT",
                "refresh-worker",
                "The name of the deployment: the dimension `Deployment` of the metrics. Two in one account and region need two.",
                "refresh-worker-2",
            ),
            with_default(
                "ENVIRONMENT",
                "development",
                "The name of the environment: the dimension `Environment` of the metrics.",
                "production",
            ),
            with_default(
                "LOG_LEVEL",
                "INFO",
                "`TRACE`, `DEBUG`, `INFO`, `WARN`, `ERROR` or `OFF`, or levels by module. In Lambda, `AWS_LAMBDA_LOG_LEVEL` \
                 applies when this is not set.",
                "info,refresh_worker::queue=debug",
            ),
        ],
    },
    Section {
        title: "Commands only",
        variables: &[
            without_default(
                "QUEUE_BACKUP_DIR",
                "none",
                "The folder for `queue backup`, unless `--dir` names one.",
                "/var/backups/refresh-worker",
            ),
            with_default(
                "QUEUE_BACKUP_RETENTION_DAYS",
                "7",
                "`queue backup` deletes backups older than this, except the newest.",
                "30",
            ),
            secret(
                "MIGRATE_TO_REDIS_URL",
                "none",
                "The new Redis for `queue migrate`, unless `--to` or `--to-file` names one.",
                "redis://new-redis:6379",
            ),
        ],
    },
];
