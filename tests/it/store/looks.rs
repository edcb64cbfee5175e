//! The planned looks: what a commit teaches, and what a run asks of the plan. The same over every store.
#![expect(clippy::float_cmp, reason = "the numbers are such that a float holds exactly")]

use std::time::Duration;

use refresh_worker::{
    clock::Timestamp,
    model::{Fetched, Kind, ObjectId},
    planner::{Knowledge, Level, Look, Policy, Strategy},
    store::{
        Arm, Candidate, Commit, LOOKS_RETENTION, Lesson, Looks, MAX_BUCKET, NextLooks, PutOff, RecordedLook, Seen,
        Store, Teaching, Trial, Walked, bucket,
    },
};

use super::{
    Bed,
    documents::{Clan, DAY, at, clan, gone, nth_tag, player, private_war_log, tag, war},
    over_every_store, sql_time,
};

const ALL: (u16, u16) = (0, MAX_BUCKET);
const HOUR: i64 = 3600;

pub fn teaching() -> Teaching {
    Teaching::default()
}

fn recording() -> Teaching {
    Teaching { recorded_percent: 100, ..teaching() }
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.unsigned_abs())
}

fn asked(fetched: Fetched, asked: i64) -> Fetched {
    Fetched { asked: Some(at(asked)), ..fetched }
}

fn object(name: &str) -> ObjectId {
    name.parse().unwrap()
}

/// The name of a planner's table in this store.
fn table(bed: &impl Bed, name: &str) -> String {
    if bed.is_postgres() { format!("refresh_worker.{name}") } else { format!("refresh_worker_{name}") }
}

async fn commit(store: &impl Store, now: i64, batch: &[Fetched]) -> Commit {
    store.commit(at(now), batch).await.unwrap()
}

async fn plan(store: &impl Store, name: &str, now: i64) -> Option<Candidate> {
    store.plan_of(&object(name), at(now)).await.unwrap()
}

async fn planned(store: &impl Store, name: &str, now: i64) -> Candidate {
    plan(store, name, now).await.unwrap_or_else(|| panic!("{name} has a place in the plan"))
}

async fn first_looks(store: &impl Store, now: i64, until: Timestamp, limit: usize) -> Vec<Candidate> {
    store.next_looks(NextLooks { now: at(now), until, after: None, buckets: ALL, limit }).await.unwrap()
}

async fn set_level(store: &impl Store, arm: Arm, logarithm: f64, now: i64) {
    let before = store.level(arm).await.unwrap().logarithm;
    let level = store.move_level(arm, logarithm - before, at(now)).await.unwrap();
    assert!((level.logarithm - logarithm).abs() < 1e-9);
}

/// As the columns hold it: seven digits.
#[track_caller]
fn assert_near(actual: &Knowledge, expected: &Knowledge) {
    let numbers = |known: &Knowledge| [known.changes, known.watched, known.mails, known.exposed];
    for (one, other) in numbers(actual).into_iter().zip(numbers(expected)) {
        assert!((one - other).abs() <= 1e-6 * other.abs().max(1.0), "{actual:?} is not {expected:?}");
    }
    assert_eq!(
        (actual.looked_at, actual.heard_at, actual.hinted),
        (expected.looked_at, expected.heard_at, expected.hinted)
    );
}

async fn response_teaches_as_the_planner_says(bed: impl Bed) {
    let store = bed.with_teaching(teaching());
    let first = commit(&store, 1, &[asked(player("2PP").fetched(at(0)), -5)]).await;
    let look = Look { at: at(0), changed: true, asked: Some(at(-5)) };
    let bucket = bucket(&tag("2PP"));
    assert_eq!(first.lessons, [Some(Lesson { before: Knowledge::default(), look, bucket })]);
    let mut known = Knowledge::default().learn(Kind::Player, look, None, Policy::default());
    assert_near(&planned(&store, "player:2PP", 1).await.known, &known);

    // Unchanged and unasked, then changed and asked.
    for (began, trophies, heard) in [(2000, 1000, None), (4000, 1001, Some(3300))] {
        let fetched = player("2PP").trophies(trophies).fetched(at(began));
        let fetched = Fetched { asked: heard.map(at), ..fetched };
        commit(&store, began + 1, std::slice::from_ref(&fetched)).await;
        let look = Look { at: at(began), changed: heard.is_some(), asked: heard.map(at) };
        known = known.learn(Kind::Player, look, None, Policy::default());
        let stored = planned(&store, "player:2PP", began + 1).await;
        assert_near(&stored.known, &known);
        let level = Level::default().reads();
        let next = known.next_look(Kind::Player, fetched.fresh_until, level, at(began + 1), Policy::default());
        assert_eq!(Some(stored.next_look), next);
        assert_eq!((stored.fresh_until, stored.bucket), (fetched.fresh_until, bucket));
    }
}

