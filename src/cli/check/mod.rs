//! `check`: is this configuration fit to run?

mod findings;
