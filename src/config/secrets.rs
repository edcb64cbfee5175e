//! Secrets that are kept outside the environment: in a file, in the Parameter Store or in the Secrets Manager.
//!
//! `NAME_FILE`, `NAME_PARAMETER` and `NAME_SECRET_ARN` name the place of a secret variable's value. The values of the last two
//! come from the AWS Parameters and Secrets extension, over its local HTTP interface, which responds only during an
//! invocation. `#field` at the end picks a field of a JSON object. `process_var` looks into the values read here
//! before it looks into the environment. **Invariant: no text made here holds a value.**

use std::{collections::BTreeMap, error::Error, time::Duration};

use parking_lot::RwLock;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::variables::{MAX_ACCOUNTS, VARIABLES, Vars, variable};
use crate::outbound;

/// The port of the extension when `PARAMETERS_SECRETS_EXTENSION_HTTP_PORT` is not set.
const DEFAULT_PORT: u16 = 2773;

/// The longest time that the extension may take, its own call to AWS included.
const EXTENSION_TIMEOUT: Duration = Duration::from_secs(5);

/// The most characters of an error's body that are repeated.
const MAX_QUOTED_CHARS: usize = 200;

/// The values by variable, or the reasons for which they could not be read.
#[derive(Clone, Debug, Default)]
pub struct Secrets(BTreeMap<String, Result<SecretString, String>>);

/// The values that `process_var` returns before those of the environment.
static IN_FORCE: RwLock<Secrets> = RwLock::new(Secrets(BTreeMap::new()));

/// The ways to name the place of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    File,
    Parameter,
    SecretArn,
}

impl Way {
    const ALL: [Self; 3] = [Self::File, Self::Parameter, Self::SecretArn];

    const fn suffix(self) -> &'static str {
        match self {
            Self::File => "_FILE",
            Self::Parameter => "_PARAMETER",
            Self::SecretArn => "_SECRET_ARN",
        }
    }
}

/// A variable, and the place of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reference {
    variable: String,
    way: Way,
    place: String,
    field: Option<String>,
}

impl Reference {
    fn of(variable: &str, way: Way, text: &str) -> Self {
        let (place, field) = match text.rsplit_once('#') {
            Some((place, field)) if !place.is_empty() && !field.is_empty() => (place, Some(field.to_owned())),
            _ => (text, None),
        };
        Self { variable: variable.to_owned(), way, place: place.to_owned(), field }
    }

    fn name(&self) -> String {
        format!("{}{}", self.variable, self.way.suffix())
    }
}

/// Every variable whose value is a secret.
fn secret_names() -> impl Iterator<Item = String> {
    let listed = VARIABLES.iter().filter(|variable| variable.secret).map(|variable| variable.name.to_owned());
    let numbered =
        (2..=MAX_ACCOUNTS).flat_map(|number| ["COC_EMAIL", "COC_PASSWORD"].map(|name| format!("{name}_{number}")));
    listed.chain(numbered)
}