async fn superseded_response_teaches_nothing(bed: impl Bed) {
    let store = bed.with_teaching(recording());
    commit(&store, 101, &[player("2PP").fetched(at(100))]).await;
    let before = planned(&store, "player:2PP", 102).await;
    let late = commit(&store, 102, &[asked(player("2PP").trophies(7).fetched(at(50)), 40)]).await;
    assert_eq!(late.lessons, [None]);
    assert_eq!(planned(&store, "player:2PP", 102).await, before);
    assert_eq!(bed.count(&table(&bed, "looks")).await, 1);
}

async fn same_batch_again_teaches_once(bed: impl Bed) {
    let store = bed.with_teaching(recording());
    commit(&store, 1, &[player("2PP").fetched(at(0))]).await;
    let batch = [asked(player("2PP").trophies(7).fetched(at(900)), 800)];
    commit(&store, 901, &batch).await;
    let before = planned(&store, "player:2PP", 902).await;
    let again = commit(&store, 902, &batch).await;
    assert_eq!(again.lessons, [None]);
    assert_eq!(planned(&store, "player:2PP", 902).await, before);
    assert_eq!(bed.count(&table(&bed, "looks")).await, 2);
}

async fn gone_and_private_objects_wait_a_week(bed: impl Bed) {
    let store = bed.with_teaching(teaching());
    commit(&store, 1, &[player("2PP").fetched(at(0))]).await;
    let batch = [gone(object("player:2PP"), at(900)), private_war_log("8GG", at(900))];
    let noted = commit(&store, 901, &batch).await;
    assert_eq!(noted.lessons, [None, None]);
    for name in ["player:2PP", "war:8GG"] {
        let stored = planned(&store, name, 901).await;
        assert_eq!(stored.next_look, at(901 + 7 * DAY), "{name}");
        assert_eq!((stored.known.looked_at, stored.known.watched), (Some(at(900)), 0.0), "{name}");
    }
}

fn home(began: i64, donations: i32) -> Fetched {
    clan("8GG").with([player("2PP").donations(donations), player("2YY")]).fetched(at(began))
}

async fn activity_in_list_hints_member_once(bed: impl Bed) {
    let store = bed.with_teaching(recording());
    set_level(&store, Arm::Main, -6.0, 0).await;
    let of_clan = |began| player("2PP").of("8GG").fetched(at(began));
    commit(&store, 1, &[home(0, 10), of_clan(0)]).await;
    assert!(!planned(&store, "player:2PP", 1).await.known.hinted);

    commit(&store, 3001, &[home(3000, 11)]).await;
    let hinted = planned(&store, "player:2PP", 3001).await;
    assert!(hinted.known.hinted);
    assert!(hinted.next_look <= at(3001), "{hinted:?}");
    assert_eq!(hinted.bucket, bucket(&tag("8GG")));
    assert!(!planned(&store, "player:2YY", 3001).await.known.hinted, "nothing differs");

    // Again active: the look is planned already.
    commit(&store, 3301, &[home(3300, 12)]).await;
    assert_eq!(planned(&store, "player:2PP", 3301).await, hinted);
    // The look clears the hint.
    commit(&store, 3401, &[player("2PP").donations(12).of("8GG").fetched(at(3400))]).await;
    let looked_at = planned(&store, "player:2PP", 3401).await;
    assert!(!looked_at.known.hinted && looked_at.next_look > at(3401));
    // Each time the list showed it, for replays.
    let seen = store.looks(at(-10), at(9000)).await.unwrap();
    let active: Vec<_> = seen.iter().filter(|look| look.seen == Seen::ActiveMember).map(|look| look.at).collect();
    assert_eq!(active, [at(3000), at(3300)]);
}

