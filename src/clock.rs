//! Time. A leaf: it reads the machine's clocks and touches nothing else.
//!
//! Three clocks matter: the wall clock, boot time (it goes on while the machine sleeps, unlike [`std::time::Instant`] on
//! Linux), and the queue's time: the Redis server's `TIME`, read once, plus the boot time elapsed since.
//! A Lambda sandbox is frozen between invocations, and a laptop's wall clock may be 20 seconds off. Leases are therefore
//! judged by [`ServerTime`] only. The server's clock may be wrong as well: [`ClocksApart`] compares it with a third one.
//!
//! Durations within a process are measured with [`std::time::Instant`], anywhere.

use std::{
    fmt,
    ops::{Add, Sub},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use time::OffsetDateTime;

/// A moment, in whole milliseconds since the Unix epoch.
///
/// Milliseconds, because Redis scripts round larger numbers: a microsecond does not survive Lua's 14 digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

/// The length of a day. UTC as machines keep it has no leap seconds.
const DAY_MILLIS: i64 = 24 * 60 * 60 * 1000;

impl Timestamp {
    /// 1 January 1970.
    pub const EPOCH: Self = Self(0);

    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Seconds since the epoch with a fraction, as Python's `time.time()` gives it.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of this millennium fit a double exactly")]
    pub fn as_seconds_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// The duration since `earlier`; zero when this is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// The midnight (UTC) at which this day began.
    #[must_use]
    pub const fn midnight(self) -> Self {
        Self(self.0 - self.0.rem_euclid(DAY_MILLIS))
    }

    /// The calendar time in UTC, or the nearest one in the years 1 to 9999.
    #[must_use]
    pub fn to_utc(self) -> OffsetDateTime {
        const BEGIN: i64 = -62_135_596_800_000;
        const END: i64 = 253_402_300_799_999;
        let nanos = i128::from(self.0.clamp(BEGIN, END)) * 1_000_000;
        OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    #[must_use]
    pub fn from_utc(time: OffsetDateTime) -> Self {
        Self(i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or(0))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        self.saturating_sub(duration)
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-03-04T05:06:07.089Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let utc = self.to_utc();
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            utc.year(),
            u8::from(utc.month()),
            utc.day(),
            utc.hour(),
            utc.minute(),
            utc.second(),
            utc.millisecond()
        )
    }
}

/// A source of time: the machine ([`SystemClock`]) or a test ([`ManualClock`]).
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The machine's wall clock. It may be wrong, and may jump.
    fn wall(&self) -> Timestamp;

    /// Time since boot, suspended time included. It never goes back.
    fn boot(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::EPOCH + since_epoch
    }

    fn boot(&self) -> Duration {
        use rustix::time::{ClockId, clock_gettime};
        // The monotonic clock of macOS counts suspended time. Linux has a separate clock for it.
        #[cfg(target_os = "linux")]
        let id = ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let id = ClockId::Monotonic;
        let spec = clock_gettime(id);
        // Boot time is never negative; only the types of the system call are signed.
        Duration::new(u64::try_from(spec.tv_sec).unwrap_or(0), u32::try_from(spec.tv_nsec).unwrap_or(0))
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug)]
pub struct ManualClock {
    hands: Mutex<(Timestamp, Duration)>,
}

impl ManualClock {
    #[must_use]
    pub fn at(wall: Timestamp) -> Arc<Self> {
        // Not zero, since a real machine has been up for a while when a process starts.
        Arc::new(Self { hands: Mutex::new((wall, Duration::from_secs(1000))) })
    }

    /// Advances both clocks, as time does.
    pub fn advance(&self, by: Duration) {
        let mut hands = self.hands.lock();
        *hands = (hands.0 + by, hands.1 + by);
    }

    /// Sets the wall clock only, as a time server does.
    pub fn set_wall(&self, wall: Timestamp) {
        self.hands.lock().0 = wall;
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        self.hands.lock().0
    }

    fn boot(&self) -> Duration {
        self.hands.lock().1
    }
}

/// The queue server's time: read once, then carried forward by boot time. Clones share one reading.
#[derive(Clone, Debug)]
pub struct ServerTime {
    clock: Arc<dyn Clock>,
    reading: Arc<Mutex<Reading>>,
}

