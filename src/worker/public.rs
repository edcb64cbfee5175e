//! Failures as anybody may read them: by their kind, without host, port, role, user or path. The log has the rest.

use super::report::StopReason;

// Words of an error, in small letters, and the public text for each. The first match counts.
const SIGNS: &[(&str, &str)] = &[
    ("standby", "a standby, which takes no writes"),
    ("readonly", "a read-only replica"),
    ("read-only", "read-only"),
    ("read only", "read-only"),
    ("25006", "read-only"),
    ("too many connections", "no connection is free"),
    ("permission denied", "a right is missing"),
    ("noperm", "a right is missing"),
    ("can't run this command", "a right is missing"),
    ("noauth", "the login is refused"),
    ("wrongpass", "the login is refused"),
    ("authentication failed", "the login is refused"),
    ("wrong user name or password", "the login is refused"),
    ("certificate", "its certificate is not trusted"),
    ("connection refused", "the connection is refused"),
    ("loading", "it loads its data"),
    ("(oom)", "it is full"),
    ("masterdown", "its primary is gone"),
    ("clusterdown", "its cluster is down"),
    ("noreplicas", "it has lost its replicas"),
    ("misconf", "it cannot write to its disk"),
    ("is locked by", "something is locked"),
    ("lock timeout", "something is locked"),
    ("statement timeout", "it is too slow"),
    ("no answer in time", "no answer in time"),
    ("did not answer", "no answer in time"),
    ("no time was left", "no answer in time"),
    ("timed out", "no answer in time"),
];

/// The kind of trouble that a text is about, when it is a known one.
#[must_use]
pub fn kind_of_trouble(text: &str) -> Option<&'static str> {
    let text = without_names(text).to_ascii_lowercase();
    SIGNS.iter().find(|(sign, _)| text.contains(sign)).map(|(_, kind)| *kind)
}

/// The text without the places and names in it, which may contain any word: what follows `at`, and what is in quotation marks.
fn without_names(text: &str) -> String {
    let unquoted: String = text.split('"').step_by(2).collect();
    let mut words = Vec::new();
    let mut is_place = false;
    for word in unquoted.split_whitespace() {
        if !is_place && !word.contains("://") {
            words.push(word);
        }
        is_place = word == "at";
    }
    words.join(" ")
}

/// The reason of a failed run, in one line for anybody.
#[must_use]
pub fn failure(stopped_because: StopReason, failure: Option<&str>) -> String {
    let reason = stopped_because.sentence();
    match failure.map(|failure| (kind_of_trouble(failure), sqlstate(failure))) {
        Some((Some(kind), Some(code))) => format!("{reason}: {kind} ({code})"),
        Some((Some(kind), None)) => format!("{reason}: {kind}"),
        Some((None, Some(code))) => format!("{reason} ({code})"),
        Some((None, None)) | None => reason.to_owned(),
    }
}

/// The error of one object without the texts of servers: `clan:2PP: bad_request`. `None` when it names no object.
#[must_use]
pub fn error_of_object(text: &str) -> Option<String> {
    let (object, rest) = text.split_once(": ")?;
    object.parse::<crate::model::ObjectId>().ok()?;
    let code = rest.split(':').next().unwrap_or_default();
    let is_code = !code.is_empty() && code.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
    Some(if is_code { format!("{object}: {code}") } else { format!("{object}: the log says more") })
}

/// The last SQLSTATE in parentheses: five capital letters and digits, the first class of those that PostgreSQL has.
fn sqlstate(text: &str) -> Option<&str> {
    const CLASSES: [&str; 17] =
        ["08", "0A", "22", "23", "25", "26", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "XX"];
    let codes = text.rmatch_indices('(').filter_map(|(at, _)| text.get(at + 1..at + 6).zip(text.get(at + 6..at + 7)));
    let is_code = |code: &str| {
        code.chars().all(|letter| letter.is_ascii_uppercase() || letter.is_ascii_digit())
            && CLASSES.iter().any(|class| code.starts_with(class))
    };
    codes.filter(|(code, end)| *end == ")" && is_code(code)).map(|(code, _)| code).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_has_kind_and_no_names() {
        let cases = [
            (
                StopReason::DatabaseDown,
                "cannot read the time in the database at db.internal:5432/coc: wrong user name or password (28P01)",
                "the database cannot be used: the login is refused (28P01)",
            ),
            (
                StopReason::DatabaseDown,
                "cannot use the tables in the database at db:5432/coc: table players is locked by pid 17 (idle in transaction), \
                 still after 0.9 s; no time was left to wait longer",
                "the database cannot be used: something is locked",
            ),
            (
                StopReason::QueueDown,
                "Redis at redis://10.0.0.7:6379/0 refused a write: it has no memory left (OOM)",
                "the queue cannot be used: it is full",
            ),
            (
                StopReason::QueueDown,
                "Redis at redis://10.0.0.7:6379/0 refused a write: READONLY You can't write",
                "the queue cannot be used: a read-only replica",
            ),
            (
                StopReason::QueueDown,
                "cannot reach Redis at redis://cache(DB1):6379/0: Connection refused (os error 111)",
                "the queue cannot be used: the connection is refused",
            ),
            (
                StopReason::DatabaseDown,
                "failed to do it at /run/pg: who knows (57P03)",
                "the database cannot be used (57P03)",
            ),
            (StopReason::ApiUnreachable, "https://proxy:8080 said no", "the API gives no good response"),
        ];
        for (reason, text, expected) in cases {
            assert_eq!(failure(reason, Some(text)), expected);
        }
        assert_eq!(failure(StopReason::NoUsableKey, None), "the API rejects every key");
    }

    #[test]
    fn error_of_object_keeps_code() {
        assert_eq!(
            error_of_object("clan:2PP: bad_request: at http://10.0.0.1"),
            Some("clan:2PP: bad_request".to_owned())
        );
        let rest = error_of_object("clan:2PP: an entry of its member list cannot be read");
        assert_eq!(rest, Some("clan:2PP: the log says more".to_owned()));
        assert_eq!(error_of_object("cannot reach Redis at redis://cache:6379/0: refused"), None);
        assert_eq!(error_of_object("key abc: it was refused"), None);
    }
}
