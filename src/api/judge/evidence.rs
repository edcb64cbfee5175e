//! The values that the judge weighs: calls, signs, scopes, and the accusations made of them.

use std::fmt;

use crate::model::{EndpointKind, Fingerprint, ObjectId, Reason};

/// The weight of evidence that convicts: ten ordinary failures, three unexplained 503, or two of maintenance.
pub(super) const FULL_WEIGHT: u32 = 30;

/// The place of a call in the order in which calls begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub(super) u64);

/// The meaning of a bad response beyond its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sign {
    /// 503 with the API's own `inMaintenance`.
    Maintenance,
    /// Any other 503.
    Unavailable,
    /// Another 5xx, a timeout, a broken connection, a cut body.
    Failed,
    /// A response that is not the API's, or about something else; with the tag of the document that came instead, if one did.
    Foreign(Option<String>),
    /// 401, or a 403 that is neither a private war log nor certainly about the key.
    Forbidden,
    /// A 403 that says that the key is not accepted.
    Rejected,
}

impl Sign {
    /// The weight of one object's evidence against this scope; 0 when it does not accuse the scope.
    pub(super) const fn weight(&self, scope: &Scope) -> u32 {
        match (self, scope) {
            // A refusal may also be about the address, but then all keys are refused.
            (Self::Forbidden | Self::Rejected, Scope::Key(_))
            | (Self::Maintenance, Scope::Api | Scope::Endpoint(_)) => FULL_WEIGHT / 2,
            (Self::Unavailable, Scope::Api | Scope::Endpoint(_)) => FULL_WEIGHT / 3,
            (Self::Failed | Self::Foreign(_) | Self::Forbidden, Scope::Api | Scope::Endpoint(_)) => FULL_WEIGHT / 10,
            _ => 0,
        }
    }
}

/// Everything beside an object that can be at fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Api,
    Endpoint(EndpointKind),
    Key(Fingerprint),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => f.write_str("the API"),
            Self::Endpoint(kind) => write!(f, "the endpoint `{kind}`"),
            Self::Key(key) => write!(f, "key {key}"),
        }
    }
}

/// A call: the object whose fetch made it, its endpoint and tag, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub requester: ObjectId,
    pub endpoint: EndpointKind,
    /// The tag in the path: not always the requester's.
    pub tag: String,
    pub key: Fingerprint,
}

impl Call {
    pub(super) fn scopes(&self) -> [Scope; 3] {
        [Scope::Api, Scope::Endpoint(self.endpoint), Scope::Key(self.key.clone())]
    }
}

/// A bad response that counts against scopes.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    pub at: CallId,
    pub call: Call,
    pub sign: Sign,
    pub reason: Reason,
}

impl Evidence {
    pub fn accuses(&self, scope: &Scope) -> bool {
        self.sign.weight(scope) > 0 && self.call.scopes().contains(scope)
    }
}

/// A bad response whose cause is sought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accusation {
    /// The first call of the object that failed, and the last.
    pub(super) first: CallId,
    pub(super) last: CallId,
    pub(super) call: Call,
    pub(super) sign: Sign,
    /// The last error of the API.
    pub reason: Reason,
    /// Others were answered well between the first failure and the last call.
    pub(super) was_called_again: bool,
}

impl Accusation {
    /// The scopes that could explain the failure.
    pub(super) fn scopes(&self) -> impl Iterator<Item = Scope> {
        self.call.scopes().into_iter().filter(|scope| self.sign.weight(scope) > 0)
    }

    #[must_use]
    pub const fn call(&self) -> &Call {
        &self.call
    }

    #[must_use]
    pub const fn sign(&self) -> &Sign {
        &self.sign
    }

    /// True when a call right after this one may be answered well.
    #[must_use]
    pub const fn may_be_a_hiccup(&self) -> bool {
        matches!(self.sign, Sign::Failed | Sign::Foreign(_))
    }
}
