//! Logging in to the developer portal: one process at a time, slower after each failure. Talks to the queue's [`Slots`] and
//! to the wallet.
//!
//! The right to log in is a slot like a key's, `{coc-api}:key:login-<account>`: held while somebody logs in, and resting after a
//! failure, with the reason. What is remembered with it is not a rate but the number of failures in a row. A wrong password
//! rests apart, `{coc-api}:key:login-<account>-<password>`: one that is new is tried at once.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use super::keys::BENCHED;

use crate::{
    api::{
        portal::{Given, Known, PortalError, Visit},
        wallet::{Account, LOGIN_WINDOW, MOST_LOGINS, Wallet},
    },
    clock::Clock,
    model::{Fingerprint, LearnedRate},
    queue::{Holder, QueueError, Slot, SlotView, Slots},
};

/// A login with everything that follows takes at most so long; the right to it ends by itself a little later.
const LOGIN_TIME: Duration = Duration::from_secs(40);
const RIGHT_LASTS: Duration = Duration::from_secs(45);

/// The rest after the first failure; it doubles with every further one.
const FIRST_REST: Duration = Duration::from_secs(30);

/// The longest rest; also that after a failure which only a person can mend.
const LONGEST_REST: Duration = Duration::from_secs(15 * 60);

/// How often whoever waits for another's login looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A right that is given back is free at once.
const AT_ONCE: Duration = Duration::from_millis(1);

/// What logging in came to, in sentences.
#[derive(Debug, Default)]
pub struct Told {
    /// Why accounts gave no keys. Others may have given some nevertheless.
    pub failures: Vec<String>,
    /// What somebody should know although it went well.
    pub news: Vec<String>,
}

impl Told {
    /// All failures as one text, if there are any.
    pub fn failure(&self) -> Option<String> {
        (!self.failures.is_empty()).then(|| self.failures.join("; "))
    }
}

/// Logs in with every account that needs it; begins no login after `until`, and gives up what is not done by then.
pub async fn log_in<S: Slots>(slots: &S, wallet: &Wallet, clock: &dyn Clock, run: &str, until: Instant) -> Told {
    let mut told = Told::default();
    for account in wallet.accounts().iter().filter(|account| account.wants_login()) {
        match log_in_with(slots, account, clock, run, until).await {
            Ok(Ok(())) => told.news.extend(news_of(account)),
            Ok(Err(failure)) => told.failures.push(failure),
            Err(error) => {
                told.failures.push(error.to_string());
                break;
            }
        }
    }
    told
}

fn news_of(account: &Account) -> Option<String> {
    let seen = account.seen()?;
    let (before, now) = (seen.moved_from?, seen.address?);
    let name = account.name();
    Some(format!("account {name}: our address changed from {before} to {now}; keys are bound to an address"))
}

async fn log_in_with<S: Slots>(
    slots: &S,
    account: &Account,
    clock: &dyn Clock,
    run: &str,
    until: Instant,
) -> Result<Result<(), String>, QueueError> {
    let name = account.name();
    if account.has_logged_in_too_often(clock.boot()) {
        return Ok(Err(format!(
            "cannot get keys with {name}: {MOST_LOGINS} logins within {} min gave keys that the API refused; it may see another \
             address than the portal does (EGRESS_IPS), or another deployment uses the same COC_KEY_NAME",
            LOGIN_WINDOW.as_secs() / 60
        )));
    }
    let renewed = with_right(slots, account, run, until, renew(slots, account, clock, run)).await?;
    Ok(renewed.map(|Given { keys, made, revoked }| {
        info!(account = name, keys = keys.len(), made, revoked, "logged in to the developer portal");
    }))
}

/// Logs in and renews the account's keys, without asking for the right to.
pub async fn renew<S: Slots>(slots: &S, account: &Account, clock: &dyn Clock, run: &str) -> Result<Given, Trouble> {
    let visit = account.visit().await?;
    let known = known(slots, &visit, run).await?;
    Ok(account.renew(visit, known, clock.boot()).await?)
}

