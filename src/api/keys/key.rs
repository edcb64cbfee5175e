//! An API key: a value whose token is never printed.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

use crate::model::Fingerprint;

/// A token of the API and its fingerprint, by which it is named.
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

    /// True when both are the same key.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    pub(in crate::api) const fn token(&self) -> &SecretString {
        &self.token
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.fingerprint)
    }
}
