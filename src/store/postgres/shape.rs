//! The limits of the text columns of this database. Read only after a column refused a text: the texts are then made to fit,
//! so that the record is not lost.

use std::borrow::Cow;

use sqlx::PgConnection;

use super::errors;
use crate::columns::from_row;

const SHAPE: &str = include_str!("../sql/postgres/shape.sql");

/// The replacement for a character that a column cannot hold.
const UNKNOWN: char = '?';

/// The limits of the narrowest columns that get the same text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// The encoding of the database.
    encoding: String,
    /// True when a column of documents is `jsonb`, which cannot hold `\u0000` or half a surrogate pair.
    has_jsonb: bool,
    /// In characters; `None`: no limit.
    name_width: Option<i32>,
    role_width: Option<i32>,
}

from_row!(postgres: Shape { encoding, has_jsonb, name_width, role_width });

/// True when the text itself was refused: an impossible character or escape, or too many characters.
pub(super) fn may_fit(error: &sqlx::Error) -> bool {
    errors::code(error).is_some_and(|code| matches!(code.as_str(), "22P05" | "22P02" | "22001" | "22021"))
}

impl Shape {
    pub(super) async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        sqlx::query_as(SHAPE).persistent(false).fetch_one(connection).await
    }

    pub(super) fn name<'t>(&self, name: &'t str) -> Cow<'t, str> {
        self.text(name, self.name_width)
    }

    pub(super) fn role<'t>(&self, role: &'t str) -> Cow<'t, str> {
        self.text(role, self.role_width)
    }

    fn text<'t>(&self, text: &'t str, width: Option<i32>) -> Cow<'t, str> {
        let width = width.and_then(|width| usize::try_from(width).ok()).unwrap_or(usize::MAX);
        if text.chars().count() <= width && text.chars().all(|character| self.has(character)) {
            return Cow::Borrowed(text);
        }
        let fitting = |character| if self.has(character) { character } else { UNKNOWN };
        Cow::Owned(text.chars().take(width).map(fitting).collect())
    }

    /// The document, as far as its column can hold it.
    pub(super) fn document<'t>(&self, json: &'t str) -> Cow<'t, str> {
        let json = if self.has_jsonb { without_impossible_escapes(json) } else { Cow::Borrowed(json) };
        if json.chars().all(|character| self.has(character)) {
            return json;
        }
        // JSON has such characters only within texts.
        let mut fitting = String::with_capacity(json.len());
        for character in json.chars() {
            if self.has(character) {
                fitting.push(character);
            } else if self.has_jsonb {
                fitting.push(UNKNOWN);
            } else {
                // An escape keeps the character for readers of the JSON.
                push_escaped(&mut fitting, character);
            }
        }
        Cow::Owned(fitting)
    }

    fn has(&self, character: char) -> bool {
        match self.encoding.as_str() {
            // SQL_ASCII stores any bytes.
            "UTF8" | "SQL_ASCII" => true,
            // In Latin-1 the bytes from 80 to 9f are control characters.
            "LATIN1" => u32::from(character) <= 0xff,
            // The common part of all other encodings.
            _ => character.is_ascii(),
        }
    }
}

fn push_escaped(json: &mut String, character: char) {
    use std::fmt::Write as _;
    for unit in character.encode_utf16(&mut [0; 2]) {
        // Writing to a text cannot fail.
        let _ = write!(json, "\\u{unit:04x}");
    }
}

/// The JSON with [`UNKNOWN`] for each `\u0000` and each half of a surrogate pair.
fn without_impossible_escapes(json: &str) -> Cow<'_, str> {
    if !json.contains("\\u") {
        return Cow::Borrowed(json);
    }
    let mut fitting = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        fitting.push_str(&rest[..at]);
        let escape = &rest[at..];
        let (length, fits) = match unit(escape) {
            // Another escape, such as `\n`.
            None => (1 + escape[1..].chars().next().map_or(0, char::len_utf8), true),
            // A complete surrogate pair.
            Some(0xd800..=0xdbff) if matches!(escape.get(6..).and_then(unit), Some(0xdc00..=0xdfff)) => (12, true),
            Some(0 | 0xd800..=0xdfff) => (6, false),
            Some(_) => (6, true),
        };
        if fits {
            fitting.push_str(&escape[..length]);
        } else {
            fitting.push(UNKNOWN);
        }
        rest = &escape[length..];
    }
    fitting.push_str(rest);
    Cow::Owned(fitting)
}

/// The code unit of `\uXXXX` at the beginning of this text.
fn unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(encoding: &str, has_jsonb: bool) -> Shape {
        Shape { encoding: encoding.to_owned(), has_jsonb, name_width: Some(3), role_width: None }
    }

    #[test]
    fn impossible_jsonb_escapes_replaced() {
        for (json, fitting) in [
            (r#"{"a":"\u0000x"}"#, r#"{"a":"?x"}"#),
            (r#"{"a":"\ud83d"}"#, r#"{"a":"?"}"#),
            (r#"{"a":"\udc00\ud83d\ud83d\ude00"}"#, r#"{"a":"??\ud83d\ude00"}"#),
            (r#"{"a":"\\u0000 \u00e9 \"é\" \n"}"#, r#"{"a":"\\u0000 \u00e9 \"é\" \n"}"#),
            (r#"{"a":"\u00"}\"#, r#"{"a":"\u00"}\"#),
        ] {
            assert_eq!(shape("UTF8", true).document(json), fitting);
            assert_eq!(shape("UTF8", false).document(json), json);
        }
    }

    #[test]
    fn missing_characters_escaped_in_documents_replaced_in_names() {
        let json = "{\"a\":\"é\u{1f600}\"}";
        assert_eq!(shape("LATIN1", false).document(json), "{\"a\":\"é\\ud83d\\ude00\"}");
        assert_eq!(shape("LATIN1", true).document(json), "{\"a\":\"é?\"}");
        assert_eq!(shape("WIN1252", false).document(json), "{\"a\":\"\\u00e9\\ud83d\\ude00\"}");
        assert_eq!(shape("LATIN1", false).name("é\u{1f600}xyz"), "é?x");
        assert_eq!(shape("UTF8", false).name("é\u{1f600}"), "é\u{1f600}");
        assert_eq!(shape("LATIN1", false).role("leader"), "leader");
    }
}
