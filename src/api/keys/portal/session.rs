//! The portal over HTTP: a login, and the requests of its session. Talks to the portal and to nothing else.
//!
//! The portal's interface is documented nowhere, so every field is optional until it is needed.

use std::{net::IpAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{
    Response,
    header::{CONTENT_TYPE, COOKIE, HeaderValue, SET_COOKIE},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, json};
use url::Url;

use super::{PortalError, keys::ListedKey};
use crate::{
    api::http::{self, ApiError},
    config::PortalAccount,
    outbound::causes,
};

/// The longest time that one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The most characters of a description that are repeated in an error.
const MAX_QUOTED_CHARS: usize = 200;

/// The portal over HTTP.
#[derive(Clone, Debug)]
pub struct Portal {
    base_url: String,
    http: reqwest::Client,
}

/// A session after a login.
#[derive(Debug)]
pub struct Session<'a> {
    portal: &'a Portal,
    pub(super) account: String,
    cookie: HeaderValue,
    /// Our address, as the portal sees it.
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

fn optional_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::from))
}

impl Portal {
    /// Connects nowhere yet.
    pub fn new(base_url: &Url) -> Result<Self, ApiError> {
        Ok(Self {
            base_url: base_url.as_str().trim_end_matches('/').to_owned(),
            http: http::builder(base_url)?.build()?,
        })
    }

    pub async fn log_in<'a>(&'a self, account: &PortalAccount) -> Result<Session<'a>, PortalError> {
        let body = json!({"email": account.email.expose_secret(), "password": account.password.expose_secret()});
        let mut session = Session {
            portal: self,
            account: account.variable.clone(),
            cookie: HeaderValue::from_static(""),
            address: None,
        };
        let response = session.post("log in", "/api/login", &body).await?;
        // The portal uses 403 for nothing else here.
        if response.status().as_u16() == 403 {
            return Err(PortalError::WrongPassword { account: session.account });
        }
        let cookie = cookie(&response);
        let LoggedIn { temporary_api_token } = session.read("log in", response).await?;
        // A login without a cookie would fail at the next request, with a worse error.
        session.cookie = cookie
            .ok_or_else(|| session.unexpected("log in", "it sets no cookie, so that there is no session".to_owned()))?;
        session.address = temporary_api_token.as_ref().and_then(address_of);
        Ok(session)
    }
}

impl Session<'_> {
    pub async fn list(&self) -> Result<Vec<ListedKey>, PortalError> {
        let response = self.post("list keys", "/api/apikey/list", &json!({})).await?;
        let Listed { keys, status } = self.read("list keys", response).await?;
        match (keys, status) {
            (Some(keys), _) => Ok(keys),
            // An account without keys has no `keys` field.
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
            // Somebody else revoked it first.
            return Ok(());
        }
        let _: Value = self.read("revoke a key", response).await?;
        Ok(())
    }

    async fn post(&self, action: &'static str, path: &str, body: &Value) -> Result<Response, PortalError> {
        let request = self.portal.http.post(format!("{}{path}", self.portal.base_url)).timeout(REQUEST_TIMEOUT);
        let request = request.header(CONTENT_TYPE, "application/json").header(COOKIE, self.cookie.clone());
        let response = request.body(body.to_string()).send().await;
        response.map_err(|error| self.down(action, causes(error)))
    }

    /// Reads the JSON of a good response. Every other response is an error of its own.
    async fn read<T: DeserializeOwned>(&self, action: &'static str, response: Response) -> Result<T, PortalError> {
        let status = response.status().as_u16();
        let body = response.text().await.map_err(|error| self.down(action, causes(error)))?;
        if status == 200 {
            // The cause is left out: it could repeat a part of a token.
            return serde_json::from_str(&body)
                .map_err(|error| self.unexpected(action, format!("its form is unknown ({:?})", error.classify())));
        }
        let body = serde_json::from_str::<Value>(&body).ok();
        let description = body.as_ref().and_then(|body| body.get("description")).and_then(Value::as_str);
        Err(match description {
            Some(description) => {
                let description = description.chars().take(MAX_QUOTED_CHARS).collect();
                PortalError::Refused { account: self.account.clone(), action, description }
            }
            None => self.down(action, format!("status {status}")),
        })
    }

    fn down(&self, action: &'static str, detail: String) -> PortalError {
        PortalError::Down { account: self.account.clone(), action, detail }
    }

    pub(super) fn unexpected(&self, action: &'static str, detail: String) -> PortalError {
        PortalError::Unexpected { account: self.account.clone(), action, detail }
    }
}

/// The cookie that a browser would send back.
fn cookie(response: &Response) -> Option<HeaderValue> {
    let pairs = response.headers().get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs: Vec<&str> = pairs.filter_map(|value| value.split(';').next()).map(str::trim).collect();
    let mut cookie = HeaderValue::from_str(&pairs.join("; ")).ok().filter(|cookie| !cookie.is_empty())?;
    cookie.set_sensitive(true);
    Some(cookie)
}

/// Our address as the portal sees it, from the temporary token's list of limits.
fn address_of(token: &SecretString) -> Option<IpAddr> {
    let payload = token.expose_secret().split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let payload: Value = serde_json::from_slice(&payload).ok()?;
    let ranges = payload.get("limits")?.as_array()?.iter().find_map(|limit| limit.get("cidrs")?.as_array())?;
    ranges.first()?.as_str()?.split('/').next()?.parse().ok()
}

/// Our address as the API sees it, from the end of its refusal.
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

    #[test]
    fn address_is_read_from_temporary_token() {
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
}
