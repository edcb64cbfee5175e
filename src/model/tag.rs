//! Tags, the names of clans, players and wars in the game.

use std::{fmt, str::FromStr};

/// The characters the game uses in tags.
const ALPHABET: &str = "0289PYLQGRJCUV";

/// The longest tag the tables can hold (`varchar(15)`).
const MAX_LENGTH: usize = 15;

/// A tag in its stored form: upper case, without `#`.
///
/// ```
/// use refresh_worker::model::Tag;
/// let tag: Tag = " %232pyloq8 ".parse().unwrap();
/// assert_eq!(tag.as_str(), "2PYL0Q8");
/// assert!("2PX".parse::<Tag>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Tag(Box<str>);

/// The reason why a text cannot be a tag. No call is spent on one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImpossibleTag {
    #[error("tag is empty")]
    Empty,
    #[error("tag `{0}` is longer than {MAX_LENGTH} characters")]
    TooLong(String),
    #[error("tag `{tag}` has the character {character:?}: a tag is made of {ALPHABET}")]
    Character { tag: String, character: char },
    #[error("tag `0` stands for a war that is not drawn yet")]
    NotDrawn,
}

impl Tag {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A random tag, so that a search does not always begin at the same object.
    #[must_use]
    pub fn somewhere() -> Self {
        let alphabet = ALPHABET.as_bytes();
        // The leading 2 keeps the tag valid whatever follows.
        let digits = (0..5).map(|_| char::from(alphabet[fastrand::usize(..alphabet.len())]));
        Self(std::iter::once('2').chain(digits).collect::<String>().into())
    }

    /// The tag as part of a URL path: `%232PP`.
    #[must_use]
    pub fn path_segment(&self) -> String {
        format!("%23{}", self.0)
    }

    /// Reads what a person typed or pasted: in quotes or brackets, with full-width characters, with spaces and invisible marks
    /// around it, or with repeated `#` or `%23`.
    ///
    /// # Errors
    /// As [`Self::normalise`].
    pub fn from_person(text: &str) -> Result<Self, ImpossibleTag> {
        let narrow = |c: char| match c {
            // 0xfee0 is the distance between the full-width characters and ASCII.
            '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
            c => c,
        };
        let is_around = |c: char| {
            c.is_whitespace()
                || c.is_control()
                || matches!(c, '"' | '\'' | '`' | '<' | '>' | '(' | ')' | '[' | ']' | ',' | ';' | '.')
                || matches!(c, '\u{2018}'..='\u{201f}' | '\u{ab}' | '\u{bb}' | '\u{200b}'..='\u{200f}')
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}')
        };
        // Full-width characters come from Asian keyboards.
        let text: String = text.chars().map(narrow).collect();
        let mut bare = text.trim_matches(is_around);
        while let Some(rest) =
            // A tag copied from a URL may be encoded twice.
            bare.strip_prefix('#').or_else(|| bare.strip_prefix("%23")).or_else(|| bare.strip_prefix("%2523"))
        {
            bare = rest.trim_matches(is_around);
        }
        Self::normalise(bare)
    }

    /// Normalises the spellings of producers: surrounding space, one leading `#` or `%23`, lower case, letter O for zero.
    ///
    /// # Errors
    /// When the text is empty, too long for the tables, or has a character that no tag has.
    pub fn normalise(text: &str) -> Result<Self, ImpossibleTag> {
        let trimmed = text.trim();
        let bare = trimmed.strip_prefix("%23").or_else(|| trimmed.strip_prefix('#')).unwrap_or(trimmed);
        if bare.is_empty() {
            return Err(ImpossibleTag::Empty);
        }
        // Before the alphabet, so that the message stays short.
        if bare.chars().count() > MAX_LENGTH {
            return Err(ImpossibleTag::TooLong(bare.chars().take(40).collect()));
        }
        let upper: String =
            // The game has no letter O, but people type it for zero.
            bare.chars().map(|c| if matches!(c, 'o' | 'O') { '0' } else { c.to_ascii_uppercase() }).collect();
        if let Some(character) = upper.chars().find(|c| !ALPHABET.contains(*c)) {
            return Err(ImpossibleTag::Character { tag: bare.to_owned(), character });
        }
        // The API writes #0 for a league war whose opponent is unknown.
        if upper == "0" {
            return Err(ImpossibleTag::NotDrawn);
        }
        Ok(Self(upper.into()))
    }
}

impl<'de> serde::Deserialize<'de> for Tag {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::normalise(&text).map_err(serde::de::Error::custom)
    }
}

impl FromStr for Tag {
    type Err = ImpossibleTag;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::normalise(text)
    }
}

/// The spelling for people, with `#`.
impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalise_accepts_producers_spellings() {
        for spelling in ["2PYL0Q8", "#2pyl0q8", "%232PYLOQ8", "  #2PYLoQ8\n"] {
            assert_eq!(Tag::normalise(spelling).unwrap().as_str(), "2PYL0Q8", "{spelling:?}");
        }
    }

    #[test]
    fn from_person_accepts_pasted_spellings() {
        for spelling in [
            "2pyl0q8",
            "\"#2PYLOQ8\"",
            "'2PYLoQ8'",
            "`#2PYL0Q8`",
            "##2PYL0Q8",
            "# 2PYL0Q8",
            "%2523 2PYL0Q8",
            "\u{ff03}\u{ff12}\u{ff30}\u{ff39}\u{ff2c}\u{ff2f}\u{ff31}\u{ff18}",
            "\u{201c}#2PYL0Q8\u{201d}",
            "\u{feff}#2PYL0Q8\u{200b}",
            "<#2PYL0Q8>,",
        ] {
            assert_eq!(Tag::from_person(spelling).unwrap().as_str(), "2PYL0Q8", "{spelling:?}");
        }
        assert!(Tag::normalise("\"#2PP\"").is_err(), "the contract of the queue stays as it is");
        assert!(Tag::from_person("2P P").is_err() && Tag::from_person("##").is_err());
    }

    #[test]
    fn impossible_tag_has_a_reason() {
        assert_eq!(Tag::normalise(" # "), Err(ImpossibleTag::Empty));
        assert_eq!(Tag::normalise("#0"), Err(ImpossibleTag::NotDrawn));
        assert!(matches!(Tag::normalise("##2PP"), Err(ImpossibleTag::Character { character: '#', .. })));
        assert!(matches!(Tag::normalise("../2PP"), Err(ImpossibleTag::Character { .. })));
        assert!(matches!(Tag::normalise("2PP2PP2PP2PP2PP2"), Err(ImpossibleTag::TooLong(_))));
    }

    #[test]
    fn long_impossible_tag_is_shortened_in_message() {
        let message = Tag::normalise(&"Ä".repeat(5000)).unwrap_err().to_string();
        assert!(message.len() < 200, "{message}");
    }
}
