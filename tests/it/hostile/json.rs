//! JSON as nobody should write it, and good JSON that was damaged.

use proptest::{collection, prelude::*, sample::select};
use serde_json::{Map, Value, json};

/// Texts that have broken somebody's parser.
pub const ODD_TEXTS: [&str; 22] = [
    "",
    " ",
    "#",
    "%23",
    "##2PP",
    "../../etc/passwd",
    "#2PP/../clans",
    "2PP?x=1",
    "#2PP\u{0}",
    "\u{0}",
    "\u{202e}PP2#",
    "😀",
    "null",
    "NaN",
    "-1",
    "1e999",
    "0001-01-01T00:00:00",
    "9999-12-31T23:59:59.999999",
    "2026-13-45T99:99:99",
    "2026-01-01T00:00:00+99:99",
    "'; DROP TABLE clans; --",
    "$1",
];

/// A placeholder for a literal that `serde_json::Value` cannot hold; [`text`] puts the literal there.
const LITERALS: [(&str, &str); 8] = [
    ("\"@huge@\"", "1e400"),
    ("\"@long@\"", "123456789012345678901234567890"),
    ("\"@minus@\"", "-0"),
    ("\"@tiny@\"", "1e-400"),
    ("\"@lone@\"", "\"\\ud800\""),
    ("\"@nul@\"", "\"a\\u0000b\""),
    ("\"@nan@\"", "NaN"),
    ("\"@deep@\"", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"),
];

/// A value written out, its odd literals in place.
pub fn text(value: &Value) -> String {
    LITERALS.iter().fold(value.to_string(), |text, (mark, literal)| text.replace(mark, literal))
}

/// A value that does not belong in its place.
pub fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => select(&ODD_TEXTS[..]).prop_map(|text| json!(text)),
        3 => select(&LITERALS[..7]).prop_map(|(mark, _)| json!(mark.trim_matches('"'))),
        1 => Just(json!("@deep@")),
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(|value| json!(value)),
        2 => any::<i64>().prop_map(|value| json!(value)),
        2 => any::<f64>().prop_map(|value| json!(value)),
        1 => ".{0,40}".prop_map(|value| json!(value)),
        1 => (1_000_usize..40_000).prop_map(|length| json!("x".repeat(length))),
        1 => Just(json!([])),
        1 => Just(json!({})),
        1 => Just(json!([{"tag": "#2PP"}, null, 3])),
    ]
}

/// Any JSON of some depth.
pub fn any_json() -> impl Strategy<Value = Value> {
    odd().prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            collection::hash_map(name(), inner, 0..6).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        select(&["tag", "type", "body", "httpMethod", "path", "requests", "source", "detail", "members", "clan"][..])
            .prop_map(str::to_owned),
        ".{0,12}",
    ]
}

/// A damage: its place (each number picks a child), and the new value there; `None` removes the field.
#[derive(Clone, Debug)]
pub struct Damage {
    path: Vec<usize>,
    instead: Option<Value>,
}

pub fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let one = (collection::vec(any::<usize>(), 1..5), proptest::option::weighted(0.8, odd()))
        .prop_map(|(path, instead)| Damage { path, instead });
    collection::vec(one, 1..4)
}

impl Damage {
    pub fn apply(&self, value: &mut Value) {
        let (Some((&pick, rest)), count) = (self.path.split_first(), children(value)) else { return };
        if count == 0 {
            return;
        }
        let pick = pick % count;
        if !rest.is_empty() && children(child(value, pick)) > 0 {
            let deeper = Self { path: rest.to_vec(), instead: self.instead.clone() };
            return deeper.apply(child(value, pick));
        }
        match &self.instead {
            Some(instead) => *child(value, pick) = instead.clone(),
            None => remove(value, pick),
        }
    }
}

fn children(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    }
}

fn child(value: &mut Value, pick: usize) -> &mut Value {
    match value {
        Value::Array(items) => &mut items[pick],
        Value::Object(fields) => fields.values_mut().nth(pick).expect("picked among the fields"),
        _ => unreachable!("only what has children is picked from"),
    }
}

fn remove(value: &mut Value, pick: usize) {
    match value {
        Value::Array(items) => drop(items.remove(pick)),
        Value::Object(fields) => {
            let name = fields.keys().nth(pick).expect("picked among the fields").clone();
            let kept: Map<String, Value> = std::mem::take(fields).into_iter().filter(|(key, _)| *key != name).collect();
            *fields = kept;
        }
        _ => {}
    }
}
