//! The developer portal: logs in, and makes sure that there are keys of our own name for our own address.
//!
//! `session` talks to the portal. `keys` decides which keys are kept, revoked and created. Whoever calls this holds the right
//! to log in. **Invariant: a key of another name is never touched.**

mod keys;
mod session;

use std::net::IpAddr;

use tracing::{info, warn};

pub use self::{
    keys::{KnownKeys, ListedKey, MAX_KEYS, Plan, WantedKeys},
    session::{Portal, Session, address_in},
};
use super::key::ApiKey;
use crate::config::PortalAccount;

/// The reason for which an account gives no keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortalError {
    #[error("cannot log in to the developer portal with {account}: wrong e-mail or password")]
    WrongPassword { account: String },
    #[error(
        "cannot create a key in the account {account}: it has {total} keys, {MAX_KEYS} are possible, and none that is \
         called `{name}` is out of use; revoke one at https://developer.clashofclans.com"
    )]
    TooManyKeys { account: String, total: usize, name: String },
    #[error(
        "cannot create a key in the account {account}: it is full, and a run is using every key called `{name}` that is in \
         the way; the next login tries again"
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
    /// True when only a person can fix it.
    #[must_use]
    pub const fn needs_a_person(&self) -> bool {
        matches!(self, Self::WrongPassword { .. } | Self::TooManyKeys { .. })
    }
}

impl Portal {
    /// Logs in and lists the keys. `seen_by_api` is our address as the API sees it, when it said so.
    pub async fn visit<'a>(
        &'a self,
        account: &PortalAccount,
        wanted: &'a WantedKeys,
        seen_by_api: Option<IpAddr>,
    ) -> Result<Visit<'a>, PortalError> {
        let session = self.log_in(account).await?;
        let mut addresses = wanted.addresses.clone();
        if addresses.is_empty() {
            addresses.extend(session.address);
            addresses.extend(seen_by_api.filter(|seen| session.address != Some(*seen)));
        }
        if addresses.is_empty() {
            let detail = "it does not report the address from which it sees us; set EGRESS_IPS".to_owned();
            return Err(session.unexpected("log in", detail));
        }
        let listed = session.list().await?;
        Ok(Visit { session, wanted, addresses, listed })
    }
}

/// A session in an account, with the list of its keys.
#[derive(Debug)]
pub struct Visit<'a> {
    session: Session<'a>,
    wanted: &'a WantedKeys,
    addresses: Vec<IpAddr>,
    listed: Vec<ListedKey>,
}

/// The keys that a visit gave.
#[derive(Debug)]
pub struct RenewedKeys {
    pub keys: Vec<ApiKey>,
    pub created: usize,
    pub revoked: usize,
}

impl Visit<'_> {
    /// Our address as the portal sees it, if it reports that.
    pub const fn address(&self) -> Option<IpAddr> {
        self.session.address
    }

    /// The addresses that keys have to be good for.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// All keys of the account at the beginning of the visit.
    pub fn listed(&self) -> &[ListedKey] {
        &self.listed
    }

    /// True when this key has our name.
    pub fn is_ours(&self, key: &ListedKey) -> bool {
        key.is_called(&self.wanted.name)
    }

    /// The changes that [`Self::renew`] would make.
    #[must_use]
    pub fn plan(&self, known: &KnownKeys) -> Plan<'_> {
        keys::plan(&self.listed, self.wanted, &self.addresses, known)
    }

    /// Makes sure that the account has the wanted keys, and returns them.
    pub async fn renew(self, known: &KnownKeys) -> Result<RenewedKeys, PortalError> {
        let Plan { keep, revoke, create, waits_for_runs } = self.plan(known);
        let Self { session, wanted, addresses, listed } = &self;
        let mut total = listed.len();
        let keys = keep.into_iter().map(|key| ApiKey::new(key.key.clone())).collect();
        let mut renewed = RenewedKeys { keys, created: 0, revoked: 0 };
        let mut revoke_error = None;
        // First room, then keys: a full account refuses new ones.
        for key in revoke {
            match session.revoke(key).await {
                Ok(()) => {
                    total -= 1;
                    renewed.revoked += 1;
                    info!(key.fingerprint = %key.fingerprint(), key.addresses = key.cidr_ranges.join(" "), "revoked a key of our own name that is of no use here");
                }
                // The key only takes up a place: the good keys are used all the same.
                Err(error) => {
                    warn!(key.fingerprint = %key.fingerprint(), error = %error, "could not revoke a key of our own name that is of no use here");
                    revoke_error = Some(error);
                }
            }
        }
        for _ in 0..create.min(MAX_KEYS.saturating_sub(total)) {
            match session.create(&wanted.name, addresses).await {
                Ok(key) => {
                    info!(key.fingerprint = %key.fingerprint(), key.name = wanted.name, "created a key");
                    renewed.keys.push(ApiKey::new(key.key));
                    renewed.created += 1;
                }
                // Without any key the run cannot work. With at least one key it works, only slower.
                Err(error) if renewed.keys.is_empty() => return Err(error),
                Err(error) => {
                    warn!(error = %error, keys = renewed.keys.len(), wanted = wanted.count, "could not create every key: going on with fewer");
                    return Ok(renewed);
                }
            }
        }
        if renewed.keys.is_empty() {
            let (account, name) = (session.account.clone(), wanted.name.clone());
            return Err(match revoke_error {
                Some(error) => error,
                None if waits_for_runs => PortalError::AllInUse { account, name },
                None => PortalError::TooManyKeys { account, total, name },
            });
        }
        if renewed.keys.len() < wanted.count {
            warn!(
                keys = renewed.keys.len(),
                wanted = wanted.count,
                "the account of {} has {MAX_KEYS} keys, and those in the way are not ours or in use: going on with fewer",
                session.account
            );
        }
        Ok(renewed)
    }

    /// Revokes one of our own keys.
    pub async fn revoke(&self, key: &ListedKey) -> Result<(), PortalError> {
        // Checked twice: a revoked key of somebody else cannot be brought back.
        debug_assert!(self.is_ours(key), "a key of another name is never touched");
        if self.is_ours(key) { self.session.revoke(key).await } else { Ok(()) }
    }
}
