//! Reads where Redis and the database are. A part of [`super`], over the same reader.

use secrecy::SecretString;
use url::Url;

use super::{Reader, Role};
use crate::config::{DatabaseConfig, RedisConfig};

const REDIS_URL_EXPECTED: &str =
    "expected redis://[user:password@]host[:port][/database], rediss:// for TLS, or unix:///path/to/socket";
const DATABASE_URL_EXPECTED: &str = "expected postgresql://user:password@host[:port]/database";
const PERCENT_HINT: &str = "; characters such as # / ? @ in a password must be percent-encoded";

impl Reader<'_> {
    pub(super) fn redis(&mut self) -> RedisConfig {
        let cluster = self.switch("REDIS_CLUSTER");
        RedisConfig { url: self.redis_url_of("REDIS_URL", cluster), cluster, namespace: self.namespace() }
    }

    pub(super) fn redis_url_of(&mut self, name: &'static str, cluster: bool) -> SecretString {
        let Some(text) = self.text(name) else {
            return self.refuse(name, REDIS_URL_EXPECTED);
        };
        let Ok(url) = Url::parse(&text) else {
            let hint = hint_for(&text);
            return self.refuse(name, format!("{REDIS_URL_EXPECTED}{hint}"));
        };
        match url.scheme() {
            "redis" | "rediss" | "valkey" | "valkeys" => {
                if url.host_str().is_none_or(str::is_empty) {
                    self.refuse(name, format!("names no host; {REDIS_URL_EXPECTED}"))
                } else if !is_database_number(url.path().trim_matches('/')) {
                    self.refuse(name, format!("ends in something that is no database number; {REDIS_URL_EXPECTED}"))
                } else if cluster && !matches!(url.path().trim_matches('/'), "" | "0") {
                    let hint = "names a database, and a cluster (REDIS_CLUSTER=true) has only database 0; leave the number out";
                    self.refuse(name, hint)
                } else {
                    text.into()
                }
            }
            "unix" | "redis+unix" | "valkey+unix" if cluster => self.refuse(
                name,
                "names a socket, and a cluster (REDIS_CLUSTER=true) is reached by host and port: redis://host[:port]",
            ),
            "unix" | "redis+unix" | "valkey+unix" => text.into(),
            scheme => {
                let scheme = known_scheme(scheme);
                self.refuse(name, format!("{scheme}{REDIS_URL_EXPECTED}"))
            }
        }
    }

    pub(super) fn namespace(&mut self) -> String {
        let name = self.text("QUEUE_NAMESPACE").unwrap_or_default();
        if name.len() > 64 || name.chars().any(|c| matches!(c, '{' | '}') || c.is_whitespace() || c.is_control()) {
            return self
                .refuse("QUEUE_NAMESPACE", "expected a name of at most 64 bytes without braces and white space");
        }
        name
    }

    pub(super) fn database(&mut self, role: Role) -> DatabaseConfig {
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
        if self.is_database_of_rds() {
            return self.database_of_rds();
        }
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