fn own(vars: Vars<'_>, name: &str) -> Option<String> {
    vars(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// The places of all secrets outside the environment; an error for a secret that is given in several ways.
fn references(vars: Vars<'_>) -> Vec<Result<Reference, (String, String)>> {
    let of = |name: String| {
        let ways = Way::ALL.into_iter().filter_map(|way| {
            own(vars, &format!("{name}{}", way.suffix())).map(|text| Reference::of(&name, way, &text))
        });
        let mut ways: Vec<Reference> = ways.collect();
        let mut given: Vec<String> = ways.iter().map(Reference::name).collect();
        // The variable itself is a way, too.
        if !ways.is_empty() && own(vars, &name).is_some() {
            given.insert(0, name.clone());
        }
        if given.len() > 1 {
            return Some(Err((name, format!("is given in several ways ({}): keep one of them", given.join(", ")))));
        }
        ways.pop().map(Ok)
    };
    secret_names().filter_map(of).collect()
}

/// True when a secret is kept outside the environment.
#[must_use]
pub fn are_elsewhere(vars: Vars<'_>) -> bool {
    !references(vars).is_empty()
}

/// True when a secret comes from the extension, which is not there before the first invocation.
#[must_use]
pub fn need_the_extension(vars: Vars<'_>) -> bool {
    references(vars).into_iter().flatten().any(|reference| reference.way != Way::File)
}

/// A stand-in for a value that cannot be read yet, so that everything else can be checked.
#[must_use]
pub fn stand_in(vars: Vars<'_>, name: &str) -> Option<String> {
    let is_elsewhere = references(vars).into_iter().flatten().any(|reference| reference.variable == name);
    let listed = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
    is_elsewhere.then(|| variable(listed).example.to_owned())
}

/// The value in force, if it is kept outside the environment. `NAME.problem` returns the reason for which there is none.
pub(super) fn in_force(name: &str) -> Option<String> {
    IN_FORCE.read().get(name)
}

impl Secrets {
    /// Reads all secrets outside the environment. Problems are reported when the configuration is read.
    pub async fn read(vars: &(dyn Fn(&str) -> Option<String> + Sync)) -> Self {
        let mut secrets = BTreeMap::new();
        let mut answers: BTreeMap<(Way, String), Result<SecretString, String>> = BTreeMap::new();
        let mut extension = None;
        for reference in references(vars) {
            let reference = match reference {
                Ok(reference) => reference,
                Err((name, problem)) => {
                    secrets.insert(name, Err(problem));
                    continue;
                }
            };
            let place = (reference.way, reference.place.clone());
            // Several variables may be fields of one secret, which is read once.
            if !answers.contains_key(&place) {
                let answer = match reference.way {
                    Way::File => read_file(&reference.place),
                    way => match extension.get_or_insert_with(|| Extension::of(vars)) {
                        Ok(extension) => extension.fetch(way, &reference.place).await,
                        Err(problem) => Err(problem.clone()),
                    },
                };
                answers.insert(place.clone(), answer);
            }
            let whole = answers.get(&place).cloned().unwrap_or_else(|| Err("was not read".to_owned()));
            let value = whole.and_then(|whole| pick(&whole, reference.field.as_deref()));
            let value = value.map_err(|why| format!("cannot be had from {}: {why}", reference.name()));
            secrets.insert(reference.variable, value);
        }
        Self(secrets)
    }

    /// From now on `process_var` returns these values. Returns true when any value has changed.
    pub fn put_in_force(self) -> bool {
        let mut in_force = IN_FORCE.write();
        // A secret that could not be read this time does not count as changed.
        let changed = self.0.iter().any(|(name, value)| {
            let before = in_force.0.get(name).and_then(|value| value.as_ref().ok());
            value.as_ref().is_ok_and(|value| before.is_none_or(|old| old.expose_secret() != value.expose_secret()))
        });
        *in_force = self;
        changed
    }

    /// The problems, with the names of their variables.
    pub fn problems(&self) -> Vec<String> {
        let problem = |(name, value): (&String, &Result<_, String>)| {
            value.as_ref().err().map(|problem| format!("{name} {problem}"))
        };
        self.0.iter().filter_map(problem).collect()
    }

    fn get(&self, name: &str) -> Option<String> {
        match name.strip_suffix(".problem") {
            Some(name) => self.0.get(name)?.as_ref().err().cloned(),
            None => Some(self.0.get(name)?.as_ref().ok()?.expose_secret().to_owned()),
        }
    }
}

fn read_file(path: &str) -> Result<SecretString, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.into()),
        Err(error) => Err(format!("the file `{path}` cannot be read: {error}")),
    }
}

/// Picks a field of a JSON object, or the whole text.
fn pick(whole: &SecretString, field: Option<&str>) -> Result<SecretString, String> {
    let text = whole.expose_secret();
    let json = serde_json::from_str::<Value>(text);
    let Some(field) = field else {
        return match json {
            Ok(Value::Object(fields)) => Err(format!(
                "it holds a JSON object; name the field behind a #, one of {}",
                fields.keys().cloned().collect::<Vec<_>>().join(", ")
            )),
            _ if text.trim().is_empty() => Err("it is empty".to_owned()),
            _ => Ok(whole.clone()),
        };
    };
    let json = json.map_err(|_| format!("it holds no JSON, so there is no field `{field}` in it"))?;
    // A field with a dot in its name comes before a path of fields.
    let found = json.get(field).or_else(|| field.split('.').try_fold(&json, |value, name| value.get(name)));
    match found {
        Some(Value::String(text)) if text.trim().is_empty() => Err(format!("its field `{field}` is empty")),
        Some(Value::String(text)) => Ok(text.as_str().into()),
        Some(Value::Number(number)) => Ok(number.to_string().into()),
        Some(_) => Err(format!("its field `{field}` is neither a text nor a number")),
        None => Err(format!("it has no field `{field}`")),
    }
}

/// The extension's local HTTP interface.
struct Extension {
    base: String,
    http: reqwest::Client,
    session_token: SecretString,
}

