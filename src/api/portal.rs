//! The developer portal: log in, and see to it that there are keys of our own name for our own address.
//!
//! Talks to the portal and to nothing else; nobody documents it, so every field is optional until it is needed. What is
//! kept, revoked and made is decided in [`plan`], a pure function. Whoever calls this holds the one right to log in.
//! **Invariant: a key of another name is never touched**, and there are never more than [`MOST_KEYS`] in an account.

use std::{fmt, net::IpAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{
    Response,
    header::{CONTENT_TYPE, COOKIE, HeaderValue, SET_COOKIE},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, json};
use tracing::{info, warn};
use url::Url;

use super::{
    client::{self, ApiError},
    wallet::ApiKey,
};
use crate::{config::PortalAccount, model::Fingerprint, outbound::causes};

/// The most keys of an account, whoever made them.
pub const MOST_KEYS: usize = 10;

/// The longest that one call may take.
const CALL_TIME: Duration = Duration::from_secs(10);

/// The most of a description that is repeated.
const TOLD_CHARACTERS: usize = 200;

/// Why there are no keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortalError {
    #[error("log in to the developer portal with {account}: it says that e-mail or password are wrong")]
    WrongPassword { account: String },
    #[error(
        "make a key in the account of {account}: it has {total} keys, {MOST_KEYS} are possible, and none of them is both \
         called `{name}` and out of use; revoke one at https://developer.clashofclans.com"
    )]
    TooManyKeys { account: String, total: usize, name: String },
    #[error(
        "make a key in the account of {account}: it is full, and a run is using every key called `{name}` that is in the \
         way; the next login tries again"
    )]
    AllInUse { account: String, name: String },
    #[error("{action} at the developer portal with {account}: it refuses for now: {description}")]
    Refused { account: String, action: &'static str, description: String },
    #[error("{action} at the developer portal with {account}: it is down: {detail}")]
    Down { account: String, action: &'static str, detail: String },
    #[error("understand the developer portal's answer to {action} with {account}: {detail}")]
    Unexpected { account: String, action: &'static str, detail: String },
}

impl PortalError {
    /// Whether only a person can mend it.
    #[must_use]
    pub const fn needs_a_person(&self) -> bool {
        matches!(self, Self::WrongPassword { .. } | Self::TooManyKeys { .. })
    }
}

/// What keys there are to be in each account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyWish {
    /// Ours are called so.
    pub name: String,
    pub count: usize,
    /// Our own addresses, when they are known; else the portal says which one it sees.
    pub addresses: Vec<IpAddr>,
}

/// A key as the portal lists it. What is missing or strange in it is left empty: a foreign key must not hide ours.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedKey {
    #[serde(default, deserialize_with = "if_possible")]
    pub id: String,
    #[serde(default, deserialize_with = "if_possible")]
    pub name: String,
    #[serde(default, deserialize_with = "if_possible")]
    pub cidr_ranges: Vec<String>,
    #[serde(default, deserialize_with = "if_possible_secret")]
    pub key: SecretString,
}

impl ListedKey {
    /// By which it goes in logs.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.key.expose_secret().trim())
    }

    /// Whether it has this name, and what it takes to use and to revoke it.
    fn is_called(&self, name: &str) -> bool {
        self.name == name && !self.id.is_empty() && !self.key.expose_secret().trim().is_empty()
    }

    /// Whether the API accepts it from all of these.
    #[must_use]
    pub fn is_good_for(&self, addresses: &[IpAddr]) -> bool {
        addresses.iter().all(|address| {
            self.cidr_ranges.iter().any(|range| {
                range
                    .trim_end_matches("/32")
                    .trim_end_matches("/128")
                    .parse::<IpAddr>()
                    .is_ok_and(|ours| ours == *address)
            })
        })
    }
}

impl fmt::Debug for ListedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListedKey({} `{}` {:?})", self.fingerprint(), self.name, self.cidr_ranges)
    }
}

/// What is known of an account's keys beside what the portal lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The API does not accept them.
    pub refused: Vec<Fingerprint>,
    /// Other runs use them at this moment.
    pub in_use: Vec<Fingerprint>,
}

/// What is to be done in an account.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    pub keep: Vec<&'a ListedKey>,
    /// Ours, of no use to us, and in the way of those that are to be made.
    pub revoke: Vec<&'a ListedKey>,
    pub create: usize,
    /// More would be revoked if no run were using it.
    pub waits_for_runs: bool,
}

