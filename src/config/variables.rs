//! The settings: the one source for the reader, for `.env.example` and for the documents.

mod table;

use std::{fmt::Write, sync::LazyLock};

pub(super) use table::CA_EXAMPLE;
pub use table::SECTIONS;

/// A lookup of variables by name.
pub type Vars<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The portal accounts that have variables of their own: `COC_EMAIL`, `COC_EMAIL_2` … `COC_EMAIL_9`.
pub(super) const MAX_ACCOUNTS: u32 = 9;

/// An environment variable that the worker reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    pub name: &'static str,
    /// The value if the variable is not set. Without one, [`Variable::unset`] describes that case.
    pub default: Option<&'static str>,
    /// The meaning of an unset variable without a default: `required`, `all`, `no limit` …
    pub unset: &'static str,
    pub meaning: &'static str,
    pub example: &'static str,
    /// Its value is never printed.
    pub secret: bool,
}

/// Variables of one concern, under one heading of the documents.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    pub title: &'static str,
    pub variables: &'static [Variable],
}

/// Every variable of all sections.
pub static VARIABLES: LazyLock<Vec<Variable>> =
    LazyLock::new(|| SECTIONS.iter().flat_map(|section| section.variables).copied().collect());

impl Variable {
    /// The default as documents show it.
    #[must_use]
    pub fn default_text(&self) -> String {
        self.default.map_or_else(|| self.unset.to_owned(), |default| format!("`{default}`"))
    }

    /// The line of `.env.example`, with the default or else the example.
    fn sample_line(&self) -> String {
        // An unset key of the API is an error, unless another setting gives one.
        let is_active = self.unset.starts_with("required");
        let value = self.default.unwrap_or(self.example);
        // Quoted where a shell would split the value.
        let quote = if value.contains([' ', '"', '(', '&', ';']) { "'" } else { "" };
        format!("{}{}={quote}{value}{quote}\n", if is_active { "" } else { "#" }, self.name)
    }
}

const fn with_default(
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
    example: &'static str,
) -> Variable {
    Variable { name, default: Some(default), unset: "", meaning, example, secret: false }
}

const fn without_default(
    name: &'static str,
    unset: &'static str,
    meaning: &'static str,
    example: &'static str,
) -> Variable {
    Variable { name, default: None, unset, meaning, example, secret: false }
}

const fn secret(name: &'static str, unset: &'static str, meaning: &'static str, example: &'static str) -> Variable {
    Variable { name, default: None, unset, meaning, example, secret: true }
}

/// The variable of this name. Every name that is read is in the table.
pub(super) fn variable(name: &str) -> &'static Variable {
    VARIABLES.iter().find(|variable| variable.name == name).expect("every variable that is read is in the table")
}

/// The settings in Markdown: a heading and a table for each section.
#[must_use]
pub fn markdown_tables() -> String {
    let mut text = String::new();
    for Section { title, variables } in SECTIONS {
        let _ = writeln!(text, "\n### {title}\n\n| setting | default | meaning | example |\n|---|---|---|---|");
        for variable in *variables {
            let (name, default) = (variable.name, variable.default_text());
            let _ = writeln!(text, "| `{name}` | {default} | {} | `{}` |", variable.meaning, variable.example);
        }
    }
    text + "\n"
}

/// The text of `.env.example`: every setting with its default, ready to be copied.
#[must_use]
pub fn sample_file() -> String {
    let mut sample = String::from(
        "# Every setting of the refresh worker. A line that is commented out shows the default, or an example if there is none.\n\
         # To load a copy into a shell: set -a; . ./.env; set +a\n",
    );
    for Section { title, variables } in SECTIONS {
        let _ = writeln!(sample, "\n# === {title} ===");
        for variable in *variables {
            // Backticks are Markdown, and a shell would run them.
            let meaning = variable.meaning.replace('`', "");
            let default = variable.default_text().replace('`', "");
            let _ = write!(sample, "\n# {meaning}\n# Default: {default}.\n{}", variable.sample_line());
        }
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_listed_once_and_whole() {
        for (index, variable) in VARIABLES.iter().enumerate() {
            assert!(VARIABLES[..index].iter().all(|other| other.name != variable.name), "{}", variable.name);
            assert_eq!(variable.default.is_none(), !variable.unset.is_empty(), "{}", variable.name);
            assert!(!variable.meaning.is_empty() && !variable.example.is_empty(), "{}", variable.name);
            assert!(!(variable.meaning.contains('|') || variable.example.contains('|')), "{}", variable.name);
        }
    }
}
