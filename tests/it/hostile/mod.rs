//! Generated input, broken in every way: mail, events, bodies of the API. Nothing may panic, and nothing may be lost.
//!
//! Seconds in the suite. For minutes of it: `HOSTILE_CASES=200000 cargo test --test it hostile`.

mod bodies;
mod events;
mod json;
mod mail;
mod mailbox;

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, TestRunner},
};

/// The number of inputs for each property.
fn cases() -> u32 {
    std::env::var("HOSTILE_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

fn config() -> Config {
    Config { cases: cases(), failure_persistence: None, ..Config::default() }
}

/// This many values of a strategy, for properties that need a server: they are not shrunk.
fn some<S: Strategy>(count: usize, strategy: &S) -> Vec<S::Value> {
    let mut runner = TestRunner::new(config());
    (0..count).map(|_| strategy.new_tree(&mut runner).expect("no filter rejects everything").current()).collect()
}
