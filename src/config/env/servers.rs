//! Reads the addresses of Redis and the database.

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::{Role, reader::Reader};
use crate::{
    certificates::Certificates,
    config::{
        DatabaseConfig, RedisConfig,
        database_url::{DatabaseTls, DatabaseUrl},
        redis_url::RedisUrl,
    },
};

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
                    self.refuse(name, format!("does not end in a database number; {REDIS_URL_EXPECTED}"))
                } else if cluster && !matches!(url.path().trim_matches('/'), "" | "0") {
                    let hint =
                        "names a database, but a cluster (REDIS_CLUSTER=true) has only database 0; remove the number";
                    self.refuse(name, hint)
                } else {
                    self.redis_parameters(name, text, cluster)
                }
            }
            "unix" | "redis+unix" | "valkey+unix" if cluster => self.refuse(
                name,
                "names a socket, but a cluster (REDIS_CLUSTER=true) needs host and port: redis://host[:port]",
            ),
            "unix" | "redis+unix" | "valkey+unix" => self.redis_parameters(name, text, cluster),
            scheme => {
                let scheme = known_scheme(scheme);
                self.refuse(name, format!("{scheme}{REDIS_URL_EXPECTED}"))
            }
        }
    }

    /// Checks the parameters after `?` and the certificates that they name.
    fn redis_parameters(&mut self, name: &'static str, text: String, cluster: bool) -> SecretString {
        let mut problems = Vec::new();
        match RedisUrl::read(&text) {
            Err(found) => problems = found,
            Ok(url) if cluster && !matches!(url.url.path().trim_matches('/'), "" | "0") => {
                problems.push("its parameter `db` names a database, but a cluster has only database 0".to_owned());
            }
            Ok(url) => {
                let roots = url.roots.as_deref().map(Certificates::from_pem_or_file);
                problems.extend(roots.and_then(Result::err).map(|problem| format!("ssl_ca_certs: {problem}")));
                let client = url.client.iter().flat_map(|(certificate, key)| [certificate, key]);
                problems.extend(client.filter_map(|path| unreadable(path)));
            }
        }
        // A broken address is not used, so that only its own problem is reported.
        let is_fine = problems.is_empty();
        for problem in problems {
            self.refuse_as(name, problem, ());
        }
        if is_fine { text.into() } else { SecretString::default() }
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
        let url = self.database_url();
        let statement_cache = self.number("DB_STATEMENT_CACHE", 0..=10_000);
        // `pgbouncer=true` in the address outweighs the setting.
        let keeps = DatabaseUrl::read(url.expose_secret()).is_ok_and(|url| url.keeps_statements);
        DatabaseConfig {
            url,
            // A health check needs one, and many sandboxes may run at once.
            max_connections: if role == Role::Health && !own { 1 } else { max_connections },
            statement_cache: if keeps { statement_cache } else { 0 },
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
        // Java's spelling, from the configuration of related systems.
        let plain = text.strip_prefix("jdbc:").unwrap_or(&text);
        let (scheme, rest) = plain.split_once("://").unwrap_or(("", plain));
        let driver = scheme.split_once('+').map_or(scheme, |(name, _driver)| name).to_ascii_lowercase();
        if !matches!(driver.as_str(), "postgres" | "postgresql") {
            let scheme = known_scheme(&driver);
            let hint = if scheme.is_empty() { hint_for(&text) } else { "" };
            return self.refuse("DATABASE_URL", format!("{scheme}{DATABASE_URL_EXPECTED}{hint}"));
        }
        let text = self.with_tls_of_libpq(format!("postgresql://{rest}"));
        let problems = match DatabaseUrl::read(&text) {
            Ok(url) => unreadable_certificates(&url.tls),
            Err(problems) => problems,
        };
        if problems.is_empty() {
            return text.into();
        }
        for problem in problems {
            self.refuse_as("DATABASE_URL", problem, ());
        }
        SecretString::default()
    }

    /// Adds the variables of libpq where the address has no such parameter, because the driver would use them, too.
    fn with_tls_of_libpq(&self, text: String) -> String {
        let mut text = text;
        for (parameter, variable) in [("sslmode", "PGSSLMODE"), ("sslrootcert", "PGSSLROOTCERT")] {
            let (_, query) = text.split_once('?').unwrap_or((&text, ""));
            let names = url::form_urlencoded::parse(query.as_bytes());
            let mut names = names.map(|(name, _)| name.to_ascii_lowercase().replace(['-', '_'], ""));
            let says =
                names.any(|name| name == parameter || (parameter == "sslmode" && matches!(&*name, "ssl" | "tls")));
            if let Some(value) = self.own(variable).filter(|_| !says) {
                let value: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
                let separator = if text.contains('?') { '&' } else { '?' };
                text = format!("{text}{separator}{parameter}={value}");
            }
        }
        text
    }
}

/// The problems of the certificates that an address names.
fn unreadable_certificates(tls: &DatabaseTls) -> Vec<String> {
    let roots = tls.roots.as_deref().map(Certificates::from_pem_or_file);
    let roots = roots.and_then(Result::err).map(|problem| format!("sslrootcert: {problem}"));
    let client = tls.client.iter().flat_map(|(certificate, key)| [certificate, key]);
    roots.into_iter().chain(client.filter_map(|path| unreadable(path))).collect()
}

fn unreadable(path: &str) -> Option<String> {
    std::fs::read(path).err().map(|error| format!("the file `{path}` cannot be read: {error}"))
}

/// True for the path of a Redis URL: nothing, or a number.
fn is_database_number(path: &str) -> bool {
    path.is_empty() || path.parse::<u16>().is_ok()
}

/// Names a scheme that people confuse with ours. Any other scheme may be part of a secret, and is not repeated.
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
