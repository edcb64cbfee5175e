use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::model::{Fingerprint, Tag};

const KEYS: [&str; 2] = ["one", "two"];

fn tag(number: usize) -> Tag {
    const DIGITS: &[u8] = b"289PYLQGRJCUV";
    let mut text = String::from("2");
    let mut left = number + 1;
    while left > 0 {
        text.push(char::from(DIGITS[left % DIGITS.len()]));
        left /= DIGITS.len();
    }
    text.parse().unwrap()
}

fn object(endpoint: EndpointKind, number: usize) -> ObjectId {
    match endpoint {
        Clan => ObjectId::clan(tag(number)),
        Player => ObjectId::player(tag(number)),
        _ => ObjectId::war(tag(number)),
    }
}

fn call(endpoint: EndpointKind, number: usize, key: &str) -> Call {
    let requester = object(endpoint, number);
    Call { tag: requester.tag.as_str().to_owned(), requester, endpoint, key: Fingerprint(key.to_owned()) }
}

/// A run as a list of responses, each to a call that begins when the one before it has ended.
#[derive(Default)]
struct Story {
    judge: Judge,
    number: usize,
}

impl Story {
    fn good(&mut self, endpoint: EndpointKind) -> &mut Self {
        self.number += 1;
        let id = self.judge.begin(call(endpoint, self.number, KEYS[0]));
        self.judge.good(id);
        self
    }

    /// A bad response for another object.
    fn bad(&mut self, endpoint: EndpointKind, sign: Sign) -> Accusation {
        self.number += 1;
        self.bad_of(endpoint, self.number, sign, None)
    }

    fn bad_of(
        &mut self,
        endpoint: EndpointKind,
        number: usize,
        sign: Sign,
        earlier: Option<&mut Accusation>,
    ) -> Accusation {
        let earlier = earlier.map(|earlier| {
            self.judge.call_again(earlier);
            &*earlier
        });
        let id = self.judge.begin(call(endpoint, number, KEYS[0]));
        self.judge.bad(id, sign, Reason::new("test", "as the test says"), earlier).unwrap()
    }

    fn bads(&mut self, endpoint: EndpointKind, sign: &Sign, count: usize) -> &mut Self {
        for _ in 0..count {
            self.bad(endpoint, sign.clone());
        }
        self
    }

    fn convicted(&mut self) -> Vec<Scope> {
        let news = self.judge.take_decisions().into_iter();
        news.filter_map(|news| match news {
            Decision::Convicted(scope, ..) => Some(scope),
            Decision::Acquitted(_) => None,
        })
        .collect()
    }
}

use EndpointKind::{Clan, CurrentWar, LeagueGroup, Player};
use Sign::{Failed, Forbidden, Foreign, Maintenance, Rejected, Unavailable};

#[test]
fn one_object_convicts_no_scope() {
    for sign in [Maintenance, Unavailable, Failed, Foreign(None), Forbidden, Rejected] {
        let mut story = Story::default();
        story.good(Clan);
        let mut accusation = story.bad(Clan, sign.clone());
        for _ in 0..50 {
            accusation = story.bad_of(Clan, story.number, sign.clone(), Some(&mut accusation));
        }
        assert_eq!(story.convicted(), [], "{sign:?}");
        assert_eq!(story.judge.classify(&accusation), None, "{sign:?}");
    }
}

#[test]
fn object_failing_again_is_at_fault() {
    for sign in [Maintenance, Unavailable, Failed, Foreign(None), Forbidden, Rejected] {
        let mut story = Story::default();
        let mut first = story.bad(Clan, sign.clone());
        assert_eq!(
            story.good(Player).judge.classify(&first).is_some(),
            sign == Rejected,
            "{sign:?}: only its endpoint is convicted"
        );
        story.good(Clan);
        assert_eq!(story.judge.classify(&first), Some(FailureClass::CallAgain), "{sign:?}");
        let again = story.bad_of(Clan, 1, sign.clone(), Some(&mut first));
        assert_eq!(story.judge.classify(&again), None, "{sign:?}: an outage may have begun");
        story.good(Clan);
        assert_eq!(story.judge.classify(&again), Some(FailureClass::Object), "{sign:?}");
        assert_eq!(story.convicted(), [], "{sign:?}");
    }
}

