//! Replays of looks in a small world whose truth is known.

use std::{collections::HashSet, sync::LazyLock};

use super::*;
use crate::planner::Strategy;

const START: Timestamp = Timestamp::from_millis(1_772_600_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const LENGTH: Duration = Duration::from_secs(36 * 3600);
const CLANS: usize = 40;
const MEMBERS: usize = 12;
const CALLS_PER_SECOND: f64 = 0.1;
const STRATEGIES: [Strategy; 3] = [Strategy::Value, Strategy::Tiers, Strategy::Age];

/// The n-th tag.
fn object(kind: Kind, mut number: usize) -> ObjectId {
    let digits = b"0289PYLQGRJCUV";
    let mut tag = String::from("8");
    for _ in 0..4 {
        tag.push(char::from(digits[number % digits.len()]));
        number /= digits.len();
    }
    ObjectId::new(kind, tag.parse().unwrap())
}

/// A rate between two, a second.
fn rate(random: &mut fastrand::Rng, seldom: f64, often: f64) -> f64 {
    1.0 / (seldom * (often / seldom).powf(random.f64()))
}

/// Moments at a rate that is higher in the sessions of an object than in between.
fn moments(random: &mut fastrand::Rng, sessions: &[(f64, f64)], rate: f64, in_session: f64, else_: f64) -> Vec<f64> {
    let (mut moments, mut now) = (Vec::new(), 0.0);
    loop {
        now -= (1.0 - random.f64()).ln() / (rate * in_session);
        if now > LENGTH.as_secs_f64() {
            return moments;
        }
        let is_in_session = sessions.iter().any(|(from, until)| (*from..*until).contains(&now));
        if is_in_session || random.f64() < else_ / in_session {
            moments.push(now);
        }
    }
}

fn at(seconds: f64) -> Timestamp {
    START + Duration::from_secs_f64(seconds)
}

/// A world in which all is known. Changes come in sessions, and readers come when something happens, as in the game.
fn truth(seed: u64) -> World {
    let mut random = fastrand::Rng::with_seed(seed);
    let slots = slot_of(START + LENGTH, START) + 1;
    let slot = Slot { calls: CALLS_PER_SECOND * SLOT.as_secs_f64(), requests: 0.0 };
    let mut world = World {
        policy: Policy::default(),
        from: START,
        counted_from: START + HOUR * 12,
        until: START + LENGTH,
        objects: Vec::new(),
        reads: Vec::new(),
        slots: vec![slot; slots],
        amount: Amount::default(),
        as_recorded: Reads::default(),
    };
    for clan in 0..CLANS {
        for member in 0..=MEMBERS {
            let is_clan = member == 0;
            let (mut sessions, mut now) = (Vec::new(), 0.0);
            while now < LENGTH.as_secs_f64() {
                let begin = now - (1.0 - random.f64()).ln() * 3.0 * 3600.0;
                now = begin - (1.0 - random.f64()).ln() * 2.0 * 3600.0;
                sessions.push((begin, now));
            }
            let (reads, changes) = if is_clan {
                (rate(&mut random, 40_000.0, 100.0), rate(&mut random, 20_000.0, 300.0))
            } else {
                (rate(&mut random, 1e6, 2000.0), rate(&mut random, 200_000.0, 1000.0))
            };
            let changes = moments(&mut random, &sessions, changes, 2.5, 0.0).into_iter().map(at).collect();
            let place = world.objects.len();
            let reads = moments(&mut random, &sessions, reads, 1.4, 0.8);
            world.reads.extend(reads.into_iter().map(|read| (at(read), place)));
            let id = object(if is_clan { Kind::Clan } else { Kind::Player }, place);
            world.objects.push(Object { id, changes, shown: Vec::new() });
        }
        let members = clan * (MEMBERS + 1) + 1..(clan + 1) * (MEMBERS + 1);
        let mut shown: Vec<(Timestamp, usize)> = members
            .flat_map(|member| world.objects[member].changes.iter().map(move |&change| (change, member)))
            .collect();
        shown.sort_unstable();
        world.objects[clan * (MEMBERS + 1)].shown = shown;
    }
    world.reads.sort_unstable();
    world
}

/// A true world, what the worker recorded in it, and the world that is rebuilt from that.
struct Case {
    truth: World,
    records: Vec<Record>,
    rebuilt: World,
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let case = |seed| {
        let (truth, mut records) = (truth(seed), Vec::new());
        let _ = truth.play_observed(Strategy::Value, Budget::Times(1.0), |record| records.push(record));
        let rebuilt = World::rebuild(&records, START + HOUR * 12, 7, Policy::default()).unwrap();
        Case { truth, records, rebuilt }
    };
    [1, 2].map(case).into()
});

