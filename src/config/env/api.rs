//! Reads the settings of the API: address, keys, accounts of the portal, rates.

use std::{net::IpAddr, num::NonZeroU64};

use secrecy::SecretString;
use url::Url;

use super::{Role, reader::Reader};
use crate::config::{
    ApiConfig, DEFAULT_REQS_PER_SEC, PortalAccount, PortalConfig, Problem, accounts, variables::MAX_ACCOUNTS,
};

/// More calls than any account makes in a day, so a larger number is a mistake.
const MAX_REQS_PER_DAY: u64 = 10_000_000_000;

impl Reader<'_> {
    pub(super) fn api(&mut self, role: Role) -> ApiConfig {
        let (wanted, cap) = self.rate_and_cap();
        let portal = self.portal();
        ApiConfig {
            base_url: self.base_url(),
            tokens: self.tokens(role, portal.is_some()),
            // Capped, not refused: the old worker's deployments may have a higher number.
            reqs_per_sec: wanted.min(cap),
            keys_per_run: self.optional_number("KEYS_PER_RUN", 1..=1000),
            reqs_per_day: self.optional_number("COC_REQS_PER_DAY", 1..=MAX_REQS_PER_DAY).and_then(NonZeroU64::new),
            portal,
            max_body: self.number("MAX_BODY_BYTES", 64 * 1024..=64 * 1024 * 1024),
        }
    }

    /// The developer portal, if an account is set.
    fn portal(&mut self) -> Option<PortalConfig> {
        let numbered = (2..=MAX_ACCOUNTS).map(|number| format!("_{number}"));
        let mut accounts: Vec<PortalAccount> =
            std::iter::once(String::new()).chain(numbered).filter_map(|suffix| self.account(&suffix)).collect();
        accounts.extend(self.accounts_in_one());
        let (key_name, egress_ips) = (self.key_name(!accounts.is_empty()), self.egress_ips());
        let (key_count, url) = (self.number("COC_KEY_COUNT", 1..=10), self.portal_url());
        (!accounts.is_empty()).then_some(PortalConfig { url, accounts, key_name, key_count, egress_ips })
    }

    /// The accounts of `COC_ACCOUNTS`.
    fn accounts_in_one(&mut self) -> Vec<PortalAccount> {
        let name = "COC_ACCOUNTS";
        if self.secret_problem(name).is_some() {
            return self.refuse(name, "");
        }
        let Some(text) = self.own(name) else { return Vec::new() };
        let account = |(index, (email, password)): (usize, accounts::Pair)| PortalAccount {
            variable: format!("{name}[{}]", index + 1),
            email: email.into(),
            password,
        };
        match accounts::parse(&text) {
            Ok(pairs) => pairs.into_iter().enumerate().map(account).collect(),
            Err(problem) => {
                self.problems.push(Problem { variable: name, text: problem });
                Vec::new()
            }
        }
    }

    /// The account whose variables have this suffix.
    fn account(&mut self, suffix: &str) -> Option<PortalAccount> {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for name in ["COC_EMAIL", "COC_PASSWORD"] {
            let full = format!("{name}{suffix}");
            match (self.secret_problem(&full), self.own(&full)) {
                // Only the first account is in the table of settings.
                (Some(problem), _) if suffix.is_empty() => {
                    self.problems.push(Problem { variable: name, text: problem });
                }
                (Some(problem), _) => {
                    self.problems.push(Problem { variable: name, text: format!("({full}) {problem}") });
                }
                (None, Some(value)) => found.push(SecretString::from(value)),
                (None, None) => missing.push((name, full)),
            }
        }
        if let ([_], [(name, full)]) = (found.as_slice(), missing.as_slice()) {
            let text = format!("is not set: an account needs an e-mail address and a password, and {full} is missing");
            self.problems.push(Problem { variable: name, text });
        }
        let [email, password] = <[SecretString; 2]>::try_from(found).ok()?;
        Some(PortalAccount { variable: format!("COC_EMAIL{suffix}"), email, password })
    }

    fn key_name(&mut self, is_needed: bool) -> String {
        let own = self.own("COC_KEY_NAME");
        let is_checked = is_needed || own.is_some();
        let name = own.unwrap_or_else(|| self.deployment_name());
        if is_checked && (name.chars().count() > 64 || name.chars().any(char::is_control)) {
            return self.refuse("COC_KEY_NAME", "expected a name of at most 64 characters");
        }
        name
    }

    fn egress_ips(&mut self) -> Vec<IpAddr> {
        let text = self.own("EGRESS_IPS").unwrap_or_default();
        let addresses = text.split(',').map(str::trim).filter(|address| !address.is_empty());
        let addresses: Result<Vec<IpAddr>, _> =
            // The portal shows addresses as CIDR ranges.
            addresses.map(|address| address.trim_end_matches("/32").parse()).collect();
        addresses
            .unwrap_or_else(|_| self.refuse("EGRESS_IPS", "expected addresses separated by commas, as in 203.0.113.7"))
    }

    fn portal_url(&mut self) -> Url {
        let text = self.text("COC_PORTAL_URL").unwrap_or_default();
        let plain = |url: &Url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
        };
        Url::parse(text.trim_end_matches('/')).ok().filter(plain).unwrap_or_else(|| {
            let fallback = Url::parse("https://developer.clashofclans.com").expect("a constant that parses");
            self.refuse_as(
                "COC_PORTAL_URL",
                "expected http(s)://host[:port] without user, password and query",
                fallback,
            )
        })
    }

    /// The wanted rate (`COC_REQS_PER_SEC`) and its cap.
    pub(super) fn rate_and_cap(&mut self) -> (u32, u32) {
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
                // The most common mistake, which would make every call a 404.
                if url.host_str() == Some("api.clashofclans.com") && url.path() == "/" {
                    return self.refuse_as(
                        "COC_BASE_URL",
                        "expected the version at its end, as in https://api.clashofclans.com/v1",
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

    fn tokens(&mut self, role: Role, has_portal: bool) -> Vec<SecretString> {
        let mut tokens: Vec<String> = Vec::new();
        for name in ["COC_API_TOKEN", "COC_API_TOKENS"] {
            if self.secret_problem(name).is_some() {
                self.refuse_as(name, "", ());
                continue;
            }
            let text = self.text(name).unwrap_or_default();
            for (index, token) in text.split(',').map(str::trim).filter(|token| !token.is_empty()).enumerate() {
                if token.chars().any(|c| !c.is_ascii_graphic()) || token.contains(['"', '\'']) {
                    let place = index + 1;
                    let expected = format!(
                        "has characters in key {place} that no key has: expected the key alone, without Bearer, quotation marks and \
                         white space"
                    );
                    self.refuse_as(name, expected, ());
                // A key given twice would get twice its rate.
                } else if !tokens.iter().any(|known| known == token) {
                    tokens.push(token.to_owned());
                }
            }
        }
        if tokens.is_empty()
            && !has_portal
            // The health role makes no calls.
            && role == Role::Refresh
            && !self.has_problem_with(&["COC_API_TOKEN", "COC_API_TOKENS"])
        {
            self.refuse_missing_tokens();
        }
        tokens.into_iter().map(SecretString::from).collect()
    }

    fn refuse_missing_tokens(&mut self) {
        const WHERE: &str =
            "a key of the API, created at https://developer.clashofclans.com for this machine's address";
        let text = format!(
            "is not set: expected {WHERE} (or several in COC_API_TOKENS), or COC_EMAIL and COC_PASSWORD of an account there"
        );
        self.problems.push(Problem { variable: "COC_API_TOKEN", text });
    }
}
