//! Takes the address of the database apart, in the spellings of libpq, `SQLAlchemy`, asyncpg, Prisma, JDBC and others.
//!
//! **Invariant: a parameter that says where the data is, or how it is secured, is obeyed or refused.** What has no meaning
//! here is listed, and read over; what is in no list is an error. No text made here holds a value.

use secrecy::SecretString;
use url::Url;

/// Stands where the address names no host, since a user without a host is no URL.
const NO_HOST: &str = "unset.invalid";

/// The address, taken apart.
#[derive(Clone, Debug)]
pub struct DatabaseUrl {
    pub place: Place,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub password: Option<SecretString>,
    pub database: Option<String>,
    pub application_name: Option<String>,
    /// The `search_path` that is asked for, as SQL lists it.
    pub schemas: Option<String>,
    /// Options of the server's command line, without the `search_path`.
    pub options: Option<String>,
    pub tls: DatabaseTls,
    /// Statements may be kept prepared, as far as the address says.
    pub keeps_statements: bool,
    /// A pooler shares connections between transactions: `pgbouncer=true`.
    pub pooled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Host(String),
    /// The folder of a Unix socket.
    Socket(String),
}

/// How the connection is secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseTls {
    pub mode: TlsMode,
    /// The authorities of `sslrootcert`: a file, or PEM itself. `None` is those that the process trusts.
    pub roots: Option<String>,
    /// Our own certificate and its key: files.
    pub client: Option<(String, String)>,
}

/// As libpq's `sslmode`; its `allow` is taken for `prefer`, which asks for TLS first.
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

    fn read(value: &str) -> Option<Self> {
        Some(match plain(value).as_str() {
            "disable" | "false" | "0" | "no" | "off" => Self::Disable,
            "allow" | "prefer" => Self::Prefer,
            // `true` is what asyncpg and JDBC say, `no-verify` is Node's word.
            "require" | "true" | "1" | "yes" | "on" | "noverify" => Self::Require,
            "verifyca" => Self::VerifyCa,
            "verifyfull" => Self::VerifyFull,
            _ => return None,
        })
    }
}

/// Parameters that neither move the data nor weaken anything: waits, pools, names, formats. Spelled as [`plain`] makes them.
const HARMLESS: &[&str] = &[
    // libpq
    "connecttimeout",
    "clientencoding",
    "keepalives",
    "keepalivesidle",
    "keepalivesinterval",
    "keepalivescount",
    "tcpusertimeout",
    "loadbalancehosts",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "sslcompression",
    "sslsni",
    "sslmaxprotocolversion",
    "minprotocolversion",
    "maxprotocolversion",
    // settings of a session that our own take precedence over
    "statementtimeout",
    "locktimeout",
    "idleintransactionsessiontimeout",
    "idlesessiontimeout",
    "transactiontimeout",
    "timezone",
    "datestyle",
    "intervalstyle",
    "extrafloatdigits",
    "jit",
    "geqo",
    // SQLAlchemy, asyncpg, psycopg, Django, Rails
    "poolsize",
    "maxoverflow",
    "pooltimeout",
    "poolrecycle",
    "poolpreping",
    "pooluselifo",
    "pool",
    "minsize",
    "maxsize",
    "minconn",
    "maxconn",
    "timeout",
    "commandtimeout",
    "maxcachedstatementlifetime",
    "maxcacheablestatementsize",
    "preparedstatementnamefunc",
    "asyncfallback",
    "connmaxage",
    "connhealthchecks",
    "encoding",
    "reconnect",
    "checkouttimeout",
    "reapingfrequency",
    "idletimeout",
    // Prisma, Node, Supabase
    "connectionlimit",
    "sockettimeout",
    "pgbouncerpoolmode",
    "uselibpqcompat",
    "supa",
    "workaround",
    "querytimeout",
    "max",
    // pgx
    "poolmaxconns",
    "poolminconns",
    "poolmaxconnlifetime",
    "poolmaxconnidletime",
    "poolmaxconnlifetimejitter",
    "poolhealthcheckperiod",
    "descriptioncachecapacity",
    // JDBC
    "logintimeout",
    "cancelsignaltimeout",
    "tcpkeepalive",
    "tcpnodelay",
    "rewritebatchedinserts",
    "stringtype",
    "defaultrowfetchsize",
    "adaptivefetch",
    "autosave",
    "binarytransfer",
    "binarytransferenable",
    "binarytransferdisable",
    "preparedstatementcachesizemib",
    "databasemetadatacachefields",
    "databasemetadatacachefieldsmib",
    "assumeminserverversion",
    "logservererrordetail",
    "loglevel",
    "loggerlevel",
    "loggerfile",
    "logunclosedconnections",
    "disablecolumnsanitiser",
    "escapesyntaxcallmode",
    "receivebuffersize",
    "sendbuffersize",
    "maxresultbuffer",
    "hostrecheckseconds",
    "gsslibrary",
    "unknownlength",
    "groupstartupparameters",
    "quotereturningidentifiers",
    "reconnectionattempts",
];

