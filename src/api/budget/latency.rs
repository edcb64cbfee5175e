//! Finds out whether responses take longer than they used to. Values and decisions only; the time is passed in.
//!
//! Each kind of call has a baseline of its own, found in its first calls: a war is not as quick as a player, and a queue that
//! turns from players to wars does not make the API slow.
//!
//! - A **call** is slow when it takes more than twice the baseline and `SLOW_CALL_EXCESS` on top.
//! - A **window** is slow when more than half of its calls are.
//! - The **API** is slow when `SLOW_WINDOWS_TO_BACK_OFF` windows in a row are. Then it gets fewer calls.
//!
//! When the API is not quicker with fewer calls, our calls are not the cause. The present time becomes the new baseline, and
//! the rate is restored. So a constant time of any length, and any scatter about it, leaves the rate alone.

use std::time::Duration;

use crate::model::EndpointKind;

/// The shortest window.
const MIN_WINDOW: Duration = Duration::from_secs(5);

/// The fewest calls of a window: a median of fewer says little.
const MIN_WINDOW_CALLS: usize = 20;

/// The time that a call may take beyond twice its baseline. Without it a baseline of a few milliseconds would be jumpy.
const SLOW_CALL_EXCESS: Duration = Duration::from_millis(250);

/// The slow windows in a row after which the rate is lowered: 15 s, longer than a hiccup.
const SLOW_WINDOWS_TO_BACK_OFF: u32 = 3;

/// The further slow windows after which a lower rate has not helped.
const SLOW_WINDOWS_WITHOUT_EFFECT: u32 = 4;

/// The times that the rate is lowered before it is restored.
const MAX_BACK_OFFS: u32 = 2;

/// The quick windows in a row after which the slowness is over.
const QUICK_WINDOWS_TO_RECOVER: u32 = 2;

/// The most times that are kept of a window and kind: a bound for memory, far above what a median needs.
const MAX_TIMES: usize = 256;

/// A change that a window showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Responses take much longer, and go on doing so: the rate is to be lowered.
    Slower { usual: Duration, now: Duration },
    /// Responses are quick again since there are fewer calls.
    Over,
    /// Responses are as slow with fewer calls: the rate is to be restored.
    NotUs { now: Duration },
}

/// The times of all calls of a run.
#[derive(Debug, Default)]
pub struct LatencyWatch {
    kinds: [Series; EndpointKind::ALL.len()],
    window_began: Option<Duration>,
    calls: usize,
    /// Windows in a row.
    slow: u32,
    quick: u32,
    back_offs: u32,
}

#[derive(Debug, Default)]
struct Series {
    baseline: Option<Duration>,
    window: Vec<Duration>,
}

/// The result of a window.
struct Window {
    is_slow: bool,
    /// The usual time and the present one, of the kind with the most slow calls.
    usual: Duration,
    now: Duration,
}

impl LatencyWatch {
    /// Records the time that a call took; `now` is boot time.
    pub fn record(&mut self, kind: EndpointKind, took: Duration, now: Duration) -> Option<Finding> {
        let began = *self.window_began.get_or_insert(now);
        let series = self.kinds.get_mut(kind as usize)?;
        if series.window.len() < MAX_TIMES {
            series.window.push(took);
        }
        self.calls += 1;
        // A window needs enough calls and enough time: else a quiet one would be too small, and a busy one too short.
        if self.calls < MIN_WINDOW_CALLS || now.saturating_sub(began) < MIN_WINDOW {
            return None;
        }
        let window = self.close();
        self.window_began = Some(now);
        window.and_then(|window| self.judge(&window))
    }

