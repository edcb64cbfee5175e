//! `COC_ACCOUNTS`: several accounts of the developer portal in one variable. A leaf; no text made here holds a value.

use secrecy::SecretString;
use serde::Deserialize;

/// The accepted forms, for error messages.
pub(super) const EXPECTED: &str = "expected email:password, several separated by commas, or a JSON list of objects with \
                                   `email` and `password`";

/// E-mail address and password.
pub(super) type Pair = (String, SecretString);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Account {
    email: String,
    password: String,
}

/// Reads either form. JSON is the one for passwords with a comma in them, or with white space at their ends.
///
/// # Errors
/// The problem, by the place of the account.
pub(super) fn parse(text: &str) -> Result<Vec<Pair>, String> {
    let accounts = if text.trim_start().starts_with('[') { from_json(text)? } else { from_pairs(text)? };
    for (index, (email, _)) in accounts.iter().enumerate() {
        let place = index + 1;
        if !email.contains('@') {
            return Err(format!("has something in account {place} that is not an e-mail address: {EXPECTED}"));
        }
        if accounts[..index].iter().any(|(other, _)| other.eq_ignore_ascii_case(email)) {
            return Err(format!("names account {place} twice: keep one of them"));
        }
    }
    Ok(accounts)
}

fn from_json(text: &str) -> Result<Vec<Pair>, String> {
    // The parser's own message could repeat a part of a value.
    let accounts: Vec<Account> = serde_json::from_str(text)
        .map_err(|error| format!("is not valid JSON (at column {}): {EXPECTED}", error.column()))?;
    accounts.into_iter().enumerate().map(|(index, account)| pair(index, &account.email, &account.password)).collect()
}

fn from_pairs(text: &str) -> Result<Vec<Pair>, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty()).enumerate();
    pairs
        .map(|(index, text)| match text.split_once(':') {
            Some((email, password)) => pair(index, email, password),
            None => Err(format!("has no colon in account {}: {EXPECTED}", index + 1)),
        })
        .collect()
}

fn pair(index: usize, email: &str, password: &str) -> Result<Pair, String> {
    let email = email.trim();
    if email.is_empty() || password.is_empty() {
        return Err(format!("lacks e-mail address or password of account {}: {EXPECTED}", index + 1));
    }
    Ok((email.to_owned(), password.into()))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        let accounts = parse(text).unwrap().into_iter();
        accounts.map(|(email, password)| (email, password.expose_secret().to_owned())).collect()
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(email, password)| ((*email).to_owned(), (*password).to_owned())).collect()
    }

    #[test]
    fn parse_reads_pairs_and_json() {
        assert_eq!(read("a@x.com:one, b@x.com:t:wo,"), owned(&[("a@x.com", "one"), ("b@x.com", "t:wo")]));
        let json = r#" [{"email": "a@x.com", "password": "o,n:e "}, {"password": "two", "email": "b@x.com"}]"#;
        assert_eq!(read(json), owned(&[("a@x.com", "o,n:e "), ("b@x.com", "two")]));
    }

    #[test]
    fn parse_errors_name_place_without_value() {
        let wrong = [
            "hunter2",
            "a@x.com:one,hunter2",
            "a@x.com:",
            "hunter2:a@x.com",
            "a@x.com:hunter2,A@X.com:hunter2",
            r#"[{"email": "a@x.com", "password": "hunter2""#,
            r#"[{"email": "a@x.com", "pass": "hunter2"}]"#,
            r#"["hunter2"]"#,
        ];
        let problems: Vec<String> = wrong.map(|text| parse(text).unwrap_err()).to_vec();
        assert!(!problems.join("\n").contains("hunter2"), "{problems:?}");
        insta::assert_snapshot!(problems.iter().map(|problem| problem.replace(EXPECTED, "…")).collect::<Vec<_>>().join("\n"), @r"
        has no colon in account 1: …
        has no colon in account 2: …
        lacks e-mail address or password of account 1: …
        has something in account 1 that is not an e-mail address: …
        names account 2 twice: keep one of them
        is not valid JSON (at column 43): …
        is not valid JSON (at column 28): …
        is not valid JSON (at column 10): …
        ");
    }
}