async fn hint_below_level_changes_nothing(bed: impl Bed) {
    let store = bed.with_teaching(teaching());
    set_level(&store, Arm::Main, 10.0, 0).await;
    commit(&store, 1, &[home(0, 10), player("2PP").of("8GG").fetched(at(0))]).await;
    let before = planned(&store, "player:2PP", 1).await;
    commit(&store, 3001, &[home(3000, 11)]).await;
    assert_eq!(planned(&store, "player:2PP", 1).await, before);
}

async fn incomplete_list_hints_nobody(bed: impl Bed) {
    let store = bed.with_teaching(teaching());
    set_level(&store, Arm::Main, -6.0, 0).await;
    commit(&store, 1, &[home(0, 10), player("2PP").of("8GG").fetched(at(0))]).await;
    let list: Clan = clan("8GG").with([player("2PP").donations(11)]).incomplete();
    commit(&store, 3001, &[list.fetched(at(3000))]).await;
    assert!(!planned(&store, "player:2PP", 3001).await.known.hinted);
}

async fn new_members_are_spread_over_longest(bed: impl Bed) {
    let store = bed.with_teaching(teaching());
    let members = (0..50).map(|n| player(nth_tag(n).as_str()));
    commit(&store, 1, &[clan("8GG").with(members).fetched(at(0))]).await;
    let mut looks = Vec::new();
    for n in 0..50 {
        let candidate = planned(&store, &format!("player:{}", nth_tag(n).as_str()), 1).await;
        assert_eq!((candidate.known, candidate.bucket), (Knowledge::default(), bucket(&tag("8GG"))));
        looks.push(candidate.next_look);
    }
    looks.sort_unstable();
    assert!(looks[0] >= at(1) && looks[49] <= at(1 + DAY), "{looks:?}");
    for quarter in 0..4 {
        let (from, until) = (at(1 + DAY / 4 * quarter), at(1 + DAY / 4 * (quarter + 1)));
        let count = looks.iter().filter(|look| (from..=until).contains(look)).count();
        assert!((4..=24).contains(&count), "{count} of 50 in quarter {quarter}: {looks:?}");
    }
    // A second list leaves the plan alone.
    let members = (0..50).map(|n| player(nth_tag(n).as_str()));
    commit(&store, HOUR + 1, &[clan("8GG").with(members).fetched(at(HOUR))]).await;
    let again = planned(&store, &format!("player:{}", nth_tag(7).as_str()), 1).await;
    assert!(looks.contains(&again.next_look));
}

async fn commit_without_teaching_writes_no_plan(bed: impl Bed) {
    let done = bed.commit_with_details(&[home(0, 10), player("2PP").fetched(at(0))]).await;
    assert_eq!(done.lessons, [None, None]);
    for name in ["plan", "plan_level", "plan_walk", "looks"] {
        assert_eq!(bed.count(&table(&bed, name)).await, 0, "{name}");
    }
}