/// Parameters of which some values ask for what cannot be had: the values that will do, and what to do about the others.
const BOUNDED: &[(&str, &[&str], &str)] = &[
    (
        "gssencmode",
        &["disable", "prefer", "allow"],
        "GSSAPI encryption is not available: use TLS (sslmode=verify-full)",
    ),
    (
        "channelbinding",
        &["disable", "prefer"],
        "channel binding is not available: leave it out and use sslmode=verify-full, which proves the server too",
    ),
    (
        "targetsessionattrs",
        &["any", "readwrite", "primary"],
        "the worker writes and needs the primary: read-write, primary or any",
    ),
    ("targetservertype", &["any", "primary", "master", "preferprimary"], "the worker writes and needs the primary"),
    ("sslnegotiation", &["postgres"], "TLS is negotiated as `postgres` only: leave it out"),
    ("sslminprotocolversion", &["tlsv1", "tlsv1.1", "tlsv1.2"], "the lowest version is TLSv1.2: leave it out"),
    ("replication", &["false", "off", "no", "0"], "this is no replication client: leave it out"),
    ("readonly", &["false"], "the worker writes: leave it out"),
    ("defaulttransactionreadonly", &["false", "off", "no", "0"], "the worker writes: leave it out"),
    ("sslcertmode", &["allow", "disable"], "leave it out; sslcert and sslkey say whether a certificate is shown"),
    ("sslfactory", &["org.postgresql.ssl.libpqfactory"], "name the authority in sslrootcert instead"),
    (
        "requireauth",
        &[],
        "the methods of authentication cannot be limited here: leave it out and use sslmode=verify-full",
    ),
    ("requirepeer", &[], "the owner of a socket is not looked at here: leave it out"),
    ("service", &[], "service files are not read: write host, database and user here"),
    ("servicefile", &[], "service files are not read: write host, database and user here"),
    ("passfile", &[], "write the password before the host (percent-encoded), or use PGPASSFILE"),
    ("sslpassword", &[], "a key that is encrypted cannot be read: store it without a password, for this program alone"),
    ("sslcrl", &[], "revocation lists are not read: leave it out"),
    ("sslcrldir", &[], "revocation lists are not read: leave it out"),
    ("sslidentity", &[], "give certificate and key as PEM files in sslcert and sslkey"),
    ("sslhostnameverifier", &[], "leave it out and use sslmode=verify-full, which compares the host name"),
    ("sslpasswordcallback", &[], "leave it out: Java's classes are not loaded here"),
    ("socketfactory", &[], "leave it out: Java's classes are not loaded here"),
    ("authenticationpluginclassname", &[], "leave it out: Java's classes are not loaded here"),
];

/// A name as spellings agree on it: `currentSchema`, `current-schema` and `current_schema` are one.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_')).map(|c| c.to_ascii_lowercase()).collect()
}

fn is_true(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" | "" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

impl DatabaseUrl {
    /// Takes an address apart.
    ///
    /// # Errors
    /// Everything that is wrong with it, each as a sentence without the value.
    pub fn read(text: &str) -> Result<Self, Vec<String>> {
        let text = text.trim();
        let text = text.strip_prefix("jdbc:").unwrap_or(text);
        let one = |problem: &str| Err(vec![problem.to_owned()]);
        let Some((scheme, rest)) = text.split_once("://") else {
            return one("no `://` in it: expected postgresql://user:password@host[:port]/database");
        };
        if !is_scheme(scheme) {
            return one("its scheme is unknown: expected postgres://, postgresql:// or postgresql+driver://");
        }
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let hosts = authority.rsplit_once('@').map_or(authority, |(_user, hosts)| hosts);
        if hosts.contains(',') {
            return one(SEVERAL_HOSTS);
        }
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
                "a special character of the user or password is not percent-encoded (`/` is %2F, `#` %23, `?` %3F, `@` %40)",
            );
        }
        let mut parameters = Parameters::default();
        for (key, value) in url.query_pairs() {
            parameters.take(&key, &value);
        }
        parameters.finish(&url)
    }
}

