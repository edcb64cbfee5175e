//! The limiter against real time, in counts.

use std::{sync::Arc, time::Duration};

use refresh_worker::{
    api::{KeyPool, SlotStart, budget::limiter::USED_SHARE},
    clock::SystemClock,
};
use tokio::time::Instant;

use super::rig::key;

/// The share that a loaded machine reaches is only printed. The test asserts what must never happen.
#[tokio::test]
async fn real_timers_never_exceed_cap() {
    let (cap, keys_held) = (60, 2);
    let keys = KeyPool::new(Arc::new(SystemClock), cap);
    let start = Instant::now();
    for token in ["one", "two"] {
        keys.add(key(token), None, SlotStart::now(&SystemClock), Duration::from_secs(60));
    }
    let mut calls = 0_u32;
    while let Ok(permit) = keys.permit(start + Duration::from_secs(2)).await {
        drop(permit);
        calls += 1;
    }
    let elapsed = start.elapsed().as_secs_f64();
    let allowed = f64::from(cap * keys_held) * elapsed;
    println!("{calls} of {allowed:.0} calls in {elapsed:.2} s: {:.1} %", f64::from(calls) * 100.0 / allowed);
    // For each key its first call, and the calls that 30 ms of lateness may have saved up.
    let spare = f64::from(keys_held) * (1.0 + f64::from(cap) * 0.03);
    assert!(f64::from(calls) <= allowed * USED_SHARE + spare, "{calls} calls of {allowed}");
    assert!(calls >= keys_held, "the first call of each key is free at once");
}