/// What other processes know of our keys. Those that the API has refused to them of late count as refused: a sandbox that
/// knows nothing yet would take them again.
pub async fn known<S: Slots>(slots: &S, visit: &Visit<'_>, run: &str) -> Result<Known, QueueError> {
    let mut known = Known::default();
    for key in visit.listed().iter().filter(|key| visit.is_ours(key)) {
        match slots.look_at_key(&key.fingerprint()).await?.holder {
            Holder::Paused(reason) if reason.starts_with(BENCHED) => known.refused.push(key.fingerprint()),
            Holder::Run(holder) if holder != run => known.in_use.push(key.fingerprint()),
            Holder::Paused(_) | Holder::Run(_) | Holder::Nobody | Holder::Left => {}
        }
    }
    Ok(known)
}

/// What can go wrong in an account.
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

/// Does something in an account that needs a login, once the right to log in is ours; all that until `until`, and backs
/// off for everybody when the portal fails. The inner error is what the operator is told.
pub async fn with_right<S: Slots, T>(
    slots: &S,
    account: &Account,
    run: &str,
    until: Instant,
    act: impl Future<Output = Result<T, Trouble>>,
) -> Result<Result<T, String>, QueueError> {
    let name = account.name();
    let slot = account.login_slot();
    let failures_so_far = loop {
        if Instant::now() >= until {
            return Ok(Err(format!("cannot log in with {name}: no time is left for it")));
        }
        match slots.take_key(&slot, run, RIGHT_LASTS).await? {
            Slot::Taken { learned_rate } => break learned_rate.map_or(0.0, |failures| failures.rate),
            Slot::Held { for_another } => {
                if Instant::now() + LOOK_AGAIN > until {
                    return Ok(Err(format!("cannot log in with {name}: another run is logging in and takes too long")));
                }
                sleep(LOOK_AGAIN.min(for_another.max(AT_ONCE))).await;
            }
            Slot::Paused { reason, for_another } => return Ok(Err(resting(&reason, for_another))),
        }
    };
    let password = account.password_slot();
    if let Some(rest) = rest_of(slots, &password).await? {
        slots.give_back_key(&slot, run, AT_ONCE).await?;
        return Ok(Err(rest));
    }
    let gives_up = until.min(Instant::now() + LOGIN_TIME);
    let answer = match timeout_at(gives_up, act).await {
        Ok(answer) => answer,
        // The run has no more time: that says nothing about the portal.
        Err(_) if gives_up == until => {
            slots.give_back_key(&slot, run, AT_ONCE).await?;
            return Ok(Err(format!("cannot log in with {name}: not done before the time for it was over")));
        }
        Err(_) => Err(Trouble::Portal(too_slow(name, LOGIN_TIME))),
    };
    match answer {
        Ok(done) => {
            slots.remember_rate(&slot, LearnedRate::plain(0.0)).await?;
            slots.give_back_key(&slot, run, AT_ONCE).await?;
            Ok(Ok(done))
        }
        // This password rests, not the account: whoever has another one may try it.
        Err(Trouble::Portal(error @ PortalError::WrongPassword { .. })) => {
            warn!(account = name, rest_seconds = LONGEST_REST.as_secs(), "{error}");
            slots.take_key(&password, run, RIGHT_LASTS).await?;
            slots.pause_key(&password, run, &error.to_string(), LONGEST_REST).await?;
            slots.give_back_key(&slot, run, AT_ONCE).await?;
            Ok(Err(error.to_string()))
        }
        Err(Trouble::Portal(error)) => {
            let rest = rest_after(&error, failures_so_far);
            warn!(account = name, rest_seconds = rest.as_secs(), "{error}");
            slots.remember_rate(&slot, LearnedRate::plain(failures_so_far + 1.0)).await?;
            slots.pause_key(&slot, run, &error.to_string(), rest).await?;
            Ok(Err(error.to_string()))
        }
        Err(Trouble::Queue(error)) => Err(error),
    }
}