#[test]
fn objects_convict_endpoint_then_api() {
    for (sign, objects) in [(Maintenance, 2), (Unavailable, 3), (Failed, 10), (Foreign(None), 10)] {
        let mut story = Story::default();
        story.good(Clan).bads(CurrentWar, &sign, objects - 1);
        assert_eq!((story.convicted(), story.judge.control()), (vec![], None), "{sign:?}");
        let last = story.bad(CurrentWar, sign.clone());
        if story.judge.control().is_some() {
            story.bad(CurrentWar, sign.clone());
            story.judge.control_done();
        }
        assert_eq!(story.convicted(), [Scope::Endpoint(CurrentWar)], "{sign:?}");
        assert_eq!(story.judge.classify(&last), Some(FailureClass::Wider(Scope::Endpoint(CurrentWar))));
        story.bad(Player, sign.clone());
        story.judge.control_done();
        assert_eq!(story.convicted(), [Scope::Api], "{sign:?}: a second kind of endpoint");
    }
}

#[test]
fn good_response_in_between_clears_endpoint() {
    let mut story = Story::default();
    for _ in 0..100 {
        story.bads(Clan, &Unavailable, 2).bads(Clan, &Maintenance, 0).good(Clan);
    }
    story.bad(Clan, Maintenance);
    assert_eq!(story.good(Clan).bads(Clan, &Maintenance, 1).convicted(), []);
}

#[test]
fn good_control_call_clears_endpoint() {
    let mut story = Story::default();
    let accusation = story.bad(Player, Failed);
    story.bads(Player, &Failed, 9);
    assert_eq!(story.judge.control(), Some(Control { endpoints: vec![Player] }));
    story.good(Player).judge.control_done();
    assert_eq!((story.convicted(), story.judge.control()), (vec![], None));
    assert_eq!(story.judge.classify(&accusation), Some(FailureClass::CallAgain));
}

#[test]
fn earlier_slow_response_clears_nothing() {
    let mut story = Story::default();
    let slow = story.judge.begin(call(Clan, 99, KEYS[0]));
    let accusation = story.bad(Clan, Maintenance);
    story.judge.good(slow);
    assert_eq!(story.judge.classify(&accusation), None);
    story.bad(Clan, Maintenance);
    story.judge.control_done();
    assert_eq!(story.convicted(), [Scope::Endpoint(Clan)]);
}

#[test]
fn conviction_waits_for_calls_in_between() {
    let mut story = Story::default();
    story.bad(Clan, Maintenance);
    let open = story.judge.begin(call(Clan, 99, KEYS[0]));
    assert_eq!(story.bads(Clan, &Maintenance, 1).convicted(), [], "it may be answered well");
    story.judge.forget(open);
    story.judge.control_done();
    assert_eq!(story.convicted(), [Scope::Endpoint(Clan)]);
    let mut story = Story::default();
    story.bad(Clan, Maintenance);
    story.judge.begin(call(Clan, 99, KEYS[0]));
    story.bads(Clan, &Maintenance, 5).judge.control_done();
    assert_eq!(story.convicted(), [Scope::Endpoint(Clan)], "overwhelming");
}

#[test]
fn two_refused_objects_convict_only_key() {
    for sign in [Forbidden, Rejected] {
        let mut story = Story::default();
        story.good(Clan).bads(Clan, &sign, 2);
        // Where there is no object for a control call.
        story.judge.control_done();
        assert_eq!(story.convicted(), [Scope::Key(Fingerprint(KEYS[0].to_owned()))], "{sign:?}");
        assert!(!story.judge.is_convicted(&Scope::Api));
    }
}

#[test]
fn later_good_response_acquits_scope() {
    let mut story = Story::default();
    story.judge.remember(Scope::Endpoint(CurrentWar));
    let accusation = story.bad(CurrentWar, Failed);
    assert_eq!(story.judge.classify(&accusation), Some(FailureClass::Wider(Scope::Endpoint(CurrentWar))));
    story.good(CurrentWar);
    assert_eq!(story.judge.take_decisions(), [Decision::Acquitted(Scope::Endpoint(CurrentWar))]);
}

#[test]
fn echoed_document_proves_nothing() {
    let mut story = Story::default();
    let echoed = object(Clan, 7).tag.as_str().to_owned();
    story.bads(Clan, &Foreign(Some(echoed)), 3);
    let id = story.judge.begin(call(Clan, 7, KEYS[0]));
    story.judge.good(id);
    assert_eq!(story.judge.good_count(), 0);
    story.bads(Clan, &Foreign(None), 7);
    story.judge.control_done();
    assert_eq!(story.convicted(), [Scope::Endpoint(Clan)]);
}

