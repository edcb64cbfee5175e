//! Reads the environment: everything at once, checked whole, all problems told together.
//!
//! [`Config::read`] is a pure function over a lookup, so a test hands it a map; only [`Config::from_process_env`] sees the
//! process. A variable that is empty counts as not set.

use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use secrecy::SecretString;
use url::Url;

use super::{
    ApiConfig, Config, DEFAULT_REQS_PER_SEC, DatabaseConfig, Pause, RedisConfig, TelemetryConfig, WorkerConfig,
    variables::variable,
};

/// How variables are looked up.
pub type Vars<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What the process is there for; the health role needs no API key and few connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    #[default]
    Refresh,
    Health,
}

/// One variable that will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub variable: &'static str,
    /// What is wrong and what would do; never a secret.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.variable, self.text)
    }
}

/// Everything that is wrong with the environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "read the configuration: {count} {}", if count == 1 { "problem" } else { "problems" })?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n- {problem}"))
    }
}

/// The process's own environment. Bytes that are not UTF-8 are kept as replacement characters, so that they are seen.
pub fn process_var(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

impl Role {
    /// `_HANDLER` (what the function's handler is called) or `WORKER_ROLE`.
    pub fn read(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        match vars("_HANDLER").as_deref().map(str::trim) {
            Some("refresh") => return Ok(Self::Refresh),
            Some("health") => return Ok(Self::Health),
            _ => {}
        }
        let mut reader = Reader::new(vars);
        let role = match reader.text("WORKER_ROLE").map(|role| role.to_ascii_lowercase()).as_deref() {
            None | Some("refresh") => Self::Refresh,
            Some("health") => Self::Health,
            Some(_) => reader.refuse("WORKER_ROLE", "expected refresh or health"),
        };
        reader.finish(role)
    }
}

impl Config {
    /// Reads and checks every variable.
    ///
    /// # Errors
    /// Every variable that will not do, all together.
    pub fn read(vars: Vars<'_>, role: Role) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        let config = Self {
            redis: reader.redis(),
            database: reader.database(role),
            api: reader.api(role),
            worker: reader.worker(),
            telemetry: reader.telemetry(),
        };
        reader.finish(config)
    }

    pub fn from_process_env(role: Role) -> Result<Self, ConfigErrors> {
        Self::read(&process_var, role)
    }
}

impl RedisConfig {
    /// Only what the queue needs, for commands that touch nothing else.
    pub fn read(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        let config = reader.redis();
        reader.finish(config)
    }
}

impl DatabaseConfig {
    /// Only what the store needs, for commands that touch nothing else.
    pub fn read(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        let config = reader.database(Role::Refresh);
        reader.finish(config)
    }
}

impl ApiConfig {
    /// Only what the API needs, for commands that look at it alone.
    pub fn read(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        let config = reader.api(Role::Refresh);
        reader.finish(config)
    }
}

impl TelemetryConfig {
    pub fn read(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        let config = reader.telemetry();
        reader.finish(config)
    }
}

/// What is allowed but should be known; logged once at the start.
pub fn warnings(vars: Vars<'_>) -> Vec<String> {
    let mut reader = Reader::new(vars);
    let mut warnings = Vec::new();
    let (wanted, cap) = reader.rate_and_cap();
    if wanted > cap {
        warnings.push(format!(
            "COC_REQS_PER_SEC is `{wanted}`: capped at {cap} calls a second; COC_MAX_REQS_PER_SEC raises the cap, for keys \
             that are allowed more"
        ));
    }
    if cap > DEFAULT_REQS_PER_SEC {
        warnings.push(format!(
            "COC_MAX_REQS_PER_SEC is `{cap}`: the API allows an ordinary key {DEFAULT_REQS_PER_SEC} calls a second"
        ));
    }
    if reader.worker().paused == Some(Pause::DisableAutoRefreshQueue) {
        warnings.push(
            "DISABLE_AUTO_REFRESH_QUEUE is true: meant for the producers, obeyed by this worker; REFRESH_PAUSED is its own \
             switch"
                .to_owned(),
        );
    }
    warnings
}

const REDIS_URL_EXPECTED: &str =
    "expected redis://[user:password@]host[:port][/database], rediss:// for TLS, or unix:///path/to/socket";
const DATABASE_URL_EXPECTED: &str = "expected postgresql://user:password@host[:port]/database";
const PERCENT_HINT: &str = "; characters such as # / ? @ in a password must be percent-encoded";