/// A strategy with a multiple of the budget: the true share of fresh reads, and the bracket of the replay.
struct Outcome {
    strategy: Strategy,
    factor: f64,
    truth: f64,
    bracket: (f64, f64),
}

static OUTCOMES: LazyLock<Vec<Vec<Outcome>>> = LazyLock::new(|| {
    let combinations = || STRATEGIES.into_iter().flat_map(|strategy| [1.0, 2.0].map(|factor| (strategy, factor)));
    let outcome = |case: &Case, strategy, factor| {
        let play = |world: &World| world.play(strategy, Budget::Times(factor)).bracket().unwrap();
        Outcome { strategy, factor, truth: play(&case.truth).1, bracket: play(&case.rebuilt) }
    };
    let all = |case| combinations().map(|(strategy, factor)| outcome(case, strategy, factor)).collect();
    CASES.iter().map(all).collect()
});

#[test]
fn bracket_contains_the_truth() {
    for (case, outcomes) in CASES.iter().zip(&*OUTCOMES) {
        assert_eq!(case.rebuilt.amount().lacking(), None, "{:?}", case.rebuilt.amount());
        for Outcome { strategy, factor, truth, bracket: (low, high) } in outcomes {
            println!("{strategy:?} {factor}: {low:.3} {truth:.3} {high:.3}");
            assert!(low <= truth && truth <= high, "{strategy:?} {factor}: {truth} in {low} to {high}");
        }
        // The runs' own estimate of the same looks.
        let (low, high) = bracket(&case.rebuilt.as_recorded()).unwrap();
        println!("as recorded: {low:.3} {high:.3}");
        assert!(low <= outcomes[0].truth && outcomes[0].truth <= high, "{low} to {high}");
    }
}

#[test]
fn value_beats_tiers_and_age() {
    for outcomes in &*OUTCOMES {
        let value = &outcomes[0];
        for other in outcomes[1..].iter().filter(|other| other.factor < 1.5) {
            let strategy = other.strategy;
            assert!(value.truth > other.truth + 0.02, "{strategy:?} {} {}", value.truth, other.truth);
            assert!(value.bracket.1 > other.bracket.1 + 0.02, "{strategy:?} {:?} {:?}", value.bracket, other.bracket);
        }
    }
}

#[test]
fn double_budget_is_not_worse() {
    for pair in OUTCOMES.iter().flat_map(|outcomes| outcomes.chunks(2)) {
        let [once, twice] = [&pair[0], &pair[1]].map(|outcome| outcome.bracket);
        assert!(twice.0 >= once.0 && twice.1 >= once.1, "{:?}: {once:?} {twice:?}", pair[0].strategy);
    }
}

#[test]
fn replay_spends_its_budget() {
    let world = &CASES[0].rebuilt;
    let recorded = world.calls_per_second();
    for factor in [1.0, 2.0] {
        let played = world.play(Strategy::Value, Budget::Times(factor));
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let made = played.looks as f64 / LENGTH.as_secs_f64();
        assert!((made / (recorded * factor) - 1.0).abs() < 0.05, "{made} of {}", recorded * factor);
    }
    assert_eq!(world.play(Strategy::Value, Budget::Planned(0.0)).planned, 0, "nothing but requests is left");
}

