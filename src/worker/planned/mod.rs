//! Planned looks: what a run does with the calls that no request needs.

pub mod tally;
