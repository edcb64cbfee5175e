//! The right to log in to an account of the developer portal: one process at a time, and slower after each failure.
//!
//! The right is a slot beside the slots of keys, with a cooldown of its own. The queue keeps one number per slot: a key's
//! AIMD state there, the failed logins in a row here. This file alone knows how the two share that place.

use secrecy::ExposeSecret;

use crate::{
    config::PortalAccount,
    model::{AimdState, Fingerprint},
};

/// The right to log in, or the right to try one password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRight(Fingerprint);

impl LoginRight {
    /// The right to log in with this account, the same for all processes.
    #[must_use]
    pub fn of_account(account: &PortalAccount) -> Self {
        let email = account.email.expose_secret().trim().to_lowercase();
        Self(Fingerprint(format!("login-{}", Fingerprint::of(&email))))
    }

    /// The right to try this password of the account. It cools down after a wrong password, so that a new one is tried at
    /// once. Four digits are enough to distinguish two passwords, and too few to guess one by.
    #[must_use]
    pub fn of_password(account: &PortalAccount) -> Self {
        let slot = Self::of_account(account).0.0;
        let password = Fingerprint::of(&format!("{slot} {}", account.password.expose_secret())).0;
        Self(Fingerprint(format!("{slot}-{}", &password[..4])))
    }

    /// The name of the slot in the queue.
    pub const fn slot(&self) -> &Fingerprint {
        &self.0
    }
}

/// The failed logins in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoginFailures(pub u32);

impl LoginFailures {
    /// Reads the number that the queue kept with the slot.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count, and a cast saturates")]
    pub fn kept(kept: Option<AimdState>) -> Self {
        Self(kept.map_or(0, |kept| kept.rate as u32))
    }

    /// The number for the queue to keep with the slot.
    #[must_use]
    pub fn to_keep(self) -> AimdState {
        AimdState::plain(self.0.into())
    }
}