#[test]
fn control_call_decides_lone_failure() {
    let mut story = Story::default();
    let mut first = story.bad(CurrentWar, Failed);
    story.judge.wait(&first, true);
    assert!(story.judge.has_doubts() && story.judge.nothing_else_to_call());
    assert_eq!(story.judge.control(), Some(Control { endpoints: vec![CurrentWar] }));
    story.good(CurrentWar).judge.control_done();
    assert_eq!(story.judge.classify(&first), Some(FailureClass::CallAgain));
    let again = story.bad_of(CurrentWar, 1, Failed, Some(&mut first));
    assert!(!story.judge.nothing_else_to_call(), "nothing more can be found out");
    assert_eq!((story.judge.classify(&again), story.convicted()), (Some(FailureClass::Object), vec![]));
}

#[test]
fn run_without_good_response_convicts_api() {
    for (sign, scope) in [
        (Failed, Scope::Api),
        (Foreign(None), Scope::Api),
        (Maintenance, Scope::Api),
        (Rejected, Scope::Key(Fingerprint(KEYS[0].to_owned()))),
    ] {
        let mut story = Story::default();
        let accusation = story.bad(Clan, sign.clone());
        story.judge.wait(&accusation, true);
        while story.judge.nothing_else_to_call() {
            // There is no object that used to be answered well.
            story.judge.control_done();
        }
        assert_eq!(story.convicted(), [scope], "{sign:?}");
    }
}

#[test]
fn single_endpoint_alone_does_not_convict_api() {
    let mut story = Story::default();
    story.good(Clan).bads(Clan, &Maintenance, 2).judge.control_done();
    assert_eq!(story.convicted(), [Scope::Endpoint(Clan)]);
    assert!(story.judge.nothing_else_to_call());
    assert_eq!(story.judge.control(), Some(Control { endpoints: vec![Player, CurrentWar] }));
    story.good(Player).judge.control_done();
    assert!(!story.judge.nothing_else_to_call());
    assert_eq!(story.convicted(), [], "the API answers");
    let mut story = Story::default();
    story.good(Clan).bads(Clan, &Maintenance, 2).judge.control_done();
    story.convicted();
    assert!(story.judge.nothing_else_to_call());
    story.judge.control_done();
    assert!(!story.judge.nothing_else_to_call());
    assert_eq!(story.convicted(), [Scope::Api], "nothing else can be called");
}

#[test]
fn others_accusing_prevent_quick_try() {
    let mut story = Story::default();
    let first = story.bad(Clan, Failed);
    assert!(story.judge.is_alone(&first));
    let second = story.bad(Clan, Failed);
    assert!(!story.judge.is_alone(&first) && !story.judge.is_alone(&second));
    story.good(Clan);
    assert!(story.judge.is_alone(&second));
}

/// The bad parts of a world, and the time at which they are bad.
#[derive(Clone, Debug)]
struct World {
    objects: Vec<EndpointKind>,
    bad_objects: BTreeSet<usize>,
    bad_endpoint: Option<EndpointKind>,
    bad_key: bool,
    /// Calls that begin in this stretch fail.
    outage: std::ops::Range<usize>,
    sign: Sign,
    latencies: Vec<usize>,
}

impl World {
    fn is_bad(&self, number: usize, key: usize, now: usize) -> bool {
        self.bad_objects.contains(&number)
            || self.bad_endpoint == Some(self.objects[number])
            || (self.bad_key && key == 1)
            || self.outage.contains(&now)
    }

    fn sign(&self, number: usize, key: usize) -> Sign {
        if self.bad_key && key == 1 && !self.bad_objects.contains(&number) { Forbidden } else { self.sign.clone() }
    }
}