/// Takes variables one by one and gathers what is wrong with them.
struct Reader<'a> {
    vars: Vars<'a>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    const fn new(vars: Vars<'a>) -> Self {
        Self { vars, problems: Vec::new() }
    }

    fn finish<T>(self, value: T) -> Result<T, ConfigErrors> {
        if self.problems.is_empty() { Ok(value) } else { Err(ConfigErrors { problems: self.problems }) }
    }

    fn redis(&mut self) -> RedisConfig {
        RedisConfig { url: self.redis_url(), namespace: self.namespace() }
    }

    fn redis_url(&mut self) -> SecretString {
        let Some(text) = self.text("REDIS_URL") else {
            return self.refuse("REDIS_URL", REDIS_URL_EXPECTED);
        };
        let Ok(url) = Url::parse(&text) else {
            let hint = hint_for(&text);
            return self.refuse("REDIS_URL", format!("{REDIS_URL_EXPECTED}{hint}"));
        };
        match url.scheme() {
            "redis" | "rediss" | "valkey" | "valkeys" => {
                if url.host_str().is_none_or(str::is_empty) {
                    self.refuse("REDIS_URL", format!("names no host; {REDIS_URL_EXPECTED}"))
                } else if !is_database_number(url.path().trim_matches('/')) {
                    self.refuse(
                        "REDIS_URL",
                        format!("ends in something that is no database number; {REDIS_URL_EXPECTED}"),
                    )
                } else {
                    text.into()
                }
            }
            "unix" | "redis+unix" | "valkey+unix" => text.into(),
            scheme => {
                let scheme = known_scheme(scheme);
                self.refuse("REDIS_URL", format!("{scheme}{REDIS_URL_EXPECTED}"))
            }
        }
    }

    fn namespace(&mut self) -> String {
        let name = self.text("QUEUE_NAMESPACE").unwrap_or_default();
        if name.len() > 64 || name.chars().any(|c| matches!(c, '{' | '}') || c.is_whitespace() || c.is_control()) {
            return self
                .refuse("QUEUE_NAMESPACE", "expected a name of at most 64 bytes without braces and white space");
        }
        name
    }

    fn database(&mut self, role: Role) -> DatabaseConfig {
        let own = self.own("DB_POOL_MAX").is_some();
        let max_connections = self.number("DB_POOL_MAX", 1..=100);
        DatabaseConfig {
            url: self.database_url(),
            max_connections: if role == Role::Health && !own { 1 } else { max_connections },
            statement_cache: self.number("DB_STATEMENT_CACHE", 0..=10_000),
            auto_migrate: self.switch("AUTO_MIGRATE"),
        }
    }

    fn database_url(&mut self) -> SecretString {
        let Some(text) = self.text("DATABASE_URL") else {
            return self.refuse("DATABASE_URL", DATABASE_URL_EXPECTED);
        };
        let (scheme, rest) = text.split_once("://").unwrap_or(("", &text));
        let driver = scheme.split_once('+').map_or(scheme, |(name, _driver)| name).to_ascii_lowercase();
        if !matches!(driver.as_str(), "postgres" | "postgresql") {
            let scheme = known_scheme(&driver);
            let hint = if scheme.is_empty() { hint_for(&text) } else { "" };
            return self.refuse("DATABASE_URL", format!("{scheme}{DATABASE_URL_EXPECTED}{hint}"));
        }
        let plain = format!("postgresql://{rest}");
        match Url::parse(&plain) {
            Err(_) => self.refuse("DATABASE_URL", format!("{DATABASE_URL_EXPECTED}{PERCENT_HINT}")),
            Ok(url) if url.host_str().is_none_or(str::is_empty) && !url.query_pairs().any(|(key, _)| key == "host") => {
                self.refuse("DATABASE_URL", format!("names no host; {DATABASE_URL_EXPECTED}"))
            }
            Ok(_) => plain.into(),
        }
    }

    fn api(&mut self, role: Role) -> ApiConfig {
        let (wanted, cap) = self.rate_and_cap();
        ApiConfig {
            base_url: self.base_url(),
            tokens: self.tokens(role),
            reqs_per_sec: wanted.min(cap),
            keys_per_run: self.optional_number("KEYS_PER_RUN", 1..=1000),
        }
    }

    /// `COC_REQS_PER_SEC` as wanted, and what caps it.
    fn rate_and_cap(&mut self) -> (u32, u32) {
        let cap = self.optional_number("COC_MAX_REQS_PER_SEC", 1..=10_000).unwrap_or(DEFAULT_REQS_PER_SEC);
        let wanted = match self.own("COC_REQS_PER_SEC").map(|text| text.parse::<u64>()) {
            None => DEFAULT_REQS_PER_SEC.min(cap),
            Some(Ok(wanted @ 1..)) => u32::try_from(wanted).unwrap_or(u32::MAX),
            Some(_) => self.refuse("COC_REQS_PER_SEC", format!("expected a whole number from 1 to {cap}")),
        };
        (wanted, cap)
    }

    fn base_url(&mut self) -> Url {
        let text = self.text("COC_BASE_URL").unwrap_or_default();
        let text = text.trim_end_matches('/');
        let expected = "expected http(s)://host[:port]/version without user, password and query";
        match Url::parse(text) {
            Ok(url)
                if matches!(url.scheme(), "http" | "https")
                    && url.username().is_empty()
                    && url.password().is_none()
                    && url.query().is_none()
                    && url.fragment().is_none() =>
            {
                if url.host_str() == Some("api.clashofclans.com") && url.path() == "/" {
                    return self.refuse_as(
                        "COC_BASE_URL",
                        "expected the version in it, as in https://api.clashofclans.com/v1",
                        url,
                    );
                }
                url
            }
            _ => {
                let fallback = Url::parse("https://api.clashofclans.com/v1").expect("a constant that parses");
                self.refuse_as("COC_BASE_URL", expected, fallback)
            }
        }
    }

    fn tokens(&mut self, role: Role) -> Vec<SecretString> {
        let mut tokens: Vec<String> = Vec::new();
        for name in ["COC_API_TOKEN", "COC_API_TOKENS"] {
            let text = self.text(name).unwrap_or_default();
            for (index, token) in text.split(',').map(str::trim).filter(|token| !token.is_empty()).enumerate() {
                if token.chars().any(|c| !c.is_ascii_graphic()) || token.contains(['"', '\'']) {
                    let place = index + 1;
                    let expected = format!(
                        "has something in key {place} that no key has: expected the key alone, without Bearer, quotation \
                         marks and white space"
                    );
                    self.refuse_as(name, expected, ());
                } else if !tokens.iter().any(|known| known == token) {
                    tokens.push(token.to_owned());
                }
            }
        }
        if tokens.is_empty() && role == Role::Refresh && !self.has_problem_with(&["COC_API_TOKEN", "COC_API_TOKENS"]) {
            self.refuse_missing_tokens();
        }
        tokens.into_iter().map(SecretString::from).collect()
    }

    fn refuse_missing_tokens(&mut self) {
        const WHERE: &str = "a key of the API, made at https://developer.clashofclans.com for this machine's address";
        let portal = ["COC_EMAIL", "COC_PASSWORD"].into_iter().any(|name| self.own(name).is_some());
        let text = if portal {
            format!(
                "is not set, but COC_EMAIL or COC_PASSWORD is: keys from the developer portal are not supported by this \
                 version yet; expected {WHERE} (or several in COC_API_TOKENS)"
            )
        } else {
            format!("is not set: expected {WHERE} (or several in COC_API_TOKENS)")
        };
        self.problems.push(Problem { variable: "COC_API_TOKEN", text });
    }

    fn worker(&mut self) -> WorkerConfig {
        let refresh_paused = self.switch("REFRESH_PAUSED");
        let producers_paused = self.switch("DISABLE_AUTO_REFRESH_QUEUE");
        WorkerConfig {
            lease: Duration::from_secs(self.number("LEASE_SECONDS", 2..=3600)),
            max_attempts: self.number("MAX_ATTEMPTS", 1..=100),
            deadline_buffer: Duration::from_millis(self.number("DEADLINE_BUFFER_MS", 0..=600_000)),
            max_runtime: self.optional_number("MAX_RUNTIME_SECONDS", 1..=86_400).map(Duration::from_secs),
            paused: if refresh_paused {
                Some(Pause::RefreshPaused)
            } else {
                producers_paused.then_some(Pause::DisableAutoRefreshQueue)
            },
        }
    }

    fn telemetry(&mut self) -> TelemetryConfig {
        let environment = self.text("ENVIRONMENT").unwrap_or_default();
        let environment = if environment.len() > 64 || !environment.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            self.refuse("ENVIRONMENT", "expected a name of at most 64 ASCII characters")
        } else {
            environment
        };
        TelemetryConfig { environment, log_level: self.log_level() }
    }

    /// `LOG_LEVEL`, else what Lambda's own logging settings say, else the default.
    fn log_level(&mut self) -> String {
        let aws = self.own("AWS_LAMBDA_LOG_LEVEL").and_then(|text| level(&text));
        match (self.own("LOG_LEVEL"), aws) {
            (None, Some(aws)) => aws.to_owned(),
            (None, None) => TelemetryConfig::default().log_level,
            (Some(text), _) => match level(&text) {
                Some(level) => level.to_owned(),
                None if is_filter(&text) => text,
                None => self.refuse(
                    "LOG_LEVEL",
                    "expected TRACE, DEBUG, INFO, WARN, ERROR or OFF, or levels by module such as info,refresh_worker=debug",
                ),
            },
        }
    }

    /// The value as somebody set it; empty is not set.
    fn own(&self, name: &str) -> Option<String> {
        (self.vars)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// The value, or the default of the table.
    fn text(&self, name: &'static str) -> Option<String> {
        self.own(name).or_else(|| variable(name).default.map(str::to_owned))
    }

    fn number<T: TryFrom<u64> + Default>(&mut self, name: &'static str, range: RangeInclusive<u64>) -> T {
        self.optional_number(name, range).unwrap_or_default()
    }

    fn optional_number<T: TryFrom<u64>>(&mut self, name: &'static str, range: RangeInclusive<u64>) -> Option<T> {
        let text = self.text(name)?;
        let number = u64::from_str(&text).ok().filter(|number| range.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            let expected = format!("expected a whole number from {} to {}", range.start(), range.end());
            self.refuse_as(name, expected, ());
        }
        number
    }

    fn switch(&mut self, name: &'static str) -> bool {
        match self.text(name).unwrap_or_default().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => true,
            "false" | "0" | "no" | "off" => false,
            _ => self.refuse(name, "expected true or false (or 1, 0, yes, no, on, off)"),
        }
    }

    fn refuse<T: Default>(&mut self, name: &'static str, expected: impl fmt::Display) -> T {
        self.refuse_as(name, expected, T::default())
    }

    /// Notes that a variable will not do and goes on with `instead`, so that the others are checked too.
    fn refuse_as<T>(&mut self, name: &'static str, expected: impl fmt::Display, instead: T) -> T {
        let value = match self.own(name) {
            None => "is not set".to_owned(),
            Some(_) if variable(name).secret => "is set (value not shown)".to_owned(),
            // A URL with a user part may hold a password, wherever it was put by mistake.
            Some(value) if value.contains('@') => "is set (value not shown)".to_owned(),
            Some(value) => format!("is `{}`", value.chars().take(80).collect::<String>()),
        };
        self.problems.push(Problem { variable: name, text: format!("{value}: {expected}") });
        instead
    }

    fn has_problem_with(&self, names: &[&str]) -> bool {
        self.problems.iter().any(|problem| names.contains(&problem.variable))
    }
}

