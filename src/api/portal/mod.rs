//! The developer portal: log in, and see to it that there are keys of our own name for our own address.
//!
//! Talks to the portal and to nothing else (`session`); what is kept, revoked and made is decided in `keys`. Whoever calls
//! this holds the one right to log in. **Invariant: a key of another name is never touched.**

mod keys;
mod session;

use std::net::IpAddr;

use tracing::{info, warn};

pub use self::{
    keys::{Known, ListedKey, MOST_KEYS, Plan, WantedKeys},
    session::{Portal, Session, address_in},
};
use super::key::ApiKey;
use crate::config::PortalAccount;

/// Why there are no keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortalError {
    #[error("cannot log in to the developer portal with {account}: wrong e-mail or password")]
    WrongPassword { account: String },
    #[error(
        "cannot create a key in the account {account}: it has {total} keys, {MOST_KEYS} are possible, and none of them is both \
         called `{name}` and out of use; revoke one at https://developer.clashofclans.com"
    )]
    TooManyKeys { account: String, total: usize, name: String },
    #[error(
        "cannot create a key in the account {account}: it is full, and a run is using every key called `{name}` that is in the \
         way; the next login tries again"
    )]
    AllInUse { account: String, name: String },
    #[error("cannot {action} at the developer portal with {account}: it refuses for now: {description}")]
    Refused { account: String, action: &'static str, description: String },
    #[error("cannot {action} at the developer portal with {account}: it is down: {detail}")]
    Down { account: String, action: &'static str, detail: String },
    #[error("the developer portal's response cannot be read ({action}, {account}): {detail}")]
    Unexpected { account: String, action: &'static str, detail: String },
}

impl PortalError {
    /// Whether only a person can mend it.
    #[must_use]
    pub const fn needs_a_person(&self) -> bool {
        matches!(self, Self::WrongPassword { .. } | Self::TooManyKeys { .. })
    }
}

impl Portal {
    /// Logs in and looks at what keys there are. `seen` is our address as the API sees it, when it said so.
    pub async fn visit<'a>(
        &'a self,
        account: &PortalAccount,
        wanted: &'a WantedKeys,
        seen: Option<IpAddr>,
    ) -> Result<Visit<'a>, PortalError> {
        let session = self.log_in(account).await?;
        let mut addresses = wanted.addresses.clone();
        if addresses.is_empty() {
            addresses.extend(session.address);
            addresses.extend(seen.filter(|seen| session.address != Some(*seen)));
        }
        if addresses.is_empty() {
            let detail = "it does not say which address it sees us with; set EGRESS_IPS".to_owned();
            return Err(session.unexpected("login", detail));
        }
        let listed = session.list().await?;
        Ok(Visit { session, wanted, addresses, listed })
    }
}

/// Logged in to an account, with all its keys before us.
#[derive(Debug)]
pub struct Visit<'a> {
    session: Session<'a>,
    wanted: &'a WantedKeys,
    addresses: Vec<IpAddr>,
    listed: Vec<ListedKey>,
}

/// What a visit gave.
#[derive(Debug)]
pub struct Given {
    pub keys: Vec<ApiKey>,
    pub made: usize,
    pub revoked: usize,
}

impl Visit<'_> {
    /// Our address as the portal sees it, if it says.
    pub const fn seen(&self) -> Option<IpAddr> {
        self.session.address
    }

    /// The addresses that keys have to be good for.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// All keys of the account, as it was when we came.
    pub fn listed(&self) -> &[ListedKey] {
        &self.listed
    }

    /// Whether this key has our name.
    pub fn is_ours(&self, key: &ListedKey) -> bool {
        key.is_called(&self.wanted.name)
    }

    /// What [`Self::keys`] would do; changes nothing.
    #[must_use]
    pub fn plan(&self, known: &Known) -> Plan<'_> {
        keys::plan(&self.listed, self.wanted, &self.addresses, known)
    }

    /// Sees to it that the account has the keys wanted, and gives them.
    pub async fn keys(self, known: &Known) -> Result<Given, PortalError> {
        let Plan { keep, revoke, create, waits_for_runs } = self.plan(known);
        let Self { session, wanted, addresses, listed } = &self;
        let mut total = listed.len();
        let keys = keep.into_iter().map(|key| ApiKey::new(key.key.clone())).collect();
        let mut given = Given { keys, made: 0, revoked: 0 };
        let mut stays = None;
        for key in revoke {
            match session.revoke(key).await {
                Ok(()) => {
                    total -= 1;
                    given.revoked += 1;
                    info!(key.fingerprint = %key.fingerprint(), key.addresses = key.cidr_ranges.join(" "), "revoked a key of our own name that is of no use here");
                }
                // It only costs its place: what is good is used all the same.
                Err(error) => {
                    warn!(key.fingerprint = %key.fingerprint(), error = %error, "could not revoke a key of our own name that is of no use here");
                    stays = Some(error);
                }
            }
        }
        for _ in 0..create.min(MOST_KEYS.saturating_sub(total)) {
            match session.create(&wanted.name, addresses).await {
                Ok(key) => {
                    info!(key.fingerprint = %key.fingerprint(), key.name = wanted.name, "made a key");
                    given.keys.push(ApiKey::new(key.key));
                    given.made += 1;
                }
                Err(error) if given.keys.is_empty() => return Err(error),
                Err(error) => {
                    warn!(error = %error, keys = given.keys.len(), wanted = wanted.count, "could not make every key: going on with fewer");
                    return Ok(given);
                }
            }
        }
        if given.keys.is_empty() {
            let (account, name) = (session.account.clone(), wanted.name.clone());
            return Err(match stays {
                Some(error) => error,
                None if waits_for_runs => PortalError::AllInUse { account, name },
                None => PortalError::TooManyKeys { account, total, name },
            });
        }
        if given.keys.len() < wanted.count {
            warn!(
                keys = given.keys.len(),
                wanted = wanted.count,
                "the account of {} has {MOST_KEYS} keys that are foreign or in use: going on with fewer",
                session.account
            );
        }
        Ok(given)
    }

    /// Revokes one of our own keys.
    pub async fn revoke(&self, key: &ListedKey) -> Result<(), PortalError> {
        debug_assert!(self.is_ours(key), "a key of another name is never touched");
        if self.is_ours(key) { self.session.revoke(key).await } else { Ok(()) }
    }
}