    /// Ends the window. `None` when too few of its calls have a baseline.
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
        // More than half.
        let is_slow = slow * 2 > judged;
        // After the judgement: the baseline must not follow the window that it judges.
        for series in &mut self.kinds {
            series.update_baseline(is_slow);
        }
        // A window of mostly new kinds says nothing.
        (judged * 2 >= MIN_WINDOW_CALLS).then_some(Window { is_slow, usual: worst.1, now: worst.2 })
    }

    fn judge(&mut self, window: &Window) -> Option<Finding> {
        if !window.is_slow {
            self.slow = 0;
            self.quick += 1;
            let is_over = self.back_offs > 0 && self.quick >= QUICK_WINDOWS_TO_RECOVER;
            if is_over {
                self.back_offs = 0;
            }
            return is_over.then_some(Finding::Over);
        }
        (self.slow, self.quick) = (self.slow + 1, 0);
        let needed = if self.back_offs == 0 { SLOW_WINDOWS_TO_BACK_OFF } else { SLOW_WINDOWS_WITHOUT_EFFECT };
        if self.slow < needed {
            return None;
        }
        self.slow = 0;
        if self.back_offs < MAX_BACK_OFFS {
            self.back_offs += 1;
            return Some(Finding::Slower { usual: window.usual, now: window.now });
        }
        self.back_offs = 0;
        for series in &mut self.kinds {
            // The next window finds a new one.
            series.baseline = None;
        }
        Some(Finding::NotUs { now: window.now })
    }
}

impl Series {
    /// Moves the baseline towards the median of the window, and empties the window. A quicker median is the new baseline at
    /// once. A slower one moves it by a tenth, or not at all when the window as a whole is slow.
    fn update_baseline(&mut self, is_slow: bool) {
        // The median of very few calls would be chance.
        if self.window.len() * 4 >= MIN_WINDOW_CALLS {
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
    took > baseline * 2 + SLOW_CALL_EXCESS
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

    /// Plays a run at up to 30 calls a second. `api` gives each call's kind and time, by second and rate. Returns the findings
    /// with their seconds, and the used share of the cap.
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
                let Some(finding) = watch.record(EndpointKind::ALL[kind], took, now) else { continue };
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
    fn constant_latency_is_left_alone() {
        for latency in [1, 5, 40, 150, 900, 4_000, 9_000] {
            let mut random = fastrand::Rng::with_seed(7);
            let (found, _) = run(600, |_, _| (0, MS * latency + MS * random.u32(0..latency)));
            assert_eq!(found, [], "{latency} ms");
        }
    }

    #[test]
    fn change_to_slower_kind_is_not_slowness() {
        let (found, _) = run(300, |second, _| if second < 100 { (1, MS * 60) } else { (4, MS * 1500) });
        assert_eq!(found, []);
    }

    #[test]
    fn hiccup_and_scatter_are_left_alone() {
        let mut random = fastrand::Rng::with_seed(7);
        let (found, _) = run(600, |second, _| {
            let hiccup = second % 60 < 8;
            (0, if hiccup || random.u8(..) < 80 { MS * 3000 } else { MS * 100 })
        });
        assert_eq!(found, []);
    }

    #[test]
    fn slow_drift_becomes_baseline() {
        let (found, _) = run(3 * 3600, |second, _| (0, MS * (100 + second / 10)));
        assert_eq!(found, []);
    }

    #[test]
    fn foreign_slowness_is_accepted_within_ninety_seconds() {
        let (found, used) = run(600, |second, _| (0, if second < 60 { MS * 150 } else { MS * 1200 }));
        let names: Vec<_> = found.iter().map(|(_, finding)| std::mem::discriminant(finding)).collect();
        assert_eq!(names.len(), 3, "{found:?}");
        assert_eq!(found[0].1, Finding::Slower { usual: MS * 150, now: MS * 1200 });
        assert!((75..85).contains(&found[0].0), "{found:?}");
        assert!(matches!(found[2], (..150, Finding::NotUs { .. })), "{found:?}");
        assert!(used > 0.94, "{used}");
    }

    #[test]
    fn own_slowness_lowers_rate() {
        let (found, _) = run(120, |second, rate| (0, if second > 30 && rate > 0.8 { MS * 2000 } else { MS * 150 }));
        assert!(matches!(found[..], [(_, Finding::Slower { .. }), (_, Finding::Over)]), "{found:?}");
    }
}