/// Keeps what is ours and good; makes what is missing; revokes of our own what is not good, as much as there is need for
/// room and no more: another sandbox of ours with another address may need it, and one that a run is using stays.
#[must_use]
pub fn plan<'a>(listed: &'a [ListedKey], wish: &KeyWish, addresses: &[IpAddr], known: &Known) -> Plan<'a> {
    let is_refused = |key: &ListedKey| known.refused.contains(&key.fingerprint());
    let (good, stale): (Vec<&ListedKey>, Vec<&ListedKey>) = listed
        .iter()
        .filter(|key| key.is_called(&wish.name))
        .partition(|key| key.is_good_for(addresses) && !is_refused(key));
    let keep: Vec<&ListedKey> = good.into_iter().take(wish.count).collect();
    let missing = wish.count - keep.len();
    let room = MOST_KEYS.saturating_sub(listed.len());
    let (in_use, stale): (Vec<&ListedKey>, Vec<&ListedKey>) =
        stale.into_iter().partition(|key| known.in_use.contains(&key.fingerprint()));
    // What was refused is certainly of no use to anybody with our address.
    let (refused, other): (Vec<&ListedKey>, Vec<&ListedKey>) = stale.into_iter().partition(|key| is_refused(key));
    let revoke: Vec<&ListedKey> = refused.into_iter().chain(other).take(missing.saturating_sub(room)).collect();
    let create = missing.min(room + revoke.len());
    Plan { keep, revoke, create, waits_for_runs: create < missing && !in_use.is_empty() }
}

/// The portal over HTTP.
#[derive(Clone, Debug)]
pub struct Portal {
    base_url: String,
    http: reqwest::Client,
}

/// Logged in.
#[derive(Debug)]
pub struct Session<'a> {
    portal: &'a Portal,
    account: String,
    cookie: HeaderValue,
    /// As the portal sees us.
    pub address: Option<IpAddr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LoggedIn {
    #[serde(rename = "temporaryAPIToken", default, deserialize_with = "optional_secret")]
    temporary_api_token: Option<SecretString>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    keys: Option<Vec<ListedKey>>,
    status: Option<Value>,
}

#[derive(Deserialize)]
struct Created {
    key: ListedKey,
}

/// What is null or of another form than known counts as missing.
fn if_possible<'de, T: DeserializeOwned + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).unwrap_or_default())
}

fn if_possible_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    if_possible::<String, D>(deserializer).map(SecretString::from)
}

fn optional_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::from))
}

impl Portal {
    /// Connects when it is first used.
    pub fn new(base_url: &Url) -> Result<Self, ApiError> {
        Ok(Self { base_url: base_url.as_str().trim_end_matches('/').to_owned(), http: client::plain_http(base_url)? })
    }

    /// Logs in and looks at what keys there are. `seen` is our address as the API sees it, when it said so.
    pub async fn visit<'a>(
        &'a self,
        account: &PortalAccount,
        wish: &'a KeyWish,
        seen: Option<IpAddr>,
    ) -> Result<Visit<'a>, PortalError> {
        let session = self.log_in(account).await?;
        let mut addresses = wish.addresses.clone();
        if addresses.is_empty() {
            addresses.extend(session.address);
            addresses.extend(seen.filter(|seen| session.address != Some(*seen)));
        }
        if addresses.is_empty() {
            let detail = "it does not say which address it sees us with; set EGRESS_IPS".to_owned();
            return Err(session.unexpected("login", detail));
        }
        let listed = session.list().await?;
        Ok(Visit { session, wish, addresses, listed })
    }

    pub async fn log_in<'a>(&'a self, account: &PortalAccount) -> Result<Session<'a>, PortalError> {
        let body = json!({"email": account.email.expose_secret(), "password": account.password.expose_secret()});
        let mut session = Session {
            portal: self,
            account: account.variable.clone(),
            cookie: HeaderValue::from_static(""),
            address: None,
        };
        let response = session.post("login", "/api/login", &body).await?;
        if response.status().as_u16() == 403 {
            return Err(PortalError::WrongPassword { account: session.account });
        }
        let cookie = cookie(&response);
        let LoggedIn { temporary_api_token } = session.read("login", response).await?;
        session.cookie = cookie
            .ok_or_else(|| session.unexpected("login", "it sets no cookie, so that there is no session".to_owned()))?;
        session.address = temporary_api_token.as_ref().and_then(address_of);
        Ok(session)
    }
}

