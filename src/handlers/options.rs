//! The options of a refresh: a JSON object to [`RunOptions`], or all its problems. Touches nothing.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Map, Value};

use crate::{
    model::{Kind, ObjectId, Priority, Tag},
    worker::RunOptions,
};

/// The names of all options.
pub const KNOWN_OPTIONS: [&str; 5] = ["max_requests", "max_runtime", "priority_filter", "requests", "tags"];

/// The objects that one event may name; more belong in the queue.
pub const MAX_NAMED: usize = 1000;

// The highest `max_runtime`: a day, far beyond any invocation.
const MAX_RUNTIME_SECONDS: f64 = 86_400.0;

/// The treatment of unknown names: refused in a caller's text, ignored in one that AWS wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    Refused,
    Ignored,
}

/// Reads the options. An option that is null counts as not given.
///
/// # Errors
/// All problems, one sentence each.
pub fn parse(options: &Map<String, Value>, unknown: Unknown) -> Result<RunOptions, Vec<String>> {
    let mut problems = Vec::new();
    let mut run = RunOptions::default();
    for (name, value) in options.iter().filter(|(_, value)| !value.is_null()) {
        let read = match name.as_str() {
            "max_requests" => max_requests(value).map(|count| run.max_requests = Some(count)),
            "max_runtime" => max_runtime(value).map(|time| run.max_runtime = Some(time)),
            "priority_filter" => priority_filter(value).map(|priorities| run.priority_filter = priorities),
            "requests" => requests(value).map(|objects| run.named.extend(objects)),
            "tags" => tags(value).map(|objects| run.named.extend(objects)),
            _ if unknown == Unknown::Ignored => Ok(()),
            other => Err(vec![format!("`{}` is not an option", shortened(other))]),
        };
        problems.extend(read.err().unwrap_or_default());
    }
    let mut seen = BTreeSet::new();
    run.named.retain(|object| seen.insert(object.clone()));
    if run.named.len() > MAX_NAMED {
        problems.push(format!("`requests` and `tags` name {} objects: at most {MAX_NAMED} in one go", run.named.len()));
    }
    if problems.is_empty() { Ok(run) } else { Err(problems) }
}

fn max_requests(value: &Value) -> Result<u64, Vec<String>> {
    value.as_u64().filter(|count| *count > 0).ok_or_else(|| wrong_value(value, "max_requests", "a whole number from 1"))
}

fn max_runtime(value: &Value) -> Result<Duration, Vec<String>> {
    value
        .as_f64()
        .filter(|seconds| *seconds > 0.0 && *seconds <= MAX_RUNTIME_SECONDS)
        .map(Duration::from_secs_f64)
        .ok_or_else(|| wrong_value(value, "max_runtime", "seconds, more than 0 and at most 86400"))
}

/// A priority or several, by number or by name.
fn priority_filter(value: &Value) -> Result<Vec<Priority>, Vec<String>> {
    let expected = "0 to 3, critical, high, medium or low, or a list of them";
    let entries = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    if entries.is_empty() {
        return Err(wrong_value(value, "priority_filter", expected));
    }
    let mut priorities = BTreeSet::new();
    for entry in entries {
        let priority = match entry {
            Value::Number(number) => number.to_string().parse(),
            Value::String(name) => name.parse(),
            _ => return Err(wrong_value(entry, "priority_filter", expected)),
        };
        priorities.insert(
            priority.map_err(|_: crate::model::UnknownPriority| wrong_value(entry, "priority_filter", expected))?,
        );
    }
    Ok(priorities.into_iter().collect())
}

