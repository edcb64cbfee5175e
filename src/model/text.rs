//! Texts from outside: messages of servers, names in queues, input of people. Each is cleaned once where it enters ([`clean`])
//! and escaped once where it is shown ([`visible`]).

use std::{borrow::Cow, fmt::Write as _};

/// The text without control characters, which harm tables of PostgreSQL and terminals. Line breaks and tabs become spaces.
#[must_use]
pub fn clean(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    text.chars()
        .filter_map(|c| match c {
            '\n' | '\r' | '\t' => Some(' '),
            c => (!c.is_control()).then_some(c),
        })
        .collect()
}

/// The text with deceptive characters escaped: control characters (terminal colours and movements begin with one), marks
/// that change the writing direction, and characters without width. The escapes are those of JSON, so that JSON stays the same
/// JSON. Line breaks and tabs stay; see [`on_one_line`].
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, |c| deceives(c) && !matches!(c, '\n' | '\t'))
}

/// As [`visible`], with line breaks and tabs escaped, too.
#[must_use]
pub fn on_one_line(text: &str) -> Cow<'_, str> {
    escaped(text, deceives)
}

fn escaped(text: &str, is_bad: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_bad) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !is_bad(c) => shown.push(c),
            // The short escapes are the ones that people recognise.
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            '\r' => shown.push_str("\\r"),
            c => {
                // JSON escapes are UTF-16 units.
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a text cannot fail.
                    let _ = write!(shown, "\\u{unit:04x}");
                }
            }
        }
    }
    Cow::Owned(shown)
}

fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Bytes in lower-case hex.
#[must_use]
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    use std::fmt::Write as _;
    bytes.as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_removes_control_characters() {
        assert_eq!(clean("a\0b\u{1b}[31mc\r\nd\te\u{7f}\u{9b}".to_owned()), "ab[31mc  d e");
        assert_eq!(clean("Ä ok \u{202e}".to_owned()), "Ä ok \u{202e}");
    }

    #[test]
    fn visible_escapes_deceptive_characters() {
        assert_eq!(
            visible("a\u{1b}[2J\u{202e}b\u{2066}\u{200b}\u{61c}\0\n\tä"),
            "a\\u001b[2J\\u202eb\\u2066\\u200b\\u061c\\u0000\n\tä"
        );
        assert_eq!(on_one_line("a\r\nb\tc\u{85}"), "a\\r\\nb\\tc\\u0085");
        assert_eq!(visible("\u{e0041}"), "\\udb40\\udc41");
        assert!(matches!(visible("plain, äöü 漢字 🏆"), Cow::Borrowed(_)));
    }

    #[test]
    fn visible_keeps_json_equal() {
        let value = serde_json::json!({"a": "x\u{202e}y\0\u{7f}\u{e0041}\n"});
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            assert_eq!(serde_json::from_str::<serde_json::Value>(&visible(&text)).unwrap(), value);
        }
    }
}
