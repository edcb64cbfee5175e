//! The planner's functions against the tables of a second implementation, written independently of this one.
#![expect(clippy::unreadable_literal, clippy::type_complexity, reason = "tables of generated numbers")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a small world of whole seconds"
)]

use std::{collections::BTreeSet, time::Duration};

use super::*;
use crate::clock::Timestamp;

const LOOKED_AT: Timestamp = Timestamp::from_millis(1_000_000_000);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[track_caller]
fn assert_near(actual: f64, expected: f64) {
    let tolerance = 1e-6 * expected.abs().max(1.0);
    assert!((actual - expected).abs() <= tolerance, "{actual} is not {expected}");
}

/// Reads a second, changes a second, seconds since the last look, stale reads that a call saves.
const VALUES: [(f64, f64, f64, f64); 20] = [
    (4.160675295e-05, 6.755701570e-07, 4015.483930, 2.262011139016169e-04),
    (2.302403482e-06, 8.858313043e-05, 290.238932, 8.444576861877977e-06),
    (1.949820463e-06, 6.178691798e-05, 14.124811, 1.201085101255751e-08),
    (1.473087073e-04, 2.422171165e-07, 23.059615, 9.486529392780045e-09),
    (1.326160065e-04, 3.529284637e-03, 31.275758, 2.127440566526389e-04),
    (1.306756963e-05, 2.824117248e-04, 61778.273898, 4.627131984797576e-02),
    (7.682715359e-04, 1.519646627e-05, 80356.390829, 1.744165233318852e+01),
    (1.709674378e-06, 5.267160166e-03, 144.024755, 5.726118983887687e-05),
    (5.263509569e-06, 4.444852047e-07, 171.367040, 3.4352418756364e-08),
    (1.204014717e-02, 9.862683342e-07, 2120.316313, 2.665586540581128e-02),
    (1.565191009e-03, 1.117342929e-05, 1552.307883, 2.082866403680235e-02),
    (2.060368373e-06, 2.127190745e-07, 66.655325, 9.73623425481035e-10),
    (2.523479993e-03, 2.247800074e-05, 180.546337, 9.219982766806181e-04),
    (8.468555099e-04, 3.108236600e-05, 158.149560, 3.281001503005263e-04),
    (9.373405550e-03, 6.989874617e-04, 94.707864, 2.81186945424606e-02),
    (7.449352944e-04, 7.737145624e-05, 31662.848454, 6.761241179366384e+00),
    (4.438400080e-03, 3.834049423e-06, 83310.432670, 4.786525421691707e+01),
    (3.893398805e-06, 1.993772125e-05, 10679.814718, 3.845953550095643e-03),
    (5.753374886e-06, 4.889867065e-05, 14.349244, 2.894973723684117e-08),
    (2.193205280e-03, 1.603761428e-03, 1959.312734, 1.122909703100943e+00),
];

#[test]
fn value_of_call_matches_the_table() {
    for (reads, changes, after, expected) in VALUES {
        let value = Rates { reads, changes }.value(after);
        assert!((value / expected - 1.0).abs() < 1e-6, "{reads} {changes} {after}: {value} is not {expected}");
    }
}