/// `[{"type": "clan", "tag": "#2PP"}, …]`.
fn requests(value: &Value) -> Result<Vec<ObjectId>, Vec<String>> {
    let Value::Array(entries) = value else {
        return Err(wrong_value(value, "requests", r##"a list such as [{"type": "player", "tag": "#2PP"}]"##));
    };
    collect(entries.iter().enumerate().map(|(index, entry)| {
        request(entry).map_err(|problem| format!("`requests[{index}]` {}: {problem}", shown(entry)))
    }))
}

fn request(entry: &Value) -> Result<ObjectId, String> {
    let Value::Object(fields) = entry else {
        return Err(r#"expected an object with "type" and "tag""#.to_owned());
    };
    if let Some(other) = fields.keys().find(|name| !matches!(name.as_str(), "type" | "tag")) {
        return Err(format!(r#"`{}` is unknown: expected "type" and "tag""#, shortened(other)));
    }
    let text = |name: &str| match fields.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        _ => Err(format!(r#"expected a text as "{name}""#)),
    };
    let kind: Kind =
        text("type")?.trim().to_ascii_lowercase().parse().map_err(|e: crate::model::UnknownKind| e.to_string())?;
    let tag = Tag::from_person(text("tag")?).map_err(|e: crate::model::ImpossibleTag| e.to_string())?;
    Ok(ObjectId::new(kind, tag))
}

/// Clan tags: one, or a list.
fn tags(value: &Value) -> Result<Vec<ObjectId>, Vec<String>> {
    let entries = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    collect(entries.iter().enumerate().map(|(index, entry)| {
        let place = if value.is_array() { format!("`tags[{index}]`") } else { "`tags`".to_owned() };
        let Value::String(text) = entry else {
            return Err(format!("{place} is {}: expected a clan tag such as \"#2PP\"", shown(entry)));
        };
        Tag::from_person(text)
            .map(ObjectId::clan)
            .map_err(|error: crate::model::ImpossibleTag| format!("{place}: {error}"))
    }))
}

/// All objects, or the problems of some; the first ten problems are enough to see the mistake.
fn collect(entries: impl Iterator<Item = Result<ObjectId, String>>) -> Result<Vec<ObjectId>, Vec<String>> {
    let (mut objects, mut problems) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry {
            Ok(object) => objects.push(object),
            Err(problem) if problems.len() < 10 => problems.push(problem),
            Err(_) => {}
        }
    }
    if problems.is_empty() { Ok(objects) } else { Err(problems) }
}

fn wrong_value(value: &Value, name: &str, expected: &str) -> Vec<String> {
    vec![format!("`{name}` is {}: expected {expected}", shown(value))]
}

/// A value of the caller's, bounded.
fn shown(value: &Value) -> String {
    shortened(&value.to_string())
}

/// A caller's text, bounded, as messages repeat it.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(options: &Value) -> Result<RunOptions, Vec<String>> {
        parse(options.as_object().unwrap(), Unknown::Refused)
    }

    #[test]
    fn every_option_is_read() {
        let options = read(&json!({
            "max_requests": 50, "max_runtime": 1.5, "priority_filter": ["LOW", 0],
            "requests": [{"type": "Player", "tag": "#8gql2"}, {"type": "war", "tag": "2PP"}], "tags": ["2pp", "#2PP"],
        }))
        .unwrap();
        assert_eq!((options.max_requests, options.max_runtime), (Some(50), Some(Duration::from_millis(1500))));
        assert_eq!(options.priority_filter, [Priority::Critical, Priority::Low]);
        let named: Vec<String> = options.named.iter().map(ToString::to_string).collect();
        assert_eq!(named, ["player:8GQL2", "war:2PP", "clan:2PP"]);
    }

    #[test]
    fn single_priority_and_tag_need_no_list() {
        for priority in [json!(1), json!("high"), json!("1"), json!([1]), json!(["High", 1])] {
            assert_eq!(read(&json!({"priority_filter": priority})).unwrap().priority_filter, [Priority::High]);
        }
        assert_eq!(read(&json!({"tags": "#2PP"})).unwrap().named.len(), 1);
    }

    #[test]
    fn null_option_counts_as_missing() {
        let options = read(&json!({"max_requests": null, "tags": null, "priority_filter": null})).unwrap();
        assert!(options.max_requests.is_none() && options.named.is_empty() && options.priority_filter.is_empty());
    }

    #[test]
    fn unknown_names_are_refused_unless_from_aws() {
        let options = json!({"max_request": 5});
        assert_eq!(read(&options).unwrap_err(), ["`max_request` is not an option"]);
        assert!(parse(options.as_object().unwrap(), Unknown::Ignored).is_ok());
    }

    #[test]
    fn all_problems_are_reported_together() {
        let long = "x".repeat(5000);
        let problems = read(&json!({
            "max_requests": 0, "max_runtime": "soon", "priority_filter": [4], "dry_run": true,
            "requests": [
                {"type": "clan", "tag": "#2PP"}, {"type": "clam", "tag": "#2PP"}, {"type": "player", "tag": "#AB!"},
                {"type": "player"}, "clan:#2PP", {"type": "war", "tag": "2PP", "priority": 1}, {"type": long, "tag": "2PP"},
            ],
            "tags": ["#0", 17],
        }))
        .unwrap_err();
        insta::assert_snapshot!(problems.join("\n"));
        assert!(problems.iter().all(|problem| problem.len() < 300));
    }

    #[test]
    fn named_objects_are_limited() {
        let letters: Vec<char> = "0289PYLQGRJCUV".chars().collect();
        let tags: Vec<String> = (0..=MAX_NAMED)
            .map(|n| {
                [2 + n % 10, 2 + n / 10 % 10, 2 + n / 100 % 10, 2 + n / 1000].iter().map(|i| letters[*i]).collect()
            })
            .collect();
        assert_eq!(read(&json!({"tags": tags})).unwrap_err().len(), 1);
        assert!(read(&json!({"tags": tags[1..]})).is_ok());
    }
}
