//! The AIMD rate of a key, over HTTP: it finds a hidden limit and keeps to it, and backs off from slow responses.

use std::time::Duration;

use super::laboratory::{Laboratory, Treatment};

/// A hidden limit, in calls a second.
const LIMIT: usize = 17;

const USUAL: Duration = Duration::from_millis(150);

/// The time of a response when the API is overloaded.
const SLOW: Duration = Duration::from_millis(1500);

fn usual(_: usize) -> Treatment {
    Treatment { is_refused: false, takes: USUAL }
}

fn slow(_: usize) -> Treatment {
    Treatment { is_refused: false, takes: SLOW }
}

#[tokio::test(start_paused = true)]
async fn hidden_limit_is_found_with_few_refusals() {
    let laboratory = Laboratory::open(30, |in_second| Treatment { is_refused: in_second > LIMIT, takes: USUAL }).await;
    laboratory.pass(2 * 60).await;
    let (calls_to_find, refused_to_find) = laboratory.calls();
    // Long enough for one more probe of the ceiling.
    let settled = laboratory.pass(3 * 60).await;
    let (calls, refused) = laboratory.calls();
    println!("{refused_to_find} of {calls_to_find} calls refused until it was found, {refused} of {calls} in all");

    assert!(refused * 50 < calls, "{refused} of {calls} calls refused");
    let limit = f64::from(u32::try_from(LIMIT).unwrap());
    assert!((limit * 0.9..=limit).contains(&laboratory.rate()), "settled at {}", laboratory.rate());
    assert!(settled.iter().all(|rate| *rate >= limit * 0.9), "{settled:?}");
    let state = laboratory.aimd_state().unwrap();
    assert_eq!((state.ceiling, state.failed_probes), (Some(limit + 1.0), 2), "{state:?}");
}

#[tokio::test(start_paused = true)]
async fn slowness_from_our_calls_lowers_rate_temporarily() {
    let laboratory = Laboratory::open(15, usual).await;
    laboratory.pass(15).await;
    let mut lowered = Vec::new();
    for _ in 0..45 {
        // The API is overloaded at more than twelve calls a second.
        laboratory.judge(if laboratory.rate() > 12.0 { slow } else { usual });
        lowered.extend(laboratory.pass(1).await);
    }
    assert_eq!(phases(&lowered), [15.0, 10.5, 11.5], "{lowered:?}");
    laboratory.judge(usual);
    let back = laboratory.pass(80).await;
    assert_eq!(phases(&back), [11.5, 12.5, 13.5, 14.5, 15.0], "{back:?}");
    assert_eq!(laboratory.calls().1, 0);
}

#[tokio::test(start_paused = true)]
async fn foreign_slowness_lowers_rate_twice_at_most() {
    let laboratory = Laboratory::open(15, usual).await;
    laboratory.pass(15).await;
    laboratory.judge(slow);
    let tried = laboratory.pass(75).await;
    assert_eq!(phases(&tried), [15.0, 10.5, 7.4, 15.0], "{tried:?}");
}

/// The rates in order, without repeats, to a tenth.
fn phases(rates: &[f64]) -> Vec<f64> {
    let mut phases: Vec<f64> = rates.iter().map(|rate| (rate * 10.0).round() / 10.0).collect();
    phases.dedup();
    phases
}
