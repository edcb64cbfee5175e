//! The API keys of this deployment: [`ApiKey`] is one key, [`KeyStore`] holds all of them, [`portal`] gets them from the
//! developer portal.
//!
//! The budget decides which key a call uses. The worker decides who logs in, and when.

mod key;
pub mod portal;
mod store;

pub use self::{
    key::ApiKey,
    store::{Account, AccountView, KeyStore, LOGIN_WINDOW, MAX_LOGINS},
};
