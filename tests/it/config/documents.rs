//! The documents against the code. `UPDATE_DOCS=1` writes what is generated.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use refresh_worker::config::{
    Config, Role, VARIABLES,
    variables::{markdown_table, sample_file},
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

/// The document with the table of the code in its place.
fn with_current_table(document: &str) -> String {
    let (before, rest) = document.split_once(BEGIN).expect("the document has the begin mark");
    let (_, after) = rest.split_once(END).expect("the document has the end mark");
    format!("{before}{BEGIN}{}{END}{after}", markdown_table())
}

/// Names and defaults of the rows of a table: `| `NAME` | default | …`.
fn rows(document: &str) -> BTreeMap<String, String> {
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.trim_end_matches('`').to_owned();
        let is_variable = name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        is_variable.then_some((name, cells.next()?.trim().replace('`', "")))
    };
    document.lines().filter_map(row).collect()
}

#[test]
fn the_sample_file_has_every_setting_with_its_default() {
    if updating() {
        fs::write(path(SAMPLE), sample_file()).unwrap();
    }
    assert_eq!(read(SAMPLE), sample_file(), "run again with UPDATE_DOCS=1");
}

#[test]
fn a_copy_of_the_sample_file_works_and_every_line_in_it_does() {
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
fn the_configuration_page_lists_exactly_what_the_code_reads() {
    let document = read(DOCUMENT);
    let current = with_current_table(&document);
    if updating() {
        fs::write(path(DOCUMENT), &current).unwrap();
        return;
    }
    assert_eq!(document, current, "run again with UPDATE_DOCS=1");
}

#[test]
fn a_table_of_settings_in_the_readme_agrees_with_the_code() {
    let expected: BTreeMap<String, String> =
        VARIABLES.iter().map(|variable| (variable.name.to_owned(), variable.default_text().replace('`', ""))).collect();
    assert_eq!(rows(&markdown_table()), expected, "the table itself is understood");
    let found = rows(&fs::read_to_string(path("README.md")).unwrap_or_default());
    if !found.is_empty() {
        assert_eq!(found, expected, "README.md: the names and defaults of its table of settings");
    }
}
