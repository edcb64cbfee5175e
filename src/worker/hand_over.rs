//! The values that the stages of a drain hand to one another.

use crate::{
    clock::Timestamp,
    model::{Fetched, FollowUp, Reason, WarMemory},
    queue::Lease,
};

/// A leased request that needs a call: from the lease stage to the fetch stage.
#[derive(Debug)]
pub struct Work {
    pub lease: Lease,
    pub league: Option<WarMemory>,
}

/// A lease whose request has come to its end in this run: on to the commit stage.
#[derive(Debug)]
pub struct Ended {
    pub lease: Lease,
    pub how: How,
}

/// The way in which a request ended.
#[derive(Debug)]
pub enum How {
    /// The stored copy is fresh enough. With the next poll of a war.
    Fresh(Option<FollowUp>),
    /// The stored copy is fresh until then. With the next poll of a war.
    Later(Timestamp, Option<FollowUp>),
    Answered(Box<Fetched>),
    Dead {
        reason: Reason,
        body: Option<String>,
    },
    /// An attempt failed. With the next poll of a war, in case no attempt is left.
    Failed(Reason, Option<FollowUp>),
    /// Not the request's fault: returned with no attempt counted, and held so that others come first.
    Held(Reason),
    Released,
}

impl Ended {
    pub const fn new(lease: Lease, how: How) -> Self {
        Self { lease, how }
    }

    pub const fn released(lease: Lease) -> Self {
        Self { lease, how: How::Released }
    }
}
