//! Planned looks: what a run does with the calls that no request needs.
//!
//! | part | module |
//! |---|---|
//! | which object is next, and how many calls it may take | `looks`, `pace` |
//! | reads candidates, moves the level, writes what is put off | `upkeep` |
//! | counts, for the report | `tally` |
//!
//! The lease stage claims what is chosen here, when nothing is ready. **Invariant: a planned look never stands before a request**: with
//! work in the queue none is claimed, and at most half a second of the rate is claimed ahead.

mod looks;
mod pace;
pub mod tally;
mod upkeep;

pub use self::{
    looks::{FAILED_FOR, PlannedLooks, REFUSED_FOR, Room},
    upkeep::Upkeep,
};
