//! Reads the settings of what follows a run: caches, views, statistics, retention.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use secrecy::SecretString;
use url::Url;

use super::reader::Reader;
use crate::config::{
    AfterConfig, ConfigErrors, InvalidationConfig, StatsConfig, StatsFunction, ViewConfig, read_span, variables::Vars,
};

/// The path at which a Next.js application of the related systems takes invalidations.
const INVALIDATION_PATH: &str = "/api/internal/cache/invalidate";

/// The interval of a view that names none.
const VIEW_INTERVAL: Duration = Duration::from_secs(60);

const VIEW_INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(366 * 86_400);

const VIEWS_EXPECTED: &str =
    "expected names of materialized views with an interval each, as in clan_leaderboard:5m,job_progress:60s";
const FUNCTIONS_EXPECTED: &str = "expected SQL functions with the cache tags of each, as in \
                                  update_power_ratings:player_power_rating,update_totals:season_stats+half_season_stats";

impl AfterConfig {
    /// Reads only these settings, for commands that use no others.
    pub fn read(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        let config = reader.after();
        reader.finish(config)
    }
}

impl Reader<'_> {
    pub(super) fn after(&mut self) -> AfterConfig {
        AfterConfig {
            invalidation: self.invalidation(),
            views: self.views(),
            stats: self.stats(),
            retention_days: self.optional_number("SNAPSHOT_RETENTION_DAYS", 1..=36_500),
        }
    }

    fn invalidation(&mut self) -> Option<InvalidationConfig> {
        let key = self.internal_api_key();
        let url = match (self.own("CACHE_INVALIDATION_URL"), self.own("NEXT_PUBLIC_APP_URL")) {
            (Some(text), _) => self.web_address("CACHE_INVALIDATION_URL", &text),
            // The application has its own setting, which deployments share.
            (None, Some(text)) => {
                let text = format!("{}{INVALIDATION_PATH}", text.trim_end_matches('/'));
                self.web_address("NEXT_PUBLIC_APP_URL", &text)
            }
            (None, None) => None,
        };
        Some(InvalidationConfig { url: url?, key })
    }

    fn internal_api_key(&mut self) -> Option<SecretString> {
        if self.secret_problem("INTERNAL_API_KEY").is_some() {
            self.refuse_as("INTERNAL_API_KEY", "", ());
            return None;
        }
        let key = self.own("INTERNAL_API_KEY")?;
        // A line break at the end of a copied key is the usual mistake.
        if key.chars().any(|c| !c.is_ascii_graphic()) {
            self.refuse_as(
                "INTERNAL_API_KEY",
                "expected a key that a header can carry: printable ASCII, no spaces",
                (),
            );
            return None;
        }
        Some(key.into())
    }

    fn web_address(&mut self, name: &'static str, text: &str) -> Option<Url> {
        let plain = |url: &Url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                // A login in the URL would appear in logs.
                && url.username().is_empty()
                && url.password().is_none()
                && url.fragment().is_none()
        };
        let url = Url::parse(text).ok().filter(plain);
        if url.is_none() {
            self.refuse_as(name, "expected http(s)://host[:port][/path] without user and password", ());
        }
        url
    }

    fn views(&mut self) -> Vec<ViewConfig> {
        let mut statistics = self.view_statistics();
        let text = self.own("REFRESH_VIEWS").unwrap_or_default();
        let mut views: Vec<ViewConfig> = Vec::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (name, interval) = match entry.split_once(':') {
                Some((name, interval)) => {
                    (name.trim(), read_span(interval.trim()).filter(|span| VIEW_INTERVALS.contains(span)))
                }
                None => (entry, Some(VIEW_INTERVAL)),
            };
            match interval {
                Some(interval) if is_sql_name(name) && views.iter().all(|known| known.name != name) => {
                    views.push(ViewConfig { name: name.to_owned(), interval, statistics: statistics.remove(name) });
                }
                _ => return self.refuse("REFRESH_VIEWS", format!("{VIEWS_EXPECTED}, each once")),
            }
        }
        // A copied .env may set VIEW_STATISTICS without REFRESH_VIEWS. That does no harm, so it is not an error.
        if let (false, Some(other)) = (views.is_empty(), statistics.keys().next()) {
            self.refuse_as("VIEW_STATISTICS", format!("`{other}` is not among REFRESH_VIEWS"), ());
        }
        views
    }

    fn view_statistics(&mut self) -> BTreeMap<String, String> {
        let Some(text) = self.own("VIEW_STATISTICS") else { return BTreeMap::new() };
        let queries: Option<BTreeMap<String, String>> = serde_json::from_str(&text).ok();
        let all_are_queries = |queries: &BTreeMap<String, String>| queries.values().all(|query| is_query(query));
        queries.filter(all_are_queries).unwrap_or_else(|| {
            let expected = r#"expected a JSON object of views and queries, as in {"clan_leaderboard":"SELECT ..."}"#;
            self.refuse("VIEW_STATISTICS", expected)
        })
    }

    fn stats(&mut self) -> Option<StatsConfig> {
        let lease = Duration::from_secs(self.number("STATS_LEASE_SECONDS", 2..=86_400));
        let worker_id = self.worker_id();
        let text = self.own("STATS_FUNCTIONS")?;
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let functions: Option<Vec<StatsFunction>> = entries.map(stats_function).collect();
        let distinct = |functions: &Vec<StatsFunction>| {
            let is_first =
                |(index, one): (usize, &StatsFunction)| functions[..index].iter().all(|f| f.name != one.name);
            !functions.is_empty() && functions.iter().enumerate().all(is_first)
        };
        let Some(functions) = functions.filter(distinct) else {
            self.refuse_as("STATS_FUNCTIONS", format!("{FUNCTIONS_EXPECTED}, each once"), ());
            return None;
        };
        Some(StatsConfig { functions, lease, worker_id })
    }

    fn worker_id(&mut self) -> String {
        let Some(id) = self.own("WORKER_ID") else {
            return self.deployment_name();
        };
        if id.chars().count() > 100 || id.chars().any(char::is_control) {
            return self.refuse("WORKER_ID", "expected a name of at most 100 characters");
        }
        id
    }

    /// Reads the database from the five `RDS_` settings, an alternative to `DATABASE_URL`. TLS is always verified: an RDS proxy has
    /// a certificate of a public authority for the name of its endpoint.
    pub(super) fn database_of_rds(&mut self) -> SecretString {
        const NAMES: [&str; 4] = ["RDS_PROXY_ENDPOINT", "RDS_DBNAME", "RDS_USERNAME", "RDS_PASSWORD"];
        let given = NAMES.map(|name| (name, self.own(name).filter(|_| self.secret_problem(name).is_none())));
        for (name, value) in &given {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            // User and password may have any character; they are percent-encoded below.
            let free = matches!(*name, "RDS_USERNAME" | "RDS_PASSWORD");
            match value {
                None => self.refuse_as(name, format!("expected all of {}", NAMES.join(", ")), ()),
                Some(value) if !free && !value.chars().all(is_plain) => {
                    self.refuse_as(name, "expected the plain name, without scheme, port and quotation marks", ());
                }
                Some(_) => {}
            }
        }
        let port: u16 = self.number("RDS_PORT", 1..=65_535);
        let [Some(host), Some(database), Some(user), Some(password)] = given.map(|(_, value)| value) else {
            return SecretString::default();
        };
        let Ok(mut url) = Url::parse(&format!("postgresql://{host}:{port}/{database}?sslmode=verify-full")) else {
            return self.refuse("RDS_PROXY_ENDPOINT", "expected the name of a host");
        };
        // Both fail only for a URL without a host, and this URL has one.
        let _ = url.set_username(&user);
        let _ = url.set_password(Some(&password));
        String::from(url).into()
    }

    /// True when the `RDS_` settings name the database and `DATABASE_URL` does not.
    pub(super) fn is_database_of_rds(&self) -> bool {
        let none = |name: &str| self.own(name).is_none() && self.secret_problem(name).is_none();
        none("DATABASE_URL") && !none("RDS_PROXY_ENDPOINT")
    }
}

