//! Names and values in addresses, as the readers of all addresses share them.

/// The name in the form that all spellings share: `currentSchema`, `current-schema` and `current_schema` are one.
pub(super) fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_')).map(|c| c.to_ascii_lowercase()).collect()
}

/// The name of a parameter, or nothing if it does not look like one: then it may be a piece of a password.
pub(super) fn shown(name: &str) -> &str {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '[' | ']');
    if name.len() <= 60 && name.chars().all(is_name) { name } else { "" }
}

/// The problem of a parameter that no list knows.
pub(super) fn unknown(name: &str, value: &str) -> String {
    let name = shown(name);
    if value.is_empty() || name.is_empty() {
        return "has something after its `?` that is not a parameter; in a password, `?` must be percent-encoded (%3F)"
            .to_owned();
    }
    format!(
        "its parameter `{name}` is unknown, and may say where the data is or how it is secured: remove it, or correct its name"
    )
}

/// The text with percent-encoded characters decoded.
pub(super) fn percent_decoded(text: &str) -> Option<String> {
    // A form's decoding would take a plus for a space, and an ampersand for the next pair.
    let pair = format!("x={}", text.replace('+', "%2B").replace('&', "%26"));
    let (_, value) = url::form_urlencoded::parse(pair.as_bytes()).next()?;
    Some(value.into_owned())
}
