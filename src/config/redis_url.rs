//! Reads the parameters of a Redis address, in the spellings of redis-py, ioredis, go-redis and others.
//!
//! **Invariant: a parameter that says where the data is, or how it is secured, is obeyed or refused**, as for the database.

use url::Url;

use super::address::{percent_decoded, plain, unknown};

/// An address for the Redis library, and the certificates, which the library does not read from it.
#[derive(Clone, Debug)]
pub struct RedisUrl {
    pub url: Url,
    /// The authorities for the server's certificate: a file, or PEM text. `None` means those that the process trusts.
    pub roots: Option<String>,
    /// The files of our own certificate and its key.
    pub client: Option<(String, String)>,
}

/// Parameters that are ignored, as [`plain`] spells them.
const HARMLESS: &[&str] = &[
    "sockettimeout",
    "socketconnecttimeout",
    "socketkeepalive",
    "decoderesponses",
    "encoding",
    "encodingerrors",
    "maxconnections",
    "healthcheckinterval",
    "retryontimeout",
    "clientname",
    "name",
    "libname",
    "libversion",
    "timeout",
    "connecttimeout",
    "commandtimeout",
    "dialtimeout",
    "readtimeout",
    "writetimeout",
    "poolsize",
    "pooltimeout",
    "minidleconns",
    "maxidleconns",
    "maxretries",
    "keepalive",
    "family",
    "protocol",
];

impl RedisUrl {
    /// Reads the fragment, the parameters and the login of an address. Its scheme, host and path must have been checked before.
    ///
    /// # Errors
    /// Every problem, each as a sentence without the value.
    pub fn read(text: &str) -> Result<Self, Vec<String>> {
        let Ok(url) = Url::parse(text) else {
            return Err(vec!["cannot be read as a URL".to_owned()]);
        };
        let is_socket = url.scheme().ends_with("unix");
        let is_tls = matches!(url.scheme(), "rediss" | "valkeys");
        let mut read = Self { url, roots: None, client: None };
        let mut problems = Vec::new();
        match read.url.fragment() {
            Some("insecure") => problems.push(
                "`#insecure` is not obeyed, certificates are always verified: name the server's authority in CA_CERTIFICATES"
                    .to_owned(),
            ),
            Some(_) => problems.push("has a `#` with no meaning (in a password, `#` is %23)".to_owned()),
            None => {}
        }
        let (mut user, mut password, mut certificate, mut key) = (None, None, None, None);
        let pairs: Vec<(String, String)> =
            read.url.query_pairs().map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
        for (name, value) in pairs {
            let is = |wanted: &[&str]| wanted.contains(&value.to_ascii_lowercase().as_str());
            match plain(&name).as_str() {
                // The library reads these itself for a socket.
                "db" | "user" | "pass" if is_socket => {}
                "database" | "username" | "password" if is_socket => {
                    problems.push(format!("its parameter `{name}` is called db, user or pass for a socket"));
                }
                "db" | "database" => read.take_database(&value, &mut problems),
                "user" | "username" => user = Some(value),
                "pass" | "password" => password = Some(value),
                // Harmless when it agrees with the scheme.
                "ssl" | "tls" if is(&["true", "1", "yes"]) == is_tls => {}
                "ssl" | "tls" => problems.push(format!("`{name}` and the scheme differ: use rediss:// for TLS")),
                "sslcertreqs" if is(&["required", "cert_required", "2"]) => {}
                "sslcertreqs" | "rejectunauthorized" if is(&["true"]) => {}
                "sslcheckhostname" if is(&["true", "1"]) => {}
                "sslcertreqs" | "sslcheckhostname" | "rejectunauthorized" | "skipverify" | "insecureskipverify" => {
                    problems.push(format!(
                        "`{name}` is not obeyed, certificates are always verified: remove it, and name the server's authority in \
                         CA_CERTIFICATES"
                    ));
                }
                "sslcacerts" | "sslcafile" | "cacert" | "sslcadata" => read.roots = Some(value),
                "sslcertfile" => certificate = Some(value),
                "sslkeyfile" => key = Some(value),
                other if HARMLESS.contains(&other) => {}
                _ => problems.push(unknown(&name, &value)),
            }
        }
        if !is_socket {
            read.take_login(user, password, &mut problems);
        }
        match (certificate, key) {
            (Some(certificate), Some(key)) => read.client = Some((certificate, key)),
            (None, None) => {}
            _ => problems.push("`ssl_certfile` and `ssl_keyfile` are needed together".to_owned()),
        }
        if !is_tls && (read.roots.is_some() || read.client.is_some()) {
            problems.push("names certificates, but no TLS: use rediss://".to_owned());
        }
        if problems.is_empty() { Ok(read) } else { Err(problems) }
    }

