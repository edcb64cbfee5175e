//! The kinds and names of objects.

use std::{fmt, str::FromStr};

use super::Tag;

/// The kinds of objects a request can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Clan,
    Player,
    /// A clan's current war; its tag is the clan's.
    War,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Clan, Self::Player, Self::War];

    /// The name in the queue and in our tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clan => "clan",
            Self::Player => "player",
            Self::War => "war",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A type of request that this worker does not know.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("type `{0}` is unknown: expected clan, player or war")]
pub struct UnknownKind(pub String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            // A producer may have written a whole document here.
            .ok_or_else(|| UnknownKind(text.chars().take(40).collect()))
    }
}

/// An object that can be refreshed. The queue has one record per object, however often and in whatever spelling it is
/// requested.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ObjectId {
    pub kind: Kind,
    pub tag: Tag,
}

impl ObjectId {
    #[must_use]
    pub const fn new(kind: Kind, tag: Tag) -> Self {
        Self { kind, tag }
    }

    #[must_use]
    pub const fn clan(tag: Tag) -> Self {
        Self::new(Kind::Clan, tag)
    }

    #[must_use]
    pub const fn player(tag: Tag) -> Self {
        Self::new(Kind::Player, tag)
    }

    #[must_use]
    pub const fn war(tag: Tag) -> Self {
        Self::new(Kind::War, tag)
    }
}

impl ObjectId {
    /// Reads what a person wrote: `Clan: #2pyloq8`, in quotes or not.
    ///
    /// # Errors
    /// When the text does not name an object.
    pub fn from_person(text: &str) -> Result<Self, NotAnObject> {
        // Marks that editors and chats put around a copied text.
        let bare = text.trim().trim_matches(['"', '\'', '`', '\u{feff}', '\u{200b}']);
        let (kind, tag) =
            bare.split_once([':', '\u{ff1a}']).ok_or_else(|| NotAnObject::Form(text.chars().take(40).collect()))?;
        Ok(Self::new(kind.trim().to_lowercase().parse()?, Tag::from_person(tag)?))
    }
}

/// `clan:2PYL0Q8`, the name of the record in the queue.
impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.tag.as_str())
    }
}

/// Why a text is not the name of an object.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnObject {
    #[error("`{0}` is not of the form type:tag, such as clan:#2PP")]
    Form(String),
    #[error(transparent)]
    Kind(#[from] UnknownKind),
    #[error(transparent)]
    Tag(#[from] super::ImpossibleTag),
}

impl FromStr for ObjectId {
    type Err = NotAnObject;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, tag) = text.split_once(':').ok_or_else(|| NotAnObject::Form(text.chars().take(40).collect()))?;
        Ok(Self::new(kind.parse()?, tag.parse()?))
    }
}

impl From<ObjectId> for String {
    fn from(object: ObjectId) -> Self {
        object.to_string()
    }
}

impl TryFrom<String> for ObjectId {
    type Error = <Self as FromStr>::Err;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_reads_back_from_its_name() {
        let object: ObjectId = "war:#2pyl0q8".parse().unwrap();
        assert_eq!(object.to_string(), "war:2PYL0Q8");
        assert_eq!(object.to_string().parse::<ObjectId>().unwrap(), object);
    }

    #[test]
    fn from_person_accepts_common_spellings() {
        for text in ["\"clan:#2ppo\"", "Clan: 2PPO", "CLAN\u{ff1a}%232PPO", " clan:'#2PP0' "] {
            assert_eq!(ObjectId::from_person(text).unwrap().to_string(), "clan:2PP0", "{text}");
        }
    }

    #[test]
    fn unknown_type_names_the_known_ones() {
        let error = "clam:2PP".parse::<ObjectId>().unwrap_err();
        assert_eq!(error.to_string(), "type `clam` is unknown: expected clan, player or war");
    }
}
