//! The developer portal, simulated: accounts, sessions, keys bound to addresses, and the errors of the real one.
//!
//! Served under `/api/` beside the API. A key made here is accepted by the API, from the addresses it is bound to and until
//! it is revoked. Every client of the simulator comes from the same address, which can change.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::signal::Signal;

/// The most keys of an account, as with the real portal.
pub const MAX_KEYS: usize = 10;

/// The time of a login. Another login of the same account meanwhile fails, as with the real portal.
const LOGIN_TIME: Duration = Duration::from_millis(30);

/// The first address of all clients.
const FIRST_ADDRESS: &str = "203.0.113.7";

/// An account, its keys and its sessions.
#[derive(Debug, Default)]
struct Account {
    password: String,
    keys: Vec<PortalKey>,
    sessions: Vec<String>,
    logging_in: bool,
}

/// A key of an account, as tests see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortalKey {
    pub id: String,
    pub name: String,
    pub description: String,
    pub cidr_ranges: Vec<String>,
    #[serde(rename = "key")]
    pub token: String,
}

/// A misbehaviour of the portal; in JSON `"temporary"`, `"down"`, `"nonsense"`, `"cannot_create"`, `"cannot_revoke"`, `"stalled"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortalTrouble {
    /// Every call: `Temporary application error, request failed.`
    Temporary,
    /// Every call: an HTML page with 503.
    Down,
    /// Every call: 200 and JSON that has nothing of what is expected.
    Nonsense,
    /// Creating keys fails, the rest works.
    CannotCreate,
    /// Revoking keys fails, the rest works.
    CannotRevoke,
    /// A login never gets a response.
    Stalled,
}

/// The portal as a control call shows it.
#[derive(Debug, Serialize)]
pub(super) struct PortalView {
    /// The address of every client.
    address: String,
    trouble: Option<PortalTrouble>,
    accounts: BTreeMap<String, Vec<PortalKey>>,
    acts: Vec<String>,
}

/// The portal's state, and the requests to it in order: `login`, `list`, `create NAME`, `revoke NAME`.
#[derive(Debug)]
struct Inner {
    address: String,
    accounts: BTreeMap<String, Account>,
    trouble: Option<PortalTrouble>,
    acts: Vec<String>,
    made: u64,
    revoked: Vec<PortalKey>,
    /// Temporary tokens and sessions.
    handed_out: Vec<String>,
}

/// The portal. The API requests the standing of tokens from it.
#[derive(Debug)]
pub(super) struct Portal {
    inner: Mutex<Inner>,
    /// The number of logins left without a response.
    stalled: Signal<usize>,
}

impl Default for Portal {
    fn default() -> Self {
        let inner = Inner {
            address: FIRST_ADDRESS.to_owned(),
            accounts: BTreeMap::new(),
            trouble: None,
            acts: Vec::new(),
            made: 0,
            revoked: Vec::new(),
            handed_out: Vec::new(),
        };
        Self { inner: Mutex::new(inner), stalled: Signal::default() }
    }
}

/// The standing of a token with the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The portal does not know it.
    Unknown,
    Accepted,
    /// Bound to another address; this is ours.
    WrongAddress(String),
    Revoked,
}

impl Portal {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    pub(super) fn open_account(&self, email: &str, password: &str) {
        let account = Account { password: password.to_owned(), ..Account::default() };
        self.inner().accounts.insert(email.to_owned(), account);
    }

    pub(super) fn has_account(&self, email: &str) -> bool {
        self.inner().accounts.contains_key(email)
    }

    pub(super) fn view(&self) -> PortalView {
        let inner = self.inner();
        let accounts = inner.accounts.iter().map(|(email, account)| (email.clone(), account.keys.clone()));
        PortalView {
            address: inner.address.clone(),
            trouble: inner.trouble,
            accounts: accounts.collect(),
            acts: inner.acts.clone(),
        }
    }

    pub(super) fn has_accounts(&self) -> bool {
        !self.inner().accounts.is_empty()
    }

    /// Makes a key as a person would do in a browser.
    pub(super) fn put_key(&self, email: &str, name: &str, cidr: &str) -> PortalKey {
        let mut inner = self.inner();
        let key = inner.new_key(name, "", vec![cidr.to_owned()]);
        if let Some(account) = inner.accounts.get_mut(email) {
            account.keys.push(key.clone());
        }
        key
    }

    /// Takes a key away as a person would do in a browser.
    pub(super) fn revoke_by_hand(&self, token: &str) {
        let mut inner = self.inner();
        // Revoked keys are remembered: the API refuses them in its own words.
        let Inner { accounts, revoked, .. } = &mut *inner;
        for account in accounts.values_mut() {
            let (gone, kept) = std::mem::take(&mut account.keys).into_iter().partition(|key| key.token == token);
            account.keys = kept;
            revoked.extend::<Vec<PortalKey>>(gone);
        }
    }

