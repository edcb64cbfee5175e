//! The parameters of a database address, by concern.

use secrecy::SecretString;
use url::Url;

use super::{
    DatabaseTls, DatabaseUrl, NO_HOST, Place, SEVERAL_HOSTS, TlsMode,
    known::{BOUNDED, HARMLESS},
    sql::{escaped, quoted, schemas_in, words},
};
use crate::config::address::{percent_decoded, plain, shown, unknown};

/// The parameters that have a meaning, and the problems of the others.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    server: Server,
    login: Login,
    session: Session,
    tls: Tls,
    forgets_statements: bool,
    pooled: bool,
    problems: Vec<String>,
}

#[derive(Debug, Default)]
struct Server {
    host: Option<String>,
    host_address: Option<String>,
    port: Option<String>,
}

#[derive(Debug, Default)]
struct Login {
    user: Option<String>,
    password: Option<String>,
    database: Option<String>,
}

#[derive(Debug, Default)]
struct Session {
    application_name: Option<String>,
    schemas: Option<String>,
    options: Vec<String>,
}

#[derive(Debug, Default)]
struct Tls {
    mode: Option<TlsMode>,
    /// Prisma's `sslaccept=strict`.
    strict: bool,
    roots: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

/// Sets a value that is not set yet. Two different values are a problem.
fn set<T: PartialEq>(slot: &mut Option<T>, value: T, what: &str, problems: &mut Vec<String>) {
    match slot {
        Some(known) if *known != value => problems.push(format!("its parameters give {what} twice, and differently")),
        _ => *slot = Some(value),
    }
}

fn is_true(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" | "" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

impl Parameters {
    /// Adds a parameter.
    pub(super) fn take(&mut self, key: &str, value: &str) {
        let Self { server, login, session, tls, problems, .. } = self;
        let owned = value.to_owned();
        match plain(key).as_str() {
            "host" => set(&mut server.host, owned, "the host", problems),
            "hostaddr" => set(&mut server.host_address, owned, "the host's address", problems),
            "port" => set(&mut server.port, owned, "the port", problems),
            "user" | "username" => set(&mut login.user, owned, "the user", problems),
            "password" => set(&mut login.password, owned, "the password", problems),
            "dbname" | "database" | "databasename" => set(&mut login.database, owned, "the database", problems),
            "applicationname" => session.application_name = Some(owned),
            "fallbackapplicationname" => {
                session.application_name.get_or_insert(owned);
            }
            // Prisma's `schema` is one name, taken literally. The others are lists, as SQL reads them.
            "schema" => session.take_schemas(key, &quoted(value), problems),
            "currentschema" | "searchpath" | "schemasearchpath" | "options[searchpath]" => {
                session.take_schemas(key, value, problems);
            }
            "options" => session.take_options(value, problems),
            "sslmode" | "ssl" | "tls" => match TlsMode::read(value) {
                Some(mode) => set(&mut tls.mode, mode, "the sslmode", problems),
                None => problems.push(format!(
                    "its parameter `{}` has an unknown value: expected disable, prefer, require, verify-ca or verify-full",
                    shown(key)
                )),
            },
            "sslaccept" if value == "strict" => tls.strict = true,
            "sslaccept" if plain(value) == "acceptinvalidcerts" => {}
            "sslaccept" => problems.push("its parameter `sslaccept` has an unknown value: expected strict".to_owned()),
            "sslrootcert" | "sslca" => set(&mut tls.roots, owned, "sslrootcert", problems),
            "sslcert" => set(&mut tls.certificate, owned, "sslcert", problems),
            "sslkey" => set(&mut tls.key, owned, "sslkey", problems),
            "pgbouncer" => match is_true(value) {
                Some(true) => (self.pooled, self.forgets_statements) = (true, true),
                Some(false) => {}
                None => problems.push("its parameter `pgbouncer` is neither true nor false".to_owned()),
            },
            "statementcachesize"
            | "statementcachecapacity"
            | "preparedstatementcachesize"
            | "preparedstatementcachequeries"
            | "preparethreshold" => self.forgets_statements |= matches!(value, "0" | "None" | "none"),
            "preparedstatements" => self.forgets_statements |= is_true(value) == Some(false),
            "preferquerymode" => self.forgets_statements |= value == "simple",
            "defaultqueryexecmode" => self.forgets_statements |= value != "cache_statement",
            "statementcachemode" => self.forgets_statements |= value != "prepare",
            other if other.starts_with("options[") => {
                let name = key.trim_start_matches(|c| c != '[').trim_matches(['[', ']']);
                session.options.push(format!("-c {}", escaped(&format!("{name}={value}"))));
            }
            other => {
                if let Some((_, fine, fix)) = BOUNDED.iter().find(|(name, ..)| *name == other) {
                    if !fine.contains(&plain(value).as_str()) {
                        problems.push(format!("its parameter `{}` cannot be obeyed: {fix}", shown(key)));
                    }
                } else if !HARMLESS.contains(&other) {
                    problems.push(unknown(key, value));
                }
            }
        }
    }

    /// The address with these parameters.
    pub(super) fn finish(mut self, url: &Url) -> Result<DatabaseUrl, Vec<String>> {
        let decoded = |text: &str| percent_decoded(text).filter(|text| !text.is_empty());
        let own_host = url.host_str().and_then(decoded).filter(|host| host != NO_HOST);
        let place = self.server.place(own_host);
        let port = self.server.port().map(|port| port.or_else(|| url.port()));
        let tls = self.tls.finish(matches!(place, Ok(Place::Socket(_))), &mut self.problems);
        let (place, port) = match (place, port) {
            (Ok(place), Ok(port)) if self.problems.is_empty() => (place, port),
            (place, port) => {
                self.problems.extend([place.err(), port.err()].into_iter().flatten().map(str::to_owned));
                self.problems.dedup();
                return Err(self.problems);
            }
        };
        let Self { login, session, .. } = self;
        Ok(DatabaseUrl {
            place,
            port,
            user: login.user.or_else(|| decoded(url.username())),
            password: login.password.or_else(|| url.password().and_then(decoded)).map(SecretString::from),
            database: login.database.or_else(|| decoded(url.path().trim_start_matches('/'))),
            application_name: session.application_name,
            schemas: session.schemas,
            options: (!session.options.is_empty()).then(|| session.options.join(" ")),
            tls,
            keeps_statements: !self.forgets_statements,
            pooled: self.pooled,
        })
    }
}

impl Server {
    /// As in libpq, a host among the parameters overrides the one in front, and an address overrides a name.
    fn place(&mut self, own: Option<String>) -> Result<Place, &'static str> {
        let named = self.host.take().filter(|host| !host.is_empty()).or(own);
        let host = match (self.host_address.take(), named) {
            (Some(address), None) => address,
            (Some(address), Some(name)) if address == name => address,
            (Some(_), Some(_)) => {
                return Err("its parameter `hostaddr` cannot be obeyed beside a host: give one of them");
            }
            (None, Some(name)) => name,
            (None, None) => return Err("names no host; expected postgresql://user:password@host[:port]/database"),
        };
        match host {
            _ if host.contains(',') => Err(SEVERAL_HOSTS),
            _ if host.starts_with('/') => Ok(Place::Socket(host)),
            _ if host.starts_with('@') => Err("names an abstract socket, which is not supported: give a folder"),
            // An IPv6 address has brackets in a URL, and nowhere else.
            _ => Ok(Place::Host(host.trim_start_matches('[').trim_end_matches(']').to_owned())),
        }
    }

    fn port(&self) -> Result<Option<u16>, &'static str> {
        match self.port.as_deref() {
            None => Ok(None),
            Some(port) if port.contains(',') => Err(SEVERAL_HOSTS),
            Some(port) => port.parse().map(Some).map_err(|_| "its parameter `port` is not a port"),
        }
    }
}

