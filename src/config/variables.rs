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

/// Every variable, in the order in which people read them.
pub const VARIABLES: &[Variable] = &[
    secret(
        "REDIS_URL",
        "required",
        "Where the queue is: `redis://`, `rediss://` (TLS) or `unix://`, with user, password and database number. \
         Producers always write to database 0.",
        "redis://localhost:6379",
    ),
    secret(
        "DATABASE_URL",
        "required",
        "The PostgreSQL database, in any spelling in use: `postgres://`, `postgresql://`, `postgresql+psycopg://`.",
        "postgresql://worker:password@localhost:5432/coc",
    ),
    secret(
        "COC_API_TOKEN",
        "required (refresh), unless `COC_API_TOKENS` is set",
        "A key of the Clash of Clans API, made at <https://developer.clashofclans.com> for this machine's address.",
        "put-your-key-here",
    ),
    secret(
        "COC_API_TOKENS",
        "none",
        "Several keys, separated by commas; used together with `COC_API_TOKEN`, each within its own rate.",
        "first-key,second-key",
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
    without_default("KEYS_PER_RUN", "all", "How many keys one run may hold; the others are left to other runs.", "2"),
    with_default(
        "QUEUE_NAMESPACE",
        "refresh",
        "Names the worker's own keys in Redis, as in `{refresh}:ready`.",
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
        "How long before the end of the invocation, in milliseconds, a run must be done.",
        "5000",
    ),
    without_default(
        "MAX_RUNTIME_SECONDS",
        "no limit",
        "How long one run may take, in seconds, however much time the invocation has.",
        "230",
    ),
    with_default("REFRESH_PAUSED", "false", "`true` stops every run at once; the answer says so.", "true"),
    with_default(
        "DISABLE_AUTO_REFRESH_QUEUE",
        "false",
        "The producers' switch. When the worker sees it, it stops in the same way and warns.",
        "true",
    ),
    with_default(
        "DB_POOL_MAX",
        "5",
        "Connections to the database, 1 to 100. The health role uses 1 unless this is set.",
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