impl Extension {
    fn of(vars: Vars<'_>) -> Result<Self, String> {
        let port = match own(vars, "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT") {
            None => DEFAULT_PORT,
            Some(text) => text.parse().map_err(|_| {
                format!("PARAMETERS_SECRETS_EXTENSION_HTTP_PORT is `{text}`, which is not a port number")
            })?,
        };
        let session_token = own(vars, "AWS_SESSION_TOKEN").ok_or(
            "AWS_SESSION_TOKEN is not set, and the AWS Parameters and Secrets extension needs it; outside Lambda set the variable \
             itself, or its _FILE",
        )?;
        let http = outbound::local_client().map_err(|error| error.to_string());
        let http = http.and_then(|http| http.timeout(EXTENSION_TIMEOUT).build().map_err(|error| error.to_string()));
        let http = http.map_err(|error| format!("HTTP cannot be prepared: {error}"))?;
        Ok(Self { base: format!("http://localhost:{port}"), http, session_token: session_token.into() })
    }

    async fn fetch(&self, way: Way, name: &str) -> Result<SecretString, String> {
        let (path, key, pointer) = match way {
            Way::Parameter => ("/systemsmanager/parameters/get", "name", "/Parameter/Value"),
            _ => ("/secretsmanager/get", "secretId", "/SecretString"),
        };
        let mut url = Url::parse(&format!("{}{path}", self.base)).map_err(|error| error.to_string())?;
        url.query_pairs_mut().append_pair(key, name);
        if way == Way::Parameter {
            url.query_pairs_mut().append_pair("withDecryption", "true");
        }
        let mut token = reqwest::header::HeaderValue::from_str(self.session_token.expose_secret())
            .map_err(|_| "AWS_SESSION_TOKEN has characters that a header cannot carry".to_owned())?;
        // Keeps the token out of debug output.
        token.set_sensitive(true);
        let request = self.http.get(url).header("X-Aws-Parameters-Secrets-Token", token);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status().as_u16();
        let body = response.text().await.map_err(|error| self.unreachable(&error))?;
        // The body names the reason, such as a missing right, and holds no value.
        if status != 200 {
            let quoted: String = body.trim().chars().take(MAX_QUOTED_CHARS).collect();
            return Err(format!("the AWS Parameters and Secrets extension answered {status} for `{name}`: {quoted}"));
        }
        let value = serde_json::from_str::<Value>(&body).ok();
        let text = value.as_ref().and_then(|value| value.pointer(pointer)).and_then(Value::as_str);
        text.map(SecretString::from).ok_or_else(|| {
            format!("the AWS Parameters and Secrets extension gave no text for `{name}` (is it a binary secret?)")
        })
    }

    fn unreachable(&self, error: &reqwest::Error) -> String {
        let why = error.source().map_or_else(|| "no answer".to_owned(), ToString::to_string);
        format!(
            "the AWS Parameters and Secrets extension does not answer at {} ({why}): is its layer attached to the function?",
            self.base
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(set: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        move |name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn secret_given_twice_is_refused() {
        let vars = vars(&[("REDIS_URL", "redis://h"), ("REDIS_URL_FILE", "/f"), ("DATABASE_URL_PARAMETER", "/p")]);
        let found = references(&vars);
        let problem = "is given in several ways (REDIS_URL, REDIS_URL_FILE): keep one of them".to_owned();
        assert_eq!(found[0], Err(("REDIS_URL".to_owned(), problem)));
        assert_eq!(found[1], Ok(Reference::of("DATABASE_URL", Way::Parameter, "/p")));
        assert!(need_the_extension(&vars));
    }

    #[test]
    fn field_follows_last_hash() {
        let reference =
            Reference::of("COC_API_TOKEN", Way::SecretArn, "arn:aws:secretsmanager:eu:1:secret:a-b#api.key");
        assert_eq!(
            (reference.place.as_str(), reference.field.as_deref()),
            ("arn:aws:secretsmanager:eu:1:secret:a-b", Some("api.key"))
        );
        assert_eq!(Reference::of("COC_API_TOKEN", Way::File, "/run/secret").field, None);
    }

    #[test]
    fn pick_finds_field_and_hides_values() {
        let whole = SecretString::from(r#"{"password":"hunter2","db":{"port":5432},"a.b":"dotted","list":[]}"#);
        let picked = |field: &str| pick(&whole, Some(field)).map(|value| value.expose_secret().to_owned());
        assert_eq!(picked("password").unwrap(), "hunter2");
        assert_eq!(picked("db.port").unwrap(), "5432");
        assert_eq!(picked("a.b").unwrap(), "dotted");
        let problems = [picked("user"), picked("list"), pick(&whole, None).map(|_| String::new())];
        let problems = problems.map(Result::unwrap_err).join("\n");
        assert!(!problems.contains("hunter2"), "{problems}");
        insta::assert_snapshot!(problems, @r"
        it has no field `user`
        its field `list` is neither a text nor a number
        it holds a JSON object; name the field behind a #, one of a.b, db, list, password
        ");
    }
}