    /// Reads `?db=3`, which means the same as the path `/3`.
    fn take_database(&mut self, value: &str, problems: &mut Vec<String>) {
        let path = self.url.path().trim_matches('/');
        match value.parse::<u16>() {
            Err(_) => problems.push("its parameter `db` is not a database number".to_owned()),
            Ok(number) if path.is_empty() || path.parse() == Ok(number) => self.url.set_path(&number.to_string()),
            Ok(_) => problems.push("its path and its parameter `db` name two databases".to_owned()),
        }
    }

    fn take_login(&mut self, user: Option<String>, password: Option<String>, problems: &mut Vec<String>) {
        let differs = |given: Option<&str>, other: &Option<String>| {
            let given = given.and_then(percent_decoded);
            matches!((given, other), (Some(given), Some(other)) if !given.is_empty() && given != *other)
        };
        if differs(Some(self.url.username()), &user) || differs(self.url.password(), &password) {
            problems.push("names two different users or passwords, one before the host and one after `?`".to_owned());
        }
        // Both setters fail only for a URL without a host.
        if let Some(user) = user.filter(|_| self.url.username().is_empty()) {
            let _ = self.url.set_username(&user.replace('%', "%25"));
        }
        if let Some(password) = password.filter(|_| self.url.password().is_none()) {
            // A bare percent sign would begin an encoded character.
            let _ = self.url.set_password(Some(&password.replace('%', "%25")));
        }
        // Without a password the library would not log in at all, even with a user.
        if !self.url.username().is_empty() && self.url.password().is_none_or(str::is_empty) {
            problems.push(
                "has a user but no password; a password alone is written redis://:password@host (with a colon)"
                    .to_owned(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> RedisUrl {
        RedisUrl::read(url).unwrap_or_else(|problems| panic!("{url}: {problems:?}"))
    }

    #[test]
    fn percent_sign_in_password_is_kept() {
        assert_eq!(read("redis://h/0?password=a%2541b").url.password(), Some("a%2541b"));
        assert_eq!(read("redis://:same@h/0?password=same").url.password(), Some("same"));
        RedisUrl::read("redis://:one@h/0?password=other").expect_err("two passwords");
    }

    #[test]
    fn meaningful_parameters_are_obeyed() {
        for (url, same) in [
            ("redis://h?db=3", "redis://h/3"),
            ("redis://h/3?db=3", "redis://h/3"),
            ("redis://h?password=p%40ss", "redis://:p%40ss@h"),
            ("redis://h/1?username=me&password=pw", "redis://me:pw@h/1"),
        ] {
            let mut url = read(url).url;
            url.set_query(None);
            assert_eq!(url.as_str(), same);
        }
        let tls = read("rediss://h?ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem&ssl_cert_reqs=required");
        assert_eq!(tls.roots.as_deref(), Some("/ca.pem"));
        assert_eq!(tls.client, Some(("/c.pem".to_owned(), "/k.pem".to_owned())));
        read("redis://h?socket_timeout=5&decode_responses=True&health_check_interval=30&protocol=3");
        read("unix:///run/redis.sock?db=2&user=u&pass=p");
    }

    #[test]
    fn impossible_parameters_are_refused_by_name() {
        for (url, text) in [
            ("redis://h/2?db=3", "two databases"),
            ("redis://h?db=main", "not a database number"),
            ("rediss://h#insecure", "`#insecure`"),
            ("rediss://h?ssl_cert_reqs=none", "`ssl_cert_reqs` is not obeyed"),
            ("rediss://h?ssl_check_hostname=false", "`ssl_check_hostname` is not obeyed"),
            ("redis://h?ssl=true", "rediss://"),
            ("redis://h?ssl_ca_certs=/ca.pem", "rediss://"),
            ("redis://h?keyPrefix=stats", "`keyPrefix` is unknown"),
            ("redis://hunter2@h", "user but no password"),
        ] {
            let problems = RedisUrl::read(url).unwrap_err().join("\n");
            assert!(problems.contains(text) && !problems.contains("hunter2"), "{url}: {problems}");
        }
    }
}
