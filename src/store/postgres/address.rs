//! The address of the database: options for the driver, and checks on its connections.

use std::fmt;

use secrecy::ExposeSecret;
use sqlx::{
    ConnectOptions as _, Executor as _, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgSslMode},
};
use url::Url;

use super::StoreError;
use crate::{
    certificates::{self, Certificates, Trust},
    config::database_url::{DatabaseTls, DatabaseUrl, Place, TlsMode, schemas_in, without_user},
};

/// The schemas in force, the first of them that is there, and how to set others for good.
const SCHEMAS: &str = "SELECT current_setting('search_path'), coalesce(current_schema()::text, ''), \
                       format('ALTER ROLE %I IN DATABASE %I SET search_path = ', current_user, current_database())";

/// The database's address, as the driver needs it.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) options: PgConnectOptions,
    /// `host:port/database`, for messages.
    pub(super) server: String,
    /// True when the address allows prepared statements to be kept.
    pub(super) keeps_statements: bool,
    /// The requested `search_path`.
    schemas: Option<String>,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The options print their password.
        f.debug_struct("Address").field("server", &self.server).field("schemas", &self.schemas).finish_non_exhaustive()
    }
}

impl Address {
    /// Reads a `DATABASE_URL`, and the certificates that it names.
    pub(super) fn read(url: &str) -> Result<Self, String> {
        let url = DatabaseUrl::read(url).map_err(|problems| problems.join("; "))?;
        let options = secured(options(&url)?, &url.tls)?;
        let server = server(&options, &url);
        Ok(Self { options, server, keeps_statements: url.keeps_statements, schemas: url.schemas })
    }

    /// Checks that a new connection uses the requested schemas: a pooler may have dropped the request, and a schema may not
    /// exist. Costs a round trip when schemas were requested.
    pub(super) async fn verify(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let Some(wanted) = &self.schemas else { return Ok(()) };
        // As text, without a prepared statement, so that it works through any pooler.
        let row = connection.fetch_one(sqlx::raw_sql(SCHEMAS)).await?;
        let (in_force, first, fix): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let refused = |detail: String| Err(sqlx::Error::Configuration(detail.into()));
        // Another schema could hold another set of the tables.
        if schemas_in(&in_force) != schemas_in(wanted) {
            return refused(format!(
                "DATABASE_URL asks for the schema {wanted}, but {in_force} is in effect: the pooler in between passes no schema \
                 on; take it out of the URL or set it for the role, {fix}{wanted};"
            ));
        }
        if first.is_empty() {
            return refused(format!(
                "DATABASE_URL asks for the schema {wanted}, which does not exist, or which the role may not use (CREATE SCHEMA, \
                 GRANT USAGE ON SCHEMA)"
            ));
        }
        Ok(())
    }

    /// Adds the fix to the error of a failed connection, and removes the user's name: some people put the password there.
    pub(super) fn explained(&self, mut error: StoreError) -> StoreError {
        if let StoreError::Unreachable { detail, .. }
        | StoreError::Failed { detail, .. }
        | StoreError::NotAllowed { detail, .. } = &mut error
        {
            *detail = without_user(self.options.get_username(), detail);
            if let Some(advice) = certificates::advice(detail) {
                *detail = format!("{detail}; {advice}");
            }
            if detail.contains("unsupported startup parameter") && self.schemas.is_some() {
                detail.push_str(
                    "; a pooler in between passes no schema on: add pgbouncer=true to DATABASE_URL, and set the schema for the \
                     role (ALTER ROLE ... SET search_path = ...)",
                );
            }
        }
        error
    }
}

/// The options without TLS. The host is a parameter, since the driver refuses an IPv6 address before the path.
fn options(url: &DatabaseUrl) -> Result<PgConnectOptions, String> {
    let mut plain = Url::parse("postgres:///").map_err(|error| error.to_string())?;
    let mut pairs = plain.query_pairs_mut();
    let (Place::Host(host) | Place::Socket(host)) = &url.place;
    pairs.append_pair("host", host);
    for (name, value) in [
        ("user", url.user.as_deref()),
        ("password", url.password.as_ref().map(ExposeSecret::expose_secret)),
        ("dbname", url.database.as_deref()),
        ("application_name", url.application_name.as_deref()),
        ("options", url.options.as_deref()),
    ] {
        pairs.extend_pairs(value.map(|value| (name, value)));
    }
    pairs.extend_pairs(url.port.map(|port| ("port", port.to_string())));
    drop(pairs);
    let mut options = PgConnectOptions::from_url(&plain).map_err(|error| error.to_string())?;
    if options.get_application_name().is_none() {
        options = options.application_name("refresh-worker");
    }
    // A transaction pooler refuses or ignores this option. There the role must have the search path.
    Ok(match url.schemas.as_ref().filter(|_| !url.pooled) {
        Some(schemas) => options.options([("search_path", schemas)]),
        None => options,
    })
}

