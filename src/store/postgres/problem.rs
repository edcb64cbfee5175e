//! A problem with a database, and its fix.

/// A problem with a database, and its fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub what: String,
    /// The fix: a statement to run, or a sentence.
    pub fix: String,
    /// True when it certainly makes runs fail. Otherwise a person has to judge.
    pub is_certain: bool,
}

impl Problem {
    pub(super) fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into(), is_certain: true }
    }

    pub(super) fn doubt(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { is_certain: false, ..Self::new(what, fix) }
    }
}