/// Kind, hinted, changes, watched, mails, exposed, seconds since a reader was heard, level, seconds since the look; the seconds from the
/// look to the next one.
const NEXT_LOOKS: [(Kind, bool, f64, f64, f64, f64, u64, f64, u64, f64); 24] = [
    (Kind::Player, true, 1.050535, 6188.665, 0.0, 92882.213, 20000, 0.735379, 20000, 86400.000000),
    (Kind::Player, true, 0.0, 44432.37, 0.633767, 0.0, 20000, 0.157674, 20000, 20000.000000),
    (Kind::Clan, false, 2.591953, 88782.037, 0.0, 0.0, 30000, 0.005363, 20000, 1200.000000),
    (Kind::Player, true, 147.701429, 75294.907, 198.215107, 269859.903, 20000, 0.039438, 20000, 20000.000000),
    (Kind::Clan, false, 0.0, 65956.983, 0.0, 284684.628, 100, 3.142892, 0, 86400.000000),
    (Kind::Player, true, 0.756773, 42673.632, 4.866203, 43235.247, 30000, 0.011456, 500, 1200.000000),
    (Kind::Clan, false, 0.615645, 0.0, 92.936459, 43166.252, 100, 0.026472, 500, 120.000000),
    (Kind::Clan, false, 0.0, 0.0, 246.408218, 40166.303, 30000, 0.001306, 500, 1200.000000),
    (Kind::Clan, false, 77.457978, 268336.607, 4.841386, 4026.906, 20000, 0.006569, 30, 1200.000000),
    (Kind::Clan, false, 0.0, 75118.393, 3.833284, 130177.523, 100, 1.596961, 500, 86400.000000),
    (Kind::Player, false, 0.0, 0.0, 142.279395, 7308.715, 100, 0.156545, 500, 278.529597),
    (Kind::Clan, true, 0.0, 47392.294, 0.0, 63833.938, 30000, 0.020135, 30, 1200.000000),
    (Kind::Player, false, 0.182714, 489028.219, 275.72772, 45550.915, 20000, 1.276511, 0, 13688.626160),
    (Kind::Clan, false, 56.623588, 65267.394, 3.343424, 31832.825, 100, 0.005824, 0, 1200.000000),
    (Kind::Clan, false, 0.0, 367516.731, 2.970075, 22617.29, 30000, 0.123834, 30, 26564.197092),
    (Kind::Player, false, 2.678265, 12342.099, 1.548301, 0.0, 30000, 0.374828, 30, 2372.959542),
    (Kind::Player, true, 0.0, 67201.388, 0.0, 129456.545, 20000, 0.048429, 20000, 20000.000000),
    (Kind::Player, true, 7.793171, 41280.369, 189.058487, 0.0, 100, 0.011541, 0, 60.000000),
    (Kind::Clan, false, 0.544654, 76462.904, 163.296673, 0.0, 100, 1.578884, 500, 240.157931),
    (Kind::Clan, false, 375.339884, 156331.131, 0.0, 101745.533, 20000, 0.306771, 20000, 86400.000000),
    (Kind::Clan, false, 0.0, 23570.576, 0.0, 0.0, 20000, 1.639516, 500, 7585.085616),
    (Kind::Player, true, 0.0, 46281.142, 0.520779, 32825.472, 30000, 0.007256, 500, 1200.000000),
    (Kind::Clan, true, 282.690161, 0.0, 9.205263, 0.0, 100, 0.458048, 0, 86400.000000),
    (Kind::Player, false, 0.0, 0.0, 0.771911, 98677.85, 100, 0.001373, 500, 1200.000000),
];

#[test]
fn next_look_matches_the_table() {
    for (kind, hinted, changes, watched, mails, exposed, heard_ago, level, after, expected) in NEXT_LOOKS {
        let now = LOOKED_AT + seconds(after);
        let heard_at = Some(now - seconds(heard_ago));
        let known = Knowledge { looked_at: Some(LOOKED_AT), heard_at, changes, watched, mails, exposed, hinted };
        let next = known.next_look(kind, LOOKED_AT + usual_floor(kind), level, now, Policy::default());
        let after = next.expect("it was looked at").since(LOOKED_AT).as_secs_f64();
        // Times are whole milliseconds.
        assert!((after - expected).abs() <= 0.001 + 1e-6 * expected, "{known:?} {level}: {after} is not {expected}");
    }
}

