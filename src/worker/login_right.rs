//! The right to log in with an account. It is a slot like a key's, over all processes: held during a login, and cooling down after a
//! failure, with the reason.
//!
//! The slot is `{coc-api}:key:login-<account>`, and the field for a key's rate holds the failures in a row. A wrong password cools down
//! apart, as `{coc-api}:key:login-<account>-<password>`: a new one is tried at once.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    api::{keys::Account, keys::portal::PortalError},
    model::{AimdState, Fingerprint},
    queue::{Holder, QueueError, SharedState, Slot, SlotView},
};

/// The right ends by itself a little after the longest login.
pub const RIGHT_LIFETIME: Duration = Duration::from_secs(45);

// Doubled after every further failure.
const FIRST_COOLDOWN: Duration = Duration::from_secs(30);

// Also the cooldown after a failure that only a person can fix: trying earlier would be of no use.
const MAX_COOLDOWN: Duration = Duration::from_secs(15 * 60);

/// A login leaves no calls behind, so the next holder need not wait. Zero is no lifetime in Redis.
pub const RELEASE_AT_ONCE: Duration = Duration::from_millis(1);

/// The right to log in, held by this run.
#[derive(Debug)]
pub struct LoginRight<'a, S> {
    slots: &'a S,
    account: &'a Account,
    run: &'a str,
    failures_so_far: u32,
}

impl<'a, S: SharedState> LoginRight<'a, S> {
    /// Takes the right, and waits for another process that has it. The inner error is the operator's text.
    pub async fn take(
        slots: &'a S,
        account: &'a Account,
        run: &'a str,
        until: Instant,
        poll_interval: Duration,
    ) -> Result<Result<Self, String>, QueueError> {
        let name = account.name();
        loop {
            if Instant::now() >= until {
                return Ok(Err(format!("cannot log in with {name}: no time is left for it")));
            }
            match slots.take_key(&account.login_slot(), run, RIGHT_LIFETIME).await? {
                Slot::Taken { aimd_state } => {
                    let failures_so_far = failures(aimd_state);
                    return Ok(Ok(Self { slots, account, run, failures_so_far }));
                }
                Slot::Held { for_another } => {
                    if Instant::now() + poll_interval > until {
                        return Ok(Err(format!(
                            "cannot log in with {name}: another run is logging in and takes too long"
                        )));
                    }
                    sleep(poll_interval.min(for_another.max(RELEASE_AT_ONCE))).await;
                }
                Slot::CoolingDown { reason, for_another } => return Ok(Err(cooling(&reason, for_another))),
            }
        }
    }

    /// True while a process logs in.
    pub async fn is_held(slots: &S, account: &Account) -> Result<bool, QueueError> {
        Ok(matches!(slots.look_at_key(&account.login_slot()).await?.holder, Holder::Run(_)))
    }

    /// The cooldown of the account, as a text, if there is one.
    pub async fn cooldown(slots: &S, account: &Account) -> Result<Option<String>, QueueError> {
        cooldown_of(slots, &account.login_slot()).await
    }

    /// The cooldown of the account's password, as a text, if there is one.
    pub async fn password_cooldown(slots: &S, account: &Account) -> Result<Option<String>, QueueError> {
        cooldown_of(slots, &account.password_slot()).await
    }

    /// Releases the right; nothing is known about the portal.
    pub async fn release(self) -> Result<(), QueueError> {
        self.slots.release_key(&self.account.login_slot(), self.run, RELEASE_AT_ONCE).await
    }

    /// Releases the right after a login that went well.
    pub async fn succeeded(self) -> Result<(), QueueError> {
        self.remember(0).await?;
        self.release().await
    }

    /// The cooldown that a failure of this login leads to.
    pub fn cooldown_after(&self, error: &PortalError) -> Duration {
        cooldown_after(error, self.failures_so_far)
    }

    /// Ends the right with a cooldown. A wrong password cools down by itself: another one may be tried.
    pub async fn failed(self, error: &PortalError) -> Result<(), QueueError> {
        let cooldown = self.cooldown_after(error);
        let Self { slots, account, run, .. } = self;
        if let PortalError::WrongPassword { .. } = error {
            let password = account.password_slot();
            slots.take_key(&password, run, RIGHT_LIFETIME).await?;
            slots.cool_down_key(&password, run, &error.to_string(), cooldown).await?;
            return self.release().await;
        }
        self.remember(self.failures_so_far + 1).await?;
        slots.cool_down_key(&account.login_slot(), run, &error.to_string(), cooldown).await
    }

    async fn remember(&self, failures: u32) -> Result<(), QueueError> {
        self.slots.remember_rate(&self.account.login_slot(), AimdState::plain(f64::from(failures))).await
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a saturating cast of a count")]
fn failures(remembered: Option<AimdState>) -> u32 {
    remembered.map_or(0, |failures| failures.rate as u32)
}

async fn cooldown_of<S: SharedState>(slots: &S, slot: &Fingerprint) -> Result<Option<String>, QueueError> {
    let SlotView { holder, for_another, .. } = slots.look_at_key(slot).await?;
    Ok(match holder {
        Holder::CoolingDown(reason) => Some(cooling(&reason, for_another)),
        Holder::Run(_) | Holder::Nobody | Holder::Released => None,
    })
}

fn cooling(reason: &str, for_another: Duration) -> String {
    format!("{reason} (tried again in {} s)", for_another.as_secs())
}

/// The cooldown after a failure that follows this many others.
fn cooldown_after(error: &PortalError, failures_so_far: u32) -> Duration {
    if error.needs_a_person() {
        return MAX_COOLDOWN;
    }
    FIRST_COOLDOWN.saturating_mul(1 << failures_so_far.min(10)).min(MAX_COOLDOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cooldown_doubles_and_full_account_waits_longest() {
        let down = PortalError::Down { account: "COC_EMAIL".to_owned(), action: "login", detail: String::new() };
        let cooldowns = [0, 1, 2, 9].map(|failures| cooldown_after(&down, failures).as_secs());
        assert_eq!(cooldowns, [30, 60, 120, 900]);
        let full = PortalError::TooManyKeys { account: "COC_EMAIL".to_owned(), total: 10, name: "ours".to_owned() };
        assert_eq!(cooldown_after(&full, 0), MAX_COOLDOWN);
    }
}