/// The path of a Redis URL: nothing, or a number.
fn is_database_number(path: &str) -> bool {
    path.is_empty() || path.parse::<u16>().is_ok()
}

/// Names a scheme that people mix up with ours. Anything else might be part of a secret and is not repeated.
fn known_scheme(scheme: &str) -> String {
    let known = [
        "http",
        "https",
        "mysql",
        "sqlite",
        "postgres",
        "postgresql",
        "redis",
        "rediss",
        "rediscluster",
        "mongodb",
        "jdbc",
    ];
    known.iter().find(|name| **name == scheme).map_or_else(String::new, |name| format!("the scheme is {name}://; "))
}

fn hint_for(secret: &str) -> &'static str {
    if secret.starts_with(['"', '\'']) {
        "; the value begins with a quotation mark"
    } else if secret.contains("://") {
        PERCENT_HINT
    } else {
        ""
    }
}

/// The level that a word means, in Python's, Rust's and AWS's spellings.
fn level(text: &str) -> Option<&'static str> {
    Some(match text.to_ascii_lowercase().as_str() {
        "trace" => "trace",
        "debug" => "debug",
        "info" | "notice" => "info",
        "warn" | "warning" => "warn",
        "error" | "critical" | "fatal" => "error",
        "off" | "none" => "off",
        _ => return None,
    })
}

/// Whether this is a list of `module=level`.
fn is_filter(text: &str) -> bool {
    text.contains('=') && tracing_subscriber::filter::Targets::from_str(text).is_ok()
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
