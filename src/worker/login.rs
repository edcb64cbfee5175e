//! Logs in to the developer portal: one process at a time, slower after each failure. Talks to the queue's [`SharedState`] and to the key
//! store.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use super::{
    cooldown::CooldownReason,
    login_right::{LoginRight, RELEASE_AT_ONCE},
};
use crate::{
    api::{
        keys::portal::{KnownKeys, PortalError, RenewedKeys, Visit},
        keys::{Account, KeyStore, LOGIN_WINDOW, MAX_LOGINS},
    },
    clock::Clock,
    queue::{Holder, QueueError, SharedState},
};

// Covers the login and everything that follows it. Less than `RIGHT_LIFETIME`, so that the right to log in outlasts the login.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(40);

// Nothing reports the end of another process's login, so its right is polled.
const LOGIN_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The result of logging in, in sentences.
#[derive(Debug, Default)]
pub struct Login {
    /// Accounts without keys, and why. Others may have given some nevertheless.
    pub failures: Vec<String>,
    /// Worth a person's attention although it went well.
    pub notices: Vec<String>,
}

impl Login {
    /// All failures as one text, if there are any.
    pub fn failure(&self) -> Option<String> {
        (!self.failures.is_empty()).then(|| self.failures.join("; "))
    }
}

/// Logs in with every account that needs it. Begins no login after `until`, and gives up what is not done by then.
pub async fn log_in<S: SharedState>(
    slots: &S,
    key_store: &KeyStore,
    clock: &dyn Clock,
    run: &str,
    until: Instant,
) -> Login {
    let mut login = Login::default();
    for account in key_store.accounts().iter().filter(|account| account.needs_login()) {
        match log_in_with(slots, account, clock, run, until).await {
            Ok(Ok(())) => login.notices.extend(notice_of(account)),
            Ok(Err(failure)) => login.failures.push(failure),
            // Without the queue there is no right to log in with any other account either.
            Err(error) => {
                login.failures.push(error.to_string());
                break;
            }
        }
    }
    login
}

fn notice_of(account: &Account) -> Option<String> {
    let seen = account.view()?;
    let (before, now) = (seen.moved_from?, seen.address?);
    let name = account.name();
    Some(format!("account {name}: our address changed from {before} to {now}; keys are bound to an address"))
}

async fn log_in_with<S: SharedState>(
    slots: &S,
    account: &Account,
    clock: &dyn Clock,
    run: &str,
    until: Instant,
) -> Result<Result<(), String>, QueueError> {
    let name = account.name();
    if account.has_too_many_logins(clock.boot()) {
        return Ok(Err(format!(
            "cannot get keys with {name}: {MAX_LOGINS} logins within {} min gave keys that the API rejected; it may see another \
             address than the portal does (EGRESS_IPS), or another deployment uses the same COC_KEY_NAME",
            LOGIN_WINDOW.as_secs() / 60
        )));
    }
    let renewed = with_right(slots, account, run, until, renew(slots, account, clock, run)).await?;
    Ok(renewed.map(|RenewedKeys { keys, created, revoked }| {
        info!(account = name, keys = keys.len(), made = created, revoked, "logged in to the developer portal");
    }))
}

/// Logs in and renews the account's keys, without taking the right to.
pub async fn renew<S: SharedState>(
    slots: &S,
    account: &Account,
    clock: &dyn Clock,
    run: &str,
) -> Result<RenewedKeys, Trouble> {
    let visit = account.visit().await?;
    let known = known(slots, &visit, run).await?;
    Ok(account.renew(visit, known, clock.boot()).await?)
}

/// Reads what other processes know of our keys. Keys that the API has lately rejected in them count as rejected here: a sandbox that
/// knows nothing yet would take them again.
pub async fn known<S: SharedState>(slots: &S, visit: &Visit<'_>, run: &str) -> Result<KnownKeys, QueueError> {
    let mut known = KnownKeys::default();
    for key in visit.listed().iter().filter(|key| visit.is_ours(key)) {
        match slots.look_at_key(&key.fingerprint()).await?.holder {
            Holder::CoolingDown(reason) => {
                if let CooldownReason::Rejected(_) = CooldownReason::parse(&reason) {
                    known.refused.push(key.fingerprint());
                }
            }
            Holder::Run(holder) if holder != run => known.in_use.push(key.fingerprint()),
            Holder::Run(_) | Holder::Nobody | Holder::Released => {}
        }
    }
    Ok(known)
}

