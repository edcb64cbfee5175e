//! `infra/`, the workflows and the scripts against the code. Checks that need a tool are in `infra/checks/run.sh`.

use std::{fs, path::PathBuf};

mod alarms;
mod documents;
mod examples;
mod metrics;
mod remains;
mod rights;
mod scripts;
mod workflows;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("read {name}: {error}"))
}

/// The text between two markers.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("`{begin}` is missing"));
    rest.split_once(end).unwrap_or_else(|| panic!("`{end}` does not follow `{begin}`")).0
}

/// Everything in double quotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('"').skip(1).step_by(2).collect()
}