impl Session {
    fn take_schemas(&mut self, key: &str, list: &str, problems: &mut Vec<String>) {
        if schemas_in(list).is_none_or(|schemas| schemas.is_empty()) {
            let key = shown(key);
            return problems.push(format!("its parameter `{key}` is not a list of schemas: expected names as in SQL"));
        }
        let known = self.schemas.as_deref().and_then(schemas_in);
        if known.is_some_and(|known| Some(known) != schemas_in(list)) {
            problems.push("its parameters give the schema twice, and differently".to_owned());
        } else {
            self.schemas = Some(list.to_owned());
        }
    }

    /// Reads a command line of the server: `-c name=value`, `-cname=value`, `--name=value`. Other words are kept.
    fn take_options(&mut self, text: &str, problems: &mut Vec<String>) {
        let mut kept = Vec::new();
        let mut words = words(text).into_iter();
        while let Some(word) = words.next() {
            let setting = match word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
                Some("") => words.next(),
                Some(setting) => Some(setting.to_owned()),
                None => {
                    kept.push(escaped(&word));
                    continue;
                }
            };
            let Some(setting) = setting else {
                return problems.push("its parameter `options` ends after -c".to_owned());
            };
            match setting.split_once('=') {
                Some((name, list)) if plain(name) == "searchpath" => self.take_schemas("options", list, problems),
                _ => kept.push(format!("-c {}", escaped(&setting))),
            }
        }
        self.options.extend(kept);
    }
}

impl Tls {
    fn finish(&mut self, is_socket: bool, problems: &mut Vec<String>) -> DatabaseTls {
        let roots = self.roots.take().filter(|roots| !roots.is_empty());
        let of_process = roots.as_deref() == Some("system");
        let mode = match (self.mode, of_process, &roots) {
            (None | Some(TlsMode::VerifyFull), true, _) => TlsMode::VerifyFull,
            (Some(_), true, _) => {
                let problem = "`sslrootcert=system` needs sslmode=verify-full: anybody can get a certificate of a public authority";
                problems.push(problem.to_owned());
                TlsMode::VerifyFull
            }
            // An authority is named in order to be verified.
            (Some(TlsMode::Disable), false, Some(_)) => TlsMode::Disable,
            (mode, false, Some(_)) => mode.unwrap_or(TlsMode::VerifyCa).max(TlsMode::VerifyCa),
            (mode, false, None) => mode.unwrap_or(TlsMode::Prefer),
        };
        let mode = if self.strict { TlsMode::VerifyFull } else { mode };
        let client = match (self.certificate.take(), self.key.take()) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                let problem = "`sslcert` without `sslkey`: both belong to a certificate of our own; the server's authority goes \
                               into sslrootcert";
                problems.push(problem.to_owned());
                None
            }
            (None, Some(_)) => {
                problems.push("`sslkey` without `sslcert`: both belong to a certificate of our own".to_owned());
                None
            }
        };
        // As in libpq: a socket does not leave the machine.
        let mode = if is_socket { TlsMode::Disable } else { mode };
        DatabaseTls { mode, roots: roots.filter(|_| !of_process), client }
    }
}
