//! Whether answers take longer than they used to. Values and decisions only; the time is passed in.
//!
//! Each kind of call has a baseline of its own, found in its first calls: a war is not as quick as a player, and a queue
//! that turns from players to wars is no slower API. Calls are judged in windows. A call is slow when it took more than
//! twice the baseline and [`EXCESS`] on top, a window when more than half of its calls were, and the API when
//! [`SUSTAINED`] windows in a row were: then it is given fewer calls. When it is no quicker with those either, it was not
//! us, what it takes now is the new baseline, and the rate is what it was. So a constant time of any length, and
//! any scatter about it, leaves the rate alone.

use std::time::Duration;

use crate::model::EndpointKind;

/// A window is at least so long …
pub const WINDOW: Duration = Duration::from_secs(5);

/// … and has at least so many calls.
const WINDOW_CALLS: usize = 20;

/// What a call may take beyond twice its baseline.
pub const EXCESS: Duration = Duration::from_millis(250);

/// Slow windows in a row that mean something.
pub const SUSTAINED: u32 = 3;

/// So many more slow windows mean that slowing down did not help.
const PATIENCE: u32 = 4;

/// How often the rate is lowered before it is taken back.
const TRIES: u32 = 2;

/// Quick windows in a row after which it is over.
const OVER: u32 = 2;

/// The most times that are kept of a window and kind.
const KEPT: usize = 256;

/// What the last window showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Answers take much longer, and go on doing so: fewer calls, please.
    Slower { usual: Duration, now: Duration },
    /// They are quick again since there are fewer.
    Over,
    /// They are as slow with fewer calls: it was not us.
    NotUs { now: Duration },
}

/// The times of all calls of a run.
#[derive(Debug, Default)]
pub struct LatencyWatch {
    kinds: [Series; EndpointKind::ALL.len()],
    window_began: Option<Duration>,
    calls: usize,
    /// Slow windows in a row, or quick ones while it is slowed down.
    slow: u32,
    quick: u32,
    tries: u32,
}

#[derive(Debug, Default)]
struct Series {
    baseline: Option<Duration>,
    window: Vec<Duration>,
}

/// What a window showed.
struct Window {
    is_slow: bool,
    /// Of the slow calls: the usual time and the present one, of the kind with the most of them.
    usual: Duration,
    now: Duration,
}

impl LatencyWatch {
    /// A call of this kind took so long; `now` is boot time.
    pub fn took(&mut self, kind: EndpointKind, took: Duration, now: Duration) -> Option<Finding> {
        let began = *self.window_began.get_or_insert(now);
        let series = self.kinds.get_mut(kind as usize)?;
        if series.window.len() < KEPT {
            series.window.push(took);
        }
        self.calls += 1;
        if self.calls < WINDOW_CALLS || now.saturating_sub(began) < WINDOW {
            return None;
        }
        let window = self.close();
        self.window_began = Some(now);
        window.and_then(|window| self.judge(&window))
    }

    /// `None` when too few calls can be judged.
    fn close(&mut self) -> Option<Window> {
        self.calls = 0;
        let (mut judged, mut slow) = (0, 0);
        let mut worst = (0, Duration::ZERO, Duration::ZERO);
        for series in &self.kinds {
            let Some(baseline) = series.baseline else { continue };
            let of_kind = series.window.iter().filter(|took| is_slow(**took, baseline)).count();
            judged += series.window.len();
            slow += of_kind;
            if of_kind > worst.0 {
                worst = (of_kind, baseline, median(&series.window));
            }
        }
        let is_slow = slow * 2 > judged;
        for series in &mut self.kinds {
            series.follow(is_slow);
        }
        (judged * 2 >= WINDOW_CALLS).then_some(Window { is_slow, usual: worst.1, now: worst.2 })
    }

    fn judge(&mut self, window: &Window) -> Option<Finding> {
        if !window.is_slow {
            self.slow = 0;
            self.quick += 1;
            let is_over = self.tries > 0 && self.quick >= OVER;
            if is_over {
                self.tries = 0;
            }
            return is_over.then_some(Finding::Over);
        }
        (self.slow, self.quick) = (self.slow + 1, 0);
        let patience = if self.tries == 0 { SUSTAINED } else { PATIENCE };
        if self.slow < patience {
            return None;
        }
        self.slow = 0;
        if self.tries < TRIES {
            self.tries += 1;
            return Some(Finding::Slower { usual: window.usual, now: window.now });
        }
        self.tries = 0;
        for series in &mut self.kinds {
            // Found anew in the next window.
            series.baseline = None;
        }
        Some(Finding::NotUs { now: window.now })
    }
}