fn stats_function(entry: &str) -> Option<StatsFunction> {
    let (name, tags) = entry.split_once(':').unwrap_or((entry, ""));
    let tags: Vec<String> = tags.split('+').map(|tag| tag.trim().to_owned()).filter(|tag| !tag.is_empty()).collect();
    let name = name.trim();
    (is_sql_name(name) && tags.iter().all(|tag| tag.len() <= 200))
        .then(|| StatsFunction { name: name.to_owned(), tags })
}

/// True for a name, or a schema and a name, that SQL reads without quotation marks.
fn is_sql_name(text: &str) -> bool {
    let is_part = |part: &str| {
        // PostgreSQL truncates longer names silently.
        part.len() <= 63
            && part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let parts: Vec<&str> = text.split('.').collect();
    parts.len() <= 2 && parts.into_iter().all(is_part)
}

/// True for a single query with nothing after it.
fn is_query(text: &str) -> bool {
    let text = text.trim().trim_end_matches(';').trim_end();
    let begins = |word: &str| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    // The query runs with the worker's rights, and a mistake must not write.
    (begins("select") || begins("with")) && !text.contains(';')
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::config::DatabaseConfig;

    fn vars<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    fn read(set: &[(&str, &str)]) -> Result<AfterConfig, ConfigErrors> {
        AfterConfig::read(&vars(set) as Vars<'_>)
    }

    #[test]
    fn no_settings_leave_nothing_to_follow() {
        assert!(read(&[("INTERNAL_API_KEY", "key"), ("WORKER_ID", "w")]).unwrap().is_empty());
    }

    #[test]
    fn invalidation_address_is_given_or_derived() {
        let of = |set: &[(&str, &str)]| read(set).unwrap().invalidation.unwrap().url.to_string();
        assert_eq!(of(&[("NEXT_PUBLIC_APP_URL", "https://app/")]), "https://app/api/internal/cache/invalidate");
        let both = [("NEXT_PUBLIC_APP_URL", "https://app"), ("CACHE_INVALIDATION_URL", "http://cache:3000/tags")];
        assert_eq!(of(&both), "http://cache:3000/tags");
        for wrong in ["app", "ftp://app/x", "https://user:hush@app/x"] {
            let error = read(&[("CACHE_INVALIDATION_URL", wrong)]).unwrap_err().to_string();
            assert!(error.contains("CACHE_INVALIDATION_URL") && !error.contains("hush"), "{error}");
        }
        assert!(read(&[("INTERNAL_API_KEY", "a\nb")]).unwrap_err().to_string().contains("value not shown"));
    }

    #[test]
    fn views_have_intervals_and_statistics() {
        let set = [
            ("REFRESH_VIEWS", "job_progress, refresh_worker.clan_leaderboard:5m"),
            ("VIEW_STATISTICS", r#"{"job_progress": "SELECT 1 AS one;"}"#),
        ];
        let views = read(&set).unwrap().views;
        let shown: Vec<String> = views.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["job_progress:60s", "refresh_worker.clan_leaderboard:300s"]);
        assert_eq!(views[0].statistics.as_deref(), Some("SELECT 1 AS one;"));
        for wrong in ["a b", "a:5", "a:0s", "a;DROP TABLE x", "a,a", "a.b.c", "1a", "a:1y"] {
            assert!(read(&[("REFRESH_VIEWS", wrong)]).is_err(), "{wrong}");
        }
        for wrong in
            ["{", r#"{"v": 1}"#, r#"{"v": "DELETE FROM x"}"#, r#"{"v": "SELECT 1; SELECT 2"}"#, r#"{"w": "SELECT 1"}"#]
        {
            assert!(read(&[("REFRESH_VIEWS", "v"), ("VIEW_STATISTICS", wrong)]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn functions_have_cache_tags() {
        let set = [("STATS_FUNCTIONS", "update_a:one+two, stats.update_b"), ("ENVIRONMENT", "staging")];
        let stats = read(&set).unwrap().stats.unwrap();
        let shown: Vec<String> = stats.functions.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["update_a:one+two", "stats.update_b"]);
        assert_eq!((stats.lease, stats.worker_id.as_str()), (Duration::from_secs(300), "refresh-worker-staging"));
        for wrong in ["f()", "f:x,f:y", ",", "f g"] {
            assert!(read(&[("STATS_FUNCTIONS", wrong)]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rds_settings_make_address_with_tls() {
        let all = [
            ("RDS_PROXY_ENDPOINT", "proxy.rds.example"),
            ("RDS_DBNAME", "stats"),
            ("RDS_USERNAME", "worker"),
            ("RDS_PASSWORD", "p@ss/w:rd"),
        ];
        let config = DatabaseConfig::read(&vars(&all)).unwrap();
        assert_eq!(
            config.url.expose_secret(),
            "postgresql://worker:p%40ss%2Fw%3Ard@proxy.rds.example:5432/stats?sslmode=verify-full"
        );
        let preferred = [&all[..], &[("DATABASE_URL", "postgres://h/d")]].concat();
        assert_eq!(DatabaseConfig::read(&vars(&preferred)).unwrap().url.expose_secret(), "postgresql://h/d");
        let errors = DatabaseConfig::read(&vars(&all[..1])).unwrap_err();
        assert_eq!(errors.problems.len(), 3, "{errors}");
    }
}