    pub(super) fn keys(&self, email: &str) -> Vec<PortalKey> {
        self.inner().accounts.get(email).map(|account| account.keys.clone()).unwrap_or_default()
    }

    pub(super) fn move_to(&self, address: &str) {
        address.clone_into(&mut self.inner().address);
    }

    pub(super) fn trouble(&self, trouble: Option<PortalTrouble>) {
        self.inner().trouble = trouble;
    }

    /// Waits until this many logins were left without a response.
    pub(super) async fn wait_until_stalled(&self, count: usize) {
        self.stalled.wait_for(|stalled| *stalled >= count).await;
    }

    pub(super) fn acts(&self) -> Vec<String> {
        self.inner().acts.clone()
    }

    /// Everything that nobody may print: passwords, keys, sessions, temporary tokens.
    pub(super) fn secrets(&self) -> Vec<String> {
        let inner = self.inner();
        let passwords = inner.accounts.values().map(|account| account.password.clone());
        let keys = inner.accounts.values().flat_map(|account| &account.keys).chain(&inner.revoked);
        let keys = keys.map(|key| key.token.clone());
        passwords.chain(keys).chain(inner.handed_out.iter().cloned()).collect()
    }

    pub(super) fn standing(&self, token: &str) -> Standing {
        let inner = self.inner();
        let key = inner.accounts.values().flat_map(|account| &account.keys).find(|key| key.token == token);
        match key {
            // The real API compares ranges. The tests only use single addresses.
            Some(key) if key.cidr_ranges.iter().any(|cidr| cidr.trim_end_matches("/32") == inner.address) => {
                Standing::Accepted
            }
            Some(_) => Standing::WrongAddress(inner.address.clone()),
            None if inner.revoked.iter().any(|key| key.token == token) => Standing::Revoked,
            None => Standing::Unknown,
        }
    }
}

impl Inner {
    fn new_key(&mut self, name: &str, description: &str, cidr_ranges: Vec<String>) -> PortalKey {
        // Numbered, so that two runs of a test give the same keys.
        self.made += 1;
        let id = format!("{:08x}-portal", self.made);
        let token =
            jwt(&json!({"iss": "supercell", "jti": id, "limits": [{"tier": "developer/silver", "type": "throttling"},
            {"cidrs": cidr_ranges, "type": "client"}]}));
        PortalKey { id, name: name.to_owned(), description: description.to_owned(), cidr_ranges, token }
    }

    /// The account whose session the cookie names.
    fn session(&mut self, headers: &HeaderMap) -> Option<&mut Account> {
        let cookies = headers.get(header::COOKIE)?.to_str().ok()?;
        let session = cookies.split(';').find_map(|cookie| cookie.trim().strip_prefix("session="))?.to_owned();
        self.accounts.values_mut().find(|account| account.sessions.contains(&session))
    }

    fn in_trouble(&self) -> Option<Response> {
        match self.trouble? {
            PortalTrouble::Temporary => Some(temporary()),
            PortalTrouble::Down => Some(html(StatusCode::SERVICE_UNAVAILABLE)),
            PortalTrouble::Nonsense => Some((StatusCode::OK, axum::Json(json!({"hello": "world"}))).into_response()),
            PortalTrouble::CannotCreate | PortalTrouble::CannotRevoke | PortalTrouble::Stalled => None,
        }
    }
}

fn jwt(payload: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(&json!({"typ": "JWT", "alg": "HS512"})), part(payload), "c2lnbmF0dXJl")
}

fn html(status: StatusCode) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "text/html")],
        "<html><body><h1>Service Temporarily Unavailable</h1></body></html>",
    )
        .into_response()
}

/// The error after parallel logins or too many attempts.
fn temporary() -> Response {
    error(StatusCode::INTERNAL_SERVER_ERROR, "Temporary application error, request failed.")
}

fn error(status: StatusCode, description: &str) -> Response {
    (status, axum::Json(json!({"error": "general", "description": description}))).into_response()
}

fn ok(mut body: Value) -> Response {
    body["status"] = json!({"code": 0, "message": "ok", "detail": null});
    body["sessionExpiresInSeconds"] = json!(3600);
    axum::Json(body).into_response()
}

#[derive(Debug, Deserialize)]
struct Login {
    email: String,
    password: String,
}