impl Series {
    /// Takes the window into the baseline and empties it. Quicker counts at once, slower only bit by bit, and not at all
    /// while it is being looked into.
    fn follow(&mut self, is_slow: bool) {
        if self.window.len() * 4 >= WINDOW_CALLS {
            let now = median(&self.window);
            self.baseline = Some(match self.baseline {
                None => now,
                Some(baseline) if now < baseline => now,
                Some(baseline) if is_slow => baseline,
                Some(baseline) => baseline + now.saturating_sub(baseline) / 10,
            });
        }
        self.window.clear();
    }
}

fn is_slow(took: Duration, baseline: Duration) -> bool {
    took > baseline * 2 + EXCESS
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A run at up to 30 calls a second for so many seconds, each call taking what `api` says of second and rate. Answers
    /// what was found, with the second, and the share of the cap that was used.
    fn run(seconds: u32, mut api: impl FnMut(u32, f64) -> (usize, Duration)) -> (Vec<(u32, Finding)>, f64) {
        let mut watch = LatencyWatch::default();
        let (mut found, mut rate, mut used) = (Vec::new(), 1.0, 0.0);
        for second in 0..seconds {
            used += rate;
            for call in 0..30_u32 {
                if f64::from(call) >= 30.0 * rate {
                    break;
                }
                let (kind, took) = api(second, rate);
                let now = Duration::from_secs(second.into()) + MS * (call * 33);
                let Some(finding) = watch.took(EndpointKind::ALL[kind], took, now) else { continue };
                found.push((second, finding));
                match finding {
                    Finding::Slower { .. } => rate *= 0.7,
                    Finding::NotUs { .. } => rate = 1.0,
                    Finding::Over => {}
                }
            }
        }
        (found, used / f64::from(seconds))
    }

    #[test]
    fn a_healthy_api_of_any_constant_latency_is_left_alone() {
        for latency in [1, 5, 40, 150, 900, 4_000, 9_000] {
            let mut random = fastrand::Rng::with_seed(7);
            let (found, _) = run(600, |_, _| (0, MS * latency + MS * random.u32(0..latency)));
            assert_eq!(found, [], "{latency} ms");
        }
    }

    #[test]
    fn a_queue_that_turns_from_one_kind_to_a_slower_one_is_no_slower_api() {
        let (found, _) = run(300, |second, _| if second < 100 { (1, MS * 60) } else { (4, MS * 1500) });
        assert_eq!(found, []);
    }

    #[test]
    fn a_hiccup_and_a_scatter_of_slow_calls_are_left_alone() {
        let mut random = fastrand::Rng::with_seed(7);
        let (found, _) = run(600, |second, _| {
            let hiccup = second % 60 < 8;
            (0, if hiccup || random.u8(..) < 80 { MS * 3000 } else { MS * 100 })
        });
        assert_eq!(found, []);
    }

    #[test]
    fn a_drift_over_hours_becomes_the_new_baseline() {
        let (found, _) = run(3 * 3600, |second, _| (0, MS * (100 + second / 10)));
        assert_eq!(found, []);
    }

    #[test]
    fn an_api_that_is_slower_for_reasons_of_its_own_is_accepted_within_a_minute_and_a_half() {
        let (found, used) = run(600, |second, _| (0, if second < 60 { MS * 150 } else { MS * 1200 }));
        let names: Vec<_> = found.iter().map(|(_, finding)| std::mem::discriminant(finding)).collect();
        assert_eq!(names.len(), 3, "{found:?}");
        assert_eq!(found[0].1, Finding::Slower { usual: MS * 150, now: MS * 1200 });
        assert!((75..85).contains(&found[0].0), "{found:?}");
        assert!(matches!(found[2], (..150, Finding::NotUs { .. })), "{found:?}");
        assert!(used > 0.94, "{used}");
    }

    #[test]
    fn an_api_that_our_calls_make_slow_gets_fewer_of_them() {
        let (found, _) = run(120, |second, rate| (0, if second > 30 && rate > 0.8 { MS * 2000 } else { MS * 150 }));
        assert!(matches!(found[..], [(_, Finding::Slower { .. }), (_, Finding::Over)]), "{found:?}");
    }
}