/// Kind; changes, watched, mails, exposed before; seconds between the looks, changed, seconds until a reader asked (0: nobody); the same
/// four after.
const LESSONS: [(Kind, [f64; 4], u64, bool, u64, [f64; 4]); 20] = [
    (
        Kind::Player,
        [10.893293, 54887.366, 16.766639, 25167.168],
        700,
        false,
        0,
        [10.880692315, 55523.875705, 16.721419812, 25199.292805],
    ),
    (
        Kind::Clan,
        [4.542585, 245113.284, 7.193257, 176040.22],
        1500,
        false,
        0,
        [4.531332628, 246006.117395, 7.151749574, 175924.410824],
    ),
    (
        Kind::Clan,
        [4.224136, 287291.154, 42.662375, 46575.642],
        40000,
        true,
        32988,
        [5.360998825, 308905.121514, 37.561522756, 72303.180411],
    ),
    (
        Kind::Clan,
        [14.208829, 185612.151, 7.237611, 247457.141],
        40000,
        true,
        33732,
        [16.703603466, 213733.361867, 7.202610128, 245202.000600],
    ),
    (
        Kind::Clan,
        [45.494383, 225860.148, 28.423975, 243871.618],
        60,
        false,
        0,
        [45.489869892, 225897.742351, 28.417396138, 243815.172770],
    ),
    (
        Kind::Clan,
        [1.558026, 39927.959, 18.035374, 31474.941],
        86400,
        true,
        82883,
        [6.891562283, 121012.665239, 13.922910169, 104835.780725],
    ),
    (
        Kind::Clan,
        [31.311323, 204199.253, 24.464716, 994.298],
        86400,
        false,
        66526,
        [27.143093921, 263415.819571, 18.529735018, 66638.445649],
    ),
    (
        Kind::Clan,
        [32.964974, 19815.107, 36.839416, 75658.059],
        60,
        true,
        0,
        [34.013687838, 19873.141313, 36.830889344, 75640.547587],
    ),
    (
        Kind::Clan,
        [36.466752, 61565.258, 36.99143, 292720.528],
        1500,
        true,
        0,
        [37.900193723, 62912.755581, 36.777977449, 291931.435597],
    ),
    (
        Kind::Player,
        [38.348505, 185092.205, 32.138149, 23241.546],
        120,
        true,
        0,
        [39.353461072, 185175.483999, 32.123273671, 23230.788515],
    ),
    (
        Kind::Player,
        [32.576718, 207866.047, 31.057538, 40032.303],
        1500,
        false,
        0,
        [32.496022678, 208851.144992, 30.878325931, 40701.303626],
    ),
    (
        Kind::Clan,
        [34.609259, 202712.297, 14.542824, 154960.708],
        1500,
        true,
        0,
        [35.660971312, 203710.161272, 14.458907188, 154966.534447],
    ),
    (
        Kind::Clan,
        [49.66502, 164722.952, 15.583733, 25756.278],
        1500,
        false,
        0,
        [49.541995490, 165814.919135, 15.493809805, 26507.655921],
    ),
    (
        Kind::Clan,
        [40.994885, 290432.475, 22.472548, 80597.172],
        120,
        false,
        0,
        [40.986751901, 290494.855225, 22.462146451, 80559.867130],
    ),
    (
        Kind::Clan,
        [29.073618, 42522.203, 26.203286, 285822.101],
        120,
        true,
        0,
        [30.110762075, 42633.766892, 26.191157657, 285689.806579],
    ),
    (
        Kind::Clan,
        [35.166852, 69415.081, 44.885285, 145842.197],
        60,
        false,
        0,
        [35.163363398, 69468.194925, 44.874896090, 145808.441139],
    ),
    (
        Kind::Clan,
        [47.497979, 204476.435, 20.270966, 218154.831],
        1500,
        true,
        0,
        [48.568617351, 205469.929351, 20.153995950, 217796.006857],
    ),
    (
        Kind::Clan,
        [42.011552, 522.415, 37.536702, 251733.238],
        60,
        false,
        0,
        [42.007384394, 582.363176, 37.528013954, 251674.973161],
    ),
    (
        Kind::Clan,
        [45.078328, 86949.888, 18.6111, 117869.815],
        86400,
        false,
        0,
        [39.077406301, 161774.936293, 13.335435874, 170257.413019],
    ),
    (
        Kind::Player,
        [37.78282, 256276.58, 14.031885, 15485.255],
        40000,
        true,
        10360,
        [41.349515199, 279875.415329, 13.025281826, 23030.815398],
    ),
];

#[test]
fn look_teaches_as_in_the_table() {
    for (kind, [changes, watched, mails, exposed], span, changed, asked, expected) in LESSONS {
        let known = Knowledge {
            looked_at: Some(LOOKED_AT),
            hinted: true,
            changes,
            watched,
            mails,
            exposed,
            ..Knowledge::default()
        };
        let asked = (asked > 0).then(|| LOOKED_AT + seconds(asked));
        let look = Look { at: LOOKED_AT + seconds(span), changed, asked };
        let after = known.learn(kind, look, None, Policy::default());
        assert_near(after.changes, expected[0]);
        assert_near(after.watched, expected[1]);
        assert_near(after.mails, expected[2]);
        assert_near(after.exposed, expected[3]);
        assert_eq!((after.looked_at, after.heard_at, after.hinted), (Some(look.at), asked, false));
    }
}

#[test]
fn first_look_teaches_nothing() {
    let look = Look { at: LOOKED_AT, changed: true, asked: Some(LOOKED_AT - seconds(9)) };
    let known = Knowledge::default().learn(Kind::Clan, look, None, Policy::default());
    let expected = Knowledge { looked_at: Some(LOOKED_AT), heard_at: look.asked, ..Knowledge::default() };
    assert_eq!(known, expected);
    assert_eq!(Knowledge::default().next_look(Kind::Clan, LOOKED_AT, 1.0, LOOKED_AT, Policy::default()), None);
}

#[test]
fn look_never_comes_before_the_api_has_news() {
    let read_every_second = Knowledge {
        looked_at: Some(LOOKED_AT),
        heard_at: Some(LOOKED_AT),
        mails: 1000.0,
        exposed: 1000.0,
        changes: 1000.0,
        watched: 1000.0,
        ..Knowledge::default()
    };
    for hinted in [false, true] {
        let known = Knowledge { hinted, ..read_every_second };
        let fresh_until = LOOKED_AT + seconds(120);
        let next = known.next_look(Kind::Clan, fresh_until, 1e-6, LOOKED_AT, Policy::default());
        assert_eq!(next, Some(fresh_until));
    }
}