const SEVERAL_HOSTS: &str = "it names several hosts: expected one, since the worker does not try one after another; use a name that follows the primary";

/// `postgres`, `postgresql`, or either with a driver.
fn is_scheme(scheme: &str) -> bool {
    let base = scheme.split('+').next().unwrap_or_default().to_ascii_lowercase();
    matches!(base.as_str(), "postgres" | "postgresql")
}

/// What the parameters say, and what is wrong with them.
#[derive(Debug, Default)]
struct Parameters {
    host: Option<String>,
    host_address: Option<String>,
    port: Option<String>,
    user: Option<String>,
    password: Option<String>,
    database: Option<String>,
    application_name: Option<String>,
    schemas: Option<String>,
    options: Vec<String>,
    mode: Option<TlsMode>,
    /// Prisma's `sslaccept=strict`.
    strict: bool,
    roots: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    forgets_statements: bool,
    pooled: bool,
    problems: Vec<String>,
}

/// Sets what is not set yet. Two different answers to one question are no answer.
fn set<T: PartialEq>(slot: &mut Option<T>, value: T, what: &str, problems: &mut Vec<String>) {
    match slot {
        Some(known) if *known != value => problems.push(format!("its parameters give {what} twice, and differently")),
        _ => *slot = Some(value),
    }
}

impl Parameters {
    fn take(&mut self, key: &str, value: &str) {
        let problems = &mut self.problems;
        match plain(key).as_str() {
            "host" => set(&mut self.host, value.to_owned(), "the host", problems),
            "hostaddr" => set(&mut self.host_address, value.to_owned(), "the host's address", problems),
            "port" => set(&mut self.port, value.to_owned(), "the port", problems),
            "user" | "username" => set(&mut self.user, value.to_owned(), "the user", problems),
            "password" => set(&mut self.password, value.to_owned(), "the password", problems),
            "dbname" | "database" | "databasename" => {
                set(&mut self.database, value.to_owned(), "the database", problems);
            }
            "applicationname" => self.application_name = Some(value.to_owned()),
            "fallbackapplicationname" => {
                self.application_name.get_or_insert_with(|| value.to_owned());
            }
            // Prisma's is one name, as it is. The others are lists, as SQL reads them.
            "schema" => self.take_schemas(key, &quoted(value)),
            "currentschema" | "searchpath" | "schemasearchpath" | "options[searchpath]" => self.take_schemas(key, value),
            "options" => self.take_options(value),
            "sslmode" | "ssl" | "tls" => match TlsMode::read(value) {
                Some(mode) => set(&mut self.mode, mode, "the sslmode", problems),
                None => problems.push(format!(
                    "its parameter `{}` has an unknown value: expected disable, prefer, require, verify-ca or verify-full",
                    shown(key)
                )),
            },
            "sslaccept" if value == "strict" => self.strict = true,
            "sslaccept" if plain(value) == "acceptinvalidcerts" => {}
            "sslaccept" => problems.push("its parameter `sslaccept` has an unknown value: expected strict".to_owned()),
            "sslrootcert" | "sslca" => set(&mut self.roots, value.to_owned(), "sslrootcert", problems),
            "sslcert" => set(&mut self.certificate, value.to_owned(), "sslcert", problems),
            "sslkey" => set(&mut self.key, value.to_owned(), "sslkey", problems),
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
                let option = format!("-c {}", escaped(&format!("{name}={value}")));
                self.options.push(option);
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

    fn take_schemas(&mut self, key: &str, list: &str) {
        if schemas_in(list).is_none_or(|schemas| schemas.is_empty()) {
            let problem =
                format!("its parameter `{}` is no list of schemas: expected names as SQL has them", shown(key));
            return self.problems.push(problem);
        }
        let known = self.schemas.as_deref().and_then(schemas_in);
        if known.is_some_and(|known| Some(known) != schemas_in(list)) {
            self.problems.push("its parameters give the schema twice, and differently".to_owned());
        } else {
            self.schemas = Some(list.to_owned());
        }
    }

    /// The server's command line: `-c name=value`, `-cname=value`, `--name=value`, and what poolers make of other words.
    fn take_options(&mut self, text: &str) {
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
                self.problems.push("its parameter `options` ends after -c".to_owned());
                return;
            };
            match setting.split_once('=') {
                Some((name, list)) if plain(name) == "searchpath" => self.take_schemas("options", list),
                _ => kept.push(format!("-c {}", escaped(&setting))),
            }
        }
        self.options.extend(kept);
    }

