//! Reads the address of the database, in the spellings of libpq, `SQLAlchemy`, asyncpg, Prisma, JDBC and others.
//!
//! **Invariant: a parameter that says where the data is, or how it is secured, is obeyed or refused.** Parameters without a
//! meaning here are listed and ignored. A parameter that is in no list is an error. No message contains a value.

mod known;
mod parameters;
mod sql;

use secrecy::SecretString;
use url::Url;

use self::parameters::Parameters;
pub use self::sql::schemas_in;
use super::address::plain;

/// The host of an address without one, since a URL with a user needs a host.
const NO_HOST: &str = "unset.invalid";

const SEVERAL_HOSTS: &str = "names several hosts: expected one; use a name that follows the primary";

/// The parts of an address.
#[derive(Clone, Debug)]
pub struct DatabaseUrl {
    pub place: Place,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub password: Option<SecretString>,
    pub database: Option<String>,
    pub application_name: Option<String>,
    /// The wanted `search_path`, as SQL lists it.
    pub schemas: Option<String>,
    /// Options of the server's command line, without the `search_path`.
    pub options: Option<String>,
    pub tls: DatabaseTls,
    /// False when the address forbids prepared statements.
    pub keeps_statements: bool,
    /// True for `pgbouncer=true`: a pooler shares connections between transactions.
    pub pooled: bool,
}

/// The place of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Host(String),
    /// The folder of a Unix socket.
    Socket(String),
}

/// The security of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseTls {
    pub mode: TlsMode,
    /// The authorities of `sslrootcert`: a file, or PEM text. `None` means those that the process trusts.
    pub roots: Option<String>,
    /// The files of our own certificate and its key.
    pub client: Option<(String, String)>,
}

/// The `sslmode` of libpq. Its `allow` counts as `prefer`, which tries TLS first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl TlsMode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    pub(super) fn read(value: &str) -> Option<Self> {
        Some(match plain(value).as_str() {
            "disable" | "false" | "0" | "no" | "off" => Self::Disable,
            "allow" | "prefer" => Self::Prefer,
            // asyncpg and JDBC write `true`, Node writes `no-verify`.
            "require" | "true" | "1" | "yes" | "on" | "noverify" => Self::Require,
            "verifyca" => Self::VerifyCa,
            "verifyfull" => Self::VerifyFull,
            _ => return None,
        })
    }
}

impl DatabaseUrl {
    /// Reads an address.
    ///
    /// # Errors
    /// Every problem, each as a sentence without the value.
    pub fn read(text: &str) -> Result<Self, Vec<String>> {
        let text = text.trim();
        let text = text.strip_prefix("jdbc:").unwrap_or(text);
        let one = |problem: &str| Err(vec![problem.to_owned()]);
        let Some((scheme, rest)) = text.split_once("://") else {
            return one("has no `://`: expected postgresql://user:password@host[:port]/database");
        };
        if !is_scheme(scheme) {
            return one("has an unknown scheme: expected postgres://, postgresql:// or postgresql+driver://");
        }
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let hosts = authority.rsplit_once('@').map_or(authority, |(_user, hosts)| hosts);
        // The URL parser would report a bad port instead.
        if hosts.contains(',') {
            return one(SEVERAL_HOSTS);
        }
        // The host may be among the parameters.
        let inserted = if authority.ends_with('@') { NO_HOST } else { "" };
        let Ok(url) = Url::parse(&format!("postgres://{authority}{inserted}{tail}")) else {
            return one(
                "expected postgresql://user:password@host[:port]/database; characters such as # / ? @ in a password must be \
                 percent-encoded",
            );
        };
        if url.path().contains('@') || url.query().is_some_and(|query| query.contains('@')) || url.fragment().is_some()
        {
            return one(
                "has a special character in the user or password that is not percent-encoded (`/` is %2F, `#` %23, `?` %3F, `@` %40)",
            );
        }
        let mut parameters = Parameters::default();
        for (key, value) in url.query_pairs() {
            parameters.take(&key, &value);
        }
        parameters.finish(&url)
    }
}

/// True for `postgres`, `postgresql`, or either with a driver.
fn is_scheme(scheme: &str) -> bool {
    let base = scheme.split('+').next().unwrap_or_default().to_ascii_lowercase();
    matches!(base.as_str(), "postgres" | "postgresql")
}

/// The server's message about a failed login without the user's name, since some people put the password there.
#[must_use]
pub fn without_user(user: &str, text: &str) -> String {
    if user.is_empty() {
        return text.to_owned();
    }
    // A server truncates names to 63 bytes.
    let cut = &user[..user.floor_char_boundary(63)];
    let hidden =
        [user, cut].into_iter().fold(text.to_owned(), |text, name| text.replace(&format!("\"{name}\""), "\"***\""));
    // A short name would be cut out of ordinary words.
    if user.len() < 4 {
        return hidden;
    }
    [user, cut].into_iter().fold(hidden, |text, name| text.replace(name, "***"))
}

#[cfg(test)]
mod tests;
