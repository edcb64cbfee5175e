//! The findings of a check, as text and as JSON.

use std::fmt::Write as _;

use super::super::{
    Exit,
    text::{Style, counted},
};

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    Fine,
    /// It works, but a person should know.
    Warning,
    /// A run would fail or do harm.
    Problem,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub area: &'static str,
    pub grade: Grade,
    pub what: String,
    /// The way to fix it; `None` when all is well.
    pub fix: Option<String>,
}

/// All results, in order.
#[derive(Clone, Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    pub fn fine(&mut self, area: &'static str, what: impl Into<String>) {
        self.0.push(Finding { area, grade: Grade::Fine, what: what.into(), fix: None });
    }

    pub fn warning(&mut self, area: &'static str, what: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { area, grade: Grade::Warning, what: what.into(), fix: Some(fix.into()) });
    }

    pub fn problem(&mut self, area: &'static str, what: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { area, grade: Grade::Problem, what: what.into(), fix: Some(fix.into()) });
    }

    #[must_use]
    pub fn number_of(&self, grade: Grade) -> u64 {
        self.0.iter().filter(|finding| finding.grade == grade).count() as u64
    }

    /// For people: areas as headings, and a line per finding with its fix below.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let mut text = String::new();
        let mut area = "";
        for finding in &self.0 {
            // Findings of one area may arrive in several groups.
            if finding.area != area {
                area = finding.area;
                let _ = writeln!(text, "{}", style.bold(area));
            }
            let grade = match finding.grade {
                Grade::Fine => style.good("ok     "),
                Grade::Warning => style.warn("warning"),
                Grade::Problem => style.bad("PROBLEM"),
            };
            // Continuation lines are aligned with the text, not with the grade.
            let _ = writeln!(text, "  {grade}  {}", finding.what.replace('\n', "\n           "));
            if let Some(fix) = finding.fix.as_ref().filter(|fix| !fix.is_empty()) {
                let _ = writeln!(text, "           -> {}", fix.replace('\n', "\n              "));
            }
        }
        let _ = writeln!(text, "\n{}", self.verdict(style));
        text
    }

    /// The exit of a command with these findings.
    pub fn exit(&self) -> Exit {
        if self.number_of(Grade::Problem) == 0 { Exit::Success } else { Exit::Failure }
    }

    fn verdict(&self, style: Style) -> String {
        let warnings = counted(self.number_of(Grade::Warning), "warning", "warnings");
        match (self.number_of(Grade::Problem), self.number_of(Grade::Warning)) {
            (0, 0) => style.good("ready to run"),
            (0, _) => style.warn(&format!("ready to run, with {warnings}")),
            (problems, 0) => style.bad(&format!("not ready to run: {}", counted(problems, "problem", "problems"))),
            (problems, _) => {
                style.bad(&format!("not ready to run: {}, {warnings}", counted(problems, "problem", "problems")))
            }
        }
    }

    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let grade = |grade: Grade| match grade {
            Grade::Fine => "ok",
            Grade::Warning => "warning",
            Grade::Problem => "problem",
        };
        let findings = self.0.iter().map(|finding| {
            serde_json::json!({
                "area": finding.area,
                "grade": grade(finding.grade),
                "what": finding.what,
                "fix": finding.fix,
            })
        });
        serde_json::json!({
            "ready_to_run": self.number_of(Grade::Problem) == 0,
            "problems": self.number_of(Grade::Problem),
            "warnings": self.number_of(Grade::Warning),
            "findings": findings.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn render_has_areas_fixes_and_a_verdict() {
        let mut findings = Findings::default();
        findings.fine("Redis", "answers at localhost:6379, version 7.0.15");
        findings.warning("Redis", "maxmemory-policy is `allkeys-lru`", "set maxmemory-policy to noeviction");
        findings.problem("PostgreSQL", "may not create a schema", "GRANT CREATE ON DATABASE coc TO worker;");
        insta::assert_snapshot!(findings.render(Style::PLAIN), @r"
        Redis
          ok       answers at localhost:6379, version 7.0.15
          warning  maxmemory-policy is `allkeys-lru`
                   -> set maxmemory-policy to noeviction
        PostgreSQL
          PROBLEM  may not create a schema
                   -> GRANT CREATE ON DATABASE coc TO worker;

        not ready to run: 1 problem, 1 warning
        ");
        assert_eq!(findings.to_json()["ready_to_run"], false);
    }

    #[test]
    fn warnings_alone_leave_it_ready() {
        let mut findings = Findings::default();
        findings.warning("clock", "20 s apart", "set the clock");
        assert!(findings.render(Style::PLAIN).ends_with("\nready to run, with 1 warning\n"));
        assert_eq!(findings.to_json()["ready_to_run"], true);
    }
}