fn secured(options: PgConnectOptions, tls: &DatabaseTls) -> Result<PgConnectOptions, String> {
    let options = options.ssl_mode(match tls.mode {
        TlsMode::Disable => PgSslMode::Disable,
        TlsMode::Prefer => PgSslMode::Prefer,
        TlsMode::Require => PgSslMode::Require,
        TlsMode::VerifyCa => PgSslMode::VerifyCa,
        TlsMode::VerifyFull => PgSslMode::VerifyFull,
    });
    let options = match &tls.client {
        Some((certificate, key)) => options.ssl_client_cert(certificate).ssl_client_key(key),
        None => options,
    };
    let roots = match &tls.roots {
        // As libpq: weaker modes do not verify, whatever the authorities.
        _ if tls.mode < TlsMode::VerifyCa => None,
        Some(roots) => {
            Some(Certificates::from_pem_or_file(roots).map_err(|problem| format!("sslrootcert: {problem}"))?.pem())
        }
        None => Trust::in_force().named_pem(),
    };
    Ok(match roots {
        Some(pem) => options.ssl_root_cert_from_pem(pem.into_bytes()),
        None => options,
    })
}

/// The server's address, without credentials. An unnamed database has the user's name, which is not shown.
fn server(options: &PgConnectOptions, url: &DatabaseUrl) -> String {
    let place = match &url.place {
        Place::Socket(folder) => folder.clone(),
        Place::Host(host) if host.contains(':') => format!("[{host}]:{}", options.get_port()),
        Place::Host(host) => format!("{host}:{}", options.get_port()),
    };
    options.get_database().map_or_else(|| place.clone(), |database| format!("{place}/{database}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_the_url_reads_alike() {
        for scheme in ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg"] {
            let address =
                Address::read(&format!("{scheme}://me:p%40ss@db.example:6432/stats?sslmode=require")).unwrap();
            assert_eq!(address.server, "db.example:6432/stats", "{scheme}");
            assert_eq!(address.options.get_username(), "me");
            assert!(matches!(address.options.get_ssl_mode(), PgSslMode::Require));
        }
    }

    #[test]
    fn the_parameter_ssl_of_asyncpg_is_understood() {
        let address = Address::read("postgresql+asyncpg://me@h/d?ssl=true&prepared_statement_cache_size=0").unwrap();
        assert!(matches!(address.options.get_ssl_mode(), PgSslMode::Require) && !address.keeps_statements);
    }

    #[test]
    fn schema_requested_at_startup_unless_behind_pooler() {
        let options = |url: &str| Address::read(url).unwrap().options.get_options().map(str::to_owned);
        assert_eq!(options("postgres://u@h/d?schema=my%20stats").as_deref(), Some(r#"-c search_path="my\ stats""#));
        assert_eq!(options("postgres://u@h/d?schema=stats&pgbouncer=true"), None);
        assert_eq!(
            options("postgres://u@h/d?options=-cgeqo%3Doff%20-csearch_path%3Da").as_deref(),
            Some("-c geqo=off -c search_path=a")
        );
    }

    #[test]
    fn address_without_host_or_database_is_readable() {
        for (url, server) in [
            ("postgres://u@[::1]:5433/d", "[::1]:5433/d"),
            ("postgres://%2Fvar%2Frun/d", "/var/run/d"),
            ("postgres://hunter2@h:5433", "h:5433"),
        ] {
            assert_eq!(Address::read(url).unwrap().server, server);
        }
    }

    #[test]
    fn unreadable_url_refused_without_password() {
        for url in [
            "mysql://me:hush@h/d",
            "me:hush@h/d",
            "postgres://me:hush/hush@h/d",
            "postgres://me:hush#hush@h/d",
            "postgres://me:hush@h:hush/d",
            "postgres://me:hush@h/d?sslmode=sometimes",
            "postgres://me:hush@h/d?sslrootcert=/nowhere.pem",
        ] {
            let message = Address::read(url).unwrap_err();
            assert!(!message.contains("hush") && !message.is_empty(), "{url}: {message}");
        }
    }
}
