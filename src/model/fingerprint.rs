//! The name of an API key that does not give the key away.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::hex::hex;

/// The name of an API key: the first 12 hexadecimal digits of the SHA-256 of its token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Fingerprint(pub String);

impl Fingerprint {
    /// The name of the key with this token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        let digest = Sha256::digest(token.as_bytes());
        Self(hex(&digest[..6]))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_is_twelve_digits_of_sha_256() {
        assert_eq!(Fingerprint::of("abc").to_string(), "ba7816bf8f01");
    }
}
