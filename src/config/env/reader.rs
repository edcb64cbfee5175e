//! Reads single variables and collects their problems.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use crate::config::{
    ConfigErrors, Problem,
    variables::{Vars, variable},
};

/// Reads single variables and collects their problems.
pub(super) struct Reader<'a> {
    vars: Vars<'a>,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(vars: Vars<'a>) -> Self {
        Self { vars, problems: Vec::new() }
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, ConfigErrors> {
        if self.problems.is_empty() { Ok(value) } else { Err(ConfigErrors { problems: self.problems }) }
    }

    /// The value as it is set. An empty value counts as not set.
    pub(super) fn own(&self, name: &str) -> Option<String> {
        (self.vars)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// Why a secret that is kept elsewhere could not be read.
    pub(super) fn secret_problem(&self, name: &str) -> Option<String> {
        (self.vars)(&format!("{name}.problem"))
    }

    /// The value, or the default of the table.
    pub(super) fn text(&self, name: &'static str) -> Option<String> {
        self.own(name).or_else(|| variable(name).default.map(str::to_owned))
    }

    pub(super) fn number<T: TryFrom<u64> + Default>(&mut self, name: &'static str, range: RangeInclusive<u64>) -> T {
        self.optional_number(name, range).unwrap_or_default()
    }

    pub(super) fn optional_number<T: TryFrom<u64>>(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<T> {
        let text = self.text(name)?;
        // One range check for every integer type, before the conversion.
        let number = u64::from_str(&text).ok().filter(|number| range.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            let expected = format!("expected a whole number from {} to {}", range.start(), range.end());
            self.refuse_as(name, expected, ());
        }
        number
    }

    pub(super) fn switch(&mut self, name: &'static str) -> bool {
        match self.text(name).unwrap_or_default().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => true,
            "false" | "0" | "no" | "off" => false,
            _ => self.refuse(name, "expected true or false (or 1, 0, yes, no, on, off)"),
        }
    }

    pub(super) fn refuse<T: Default>(&mut self, name: &'static str, expected: impl fmt::Display) -> T {
        self.refuse_as(name, expected, T::default())
    }

    /// Records that a variable is invalid and returns `instead`, so that the others are checked, too.
    pub(super) fn refuse_as<T>(&mut self, name: &'static str, expected: impl fmt::Display, instead: T) -> T {
        // If the value comes from a secret that could not be read, that is the problem to report.
        if let Some(problem) = self.secret_problem(name) {
            self.problems.push(Problem { variable: name, text: problem });
            return instead;
        }
        let value = match self.own(name) {
            None => "is not set".to_owned(),
            Some(_) if variable(name).secret => "is set (value not shown)".to_owned(),
            // A URL with a user part may contain a password, in whichever variable it was put by mistake.
            Some(value) if value.contains('@') => "is set (value not shown)".to_owned(),
            // A pasted file must not fill the log.
            Some(value) => format!("is `{}`", value.chars().take(80).collect::<String>()),
        };
        self.problems.push(Problem { variable: name, text: format!("{value}: {expected}") });
        instead
    }

    pub(super) fn has_problem_with(&self, names: &[&str]) -> bool {
        self.problems.iter().any(|problem| names.contains(&problem.variable))
    }
}