/// Logged in to an account, with all its keys before us.
#[derive(Debug)]
pub struct Visit<'a> {
    session: Session<'a>,
    wish: &'a KeyWish,
    addresses: Vec<IpAddr>,
    listed: Vec<ListedKey>,
}

/// What a visit gave.
#[derive(Debug)]
pub struct Given {
    pub keys: Vec<ApiKey>,
    pub made: usize,
    pub revoked: usize,
}

impl Visit<'_> {
    /// Our address as the portal sees it, if it says.
    pub const fn seen(&self) -> Option<IpAddr> {
        self.session.address
    }

    /// The addresses that keys have to be good for.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// All keys of the account, as it was when we came.
    pub fn listed(&self) -> &[ListedKey] {
        &self.listed
    }

    /// Whether this key has our name.
    pub fn is_ours(&self, key: &ListedKey) -> bool {
        key.is_called(&self.wish.name)
    }

    /// What [`Self::keys`] would do; changes nothing.
    #[must_use]
    pub fn plan(&self, known: &Known) -> Plan<'_> {
        plan(&self.listed, self.wish, &self.addresses, known)
    }

    /// Sees to it that the account has the keys wished for, and gives them.
    pub async fn keys(self, known: &Known) -> Result<Given, PortalError> {
        let Plan { keep, revoke, create, waits_for_runs } = self.plan(known);
        let Self { session, wish, addresses, listed } = &self;
        let mut total = listed.len();
        let keys = keep.into_iter().map(|key| ApiKey::new(key.key.clone())).collect();
        let mut given = Given { keys, made: 0, revoked: 0 };
        let mut stays = None;
        for key in revoke {
            match session.revoke(key).await {
                Ok(()) => {
                    total -= 1;
                    given.revoked += 1;
                    info!(key.fingerprint = %key.fingerprint(), key.addresses = key.cidr_ranges.join(" "), "revoked a key of our own name that is of no use here");
                }
                // It only costs its place: what is good is used all the same.
                Err(error) => {
                    warn!(key.fingerprint = %key.fingerprint(), error = %error, "could not revoke a key of our own name that is of no use here");
                    stays = Some(error);
                }
            }
        }
        for _ in 0..create.min(MOST_KEYS.saturating_sub(total)) {
            match session.create(&wish.name, addresses).await {
                Ok(key) => {
                    info!(key.fingerprint = %key.fingerprint(), key.name = wish.name, "made a key");
                    given.keys.push(ApiKey::new(key.key));
                    given.made += 1;
                }
                Err(error) if given.keys.is_empty() => return Err(error),
                Err(error) => {
                    warn!(error = %error, keys = given.keys.len(), wanted = wish.count, "could not make every key: going on with fewer");
                    return Ok(given);
                }
            }
        }
        if given.keys.is_empty() {
            let (account, name) = (session.account.clone(), wish.name.clone());
            return Err(match stays {
                Some(error) => error,
                None if waits_for_runs => PortalError::AllInUse { account, name },
                None => PortalError::TooManyKeys { account, total, name },
            });
        }
        if given.keys.len() < wish.count {
            warn!(
                keys = given.keys.len(),
                wanted = wish.count,
                "the account of {} has {MOST_KEYS} keys that are foreign or in use: going on with fewer",
                session.account
            );
        }
        Ok(given)
    }

    /// Revokes one of our own keys.
    pub async fn revoke(&self, key: &ListedKey) -> Result<(), PortalError> {
        debug_assert!(self.is_ours(key), "a key of another name is never touched");
        if self.is_ours(key) { self.session.revoke(key).await } else { Ok(()) }
    }
}

