//! Damages bodies. Pure functions from bytes to bytes.

use super::{answer, request::Asked};
use crate::model::Tag;

/// The depth of [`deep_json`]. Parsers that recurse give up at a hundred or so.
const DEPTH: usize = 100_000;

/// The keys without which a document of some kind is worthless.
const MANDATORY: [&str; 7] = ["tag", "name", "state", "clan", "clans", "items", "rounds"];

/// The tag that [`with_another_tag`] puts in place of the requested one.
const ANOTHER_TAG: &str = "#2Y0U9QG";

pub(super) fn first_half(body: &[u8]) -> Vec<u8> {
    // Valid HTTP, but the JSON stops in the middle.
    body[..body.len() / 2].to_vec()
}

pub(super) fn without_mandatory_keys(body: &[u8]) -> Vec<u8> {
    let mut document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    if let Some(object) = document.as_object_mut() {
        // The optional keys stay, so that the document still looks like one.
        object.retain(|key, _| !MANDATORY.contains(&key.as_str()));
    }
    document.to_string().into_bytes()
}

/// Puts another tag wherever the requested one stands.
pub(super) fn with_another_tag(body: &[u8], asked: &Asked) -> Vec<u8> {
    let asked_tag = format!("\"#{}\"", asked.tag.as_ref().map_or("", Tag::as_str));
    // With its quotes and hash, so that no other text that contains the letters changes.
    String::from_utf8_lossy(body).replace(&asked_tag, &format!("\"{ANOTHER_TAG}\"")).into_bytes()
}

pub(super) fn not_json() -> Vec<u8> {
    answer::html("200 OK").into_bytes()
}

pub(super) fn deep_json() -> Vec<u8> {
    let mut body = br#"{"deep":"#.to_vec();
    // Built from bytes, because a recursive writer could not write a value this deep.
    body.resize(body.len() + DEPTH, b'[');
    body.resize(body.len() + DEPTH, b']');
    body.push(b'}');
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_is_damaged_as_ordered() {
        let body = br##"{"tag":"#2PP","name":"x","trophies":5}"##;
        assert!(serde_json::from_slice::<serde_json::Value>(&first_half(body)).is_err());
        assert_eq!(without_mandatory_keys(body), br#"{"trophies":5}"#);
        let other = with_another_tag(body, &Asked::parse("/v1/players/%232PP"));
        assert_eq!(other, br##"{"tag":"#2Y0U9QG","name":"x","trophies":5}"##);
        assert!(serde_json::from_slice::<serde_json::Value>(&not_json()).is_err());
    }
}
