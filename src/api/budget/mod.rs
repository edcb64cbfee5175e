//! The budget of calls: may a call begin now, and on which key?
//!
//! [`KeyPool`] is the door: a call gets a permit there, and begins there. Behind it, `pooled_key` is one key of the pool,
//! [`limiter`] keeps a key within its rate, [`aimd`] and [`latency`] find that rate, [`daily_quota`] counts the calls of a
//! day, and `departure` finds out when a call leaves the process.

pub mod aimd;
pub mod daily_quota;
mod departure;
pub mod latency;
pub mod limiter;
mod pool;
mod pooled_key;

pub use self::{
    daily_quota::{DailyQuota, Spend},
    pool::{Cooldown, KeyPool, NoPermit, Permit},
    pooled_key::SlotStart,
};
pub(super) use self::{
    departure::{Connects, CountConnects},
    pool::Begun,
};
