//! The API keys of this deployment: [`ApiKey`] is one key, [`KeyStore`] holds all of them, [`portal`] gets them from the
//! developer portal, and [`LoginRight`] is the right to log in there.
//!
//! [`super::budget`] decides which key a call uses. The worker decides who logs in, and when.

mod key;
mod login_right;
pub mod portal;
mod store;

pub use self::{
    key::ApiKey,
    login_right::{LoginFailures, LoginRight},
    store::{Account, AccountView, KeyStore, LOGIN_WINDOW, MAX_LOGINS},
};