    fn finish(mut self, url: &Url) -> Result<DatabaseUrl, Vec<String>> {
        let decoded = |text: &str| percent_decoded(text).filter(|text| !text.is_empty());
        let own_host = url.host_str().and_then(decoded).filter(|host| host != NO_HOST);
        let place = self.place(own_host);
        let port = match &self.port {
            None => url.port(),
            Some(port) => port.parse().ok().or_else(|| {
                let several = port.contains(',');
                let problem = if several { SEVERAL_HOSTS } else { "its parameter `port` is no port" };
                self.problems.push(problem.to_owned());
                None
            }),
        };
        let tls = self.tls(place.as_ref());
        let (Some(place), true) = (place, self.problems.is_empty()) else {
            self.problems.dedup();
            return Err(self.problems);
        };
        Ok(DatabaseUrl {
            place,
            port,
            user: self.user.or_else(|| decoded(url.username())),
            password: self.password.or_else(|| url.password().and_then(decoded)).map(SecretString::from),
            database: self.database.or_else(|| decoded(url.path().trim_start_matches('/'))),
            application_name: self.application_name,
            schemas: self.schemas,
            options: (!self.options.is_empty()).then(|| self.options.join(" ")),
            tls,
            keeps_statements: !self.forgets_statements,
            pooled: self.pooled,
        })
    }

    /// As in libpq, a host among the parameters comes before the one in front, and an address before a name.
    fn place(&mut self, own: Option<String>) -> Option<Place> {
        let named = self.host.take().filter(|host| !host.is_empty()).or(own);
        let host = match (self.host_address.take(), named) {
            (Some(address), None) => address,
            (Some(address), Some(name)) if address == name => address,
            (Some(_), Some(_)) => {
                let problem = "its parameter `hostaddr` cannot be obeyed beside a host: give one of them";
                self.problems.push(problem.to_owned());
                return None;
            }
            (None, Some(name)) => name,
            (None, None) => {
                self.problems
                    .push("names no host; expected postgresql://user:password@host[:port]/database".to_owned());
                return None;
            }
        };
        if host.contains(',') {
            self.problems.push(SEVERAL_HOSTS.to_owned());
            return None;
        }
        if host.starts_with('/') {
            return Some(Place::Socket(host));
        }
        if host.starts_with('@') {
            self.problems.push("sockets in the abstract namespace are not supported: give a folder".to_owned());
            return None;
        }
        // An IPv6 address has brackets in a URL, and nowhere else.
        Some(Place::Host(host.trim_start_matches('[').trim_end_matches(']').to_owned()))
    }

    fn tls(&mut self, place: Option<&Place>) -> DatabaseTls {
        let roots = self.roots.take().filter(|roots| !roots.is_empty());
        let of_process = roots.as_deref() == Some("system");
        let mode = match (self.mode, of_process, &roots) {
            (None | Some(TlsMode::VerifyFull), true, _) => TlsMode::VerifyFull,
            (Some(_), true, _) => {
                let problem = "`sslrootcert=system` needs sslmode=verify-full: anybody can have a certificate of a public authority";
                self.problems.push(problem.to_owned());
                TlsMode::VerifyFull
            }
            // Whoever names an authority wants it to be of use.
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
                self.problems.push(problem.to_owned());
                None
            }
            (None, Some(_)) => {
                self.problems.push("`sslkey` without `sslcert`: both belong to a certificate of our own".to_owned());
                None
            }
        };
        // As in libpq: a socket does not leave the machine.
        let mode = if matches!(place, Some(Place::Socket(_))) { TlsMode::Disable } else { mode };
        DatabaseTls { mode, roots: roots.filter(|_| !of_process), client }
    }
}