/// The server's time, and our own clocks at the same moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    server: Timestamp,
    /// Milliseconds to add to the server's time when its clock is wrong.
    correction: i64,
    boot: Duration,
    wall: Timestamp,
}

impl ServerTime {
    /// `server` is the server's current time.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, server: Timestamp) -> Self {
        let reading = Reading { server, correction: 0, boot: clock.boot(), wall: clock.wall() };
        Self { clock, reading: Arc::new(Mutex::new(reading)) }
    }

    fn reading(&self) -> Reading {
        *self.reading.lock()
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        let reading = self.reading();
        let server = reading.server + self.clock.boot().saturating_sub(reading.boot);
        Timestamp(server.0.saturating_add(reading.correction))
    }

    /// Corrects the server's clock: when it showed `wrong`, the time was `right`. Later readings are corrected by the same amount.
    pub fn correct(&self, wrong: Timestamp, right: Timestamp) {
        let mut reading = self.reading.lock();
        reading.correction = reading.correction.saturating_add(right.0.saturating_sub(wrong.0));
    }

    /// True when our two clocks moved apart by more than `tolerance` since the reading: the machine was frozen in a way that
    /// stopped one of them, or somebody set the wall clock. The server's time must then be read again.
    #[must_use]
    pub fn is_doubtful(&self, tolerance: Duration) -> bool {
        let reading = self.reading();
        let boot = self.clock.boot().saturating_sub(reading.boot);
        let expected = reading.wall + boot;
        let wall = self.clock.wall();
        wall.since(expected) > tolerance || expected.since(wall) > tolerance
    }

    /// Takes a new reading: `server` is the server's current time.
    pub fn reset(&self, server: Timestamp) {
        let (boot, wall) = (self.clock.boot(), self.clock.wall());
        let mut reading = self.reading.lock();
        // The correction stays: the new reading comes from the same wrong clock.
        *reading = Reading { server, boot, wall, ..*reading };
    }

    /// The machine's own clocks behind this time.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

/// Clocks that differ by more than this are reported. A smaller difference may be network delay.
pub const CLOCKS_TOLERANCE: Duration = Duration::from_secs(5);

/// The queue server's clock and the machine's, when they differ too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClocksApart {
    pub server: Timestamp,
    pub machine: Timestamp,
    /// The database's clock, if it is known.
    pub database: Option<Timestamp>,
}

/// The clock in the minority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongClock {
    Server,
    Machine,
    /// All three differ.
    AllDiffer,
    /// Only two clocks are known.
    Unknown,
}

impl ClocksApart {
    /// Compares two clocks that were read within `uncertain` of each other; `None` when they agree.
    #[must_use]
    pub fn of(server: Timestamp, machine: Timestamp, uncertain: Duration) -> Option<Self> {
        let apart = Self { server, machine, database: None };
        (apart.difference() > CLOCKS_TOLERANCE + uncertain).then_some(apart)
    }

    #[must_use]
    pub fn difference(&self) -> Duration {
        difference(self.server, self.machine)
    }

    #[must_use]
    pub fn wrong(&self) -> WrongClock {
        let Some(database) = self.database else { return WrongClock::Unknown };
        let agrees = |other| difference(database, other) <= CLOCKS_TOLERANCE;
        match (agrees(self.server), agrees(self.machine)) {
            (false, false) => WrongClock::AllDiffer,
            (server, machine) if server && machine => {
                // The database is within the tolerance of both, so the nearer clock is right.
                let nearer = difference(database, self.server) <= difference(database, self.machine);
                if nearer { WrongClock::Machine } else { WrongClock::Server }
            }
            (true, _) => WrongClock::Machine,
            (false, true) => WrongClock::Server,
        }
    }

    /// The right time: that of two clocks that agree, else the database's, which all runs share.
    #[must_use]
    pub fn right(&self) -> Timestamp {
        match (self.wrong(), self.database) {
            (WrongClock::Server, _) => self.machine,
            (WrongClock::AllDiffer, Some(database)) => database,
            _ => self.server,
        }
    }
}

fn difference(one: Timestamp, other: Timestamp) -> Duration {
    one.since(other).max(other.since(one))
}

