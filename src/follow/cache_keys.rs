//! The keys under which readers cache an object in Redis, by template: `snapshot:clan:{tag}`. Pure functions.

use crate::model::{Kind, ObjectId};

/// The cache keys of these objects. A template that names a kind (`snapshot:clan:{tag}`) applies to that kind alone; with
/// `{kind}`, or without the name of a kind, it applies to all.
pub fn of<'a>(templates: &[String], objects: impl Iterator<Item = &'a ObjectId>) -> Vec<String> {
    let mut keys: Vec<String> = objects
        .flat_map(|object| templates.iter().filter(|text| is_for(text, object.kind)).map(|text| filled(text, object)))
        .collect();
    keys.sort_unstable();
    // Two objects may share a template without a kind.
    keys.dedup();
    keys
}

fn is_for(template: &str, kind: Kind) -> bool {
    // Whole words: `clan` must not match `clans` or `warrior`.
    let words = || template.split(|c: char| !c.is_ascii_alphanumeric());
    let named = Kind::ALL.into_iter().any(|one| words().any(|word| word == one.as_str()));
    template.contains("{kind}") || !named || words().any(|word| word == kind.as_str())
}

fn filled(template: &str, object: &ObjectId) -> String {
    template.replace("{kind}", object.kind.as_str()).replace("{tag}", object.tag.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_applies_to_its_kind_or_to_all() {
        let templates = ["snapshot:clan:{tag}", "web/{kind}/{tag}", "etag:{tag}"].map(str::to_owned);
        let keys = |object: &str| of(&templates, [object.parse().unwrap()].iter());
        assert_eq!(keys("clan:2PP"), ["etag:2PP", "snapshot:clan:2PP", "web/clan/2PP"]);
        assert_eq!(keys("war:2PP"), ["etag:2PP", "web/war/2PP"]);
    }

    #[test]
    fn shared_key_is_returned_once() {
        let objects = ["clan:2PP", "war:2PP"].map(|object| object.parse().unwrap());
        assert_eq!(of(&["etag:{tag}".to_owned()], objects.iter()), ["etag:2PP"]);
        assert_eq!(of(&[], objects.iter()), [""; 0]);
    }
}