fn unknown(key: &str, value: &str) -> String {
    let name = shown(key);
    if value.is_empty() || name.is_empty() {
        return "behind its `?` is something that is no parameter; is a `?` of the password not percent-encoded (%3F)?"
            .to_owned();
    }
    format!(
        "its parameter `{name}` is unknown, and may say where the data is or how it is secured: take it out, or correct its name"
    )
}

/// A parameter's name, if it looks like one.
fn shown(key: &str) -> &str {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '[' | ']');
    if key.len() <= 60 && key.chars().all(is_name) { key } else { "" }
}

pub(super) fn percent_decoded(text: &str) -> Option<String> {
    // The form's decoding, which takes a plus for a space.
    let pair = format!("x={}", text.replace('+', "%2B").replace('&', "%26"));
    let (_, value) = url::form_urlencoded::parse(pair.as_bytes()).next()?;
    Some(value.into_owned())
}

/// A name with quotation marks.
fn quoted(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The words of a command line as the server takes it apart: by spaces, of which `\ ` is none.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let word = words.last_mut().expect("there is always one");
        match character {
            '\\' => word.extend(characters.next()),
            space if space.is_ascii_whitespace() => words.push(String::new()),
            other => word.push(other),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn escaped(word: &str) -> String {
    let mut text = String::new();
    for character in word.chars() {
        if character == '\\' || character.is_ascii_whitespace() {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

/// The schemas of a `search_path`, as the server reads it. `None` when it is no list of names.
pub fn schemas_in(list: &str) -> Option<Vec<String>> {
    let mut schemas = Vec::new();
    let mut rest = list.trim();
    while !rest.is_empty() {
        let (schema, after) = if let Some(inside) = rest.strip_prefix('"') {
            let mut name = String::new();
            let mut inside = inside;
            loop {
                let (part, after) = inside.split_once('"')?;
                name.push_str(part);
                match after.strip_prefix('"') {
                    Some(after) => (name.push('"'), inside = after).1,
                    None => break (name, after),
                }
            }
        } else {
            let end = rest.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(rest.len());
            (rest[..end].to_lowercase(), &rest[end..])
        };
        if schema.is_empty() || schema.contains(['\0', '\n', '\r']) {
            return None;
        }
        schemas.push(schema);
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) if !next.trim().is_empty() => next.trim_start(),
            None if after.is_empty() => "",
            _ => return None,
        };
    }
    Some(schemas)
}

/// A server's words about a login that failed, without the user's name: some put the password there.
#[must_use]
pub fn without_user(user: &str, text: &str) -> String {
    if user.is_empty() {
        return text.to_owned();
    }
    // A server cuts names to 63 bytes before it repeats them.
    let cut = &user[..user.floor_char_boundary(63)];
    let hidden =
        [user, cut].into_iter().fold(text.to_owned(), |text, name| text.replace(&format!("\"{name}\""), "\"***\""));
    if user.len() < 4 {
        return hidden;
    }
    [user, cut].into_iter().fold(hidden, |text, name| text.replace(name, "***"))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn read(url: &str) -> DatabaseUrl {
        DatabaseUrl::read(url).unwrap_or_else(|problems| panic!("{url}: {problems:?}"))
    }

    fn problems(url: &str) -> String {
        DatabaseUrl::read(url).unwrap_err().join("\n")
    }

    #[test]
    fn schema_is_obeyed_in_every_spelling() {
        for (parameters, schemas) in [
            ("schema=stats", vec!["stats"]),
            ("schema=My%20Stats", vec!["My Stats"]),
            ("currentSchema=stats,public", vec!["stats", "public"]),
            ("currentSchema=%22My%20Stats%22,%20public", vec!["My Stats", "public"]),
            ("search_path=STATS", vec!["stats"]),
            ("options=-c%20search_path=stats", vec!["stats"]),
            ("options=-csearch_path%3Dstats", vec!["stats"]),
            ("options=--search-path%3Dstats%2Cpublic%20-c%20geqo%3Doff", vec!["stats", "public"]),
            ("options=-c%20search_path=stats%2C%5C%20public", vec!["stats", "public"]),
            ("options[search_path]=stats", vec!["stats"]),
            ("schema=stats&search_path=stats", vec!["stats"]),
        ] {
            let read = read(&format!("postgres://u:p@h/d?{parameters}"));
            assert_eq!(schemas_in(&read.schemas.unwrap()).unwrap(), schemas, "{parameters}");
        }
        for (parameters, told) in [
            ("schema=a&currentSchema=b", "twice, and differently"),
            ("schema=", "`schema` is no list"),
            ("search_path=a,,b", "`search_path` is no list"),
            ("options=-c", "ends after -c"),
        ] {
            let told_is = problems(&format!("postgres://u:p@h/d?{parameters}"));
            assert!(told_is.contains(told), "{parameters}: {told_is}");
        }
    }

    #[test]
    fn other_options_are_passed_on() {
        let options = |text: &str| read(&format!("postgres://u@h/d?{text}")).options;
        assert_eq!(options("options=endpoint%3Dep-one"), Some("endpoint=ep-one".to_owned()));
        assert_eq!(options("options=-cgeqo%3Doff%20-csearch_path%3Da"), Some("-c geqo=off".to_owned()));
        assert_eq!(options("options=-c%20work_mem%3D1%5C%20MB"), Some("-c work_mem=1\\ MB".to_owned()));
        assert_eq!(options("options[geqo]=off"), Some("-c geqo=off".to_owned()));
        assert_eq!(options("options=-csearch_path%3Da"), None);
    }

    #[test]
    fn hosts_and_sockets_are_read() {
        let host = |name: &str| Place::Host(name.to_owned());
        let socket = |folder: &str| Place::Socket(folder.to_owned());
        for (url, place) in [
            ("postgres://u@[::1]:5432/d", host("::1")),
            ("postgres:///d?host=::1", host("::1")),
            ("postgres://u@[2001:db8::7]/d", host("2001:db8::7")),
            ("postgresql:///d?host=/tmp", socket("/tmp")),
            ("postgresql+psycopg2://u:p@/d?host=/cloudsql/a:b:c", socket("/cloudsql/a:b:c")),
            ("postgresql://%2Fvar%2Frun%2Fpostgresql/d", socket("/var/run/postgresql")),
            ("postgresql://u:p@%2Ftmp:5433/d", socket("/tmp")),
            ("postgresql://u@one/d?host=two", host("two")),
            ("postgresql://u@/d?hostaddr=10.0.0.1", host("10.0.0.1")),
            ("jdbc:postgresql://h:5433/d?user=u&password=p", host("h")),
        ] {
            assert_eq!(read(url).place, place, "{url}");
        }
        for url in [
            "postgres://u:hush@one,two/d",
            "postgres://u:hush@one:5432,two:5432/d",
            "postgres:///d?host=one,two",
            "postgres://h/d?port=1,2",
        ] {
            let told = problems(url);
            assert!(told.contains("several hosts") && !told.contains("hush"), "{told}");
        }
        assert!(problems("postgres://u:p@/d").contains("names no host"));
        assert!(problems("postgres://h/d?hostaddr=10.0.0.1").contains("hostaddr"));
    }

    #[test]
    fn login_may_be_in_parameters() {
        let url = read("jdbc:postgresql://h/d?user=me&password=p%40ss%2Bw&ApplicationName=one");
        assert_eq!((url.user.as_deref(), url.database.as_deref()), (Some("me"), Some("d")));
        assert_eq!(url.password.unwrap().expose_secret(), "p@ss+w");
        assert_eq!(url.application_name.as_deref(), Some("one"));
        assert_eq!(read("postgres://me:a+b%2Fc@h").password.unwrap().expose_secret(), "a+b/c");
    }

    #[test]
    fn named_authority_is_verified() {
        use TlsMode::{Disable, Prefer, Require, VerifyCa, VerifyFull};
        for (parameters, mode, roots) in [
            ("", Prefer, None),
            ("sslmode=allow", Prefer, None),
            ("ssl=true", Require, None),
            ("sslmode=require", Require, None),
            ("sslmode=require&sslrootcert=/ca.pem", VerifyCa, Some("/ca.pem")),
            ("sslrootcert=/ca.pem", VerifyCa, Some("/ca.pem")),
            ("sslmode=prefer&sslrootcert=/ca.pem", VerifyCa, Some("/ca.pem")),
            ("ssl-mode=VERIFY_CA&ssl-ca=/ca.pem", VerifyCa, Some("/ca.pem")),
            ("sslmode=verify-full&sslrootcert=/ca.pem", VerifyFull, Some("/ca.pem")),
            ("sslmode=disable&sslrootcert=/ca.pem", Disable, Some("/ca.pem")),
            ("sslrootcert=system", VerifyFull, None),
            ("sslmode=verify-full&sslrootcert=system", VerifyFull, None),
            ("sslmode=require&sslaccept=strict", VerifyFull, None),
        ] {
            let tls = read(&format!("postgres://u@h/d?{parameters}")).tls;
            assert_eq!((tls.mode, tls.roots.as_deref()), (mode, roots), "{parameters}");
        }
        assert_eq!(read("postgres:///d?host=/tmp&sslmode=require").tls.mode, Disable);
        for parameters in ["sslmode=require&sslrootcert=system", "sslcert=/c", "sslkey=/k", "sslmode=sometimes"] {
            assert!(DatabaseUrl::read(&format!("postgres://u@h/d?{parameters}")).is_err(), "{parameters}");
        }
    }

    #[test]
    fn poolers_disable_prepared_statements() {
        for parameters in [
            "pgbouncer=true",
            "statement_cache_size=0",
            "prepared_statement_cache_size=0",
            "prepareThreshold=0",
            "preferQueryMode=simple",
            "default_query_exec_mode=exec",
            "prepared_statements=false",
        ] {
            assert!(!read(&format!("postgres://u@h/d?{parameters}")).keeps_statements, "{parameters}");
        }
        for parameters in ["pgbouncer=false", "statement_cache_size=100", "prepareThreshold=5"] {
            assert!(read(&format!("postgres://u@h/d?{parameters}")).keeps_statements, "{parameters}");
        }
    }

    #[test]
    fn impossible_parameters_are_refused_with_fix() {
        for (parameter, fix) in [
            ("target_session_attrs=read-only", "needs the primary"),
            ("target_session_attrs=standby", "needs the primary"),
            ("targetServerType=secondary", "needs the primary"),
            ("gssencmode=require", "verify-full"),
            ("channel_binding=require", "verify-full"),
            ("service=prod", "write host"),
            ("require_auth=scram-sha-256", "leave it out"),
            ("sslcrl=/crl.pem", "leave it out"),
            ("readOnly=true", "writes"),
            ("serach_path=stats", "correct its name"),
            ("role=other", "take it out"),
        ] {
            let told = problems(&format!("postgres://u:hush@h/d?{parameter}"));
            let (name, value) = parameter.split_once('=').unwrap();
            assert!(told.contains(&format!("`{name}`")) && told.contains(fix), "{told}");
            assert!(!told.contains(&format!("={value}")) && !told.contains("hush"), "{told}");
        }
        let all = DatabaseUrl::read("postgres://h/d?one=1&two=2&sslmode=x").unwrap_err();
        assert_eq!(all.len(), 3, "{all:?}");
    }

    #[test]
    fn harmless_parameters_are_ignored() {
        read(
            "postgres://u:p@h/d?connect_timeout=10&keepalives=1&keepalives_idle=30&target_session_attrs=read-write\
             &gssencmode=disable&channel_binding=prefer&client_encoding=utf8&pool_size=5&max_overflow=10&connection_limit=5\
             &pool_timeout=10&socketTimeout=30&tcpKeepAlive=true&reWriteBatchedInserts=true&stringtype=unspecified\
             &command_timeout=60&statement_timeout=5000&timezone=UTC&sslnegotiation=postgres",
        );
    }

    #[test]
    fn pieces_of_a_password_are_not_shown() {
        for url in [
            "postgres://me:1?hushhush@h/d",
            "postgres://h/d?hushhush",
            "postgres://h/d?hush%20hush=1",
            "postgres://me:hush/hush@h/d",
            "postgres://me:hush#hush@h/d",
            "postgres://me:hush@h:hush/d",
        ] {
            assert!(!problems(url).contains("hush"), "{url}: {}", problems(url));
        }
    }

    #[test]
    fn user_name_is_hidden_in_server_messages() {
        let long = "hunter2".repeat(10);
        let told = format!("password authentication failed for user \"{}\" (28P01)", &long[..63]);
        assert_eq!(without_user(&long, &told), "password authentication failed for user \"***\" (28P01)");
        assert_eq!(without_user("hunter2", "no such user: hunter2"), "no such user: ***");
        assert_eq!(without_user("me", "role \"me\" is not some role"), "role \"***\" is not some role");
    }
}