impl Session<'_> {
    pub async fn list(&self) -> Result<Vec<ListedKey>, PortalError> {
        let response = self.post("list keys", "/api/apikey/list", &json!({})).await?;
        let Listed { keys, status } = self.read("list keys", response).await?;
        match (keys, status) {
            (Some(keys), _) => Ok(keys),
            (None, Some(_)) => Ok(Vec::new()),
            (None, None) => Err(self.unexpected("list keys", "neither `keys` nor `status` is in it".to_owned())),
        }
    }

    pub async fn create(&self, name: &str, addresses: &[IpAddr]) -> Result<ListedKey, PortalError> {
        let ranges: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let body =
            json!({"name": name, "description": "made by refresh-worker", "cidrRanges": ranges, "scopes": ["clash"]});
        let response = self.post("create a key", "/api/apikey/create", &body).await?;
        let Created { key } = self.read("create a key", response).await?;
        if key.key.expose_secret().trim().is_empty() {
            return Err(self.unexpected("create a key", "there is no key in it".to_owned()));
        }
        Ok(key)
    }

    pub async fn revoke(&self, key: &ListedKey) -> Result<(), PortalError> {
        let response = self.post("revoke a key", "/api/apikey/revoke", &json!({"id": key.id})).await?;
        if response.status().as_u16() == 404 {
            // Somebody else was quicker.
            return Ok(());
        }
        let _: Value = self.read("revoke a key", response).await?;
        Ok(())
    }

    async fn post(&self, action: &'static str, path: &str, body: &Value) -> Result<Response, PortalError> {
        let request = self.portal.http.post(format!("{}{path}", self.portal.base_url)).timeout(CALL_TIME);
        let request = request.header(CONTENT_TYPE, "application/json").header(COOKIE, self.cookie.clone());
        let response = request.body(body.to_string()).send().await;
        response.map_err(|error| self.down(action, causes(error)))
    }

    /// A good answer's JSON. Every other answer is an error of its own.
    async fn read<T: DeserializeOwned>(&self, action: &'static str, response: Response) -> Result<T, PortalError> {
        let status = response.status().as_u16();
        let body = response.text().await.map_err(|error| self.down(action, causes(error)))?;
        if status == 200 {
            // The cause is not told: it could repeat a part of a token.
            return serde_json::from_str(&body).map_err(|error| {
                self.unexpected(action, format!("it is not of the form known so far ({:?})", error.classify()))
            });
        }
        let told = serde_json::from_str::<Value>(&body).ok();
        let description = told.as_ref().and_then(|body| body.get("description")).and_then(Value::as_str);
        Err(match description {
            Some(description) => {
                let description = description.chars().take(TOLD_CHARACTERS).collect();
                PortalError::Refused { account: self.account.clone(), action, description }
            }
            None => self.down(action, format!("it answers {status}")),
        })
    }

    fn down(&self, action: &'static str, detail: String) -> PortalError {
        PortalError::Down { account: self.account.clone(), action, detail }
    }

    fn unexpected(&self, action: &'static str, detail: String) -> PortalError {
        PortalError::Unexpected { account: self.account.clone(), action, detail }
    }
}

/// What a browser would send back.
fn cookie(response: &Response) -> Option<HeaderValue> {
    let pairs = response.headers().get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs: Vec<&str> = pairs.filter_map(|value| value.split(';').next()).map(str::trim).collect();
    let mut cookie = HeaderValue::from_str(&pairs.join("; ")).ok().filter(|cookie| !cookie.is_empty())?;
    cookie.set_sensitive(true);
    Some(cookie)
}

/// Our address as the portal sees it: it is in the temporary token's list of limits.
fn address_of(token: &SecretString) -> Option<IpAddr> {
    let payload = token.expose_secret().split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let payload: Value = serde_json::from_slice(&payload).ok()?;
    let ranges = payload.get("limits")?.as_array()?.iter().find_map(|limit| limit.get("cidrs")?.as_array())?;
    ranges.first()?.as_str()?.split('/').next()?.parse().ok()
}