/// Plays a run and returns how each object ended.
fn play(world: &World) -> Vec<FailureClass> {
    let mut judge = Judge::default();
    let mut todo: VecDeque<(usize, Option<Accusation>)> =
        (0..world.objects.len()).map(|number| (number, None)).collect();
    let mut flying: Vec<(usize, CallId, usize, usize, bool, Option<Accusation>)> = Vec::new();
    let mut waiting: Vec<(usize, Accusation)> = Vec::new();
    // `CallAgain` stands for an object that was answered well: it is not an end.
    let mut ends = vec![FailureClass::CallAgain; world.objects.len()];
    for now in 0..20_000 {
        let key = if judge.is_convicted(&Scope::Key(Fingerprint(KEYS[1].to_owned()))) { 0 } else { now % 2 };
        let is_over = judge.is_convicted(&Scope::Api);
        if let Some((number, mut earlier)) = todo.pop_front().filter(|_| !is_over) {
            let kind = world.objects[number];
            if judge.is_convicted(&Scope::Endpoint(kind)) {
                ends[number] = FailureClass::Unknown;
            } else {
                if let Some(earlier) = &mut earlier {
                    judge.call_again(earlier);
                }
                let id = judge.begin(call(kind, number, KEYS[key]));
                let ends_at = now + 1 + world.latencies[now % world.latencies.len()];
                flying.push((ends_at, id, number, key, world.is_bad(number, key, now), earlier));
            }
        } else if flying.is_empty() {
            if is_over || !judge.has_doubts() {
                judge.finish();
            } else {
                judge.nothing_else_to_call();
            }
        }
        if judge.control().is_some() {
            // Half of the worlds have an object that was answered well before: it is good unless its surroundings are bad.
            let kind = judge.control().unwrap().endpoints[0];
            if world.latencies[0].is_multiple_of(2) {
                let id = judge.begin(call(kind, 10_000, KEYS[0]));
                if world.outage.contains(&now) || world.bad_endpoint == Some(kind) {
                    judge.bad(id, world.sign.clone(), Reason::new("test", ""), None);
                } else {
                    judge.good(id);
                }
            }
            judge.control_done();
        }
        let landed = flying.extract_if(.., |flight| flight.0 <= now).collect::<Vec<_>>();
        for (_, id, number, key, is_bad, earlier) in landed {
            if is_bad {
                let sign = world.sign(number, key);
                let accusation = judge.bad(id, sign, Reason::new("test", ""), earlier.as_ref()).unwrap();
                judge.wait(&accusation, true);
                waiting.push((number, accusation));
            } else {
                judge.good(id);
            }
        }
        for (number, accusation) in std::mem::take(&mut waiting) {
            match judge.classify(&accusation) {
                None => waiting.push((number, accusation)),
                Some(class) => {
                    judge.wait(&accusation, false);
                    if class == FailureClass::CallAgain {
                        todo.push_back((number, Some(accusation)));
                    } else {
                        ends[number] = class;
                    }
                }
            }
        }
        if flying.is_empty() && waiting.is_empty() && (todo.is_empty() || is_over) {
            return ends;
        }
    }
    panic!("a run has to end: {} wait, {} fly", waiting.len(), flying.len());
}

fn worlds() -> impl Strategy<Value = World> {
    let kind = prop_oneof![Just(Clan), Just(Player), Just(CurrentWar), Just(LeagueGroup)];
    let sign = prop_oneof![Just(Maintenance), Just(Unavailable), Just(Failed), Just(Foreign(None)), Just(Forbidden)];
    (
        prop::collection::vec(kind, 1..150),
        prop::collection::btree_set(0..150_usize, 0..12),
        prop_oneof![3 => Just(None), 1 => Just(Some(CurrentWar)), 1 => Just(Some(Clan))],
        any::<bool>(),
        prop_oneof![2 => Just(0..0), 1 => (0..100_usize, 1..5000_usize).prop_map(|(from, long)| from..from + long)],
        sign,
        prop::collection::vec(0..40_usize, 1..50),
    )
        .prop_map(|(objects, bad_objects, bad_endpoint, bad_key, outage, sign, latencies)| World {
            objects,
            bad_objects,
            bad_endpoint,
            bad_key,
            outage,
            sign,
            latencies,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn only_objects_that_are_bad_themselves_are_charged(world in worlds()) {
        let ends = play(&world);
        for (number, end) in ends.iter().enumerate() {
            prop_assert!(*end != FailureClass::Object || world.bad_objects.contains(&number), "{number}: {ends:?}");
        }
    }

    #[test]
    fn bad_object_among_good_is_charged(latencies in prop::collection::vec(0..40_usize, 1..50), place in 0..100_usize) {
        let world = World {
            objects: vec![Clan; 101],
            bad_objects: [place].into(),
            bad_endpoint: None,
            bad_key: false,
            outage: 0..0,
            sign: Failed,
            latencies,
        };
        let ends = play(&world);
        prop_assert!(ends[place] == FailureClass::Object, "{:?}", ends[place]);
        prop_assert!(ends.iter().filter(|end| **end != FailureClass::CallAgain).count() == 1, "all others are answered");
    }
}