#[test]
fn seed_decides_everything() {
    let case = &CASES[0];
    let play = |seed| {
        let world = World::rebuild(&case.records, START, seed, Policy::default()).unwrap();
        world.play(Strategy::Value, Budget::Times(1.0))
    };
    assert_eq!(play(3), play(3));
    assert_ne!(play(3), play(4));
    // The order of the records says nothing.
    let mut shuffled = case.records.clone();
    fastrand::Rng::with_seed(5).shuffle(&mut shuffled);
    let world = World::rebuild(&shuffled, START, 3, Policy::default()).unwrap();
    assert_eq!(world.play(Strategy::Value, Budget::Times(1.0)), play(3));
}

#[test]
fn world_agrees_with_its_records() {
    let world = &CASES[0].rebuilt;
    for object in &world.objects {
        let looks = CASES[0].records.iter().filter(|record| record.object == object.id);
        let looks: Vec<(Timestamp, bool)> = looks
            .filter_map(|record| match record.sight {
                Sight::Response { changed, .. } => Some((record.at, changed)),
                Sight::ActiveMember => None,
            })
            .collect();
        for pair in looks.windows(2) {
            assert_eq!(object.has_changed(pair[0].0, pair[1].0), pair[1].1, "{:?} {pair:?}", object.id);
        }
    }
}

fn response(at: Timestamp, changed: bool, asked: Option<Timestamp>) -> Record {
    Record { at, object: object(Kind::Clan, 1), sight: Sight::Response { changed, asked } }
}

#[test]
fn too_little_says_what_is_missing() {
    assert!(World::rebuild(&[], START, 1, Policy::default()).is_none());
    let only_listed = Record { sight: Sight::ActiveMember, ..response(START, true, None) };
    assert!(World::rebuild(&[only_listed], START, 1, Policy::default()).is_none());
    let world = World::rebuild(&[response(START, true, None)], START, 1, Policy::default()).unwrap();
    assert_eq!(world.amount().lacking(), Some(Lacking::Time));
    let enough = Amount { covered: LEAST_COVERED, objects: 9, responses: 900, cycles: 890, requests: 100 };
    let missing = [
        (Amount { responses: 0, ..enough }, Lacking::Everything),
        (Amount { cycles: 1, ..enough }, Lacking::Cycles),
        (Amount { requests: 1, ..enough }, Lacking::Requests),
    ];
    for (amount, lacking) in missing {
        assert_eq!(amount.lacking(), Some(lacking));
    }
    assert_eq!(enough.lacking(), None);
}

#[test]
fn wars_are_left_out() {
    let war = Record { object: object(Kind::War, 1), ..response(START, true, None) };
    assert!(World::rebuild(std::slice::from_ref(&war), START, 1, Policy::default()).is_none());
    let world = World::rebuild(&[war, response(START, true, None)], START, 1, Policy::default()).unwrap();
    assert_eq!((world.amount().objects, world.amount().responses), (1, 1));
}

#[test]
fn pause_is_not_covered_and_teaches_nothing() {
    let looks = [0, 600, 1200, 90_000, 90_600].map(|second| START + Duration::from_secs(second));
    let records = looks.map(|at| response(at, true, None));
    let world = World::rebuild(&records, START, 1, Policy::default()).unwrap();
    assert_eq!((world.amount().cycles, world.amount().covered), (3, Duration::from_secs(1800)));
    assert!(world.play(Strategy::Value, Budget::Planned(1.0)).looks > 0);
}

#[test]
fn odd_records_do_not_panic() {
    let times = [i64::MIN, 0, START.as_millis(), START.as_millis() + 1, i64::MAX].map(Timestamp::from_millis);
    let mut records = Vec::new();
    for at in times {
        for changed in [true, false] {
            records.extend(times.map(|asked| response(at, changed, Some(asked))));
        }
        records.push(Record { sight: Sight::ActiveMember, ..response(at, true, None) });
        records.push(Record { object: object(Kind::Player, 2), ..response(at, true, Some(at)) });
    }
    for until in 1..=records.len() {
        let Some(world) = World::rebuild(&records[..until], START, 1, Policy::default()) else { continue };
        let kinds: HashSet<Kind> = world.objects.iter().map(Object::kind).collect();
        assert!(!kinds.is_empty());
        let _ = world.play(Strategy::Value, Budget::Times(f64::NAN));
        let _ = world.play(Strategy::Age, Budget::Planned(f64::INFINITY));
    }
}
