//! The keys that there are. Which of them a run may use is the business of [`super::run_keys`].

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

use crate::model::Fingerprint;

/// A token of the API and the name it goes by.
#[derive(Clone)]
pub struct ApiKey {
    token: SecretString,
    fingerprint: Fingerprint,
}

impl ApiKey {
    #[must_use]
    pub fn new(token: SecretString) -> Self {
        let fingerprint = Fingerprint::of(token.expose_secret());
        Self { token, fingerprint }
    }

    pub const fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    pub(super) const fn token(&self) -> &SecretString {
        &self.token
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.fingerprint)
    }
}

/// All keys of this deployment.
#[derive(Clone, Debug, Default)]
pub struct Wallet {
    keys: Vec<ApiKey>,
}

impl Wallet {
    /// Keys as configured; empty ones and duplicates are left out.
    #[must_use]
    pub fn from_tokens(tokens: Vec<SecretString>) -> Self {
        let mut keys: Vec<ApiKey> = Vec::with_capacity(tokens.len());
        for token in tokens {
            let trimmed = token.expose_secret().trim();
            let key = ApiKey::new(SecretString::from(trimmed));
            if !trimmed.is_empty() && keys.iter().all(|known| known.fingerprint != key.fingerprint) {
                keys.push(key);
            }
        }
        Self { keys }
    }

    pub fn keys(&self) -> &[ApiKey] {
        &self.keys
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