/// A sentence with the names that operators use.
impl fmt::Display for ClocksApart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, machine, .. } = self;
        let apart = self.difference().as_secs_f64();
        write!(f, "the clock of Redis says {server} and this machine's {machine}: they are {apart:.1} s apart")?;
        match (self.wrong(), self.database) {
            (WrongClock::Server, _) => {
                f.write_str("; the clock of Redis is wrong, the database agrees with this machine")
            }
            (WrongClock::Machine, _) => f.write_str("; this machine's clock is wrong, the database agrees with Redis"),
            (WrongClock::AllDiffer, Some(database)) => {
                write!(f, "; the database says {database}, and agrees with neither")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_in_the_minority_is_named() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        assert_eq!(ClocksApart::of(at(100), at(105), Duration::ZERO), None);
        assert_eq!(ClocksApart::of(at(100), at(107), Duration::from_secs(2)), None, "the answer took two seconds");
        for (server, machine, database, wrong, right) in [
            (10_000, 100, Some(101), WrongClock::Server, 100),
            (100, 10_000, Some(101), WrongClock::Machine, 100),
            (100, 108, Some(104), WrongClock::Machine, 100),
            (100, 108, Some(105), WrongClock::Server, 108),
            (100, 10_000, Some(5_000), WrongClock::AllDiffer, 5_000),
            (100, 10_000, None, WrongClock::Unknown, 100),
        ] {
            let apart = ClocksApart::of(at(server), at(machine), Duration::ZERO).unwrap();
            let apart = ClocksApart { database: database.map(at), ..apart };
            assert_eq!((apart.wrong(), apart.right()), (wrong, at(right)), "{apart:?}");
        }
        let apart = ClocksApart { server: at(7_200), machine: at(0), database: Some(at(1)) };
        assert_eq!(
            apart.to_string(),
            "the clock of Redis says 1970-01-01T02:00:00.000Z and this machine's 1970-01-01T00:00:00.000Z: they are 7200.0 s \
             apart; the clock of Redis is wrong, the database agrees with this machine"
        );
    }

    #[test]
    fn a_correction_outlasts_another_reading() {
        let clock = ManualClock::at(Timestamp::from_millis(50_000));
        let time = ServerTime::new(clock.clone(), Timestamp::from_millis(7_000));
        time.correct(time.now(), Timestamp::from_millis(50_000));
        clock.advance(Duration::from_secs(1));
        assert_eq!(time.now(), Timestamp::from_millis(51_000));
        time.reset(Timestamp::from_millis(8_500));
        assert_eq!(time.now(), Timestamp::from_millis(51_500));
    }

    #[test]
    fn server_time_ignores_wall_clock() {
        let clock = ManualClock::at(Timestamp::from_millis(50_000));
        let server = ServerTime::new(clock.clone(), Timestamp::from_millis(1_000));
        clock.set_wall(Timestamp::from_millis(9_999_999));
        clock.advance(Duration::from_millis(250));
        assert_eq!(server.now(), Timestamp::from_millis(1_250));
    }

    #[test]
    fn diverging_clocks_make_server_time_doubtful() {
        let clock = ManualClock::at(Timestamp::from_millis(50_000));
        let server = ServerTime::new(clock.clone(), Timestamp::EPOCH);
        clock.advance(Duration::from_secs(60));
        assert!(!server.is_doubtful(Duration::from_secs(1)));
        clock.set_wall(Timestamp::from_millis(500_000));
        assert!(server.is_doubtful(Duration::from_secs(1)));
        server.reset(Timestamp::from_millis(7));
        assert!(!server.is_doubtful(Duration::from_secs(1)));
        assert_eq!(server.now(), Timestamp::from_millis(7));
    }

    #[test]
    fn timestamps_print_as_rfc_3339() {
        assert_eq!(Timestamp::from_millis(1_772_600_767_089).to_string(), "2026-03-04T05:06:07.089Z");
    }

    #[test]
    fn a_day_begins_at_midnight_in_utc() {
        let midnight = |time: &str| {
            let time = OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339).unwrap();
            Timestamp::from_utc(time).midnight().to_string()
        };
        assert_eq!(midnight("2026-03-04T23:59:59.999Z"), "2026-03-04T00:00:00.000Z");
        assert_eq!(midnight("2026-03-05T00:00:00Z"), "2026-03-05T00:00:00.000Z");
    }

    #[test]
    fn since_is_zero_for_a_later_moment() {
        assert_eq!(Timestamp::EPOCH.since(Timestamp::from_millis(5)), Duration::ZERO);
    }
}
