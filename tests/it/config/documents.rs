//! The documents against the code. `UPDATE_DOCS=1` writes what is generated.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use refresh_worker::config::{
    Config, Role, VARIABLES,
    variables::{markdown_tables, sample_file},
};

const SAMPLE: &str = ".env.example";
const DOCUMENT: &str = "docs/configuration.md";
const BEGIN: &str = "<!-- settings: generated from src/config/variables.rs -->\n";
const END: &str = "<!-- end of settings -->\n";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("read {name}: {error}"))
}

fn updating() -> bool {
    env::var_os("UPDATE_DOCS").is_some()
}

/// The document with the tables of the code between its marks.
fn with_current_tables(document: &str) -> String {
    let (before, rest) = document.split_once(BEGIN).expect("the document has the begin mark");
    let (_, after) = rest.split_once(END).expect("the document has the end mark");
    format!("{before}{BEGIN}{}{END}{after}", markdown_tables())
}

/// Names and defaults of the rows of a table that begin with one setting: `| `NAME` | default | …`.
fn rows(document: &str) -> Vec<(&str, &str)> {
    let row = |line| {
        let mut cells = str::strip_prefix(line, "| `")?.split(" | ");
        let name = cells.next()?.trim_end_matches('`');
        let is_setting = name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        is_setting.then_some((name, cells.next()?.trim()))
    };
    document.lines().filter_map(row).collect()
}

#[test]
fn sample_file_has_every_setting() {
    if updating() {
        fs::write(path(SAMPLE), sample_file()).unwrap();
    }
    assert_eq!(read(SAMPLE), sample_file(), "run again with UPDATE_DOCS=1");
}

#[test]
fn sample_file_is_valid_with_or_without_comments() {
    let sample = read(SAMPLE);
    let all: BTreeMap<&str, &str> = sample
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once('='))
        .filter(|(n, _)| !n.contains(' '))
        .collect();
    let active: BTreeMap<&str, &str> =
        sample.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect();
    assert_eq!(all.len(), VARIABLES.len());
    for chosen in [all, active] {
        let vars = |name: &str| {
            let value = chosen.get(name).map(|value| value.trim_matches('\'').to_owned());
            // A file of the system, which is not in the same place everywhere.
            value.filter(|value| name != "SSL_CERT_FILE" || std::path::Path::new(value).exists())
        };
        Config::read(&vars, Role::Refresh).unwrap_or_else(|errors| panic!("{errors}"));
        Role::read(&vars).unwrap();
    }
}

#[test]
fn configuration_page_lists_every_setting() {
    let document = read(DOCUMENT);
    let current = with_current_tables(&document);
    if updating() {
        fs::write(path(DOCUMENT), &current).unwrap();
        return;
    }
    assert_eq!(document, current, "run again with UPDATE_DOCS=1");
}

/// The README has only the settings that most people need.
#[test]
fn readme_settings_agree_with_the_code() {
    assert_eq!(rows(&markdown_tables()).len(), VARIABLES.len(), "the tables themselves are understood");
    for (name, default) in rows(&read("README.md")) {
        let variable = VARIABLES.iter().find(|variable| variable.name == name);
        let variable = variable.unwrap_or_else(|| panic!("README.md names {name}, which the worker does not read"));
        // A longer text may be shortened there.
        if default.starts_with('`') && default.matches('`').count() == 2 && default.ends_with('`') {
            assert_eq!(variable.default_text(), default, "the default of {name} in README.md");
        }
    }
}