/// An error while an account is used.
#[derive(Debug)]
pub enum Trouble {
    Portal(PortalError),
    Queue(QueueError),
}

impl From<PortalError> for Trouble {
    fn from(error: PortalError) -> Self {
        Self::Portal(error)
    }
}

impl From<QueueError> for Trouble {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}

/// Does something in an account that needs a login, once the right to log in is ours; all that until `until`. When the portal fails, the
/// account cools down for everybody. The inner error is the operator's text.
pub async fn with_right<S: SharedState, T>(
    slots: &S,
    account: &Account,
    run: &str,
    until: Instant,
    act: impl Future<Output = Result<T, Trouble>>,
) -> Result<Result<T, String>, QueueError> {
    let name = account.name();
    let right = match LoginRight::take(slots, account, run, until, LOGIN_POLL_INTERVAL).await? {
        Ok(right) => right,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if let Some(cooldown) = LoginRight::password_cooldown(slots, account).await? {
        right.release().await?;
        return Ok(Err(cooldown));
    }
    let gives_up = until.min(Instant::now() + LOGIN_TIMEOUT);
    let result = match timeout_at(gives_up, act).await {
        Ok(result) => result,
        // The run has no more time: that says nothing about the portal.
        Err(_) if gives_up == until => {
            right.release().await?;
            return Ok(Err(format!("cannot log in with {name}: not done before the time for it was over")));
        }
        Err(_) => Err(Trouble::Portal(too_slow(name, LOGIN_TIMEOUT))),
    };
    match result {
        Ok(done) => {
            right.succeeded().await?;
            Ok(Ok(done))
        }
        Err(Trouble::Portal(error)) => {
            let cooldown = right.cooldown_after(&error);
            warn!(account = name, cooldown_seconds = cooldown.as_secs(), "{error}");
            right.failed(&error).await?;
            Ok(Err(error.to_string()))
        }
        Err(Trouble::Queue(error)) => Err(error),
    }
}

/// Looks into an account without a change, until `until`. Waits for a login that goes on, and does not take the right to: a look that
/// fails or takes its time must not make a run wait. The inner error is the operator's text.
pub async fn look_into<S: SharedState, T>(
    slots: &S,
    account: &Account,
    until: Instant,
    act: impl Future<Output = Result<T, Trouble>>,
) -> Result<Result<T, String>, QueueError> {
    let began = Instant::now();
    let name = account.name();
    while LoginRight::is_held(slots, account).await? {
        if Instant::now() + LOGIN_POLL_INTERVAL > until {
            return Ok(Err(format!("cannot log in with {name}: a run is logging in and takes too long")));
        }
        sleep(LOGIN_POLL_INTERVAL).await;
    }
    if let Some(cooldown) = LoginRight::cooldown(slots, account).await? {
        return Ok(Err(cooldown));
    }
    if let Some(cooldown) = LoginRight::password_cooldown(slots, account).await? {
        return Ok(Err(cooldown));
    }
    match timeout_at(until, act).await {
        Ok(Ok(done)) => Ok(Ok(done)),
        Ok(Err(Trouble::Portal(error))) => Ok(Err(error.to_string())),
        Ok(Err(Trouble::Queue(error))) => Err(error),
        Err(_) => Ok(Err(too_slow(name, began.elapsed()).to_string())),
    }
}

fn too_slow(account: &str, after: Duration) -> PortalError {
    let detail = format!("not done after {} s", after.as_secs());
    PortalError::Down { account: account.to_owned(), action: "get keys", detail }
}

/// Releases the rights of logins that were cut off, where they are ours.
pub async fn release_rights<S: SharedState>(slots: &S, key_store: &KeyStore, run: &str) -> Result<(), QueueError> {
    for account in key_store.accounts().iter().filter(|account| account.needs_login()) {
        slots.release_key(&account.login_slot(), run, RELEASE_AT_ONCE).await?;
    }
    Ok(())
}

/// Ends the cooldowns of an account early: whoever asks for it may have fixed their cause.
pub async fn end_cooldowns<S: SharedState>(slots: &S, account: &Account) -> Result<(), QueueError> {
    slots.end_cooldown(&account.login_slot()).await?;
    slots.end_cooldown(&account.password_slot()).await?;
    Ok(())
}