/// Our address as the API sees it: its refusal ends with it.
#[must_use]
pub fn address_in(refusal: &str) -> Option<IpAddr> {
    refusal
        .split(|c: char| c.is_whitespace() || c == '"')
        .filter_map(|word| word.trim_end_matches('.').parse().ok())
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "203.0.113.7";

    fn listed(keys: &[(&str, &str)]) -> Vec<ListedKey> {
        let key = |(at, (name, cidr)): (usize, &(&str, &str))| ListedKey {
            id: at.to_string(),
            name: (*name).to_owned(),
            cidr_ranges: vec![(*cidr).to_owned()],
            key: format!("token-{at}").into(),
        };
        keys.iter().enumerate().map(key).collect()
    }

    /// What is kept and revoked, by id, and how many are made.
    fn planned(listed: &[ListedKey], count: usize, refused: &[&str]) -> (Vec<String>, Vec<String>, usize) {
        let wish = KeyWish { name: "ours".to_owned(), count, addresses: Vec::new() };
        let refused: Vec<Fingerprint> = refused.iter().map(|token| Fingerprint::of(token)).collect();
        let known = Known { refused, in_use: vec![Fingerprint::of("token-in-use")] };
        let plan = plan(listed, &wish, &[OURS.parse().unwrap()], &known);
        let ids = |keys: &[&ListedKey]| keys.iter().map(|key| key.id.clone()).collect();
        (ids(&plan.keep), ids(&plan.revoke), plan.create)
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn keys_of_our_name_and_address_are_kept_with_and_without_a_mask() {
        let listed = listed(&[("ours", OURS), ("theirs", OURS), ("ours", "203.0.113.7/32"), ("ours", "198.51.100.1")]);
        assert_eq!(planned(&listed, 2, &[]), (ids(&["0", "2"]), ids(&[]), 0));
        assert_eq!(planned(&listed, 3, &[]), (ids(&["0", "2"]), ids(&[]), 1), "there is room: nothing is revoked");
    }

    #[test]
    fn only_our_own_keys_make_room_and_those_refused_first() {
        let mut keys = vec![("theirs", "198.51.100.1"); 7];
        keys.extend([("ours", "198.51.100.1"), ("ours", "198.51.100.2"), ("ours", OURS)]);
        let listed = listed(&keys);
        assert_eq!(planned(&listed, 2, &[]), (ids(&["9"]), ids(&["7"]), 1));
        assert_eq!(planned(&listed, 1, &["token-9"]), (ids(&[]), ids(&["9"]), 1));
        assert_eq!(planned(&listed, 10, &[]), (ids(&["9"]), ids(&["7", "8"]), 2));
    }

    #[test]
    fn what_a_run_is_using_stays_even_if_it_was_refused_here() {
        let mut keys = listed(&[("ours", "198.51.100.1"); 10]);
        keys[3].key = "token-in-use".into();
        let all_but_3: Vec<String> = (0..10).filter(|at| *at != 3).map(|at: usize| at.to_string()).collect();
        assert_eq!(planned(&keys, 10, &["token-in-use"]), (ids(&[]), all_but_3, 9));
        assert_eq!(planned(&keys, 1, &["token-in-use"]), (ids(&[]), ids(&["0"]), 1));
    }

    #[test]
    fn a_foreign_key_with_things_missing_hides_none_of_ours_and_takes_its_place() {
        let list =
            |keys: &str| serde_json::from_str::<Listed>(&format!(r#"{{"keys": [{keys}]}}"#)).unwrap().keys.unwrap();
        let strange = [
            r#"{"id": "0", "name": null, "cidrRanges": null, "key": null}"#,
            r#"{"id": "1", "name": "theirs", "cidrRanges": "anywhere", "key": "k1"}"#,
            r#"{"name": "theirs"}"#,
            r#"{"id": "3", "name": "ours", "cidrRanges": ["203.0.113.7"]}"#,
            r#"{"id": 4, "name": "ours", "cidrRanges": ["203.0.113.7"], "key": "k4"}"#,
        ];
        let good = r#"{"id": "9", "name": "ours", "description": null, "cidrRanges": ["203.0.113.7/32"], "key": "k9"}"#;
        let listed = list(&format!("{}, {good}", strange.join(", ")));
        assert_eq!(listed.len(), 6);
        // Those of our name that can be neither used nor revoked are left alone; all count against the ten.
        assert_eq!(planned(&listed, 10, &[]), (ids(&["9"]), ids(&[]), 4));
    }

    #[test]
    fn ten_foreign_keys_are_left_alone() {
        assert_eq!(planned(&listed(&[("theirs", OURS); 10]), 1, &[]), (ids(&[]), ids(&[]), 0));
    }

    #[test]
    fn our_address_is_in_the_temporary_token_wherever_the_list_stands() {
        let payload = r#"{"limits":[{"type":"throttling","tier":"x"},{"origins":[]},{"cidrs":["198.51.100.9/32"],"type":"client"}]}"#;
        let token = format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(payload));
        assert_eq!(address_of(&token.into()), Some("198.51.100.9".parse().unwrap()));
        for broken in ["", "a.b", "a.!!.c", "e30.e30.e30"] {
            assert_eq!(address_of(&broken.into()), None, "{broken}");
        }
        let refusal = "accessDenied.invalidIp: API key does not allow access from IP 198.51.100.4";
        assert_eq!(address_in(refusal), Some("198.51.100.4".parse().unwrap()));
        assert_eq!(address_in("Invalid authorization"), None);
    }

    #[test]
    fn a_listed_key_prints_no_token() {
        assert!(!format!("{:?}", listed(&[("ours", OURS)])).contains("token-0"));
    }
}