async fn looks_come_in_order_and_in_pages(bed: impl Bed) {
    let store = bed.with_teaching(teaching());
    let members = (0..40).map(|n| player(nth_tag(n).as_str()));
    commit(&store, 1, &[clan("8GG").with(members).fetched(at(0))]).await;
    // Five at the same time.
    let same: Vec<_> = (0..5).map(|n| PutOff::anyway(ObjectId::player(nth_tag(n)), at(2 * DAY))).collect();
    store.put_off(&same).await.unwrap();
    let all = first_looks(&store, 1, at(9 * DAY), 100).await;
    assert_eq!(all.len(), 41);
    assert!(all.windows(2).all(|pair| pair[0].next_look <= pair[1].next_look));

    let mut paged: Vec<Candidate> = Vec::new();
    loop {
        let ask = NextLooks { now: at(1), until: at(9 * DAY), after: paged.last(), buckets: ALL, limit: 3 };
        let page = store.next_looks(ask).await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
    let until = all[9].next_look;
    assert_eq!(first_looks(&store, 1, until, 100).await, all[..10]);
}

async fn looks_of_a_side_are_its_buckets(bed: impl Bed) {
    let teaching = Teaching { trial: Some(Trial { strategy: Strategy::Tiers, percent: 30 }), ..teaching() };
    let store = bed.with_teaching(teaching);
    let batch: Vec<Fetched> = (0..60).map(|n| player(nth_tag(n).as_str()).fetched(at(0))).collect();
    commit(&store, 1, &batch).await;
    let mut counts = Vec::new();
    for arm in Arm::ALL {
        let buckets = teaching.buckets(arm).unwrap();
        let ask = NextLooks { now: at(1), until: at(9 * DAY), after: None, buckets, limit: 100 };
        let looks = store.next_looks(ask).await.unwrap();
        assert!(looks.iter().all(|look| teaching.arm(look.bucket) == arm));
        counts.push(looks.len());
    }
    assert_eq!(counts.iter().sum::<usize>(), 60);
    assert!((5..=30).contains(&counts[1]), "{counts:?}");
}

async fn sides_of_a_trial_have_own_strategy_and_level(bed: impl Bed) {
    let teaching = Teaching { trial: Some(Trial { strategy: Strategy::Tiers, percent: 50 }), ..teaching() };
    let store = bed.with_teaching(teaching);
    set_level(&store, Arm::Main, -3.0, 0).await;
    set_level(&store, Arm::Trial, 9.0, 0).await;
    let batch: Vec<Fetched> = (0..20).map(|n| player(nth_tag(n).as_str()).fetched(at(0))).collect();
    commit(&store, 1, &batch).await;
    let mut seen = Vec::new();
    for fetched in &batch {
        let stored = store.plan_of(&fetched.object, at(1)).await.unwrap().unwrap();
        let (arm, known) = (teaching.arm(stored.bucket), stored.known);
        let (strategy, level) = match arm {
            Arm::Main => (Strategy::Value, (-3.0_f64).exp()),
            Arm::Trial => (Strategy::Tiers, 9.0_f64.exp()),
        };
        let next = strategy.next_look(Kind::Player, &known, fetched.fresh_until, level, at(1), teaching.policy);
        assert_eq!(Some(stored.next_look), next, "{arm:?}");
        seen.push(arm);
    }
    assert!(seen.contains(&Arm::Main) && seen.contains(&Arm::Trial));
}

async fn odd_rows_do_no_harm(bed: impl Bed) {
    let store = bed.with_teaching(teaching());
    let batch = [player("2PP").fetched(at(0)), player("2YY").fetched(at(0)), player("2QQ").fetched(at(0))];
    commit(&store, 1, &batch).await;
    let plan_table = table(&bed, "plan");
    // Names that are none, at the head.
    bed.exec(&format!(
        "INSERT INTO {plan_table} (kind, tag, next_look) VALUES ('clam', '2PP', {t}), ('player', 'x!', {t}), ('player', '2pp', {t})",
        t = sql_time(at(-DAY))
    ))
    .await;
    let odd = if bed.is_postgres() {
        "looked_at = 'infinity', heard_at = '-infinity', next_look = '-infinity', changes = 'NaN', watched = '-Infinity', \
         mails = 'Infinity', exposed = -1, bucket = -7, hinted = true"
    } else {
        "looked_at = 'tomorrow', heard_at = 7, next_look = '0000', changes = 'NaN', watched = -9e999, mails = 9e999, \
         exposed = -1, bucket = 'x', hinted = 'x'"
    };
    bed.exec(&format!("UPDATE {plan_table} SET {odd} WHERE tag = '2PP'")).await;
    let looks = first_looks(&store, 1, at(9 * DAY), 100).await;
    let names: Vec<String> = looks.iter().map(|look| look.object.to_string()).collect();
    assert_eq!(names.first().unwrap(), "player:2PP");
    assert_eq!(names.len(), 3);
    assert_eq!(bed.count(&plan_table).await, 3, "what is not an object is gone");
    let known = looks[0].known;
    assert_eq!((known.looked_at, known.changes, known.watched, known.mails), (None, 0.0, 0.0, 0.0));

    // Paging on from it, and a look that puts it right.
    let ask = NextLooks { now: at(1), until: at(9 * DAY), after: Some(&looks[0]), buckets: ALL, limit: 100 };
    assert_eq!(store.next_looks(ask).await.unwrap().len(), 2);
    commit(&store, 901, &[player("2PP").fetched(at(900))]).await;
    let stored = planned(&store, "player:2PP", 901).await;
    assert_eq!(stored.known.looked_at, Some(at(900)));
    assert!(stored.next_look > at(901) && stored.next_look <= at(901 + DAY));
}

async fn odd_level_counts_as_one(bed: impl Bed) {
    let store = bed.with_teaching(teaching());
    set_level(&store, Arm::Main, 3.0, 0).await;
    let odds: &[&str] =
        if bed.is_postgres() { &["'NaN'", "'Infinity'", "1e300"] } else { &["'NaN'", "9e999", "1e300"] };
    for odd in odds {
        bed.exec(&format!("UPDATE {} SET ln_level = {odd}", table(&bed, "plan_level"))).await;
        commit(&store, 1, &[player("2PP").fetched(at(0))]).await;
        let level = store.level(Arm::Main).await.unwrap().logarithm;
        assert!(level.is_finite() && level.abs() <= 15.0, "{odd}: {level}");
        let moved = store.move_level(Arm::Main, 0.5, at(9)).await.unwrap();
        assert_eq!(moved.logarithm, 0.5, "{odd}");
    }
    assert_eq!(store.move_level(Arm::Main, f64::NAN, at(9)).await.unwrap().logarithm, 0.5);
}

async fn level_steps_add_up_within_bounds(bed: impl Bed) {
    let store = bed.with_teaching(teaching());
    assert_eq!(store.level(Arm::Main).await.unwrap(), Level::default());
    for step in [0.25, -1.0, 2.0] {
        store.move_level(Arm::Main, step, at(0)).await.unwrap();
    }
    assert_eq!(store.level(Arm::Main).await.unwrap().logarithm, 1.25);
    assert_eq!(store.level(Arm::Trial).await.unwrap(), Level::default());
    assert_eq!(store.move_level(Arm::Main, 99.0, at(1)).await.unwrap().logarithm, 15.0);
    assert_eq!(store.move_level(Arm::Main, -99.0, at(1)).await.unwrap().logarithm, -15.0);
    assert_eq!(store.move_level(Arm::Trial, 99.0, at(1)).await.unwrap().logarithm, 15.0);
}

async fn put_off_never_brings_forward(bed: impl Bed) {
    let store = bed.with_teaching(teaching());
    commit(&store, 1, &[gone(object("player:2PP"), at(0)), player("2YY").fetched(at(0))]).await;
    let before = planned(&store, "player:2PP", 1).await.next_look;
    let looks = [
        PutOff::anyway(object("player:2YY"), at(3 * DAY)),
        PutOff::anyway(object("player:2PP"), at(600)),
        PutOff::anyway(object("clan:8GG"), at(600)),
        PutOff::anyway(object("player:2YY"), at(2 * DAY)),
    ];
    store.put_off(&looks).await.unwrap();
    store.put_off(&[]).await.unwrap();
    assert_eq!(planned(&store, "player:2PP", 1).await.next_look, before);
    assert_eq!(planned(&store, "player:2YY", 1).await.next_look, at(3 * DAY));
    assert_eq!(plan(&store, "clan:8GG", 1).await, None, "nothing is made");
}

async fn put_off_leaves_what_was_learned_since(bed: impl Bed) {
    let store = bed.with_teaching(teaching());
    commit(&store, 1, &[player("2PP").fetched(at(0)), player("2YY").fetched(at(0))]).await;
    let [seen, kept] = [planned(&store, "player:2PP", 1).await, planned(&store, "player:2YY", 1).await];
    commit(&store, 101, &[player("2PP").trophies(7).fetched(at(100))]).await;
    let after = planned(&store, "player:2PP", 101).await.next_look;
    let looks = [seen, kept].map(|candidate| PutOff::as_seen(&candidate, at(9 * DAY)));
    store.put_off(&looks).await.unwrap();
    assert_eq!(planned(&store, "player:2PP", 101).await.next_look, after, "a commit has decided anew");
    assert_eq!(planned(&store, "player:2YY", 101).await.next_look, at(9 * DAY));
}

async fn walk_plans_known_objects_in_steps(bed: impl Bed) {
    // Before the planner was on.
    let members = (0..20).map(|n| player(nth_tag(n).as_str()));
    bed.commit(&[clan("8GG").with(members).fetched(at(0)), war("8GG", &[]).fetched(at(0))]).await;
    bed.commit(&[player(nth_tag(0).as_str()).of("8GG").fetched(at(5)), player("2YY").fetched(at(5))]).await;
    let store = bed.with_teaching(teaching());
    commit(&store, 11, &[player("2YY").fetched(at(10))]).await;
    let kept = planned(&store, "player:2YY", 11).await;
    let known = bed.count(&table(&bed, "refresh_state")).await;
    let longest = seconds(DAY);
    let step = async |now: i64, limit| store.plan_known_objects(at(now), longest, limit).await.unwrap();

    let (mut steps, mut planned_in_all) = (0, 0);
    loop {
        let Walked { planned, is_finished } = step(100 + steps, 5).await;
        assert!(planned <= 5);
        (steps, planned_in_all) = (steps + 1, planned_in_all + planned);
        if is_finished {
            break;
        }
        assert!(steps < 20, "the walk ends");
    }
    assert_eq!(i64::try_from(planned_in_all).unwrap(), known - 1, "all but the one that is planned");
    assert_eq!(bed.count(&table(&bed, "plan")).await, known);
    assert_eq!(planned(&store, "player:2YY", 100).await, kept);
    let fetched = planned(&store, &format!("player:{}", nth_tag(0).as_str()), 100).await;
    assert_eq!((fetched.known.looked_at, fetched.bucket), (Some(at(5)), bucket(&tag("8GG"))));
    assert!(fetched.next_look >= at(100) && fetched.next_look <= at(200 + DAY));
    assert_eq!(planned(&store, "war:8GG", 100).await.known.looked_at, Some(at(0)));
    assert_eq!(planned(&store, &format!("player:{}", nth_tag(1).as_str()), 100).await.known.looked_at, None);

    // Nothing to do for a day, whatever a run without the planner stores.
    bed.commit_one(player("2QQ").fetched(at(600))).await;
    for now in (700..DAY).step_by(1800) {
        assert_eq!(step(now, 5).await, Walked { planned: 0, is_finished: true });
    }
    assert_eq!(step(DAY + 200, 100).await, Walked { planned: 1, is_finished: true });
    // After a pause at once.
    bed.commit_one(player("2LL").fetched(at(DAY + 300))).await;
    assert_eq!(step(DAY + 400, 100).await.planned, 0);
    assert_eq!(step(DAY + 400 + 2 * HOUR, 100).await, Walked { planned: 1, is_finished: true });
}

async fn walk_corrects_looks_far_ahead(bed: impl Bed) {
    let store = bed.with_teaching(teaching());
    commit(&store, 1, &[player("2PP").fetched(at(0)), gone(object("player:2YY"), at(0))]).await;
    let far = if bed.is_postgres() { "'infinity'" } else { "'never'" };
    bed.exec(&format!("UPDATE {} SET next_look = {far} WHERE tag = '2PP'", table(&bed, "plan"))).await;
    store.plan_known_objects(at(10), seconds(DAY), 100).await.unwrap();
    let look = planned(&store, "player:2PP", 10).await.next_look;
    assert!(look >= at(10) && look <= at(10 + DAY), "{look}");
    assert_eq!(planned(&store, "player:2YY", 10).await.next_look, at(1 + 7 * DAY), "no clock was wrong");
}

async fn pause_of_the_planner_teaches_nothing(bed: impl Bed) {
    let store = bed.with_teaching(teaching());
    store.move_level(Arm::Main, 0.0, at(-HOUR)).await.unwrap();
    store.move_level(Arm::Main, 0.0, at(-600)).await.unwrap();
    commit(&store, 1, &[player("2PP").fetched(at(0))]).await;
    commit(&store, 901, &[asked(player("2PP").fetched(at(900)), 850)]).await;
    let known = planned(&store, "player:2PP", 901).await.known;
    assert_eq!((known.watched, known.exposed), (900.0, 250.0));
    // Off for two days; the first look after it shows the new time only.
    let on = 2 * DAY;
    store.move_level(Arm::Main, 0.0, at(on)).await.unwrap();
    let commit_after =
        commit(&store, on + 901, &[asked(player("2PP").trophies(7).fetched(at(on + 900)), on + 800)]).await;
    assert_eq!(commit_after.lessons[0].unwrap().before.looked_at, None);
    let after = planned(&store, "player:2PP", on + 901).await.known;
    assert_eq!((after.watched, after.exposed, after.changes), (known.watched, known.exposed, known.changes));
    assert_eq!((after.looked_at, after.heard_at), (Some(at(on + 900)), Some(at(on + 800))));
}

async fn looks_are_recorded_by_share_and_deleted(bed: impl Bed) {
    let everything = bed.with_teaching(recording());
    commit(&everything, 1, &[asked(player("2PP").fetched(at(0)), -3), gone(object("player:2YY"), at(0))]).await;
    commit(&everything, 61, &[player("2PP").fetched(at(60))]).await;
    let record = |seconds, changed, asked| RecordedLook {
        at: at(seconds),
        object: object("player:2PP"),
        seen: Seen::Response { changed, asked },
    };
    let first = record(0, true, Some(at(-3)));
    let second = record(60, false, None);
    assert_eq!(everything.looks(at(0), at(61)).await.unwrap(), [first.clone(), second]);
    assert_eq!(everything.looks(at(0), at(60)).await.unwrap(), [first]);
    let horizon = at(60) + LOOKS_RETENTION - LOOKS_RETENTION;
    assert_eq!(everything.delete_looks(horizon).await.unwrap(), 1);
    assert_eq!(everything.looks(at(0), at(61)).await.unwrap().len(), 1);

    let some = bed.with_teaching(Teaching { recorded_percent: 30, ..teaching() });
    let batch: Vec<Fetched> = (0..60).map(|n| player(nth_tag(n).as_str()).fetched(at(100))).collect();
    commit(&some, 101, &batch).await;
    let count = some.looks(at(100), at(101)).await.unwrap().len();
    assert!((5..=30).contains(&count), "{count} of 60");
}

async fn refused_record_leaves_lessons_of_others(bed: impl Bed) {
    let store = bed.with_teaching(recording());
    let players = |began: i64| -> Vec<Fetched> {
        (0..6).map(|n| player(nth_tag(n).as_str()).trophies(i32::try_from(began).unwrap()).fetched(at(began))).collect()
    };
    commit(&store, 1, &players(0)).await;
    let mut batch = players(900);
    let refresh_worker::model::Answered::Document(refresh_worker::model::Document::Player(document)) =
        &mut batch[2].answered
    else {
        panic!("a player");
    };
    document.json = "no JSON".to_owned().into();
    let done = commit(&store, 901, &batch).await;
    for (n, lesson) in done.lessons.iter().enumerate() {
        assert_eq!(lesson.is_some(), n != 2, "{n}: {:?}", done.committed[n]);
        let known = planned(&store, &format!("player:{}", nth_tag(n).as_str()), 901).await.known;
        let expected = if n == 2 { (0.0, 0.0) } else { (900.0, 300.0) };
        assert_eq!((known.watched, known.exposed), expected, "{n}: learned once");
    }
    assert_eq!(bed.count(&table(&bed, "looks")).await, 11);
}

over_every_store!(
    response_teaches_as_the_planner_says,
    superseded_response_teaches_nothing,
    same_batch_again_teaches_once,
    gone_and_private_objects_wait_a_week,
    activity_in_list_hints_member_once,
    hint_below_level_changes_nothing,
    incomplete_list_hints_nobody,
    new_members_are_spread_over_longest,
    commit_without_teaching_writes_no_plan,
    looks_come_in_order_and_in_pages,
    looks_of_a_side_are_its_buckets,
    sides_of_a_trial_have_own_strategy_and_level,
    odd_rows_do_no_harm,
    odd_level_counts_as_one,
    level_steps_add_up_within_bounds,
    put_off_never_brings_forward,
    put_off_leaves_what_was_learned_since,
    walk_plans_known_objects_in_steps,
    walk_corrects_looks_far_ahead,
    pause_of_the_planner_teaches_nothing,
    looks_are_recorded_by_share_and_deleted,
    refused_record_leaves_lessons_of_others,
);
