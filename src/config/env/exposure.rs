//! Finds settings that send data to other machines without protection.

use std::net::IpAddr;

use secrecy::ExposeSecret as _;
use url::Url;

use super::{Role, reader::Reader};
use crate::config::{
    database_url::{DatabaseUrl, Place, TlsMode},
    variables::Vars,
};

/// Data that others on the network could read or change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    pub what: String,
    pub fix: String,
}

/// Everything that is sent to another machine without TLS, or to a server whose certificate is not verified. Invalid settings
/// are skipped here.
#[must_use]
pub fn exposures(vars: Vars<'_>) -> Vec<Exposure> {
    let mut reader = Reader::new(vars);
    let mut found = Vec::new();
    found.extend(of_redis(&mut reader));
    found.extend(of_database(&mut reader));
    // The health role reads the same settings and requires no key.
    let api = reader.api(Role::Health);
    if !api.tokens.is_empty() || api.portal.is_some() {
        found.extend(of_http("COC_BASE_URL", "the API keys go", &api.base_url));
    }
    if let Some(portal) = &api.portal {
        found.extend(of_http("COC_PORTAL_URL", "e-mail address and password go", &portal.url));
    }
    if let Some(invalidation) = reader.after().invalidation.filter(|invalidation| invalidation.key.is_some()) {
        found.extend(of_http("CACHE_INVALIDATION_URL", "INTERNAL_API_KEY goes", &invalidation.url));
    }
    found
}

fn of_redis(reader: &mut Reader<'_>) -> Option<Exposure> {
    let url = Url::parse(reader.redis().url.expose_secret()).ok()?;
    let host = url.host_str().filter(|host| !is_local(host))?;
    // TLS of Redis always verifies the certificate.
    matches!(url.scheme(), "redis" | "valkey").then(|| Exposure {
        what: format!("REDIS_URL: the password and all data go to {host} unencrypted"),
        fix: "use rediss:// if the server offers TLS; ignore this within a network of your own".to_owned(),
    })
}

fn of_database(reader: &mut Reader<'_>) -> Option<Exposure> {
    let url = DatabaseUrl::read(reader.database(Role::Health).url.expose_secret()).ok()?;
    let Place::Host(host) = &url.place else { return None };
    if is_local(host) {
        return None;
    }
    let mode = url.tls.mode;
    let what = match mode {
        TlsMode::Disable => "all data goes to it unencrypted",
        TlsMode::Prefer => {
            "the connection is encrypted only if the server offers it, and the certificate is not verified"
        }
        TlsMode::Require => "the connection is encrypted, but the certificate is not verified",
        TlsMode::VerifyCa | TlsMode::VerifyFull => return None,
    };
    Some(Exposure {
        what: format!("DATABASE_URL: {host}: {what} (sslmode={})", mode.as_str()),
        fix: "add sslmode=verify-full, and sslrootcert=FILE (or CA_CERTIFICATES_FILE) if the server's authority is your own or \
                 RDS's"
            .to_owned(),
    })
}

fn of_http(variable: &str, what: &str, url: &Url) -> Option<Exposure> {
    let host = url.host_str().filter(|host| url.scheme() == "http" && !is_local(host))?;
    Some(Exposure {
        what: format!("{variable}: {what} to {host} unencrypted"),
        fix: format!("use https:// in {variable}"),
    })
}

/// True when the host is this machine.
fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(set: &[(&str, &str)]) -> Vec<String> {
        let own = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        exposures(&own).into_iter().map(|exposure| exposure.what).collect()
    }

    #[test]
    fn unverified_remote_database_is_found() {
        for parameters in ["", "?sslmode=prefer", "?sslmode=require", "?sslmode=disable", "?sslmode=allow"] {
            let text = found(&[("DATABASE_URL", &format!("postgres://u:hush@db.example/d{parameters}"))]).join("\n");
            assert!(text.contains("db.example") && text.contains("sslmode=") && !text.contains("hush"), "{text}");
        }
        for url in [
            "postgres://u:p@db.example/d?sslmode=verify-full",
            "postgres://u:p@db.example/d?sslmode=verify-ca",
            "postgres://u:p@db.example/d?sslrootcert=system",
            "postgres://u:p@127.0.0.1/d",
            "postgres://u:p@[::1]/d",
            "postgres://u:p@localhost/d?sslmode=require",
            "postgres:///d?host=/tmp",
        ] {
            assert!(found(&[("DATABASE_URL", url)]).is_empty(), "{url}");
        }
    }

    #[test]
    fn keys_and_passwords_in_the_clear_are_found() {
        let key = ("COC_API_TOKEN", "hush.key");
        assert!(
            found(&[("COC_BASE_URL", "http://proxy.example/v1"), key])[0].contains("the API keys go to proxy.example")
        );
        assert!(found(&[("REDIS_URL", "redis://:hush@cache.example")])[0].contains("cache.example"));
        let account = [("COC_EMAIL", "a@b.c"), ("COC_PASSWORD", "hush"), ("COC_PORTAL_URL", "http://portal.example")];
        assert!(found(&account)[0].contains("portal.example"));
        let application = [("NEXT_PUBLIC_APP_URL", "http://app.example"), ("INTERNAL_API_KEY", "hush")];
        assert!(found(&application)[0].contains("INTERNAL_API_KEY goes to app.example"));
        for set in [
            [("COC_BASE_URL", "http://127.0.0.1:1/v1"), key],
            [("COC_BASE_URL", "https://proxy.example/v1"), key],
            [("REDIS_URL", "rediss://:hush@cache.example"), key],
            [("REDIS_URL", "unix:///run/redis.sock"), key],
        ] {
            assert!(found(&set).is_empty(), "{set:?}");
        }
    }
}
