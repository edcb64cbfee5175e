//! The store of keys: those configured, and those that the developer portal's accounts gave.
//!
//! There is one store a process, so that what a login gave is there for every later run of a warm sandbox.

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use secrecy::{ExposeSecret, SecretString};
use tracing::warn;

use super::{
    key::ApiKey,
    portal::{KnownKeys, ListedKey, Portal, PortalError, RenewedKeys, Visit, WantedKeys, address_in},
};
use crate::{
    api::http::ApiError,
    config::{PortalAccount, PortalConfig},
    model::Fingerprint,
};

/// The most logins of one process with an account within [`LOGIN_WINDOW`]. When new keys are refused again and again,
/// further keys will not help.
pub const MAX_LOGINS: usize = 3;

/// The time within which [`MAX_LOGINS`] counts.
pub const LOGIN_WINDOW: Duration = Duration::from_secs(10 * 60);

/// The most refused keys that are remembered. They stay in the account until room is needed, and must not be taken again.
const MAX_REMEMBERED_REFUSALS: usize = 50;

/// All keys of this deployment. Clones share what the portal gave.
#[derive(Clone, Debug, Default)]
pub struct KeyStore {
    fixed: Vec<ApiKey>,
    accounts: Arc<[Account]>,
}

/// An account of the portal, with the keys that it gave.
#[derive(Debug)]
pub struct Account {
    config: PortalAccount,
    portal: Portal,
    wanted: WantedKeys,
    state: Mutex<State>,
}

/// An account as a visit found it, before anything was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountView {
    /// Our address, as the portal sees it.
    pub address: Option<IpAddr>,
    /// Our address at the visit before, when it was another one.
    pub moved_from: Option<IpAddr>,
    /// Keys of our name for our address.
    pub good: usize,
    /// Keys of our name for foreign addresses.
    pub for_foreign_addresses: usize,
    /// The foreign addresses of those keys.
    pub foreign_addresses: BTreeSet<String>,
    /// Keys of other names.
    pub of_other_names: usize,
}

#[derive(Debug, Default)]
struct State {
    keys: Vec<ApiKey>,
    view: Option<AccountView>,
    /// The last keys that the API refused, with its words.
    refused: VecDeque<(Fingerprint, String)>,
    /// A key was refused since the last login.
    is_login_due: bool,
    /// The boot times of successful logins.
    logins: Vec<Duration>,
}

impl KeyStore {
    /// The configured keys, without empty ones and duplicates.
    #[must_use]
    pub fn from_tokens(tokens: Vec<SecretString>) -> Self {
        let mut keys: Vec<ApiKey> = Vec::with_capacity(tokens.len());
        for token in tokens {
            // Pasted tokens often end with a line break.
            let trimmed = token.expose_secret().trim();
            let key = ApiKey::new(SecretString::from(trimmed));
            if !trimmed.is_empty() && keys.iter().all(|known| !known.is(&key)) {
                keys.push(key);
            }
        }
        Self { fixed: keys, accounts: Arc::default() }
    }

    /// Adds the portal's accounts, which will give keys. Logs in nowhere yet.
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

    /// The configured keys.
    pub fn fixed(&self) -> &[ApiKey] {
        &self.fixed
    }

    /// The keys that can be used now.
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

    /// True when this key came from an account and was not refused so far.
    pub fn is_from_portal(&self, key: &Fingerprint) -> bool {
        self.accounts.iter().any(|account| account.state().keys.iter().any(|known| known.fingerprint() == key))
    }

    /// The API refuses this key. Returns true when a login may give another one: only once for the same key, however many
    /// calls were refused with it.
    pub fn refuse(&self, key: &Fingerprint, detail: &str) -> bool {
        self.accounts.iter().any(|account| account.refuse(key, detail))
    }

    /// True when a login may give keys that are missing.
    pub fn needs_login(&self) -> bool {
        self.accounts.iter().any(Account::needs_login)
    }
}

