//! The keys that there are: those configured, and those of the developer portal's accounts. Which of them a run may use is
//! the business of [`super::run_keys`]; who may log in, and when, is that of the worker.
//!
//! One value a process, so that what a login gave is there for every later run of a warm sandbox.

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use tracing::warn;

use super::{
    client::ApiError,
    key::ApiKey,
    portal::{Given, Known, ListedKey, Portal, PortalError, Visit, WantedKeys, address_in},
};
use crate::{
    config::{PortalAccount, PortalConfig},
    model::Fingerprint,
};

/// So many logins of an account are made within [`LOGIN_WINDOW`] by one process, and no more: when new keys are refused
/// again and again, further ones will not help.
pub const MOST_LOGINS: usize = 3;

/// See [`MOST_LOGINS`].
pub const LOGIN_WINDOW: Duration = Duration::from_secs(10 * 60);

/// Refused keys stay in the account until room is needed; so many are remembered, so as not to take them again.
const REMEMBERED_REFUSALS: usize = 50;

/// All keys of this deployment. Clones share what the portal gave.
#[derive(Clone, Debug, Default)]
pub struct Wallet {
    fixed: Vec<ApiKey>,
    accounts: Arc<[Account]>,
}

/// An account of the portal and the keys that it gave.
#[derive(Debug)]
pub struct Account {
    config: PortalAccount,
    portal: Portal,
    wanted: WantedKeys,
    state: Mutex<State>,
}

/// What there was in an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Ours, as the portal sees it.
    pub address: Option<IpAddr>,
    /// The one before, when a visit of this process saw another.
    pub moved_from: Option<IpAddr>,
    /// Keys of our name for our address.
    pub good: usize,
    /// Keys of our name for other addresses.
    pub stale: usize,
    /// Those addresses.
    pub stale_addresses: BTreeSet<String>,
    /// Keys of other names.
    pub foreign: usize,
}

#[derive(Debug, Default)]
struct State {
    keys: Vec<ApiKey>,
    seen: Option<Seen>,
    /// What the API does not accept any more, with what it said; the last of them.
    refused: VecDeque<(Fingerprint, String)>,
    /// One was refused since the last login.
    is_due: bool,
    /// When logins succeeded, by boot time.
    logins: Vec<Duration>,
}

impl Wallet {
    /// Keys as configured; empty ones and duplicates are left out.
    #[must_use]
    pub fn from_tokens(tokens: Vec<SecretString>) -> Self {
        let mut keys: Vec<ApiKey> = Vec::with_capacity(tokens.len());
        for token in tokens {
            let trimmed = token.expose_secret().trim();
            let key = ApiKey::new(SecretString::from(trimmed));
            if !trimmed.is_empty() && keys.iter().all(|known| !known.is(&key)) {
                keys.push(key);
            }
        }
        Self { fixed: keys, accounts: Arc::default() }
    }

    /// Adds the keys that the portal's accounts will give. Nobody is logged in yet.
    ///
    /// # Errors
    /// When the portal's address cannot be used.
    pub fn with_portal(self, config: &PortalConfig) -> Result<Self, ApiError> {
        let portal = Portal::new(&config.url)?;
        let wanted =
            WantedKeys { name: config.key_name.clone(), count: config.key_count, addresses: config.egress_ips.clone() };
        let account = |account: &PortalAccount| Account {
            config: account.clone(),
            portal: portal.clone(),
            wanted: wanted.clone(),
            state: Mutex::default(),
        };
        Ok(Self { accounts: config.accounts.iter().map(account).collect(), ..self })
    }

    /// The configured ones.
    pub fn fixed(&self) -> &[ApiKey] {
        &self.fixed
    }

    /// Those that can be used now.
    pub fn keys(&self) -> Vec<ApiKey> {
        let mut keys = self.fixed.clone();
        for account in self.accounts.iter() {
            for key in &account.state().keys {
                if keys.iter().all(|known| !known.is(key)) {
                    keys.push(key.clone());
                }
            }
        }
        keys
    }

    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// Whether this key is one of an account, and was not refused so far.
    pub fn came_from_the_portal(&self, key: &Fingerprint) -> bool {
        self.accounts.iter().any(|account| account.state().keys.iter().any(|known| known.fingerprint() == key))
    }

    /// The API does not accept this key. Answers whether a login may give another one; for one and the same key only once,
    /// however many calls were refused with it.
    pub fn refuse(&self, key: &Fingerprint, detail: &str) -> bool {
        self.accounts.iter().any(|account| account.refuse(key, detail))
    }

    /// Whether a login would do good.
    pub fn wants_login(&self) -> bool {
        self.accounts.iter().any(Account::wants_login)
    }
}

