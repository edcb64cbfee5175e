//! How an API key is named without giving it away.

use std::fmt;

use sha2::{Digest, Sha256};

/// Names an API key: the first 12 hexadecimal digits of the SHA-256 of its token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub String);

impl Fingerprint {
    /// The name of the key with this token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).iter().take(6).map(|byte| format!("{byte:02x}")).collect())
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
    fn a_fingerprint_is_twelve_digits_of_the_sha_256() {
        assert_eq!(Fingerprint::of("abc").to_string(), "ba7816bf8f01");
    }
}