impl Account {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held leaves whole values behind.
        self.state.lock()
    }

    /// The variable that holds the e-mail address; names the account in logs.
    pub fn name(&self) -> &str {
        &self.config.variable
    }

    pub const fn config(&self) -> &PortalAccount {
        &self.config
    }

    pub const fn wanted(&self) -> &WantedKeys {
        &self.wanted
    }

    /// The name of the right to log in with this account, the same for all processes.
    #[must_use]
    pub fn login_slot(&self) -> Fingerprint {
        let email = self.config.email.expose_secret().trim().to_lowercase();
        Fingerprint(format!("login-{}", Fingerprint::of(&email)))
    }

    /// The name of the right to try the account's password. It cools down after a wrong password, so that a new one is tried at
    /// once. Four digits are enough to distinguish two passwords, and too few to guess one by.
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
        // Only the first refusal counts. Calls in flight are refused with the same key.
        if was_ours {
            state.is_login_due = true;
            state.refused.push_back((key.clone(), detail.to_owned()));
            if state.refused.len() > MAX_REMEMBERED_REFUSALS {
                state.refused.pop_front();
            }
        }
        was_ours
    }

    /// True when the account gave no keys yet, or one of them was refused.
    pub fn needs_login(&self) -> bool {
        let state = self.state();
        state.keys.is_empty() || state.is_login_due
    }

    /// True when this process has logged in so often of late that once more would not help.
    pub fn has_too_many_logins(&self, now: Duration) -> bool {
        let state = self.state();
        state.logins.iter().filter(|at| now.saturating_sub(**at) < LOGIN_WINDOW).count() >= MAX_LOGINS
    }

    /// Logs in and lists the keys. To be called by whoever holds the right to log in.
    pub async fn visit(&self) -> Result<Visit<'_>, PortalError> {
        // The newest refusal: our address may have changed since earlier ones.
        let seen = self.state().refused.iter().rev().find_map(|(_, detail)| address_in(detail));
        let visit = self.portal.visit(&self.config, &self.wanted, seen).await?;
        let (ours, others): (Vec<&ListedKey>, Vec<&ListedKey>) =
            visit.listed().iter().partition(|key| visit.is_ours(key));
        let elsewhere: Vec<&ListedKey> = ours.into_iter().filter(|key| !key.is_good_for(visit.addresses())).collect();
        let good = visit.listed().len() - others.len() - elsewhere.len();
        let mut state = self.state();
        let before = state.view.as_ref().and_then(|view| view.address);
        let moved_from = before.filter(|before| visit.address().is_some_and(|now| now != *before));
        if let (Some(before), Some(now)) = (moved_from, visit.address()) {
            warn!(account = self.name(), "our address changed from {before} to {now}");
        }
        state.view = Some(AccountView {
            address: visit.address(),
            moved_from,
            good,
            for_foreign_addresses: elsewhere.len(),
            foreign_addresses: elsewhere.iter().flat_map(|key| key.cidr_ranges.iter().cloned()).collect(),
            of_other_names: others.len(),
        });
        drop(state);
        Ok(visit)
    }

    /// Replaces the account's keys by those that the portal gives. `known` is the knowledge of other processes about them.
    pub async fn renew(
        &self,
        visit: Visit<'_>,
        mut known: KnownKeys,
        now: Duration,
    ) -> Result<RenewedKeys, PortalError> {
        // Keys refused here are unfit, whatever other processes know.
        known.refused.extend(self.state().refused.iter().map(|(key, _)| key.clone()));
        let renewed = visit.renew(&known).await?;
        let mut state = self.state();
        state.keys.clone_from(&renewed.keys);
        // Only after success: a failed login stays due.
        state.is_login_due = false;
        state.logins.retain(|at| now.saturating_sub(*at) < LOGIN_WINDOW);
        state.logins.push(now);
        Ok(renewed)
    }

    /// The account as the last visit found it.
    pub fn view(&self) -> Option<AccountView> {
        self.state().view.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_drops_duplicates_and_empty_tokens() {
        let store = KeyStore::from_tokens(["one", " one ", "", "two"].map(SecretString::from).into());
        let names: Vec<_> = store.keys().iter().map(|key| key.fingerprint().clone()).collect();
        assert_eq!(names, [Fingerprint::of("one"), Fingerprint::of("two")]);
    }

    #[test]
    fn store_prints_fingerprints_not_tokens() {
        let store = KeyStore::from_tokens(vec![SecretString::from("eyJ0-secret")]);
        let printed = format!("{store:?}");
        assert!(printed.contains(&Fingerprint::of("eyJ0-secret").0), "{printed}");
        assert!(!printed.contains("secret"), "{printed}");
    }
}