impl Account {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held leaves whole values behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The variable that holds its e-mail address: how it is called in logs.
    pub fn name(&self) -> &str {
        &self.config.variable
    }

    pub const fn config(&self) -> &PortalAccount {
        &self.config
    }

    pub const fn wanted(&self) -> &WantedKeys {
        &self.wanted
    }

    /// Names the right to log in with this account, for all processes alike.
    #[must_use]
    pub fn login_slot(&self) -> Fingerprint {
        let email = self.config.email.expose_secret().trim().to_lowercase();
        Fingerprint(format!("login-{}", Fingerprint::of(&email)))
    }

    /// Names what rests after a wrong password: the account with this password, so that a new one is tried at once. Four
    /// digits are enough to tell two passwords apart, and too few to guess one by.
    #[must_use]
    pub fn password_slot(&self) -> Fingerprint {
        let slot = self.login_slot().0;
        let password = Fingerprint::of(&format!("{slot} {}", self.config.password.expose_secret())).0;
        Fingerprint(format!("{slot}-{}", &password[..4]))
    }

    fn refuse(&self, key: &Fingerprint, detail: &str) -> bool {
        let mut state = self.state();
        let before = state.keys.len();
        state.keys.retain(|known| known.fingerprint() != key);
        let was_ours = state.keys.len() < before;
        if was_ours {
            state.is_due = true;
            state.refused.push_back((key.clone(), detail.to_owned()));
            if state.refused.len() > REMEMBERED_REFUSALS {
                state.refused.pop_front();
            }
        }
        was_ours
    }

    pub fn wants_login(&self) -> bool {
        let state = self.state();
        state.keys.is_empty() || state.is_due
    }

    /// Whether this process has logged in so often of late that once more would not help.
    pub fn has_logged_in_too_often(&self, now: Duration) -> bool {
        let state = self.state();
        state.logins.iter().filter(|at| now.saturating_sub(**at) < LOGIN_WINDOW).count() >= MOST_LOGINS
    }

    /// Logs in and looks around. To be called by whoever holds the right to log in.
    pub async fn visit(&self) -> Result<Visit<'_>, PortalError> {
        let seen = self.state().refused.iter().rev().find_map(|(_, detail)| address_in(detail));
        let visit = self.portal.visit(&self.config, &self.wanted, seen).await?;
        let (ours, foreign): (Vec<&ListedKey>, Vec<&ListedKey>) =
            visit.listed().iter().partition(|key| visit.is_ours(key));
        let elsewhere: Vec<&ListedKey> = ours.into_iter().filter(|key| !key.is_good_for(visit.addresses())).collect();
        let good = visit.listed().len() - foreign.len() - elsewhere.len();
        let mut state = self.state();
        let before = state.seen.as_ref().and_then(|seen| seen.address);
        let moved_from = before.filter(|before| visit.seen().is_some_and(|now| now != *before));
        if let (Some(before), Some(now)) = (moved_from, visit.seen()) {
            warn!(account = self.name(), "our address changed from {before} to {now}");
        }
        state.seen = Some(Seen {
            address: visit.seen(),
            moved_from,
            good,
            stale: elsewhere.len(),
            stale_addresses: elsewhere.iter().flat_map(|key| key.cidr_ranges.iter().cloned()).collect(),
            foreign: foreign.len(),
        });
        drop(state);
        Ok(visit)
    }

    /// Replaces its keys by what the portal gives. `known` is what other processes know of its keys.
    pub async fn renew(&self, visit: Visit<'_>, mut known: Known, now: Duration) -> Result<Given, PortalError> {
        known.refused.extend(self.state().refused.iter().map(|(key, _)| key.clone()));
        let given = visit.keys(&known).await?;
        let mut state = self.state();
        state.keys.clone_from(&given.keys);
        state.is_due = false;
        state.logins.retain(|at| now.saturating_sub(*at) < LOGIN_WINDOW);
        state.logins.push(now);
        Ok(given)
    }

    /// What the last visit found, before anything was changed.
    pub fn seen(&self) -> Option<Seen> {
        self.state().seen.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_and_empty_tokens_are_left_out() {
        let wallet = Wallet::from_tokens(["one", " one ", "", "two"].map(SecretString::from).into());
        let names: Vec<_> = wallet.keys().iter().map(|key| key.fingerprint().clone()).collect();
        assert_eq!(names, [Fingerprint::of("one"), Fingerprint::of("two")]);
    }

    #[test]
    fn a_key_prints_its_fingerprint_and_never_its_token() {
        let wallet = Wallet::from_tokens(vec![SecretString::from("eyJ0-secret")]);
        let printed = format!("{wallet:?}");
        assert!(printed.contains(&Fingerprint::of("eyJ0-secret").0), "{printed}");
        assert!(!printed.contains("secret"), "{printed}");
    }
}