#[test]
fn odd_numbers_of_a_row_do_not_panic() {
    for odd in [f64::NAN, f64::INFINITY, -1.0, 1e300, 0.0] {
        let known = Knowledge {
            looked_at: Some(LOOKED_AT),
            mails: odd,
            exposed: odd,
            changes: odd,
            watched: odd,
            ..Knowledge::default()
        };
        for level in [0.0, 1e-6, 1.0, 1e6, f64::NAN] {
            let next = known.next_look(Kind::Player, LOOKED_AT, level, LOOKED_AT, Policy::default());
            assert!(next.is_some_and(|next| next <= LOOKED_AT + Policy::default().longest), "{odd} {level}: {next:?}");
        }
        let look = Look { at: LOOKED_AT + seconds(700), changed: true, asked: None };
        let learned = known.learn(Kind::Player, look, None, Policy::default());
        assert_eq!(learned.looked_at, Some(look.at));
    }
}

/// A small world: objects with rates that differ by powers of ten, whose readers request what is older than ten minutes.
struct World {
    index: Index,
    random: fastrand::Rng,
    looked_at: Vec<u64>,
    rates: Vec<Rates>,
    /// The second of the next request of each object, and all of them in order.
    requested: Vec<u64>,
    requests: BTreeSet<(u64, u64)>,
}

impl World {
    fn new(objects: u64) -> Self {
        let mut world = Self {
            index: Index::new(Strategy::Value, Policy::default()),
            random: fastrand::Rng::with_seed(16),
            looked_at: Vec::new(),
            rates: Vec::new(),
            requested: Vec::new(),
            requests: BTreeSet::new(),
        };
        for id in 0..objects {
            let fetched = world.random.u64(0..28_800);
            world.index.add(id, Kind::Player, LOOKED_AT + seconds(fetched));
            world.looked_at.push(fetched);
            world.requested.push(0);
            let reads = 3e-7 * 1e4_f64.powf(world.random.f64());
            let changes = 1e-6 * 1e4_f64.powf(world.random.f64());
            world.rates.push(Rates { reads, changes });
            world.request(id);
        }
        world
    }

    /// Draws the first read that meets data older than ten minutes.
    fn request(&mut self, id: u64) {
        let wait = -self.random.f64().max(1e-12).ln() / self.rates[id as usize].reads;
        self.requests.remove(&(self.requested[id as usize], id));
        self.requested[id as usize] = self.looked_at[id as usize] + 600 + wait as u64;
        self.requests.insert((self.requested[id as usize], id));
    }

    fn look(&mut self, now: u64, id: u64, asked: Option<u64>) {
        let span = (now - self.looked_at[id as usize]) as f64;
        let changed = self.random.f64() < 1.0 - (-self.rates[id as usize].changes * span).exp();
        let asked = asked.map(|asked| LOOKED_AT + seconds(asked));
        assert!(self.index.learn(id, Look { at: LOOKED_AT + seconds(now), changed, asked }));
        self.looked_at[id as usize] = now;
        self.request(id);
    }

    /// Spends this many calls a second. Returns how late the planner is in the end, in seconds, and the calls that were left over.
    fn run(&mut self, from: u64, until: u64, calls: usize) -> (f64, usize) {
        let mut unused = 0;
        for now in from..until {
            let mut left = calls;
            while let Some(&(at, id)) = self.requests.first().filter(|(at, _)| *at <= now && left > 0) {
                self.look(now, id, Some(at));
                left -= 1;
            }
            let chosen = self.index.choose(LOOKED_AT + seconds(now), left);
            unused += left - chosen.len();
            for id in chosen {
                self.look(now, id, None);
            }
        }
        (self.index.lateness(LOOKED_AT + seconds(until)), unused)
    }
}

#[test]
fn level_follows_a_halved_and_doubled_rate() {
    const HOUR: u64 = 3600;
    let mut world = World::new(2_500);
    world.run(8 * HOUR, 24 * HOUR, 2);
    for (hour, calls) in [(24, 1), (25, 2), (26, 4), (27, 2)] {
        let half = hour * HOUR + HOUR / 2;
        let (late, _) = world.run(hour * HOUR, half, calls);
        assert!(late < 60.0, "{calls} calls a second: {late} s late after half an hour");
        let (_, unused) = world.run(half, (hour + 1) * HOUR, calls);
        let limit = calls * 1800 / 50;
        assert!(unused <= limit, "{calls} calls a second: {unused} calls unused, more than {limit}");
    }
}