/// Looks into an account and changes nothing there, until `until`. Waits for whoever logs in, and takes the right to from nobody:
/// a look that fails or takes its time must not make a run wait. The inner error is what the operator is told.
pub async fn look_into<S: Slots, T>(
    slots: &S,
    account: &Account,
    until: Instant,
    act: impl Future<Output = Result<T, Trouble>>,
) -> Result<Result<T, String>, QueueError> {
    let began = Instant::now();
    let (slot, name) = (account.login_slot(), account.name());
    while let Holder::Run(_) = slots.look_at_key(&slot).await?.holder {
        if Instant::now() + LOOK_AGAIN > until {
            return Ok(Err(format!("cannot log in with {name}: a run is logging in and takes too long")));
        }
        sleep(LOOK_AGAIN).await;
    }
    for slot in [slot, account.password_slot()] {
        if let Some(rest) = rest_of(slots, &slot).await? {
            return Ok(Err(rest));
        }
    }
    match timeout_at(until, act).await {
        Ok(Ok(done)) => Ok(Ok(done)),
        Ok(Err(Trouble::Portal(error))) => Ok(Err(error.to_string())),
        Ok(Err(Trouble::Queue(error))) => Err(error),
        Err(_) => Ok(Err(too_slow(name, began.elapsed()).to_string())),
    }
}

/// Why and how long a right to log in rests, when it does.
async fn rest_of<S: Slots>(slots: &S, slot: &Fingerprint) -> Result<Option<String>, QueueError> {
    let SlotView { holder, for_another, .. } = slots.look_at_key(slot).await?;
    Ok(match holder {
        Holder::Paused(reason) => Some(resting(&reason, for_another)),
        Holder::Run(_) | Holder::Nobody | Holder::Left => None,
    })
}

fn too_slow(account: &str, after: Duration) -> PortalError {
    let detail = format!("not done after {} s", after.as_secs());
    PortalError::Down { account: account.to_owned(), action: "get keys", detail }
}

/// Gives the right back that a login had which was cut off in the middle, if it was ours.
pub async fn give_back_right<S: Slots>(slots: &S, wallet: &Wallet, run: &str) -> Result<(), QueueError> {
    for account in wallet.accounts().iter().filter(|account| account.wants_login()) {
        slots.give_back_key(&account.login_slot(), run, AT_ONCE).await?;
    }
    Ok(())
}

/// Ends the rests of an account before their time: whoever asks for it may have mended what they are about.
pub async fn end_rests<S: Slots>(slots: &S, account: &Account) -> Result<(), QueueError> {
    slots.end_rest(&account.login_slot()).await?;
    slots.end_rest(&account.password_slot()).await?;
    Ok(())
}

fn resting(reason: &str, for_another: Duration) -> String {
    format!("{reason} (tried again in {} s)", for_another.as_secs())
}

/// How long nobody logs in after a failure that follows so many others.
fn rest_after(error: &PortalError, failures_so_far: f64) -> Duration {
    if error.needs_a_person() {
        return LONGEST_REST;
    }
    FIRST_REST.mul_f64(2_f64.powf(failures_so_far.min(10.0))).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_doubles_with_every_failure_and_a_full_account_waits_for_a_person() {
        let down = PortalError::Down { account: "COC_EMAIL".to_owned(), action: "login", detail: String::new() };
        let rests = [0.0, 1.0, 2.0, 9.0].map(|failures| rest_after(&down, failures).as_secs());
        assert_eq!(rests, [30, 60, 120, 900]);
        let full = PortalError::TooManyKeys { account: "COC_EMAIL".to_owned(), total: 10, name: "ours".to_owned() };
        assert_eq!(rest_after(&full, 0.0), LONGEST_REST);
    }
}
