//! Bytes as readable text and back, and digests for ids that are too long.

use sha2::{Digest, Sha256};

use crate::model::text::hex;

/// The SHA-256 of an id, in hex: distinguishes ids that are too long to be sent.
#[must_use]
pub fn digest(id: &[u8]) -> String {
    hex(Sha256::digest(id))
}

/// Bytes as readable text that can be turned back: text stays as it is; backslashes, control characters and bytes that are
/// not UTF-8 become `\\` and `\xNN`.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let escaped = |byte: u8| format!("\\x{byte:02x}");
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                // Escaped, so that an original backslash is not taken for an escape.
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => {
                    text.extend(c.encode_utf8(&mut [0; 4]).bytes().map(escaped));
                }
                c => text.push(c),
            }
        }
        text.extend(chunk.invalid().iter().copied().map(escaped));
    }
    text
}

/// The bytes behind an escaped text.
#[must_use]
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        // Lenient: an operator may have edited the text.
        let (byte, used) = match (first, after) {
            (b'\\', [b'x', high, low, ..]) => (hex_digit(*high) << 4 | hex_digit(*low), 4),
            (b'\\', [b'\\', ..]) => (b'\\', 2),
            _ => (first, 1),
        };
        bytes.push(byte);
        rest = &rest[used..];
    }
    bytes
}

fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_survive_escaping() {
        let bytes: Vec<u8> = (0..=255).chain(*b"\\xff Stra\xc3\x9fe \\\\").collect();
        assert_eq!(unescape(&escape(&bytes)), bytes);
        assert!(!escape(&bytes).chars().any(char::is_control));
        assert_ne!(escape(b"\xff"), escape(b"\\xff"));
    }
}