pub(super) async fn login(State(portal): State<Arc<Portal>>, body: Bytes) -> Response {
    let Ok(login) = serde_json::from_slice::<Login>(&body) else {
        return error(StatusCode::BAD_REQUEST, "Bad request");
    };
    let is_stalled = {
        let mut inner = portal.inner();
        inner.acts.push("login".to_owned());
        inner.trouble == Some(PortalTrouble::Stalled)
    };
    if is_stalled {
        portal.stalled.update(|stalled| *stalled += 1);
        // The client has to give up by itself.
        return std::future::pending().await;
    }
    {
        let mut inner = portal.inner();
        if let Some(answer) = inner.in_trouble() {
            return answer;
        }
        match inner.accounts.get_mut(&login.email) {
            Some(account) if account.password != login.password => {
                return error(StatusCode::FORBIDDEN, "Invalid email or password");
            }
            // The real portal fails parallel logins of one account.
            Some(account) if account.logging_in => return temporary(),
            Some(account) => account.logging_in = true,
            None => return error(StatusCode::FORBIDDEN, "Invalid email or password"),
        }
    }
    // The lock is not held here: a parallel login must fail, not wait.
    tokio::time::sleep(LOGIN_TIME).await;
    let mut inner = portal.inner();
    inner.made += 1;
    let session = format!("s{:08x}", inner.made);
    let address = inner.address.clone();
    if let Some(account) = inner.accounts.get_mut(&login.email) {
        account.logging_in = false;
        // A new login ends older sessions, as with the real portal.
        account.sessions = vec![session.clone()];
    }
    let token = jwt(&json!({"iss": "supercell", "sub": "developer/1", "scopes": ["clash"], "limits": [
        {"tier": "developer/bronze", "type": "throttling"},
        {"cidrs": [format!("{address}/32")], "type": "client"},
        {"origins": ["developer.clashofclans.com"], "type": "cors"},
    ]}));
    let answer = ok(json!({
        "auth": {"uid": "1", "token": null, "ua": null, "ip": null},
        "developer": {"id": "1", "name": "x", "game": "clash", "email": login.email, "tier": "developer/silver",
            "allowedScopes": null, "maxCidrs": null},
        "temporaryAPIToken": &token,
        "swaggerUrl": "https://api.clashofclans.com/v1/swagger.json",
    }));
    // Tests check that none of these is ever printed.
    inner.handed_out.extend([session.clone(), token]);
    ([(header::SET_COOKIE, format!("session={session}; Path=/; HttpOnly; Secure"))], answer).into_response()
}

pub(super) async fn list(State(portal): State<Arc<Portal>>, headers: HeaderMap) -> Response {
    let mut inner = portal.inner();
    inner.acts.push("list".to_owned());
    if let Some(answer) = inner.in_trouble() {
        return answer;
    }
    match inner.session(&headers) {
        None => error(StatusCode::FORBIDDEN, "Not logged in"),
        // The real portal leaves the field out.
        Some(account) if account.keys.is_empty() => ok(json!({})),
        Some(account) => ok(json!({"keys": account.keys})),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Create {
    name: String,
    #[serde(default)]
    description: String,
    cidr_ranges: Vec<String>,
}

pub(super) async fn create(State(portal): State<Arc<Portal>>, headers: HeaderMap, body: Bytes) -> Response {
    let Ok(Create { name, description, cidr_ranges }) = serde_json::from_slice(&body) else {
        return error(StatusCode::BAD_REQUEST, "Bad request");
    };
    let mut inner = portal.inner();
    inner.acts.push(format!("create {name}"));
    if let Some(answer) = inner.in_trouble() {
        return answer;
    }
    if inner.trouble == Some(PortalTrouble::CannotCreate) {
        return temporary();
    }
    let key = inner.new_key(&name, &description, cidr_ranges);
    match inner.session(&headers) {
        None => error(StatusCode::FORBIDDEN, "Not logged in"),
        Some(account) if account.keys.len() >= MAX_KEYS => error(StatusCode::BAD_REQUEST, "Too many keys"),
        Some(account) => {
            account.keys.push(key.clone());
            ok(json!({"key": key}))
        }
    }
}

#[derive(Debug, Deserialize)]
struct Revoke {
    id: String,
}

pub(super) async fn revoke(State(portal): State<Arc<Portal>>, headers: HeaderMap, body: Bytes) -> Response {
    let Ok(Revoke { id }) = serde_json::from_slice(&body) else {
        return error(StatusCode::BAD_REQUEST, "Bad request");
    };
    let mut inner = portal.inner();
    if let Some(answer) = inner.in_trouble() {
        return answer;
    }
    if inner.trouble == Some(PortalTrouble::CannotRevoke) {
        return temporary();
    }
    let Some(account) = inner.session(&headers) else {
        return error(StatusCode::FORBIDDEN, "Not logged in");
    };
    let Some(at) = account.keys.iter().position(|key| key.id == id) else {
        return error(StatusCode::NOT_FOUND, "No such key");
    };
    let key = account.keys.remove(at);
    inner.acts.push(format!("revoke {}", key.name));
    inner.revoked.push(key);
    ok(json!({}))
}
