//! The tests of the key pool.

use std::future::Future;

use secrecy::SecretString;
use tokio::task::yield_now;

use super::{
    super::{limiter::CALL_WINDOW, pooled_key::SLOT_MARGIN},
    *,
};
use crate::{
    clock::{ManualClock, Timestamp},
    model::ObjectId,
};

const LIFETIME: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_secs(20);

fn clock() -> Arc<ManualClock> {
    ManualClock::at(Timestamp::from_millis(1_772_600_767_089))
}

fn key(token: &str) -> ApiKey {
    ApiKey::new(SecretString::from(token))
}

fn name(token: &str) -> Fingerprint {
    Fingerprint::of(token)
}

fn holding(clock: &Arc<ManualClock>, cap_per_second: u32, tokens: &[&str]) -> Arc<KeyPool> {
    let keys = KeyPool::new(clock.clone(), cap_per_second);
    for token in tokens {
        keys.add(key(token), None, SlotStart::now(&**clock), LIFETIME);
    }
    Arc::new(keys)
}

fn soon() -> Instant {
    Instant::now() + A_WHILE
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test)
}

async fn can_call(keys: &KeyPool) -> bool {
    loop {
        match keys.permit(soon()).await {
            // A machine that stalls may let a permit lapse.
            Ok(permit) if permit.granted.elapsed() > PERMIT_LIFETIME => {}
            Ok(permit) => return keys.begin(permit).await.is_some(),
            Err(_) => return false,
        }
    }
}

#[tokio::test]
async fn permits_are_first_come_first_served() {
    let keys = holding(&clock(), 300, &["one", "two"]);
    let order = Arc::new(Mutex::new(Vec::new()));
    let waiters = (0..20).map(|number| {
        let (keys, order) = (keys.clone(), order.clone());
        tokio::spawn(async move {
            drop(keys.permit(soon()).await.unwrap());
            order.lock().push(number);
        })
    });
    for waiter in waiters.collect::<Vec<_>>() {
        waiter.await.unwrap();
    }
    assert_eq!(*order.lock(), (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn aborted_waiter_does_not_block_next() {
    let keys = holding(&clock(), 10, &["one"]);
    drop(keys.permit(soon()).await.unwrap());
    let impatient = tokio::spawn({
        let keys = keys.clone();
        async move { keys.permit(soon()).await.map(drop) }
    });
    yield_now().await;
    let patient = tokio::spawn({
        let keys = keys.clone();
        async move { keys.permit(soon()).await.map(drop) }
    });
    yield_now().await;
    impatient.abort();
    assert_eq!(patient.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn keys_are_used_evenly() {
    let keys = holding(&clock(), 100, &["one", "two", "three"]);
    let mut used = BTreeMap::new();
    for _ in 0..30 {
        *used.entry(keys.permit(soon()).await.unwrap().key).or_insert(0) += 1;
    }
    assert!(used.len() == 3 && used.values().all(|calls| (9..=11).contains(calls)), "{used:?}");
}

#[tokio::test]
async fn permit_without_usable_key_fails_at_once() {
    let clock = clock();
    let keys = holding(&clock, 30, &[]);
    assert_eq!(keys.permit(soon()).await.unwrap_err(), NoPermit::NoUsableKey);
    keys.add(key("one"), None, SlotStart::now(&*clock), LIFETIME);
    keys.throttled(&name("one"), Duration::from_secs(5), &player("2PP"));
    assert_eq!(keys.permit(soon()).await.unwrap_err(), NoPermit::NoUsableKey);
    clock.advance(Duration::from_secs(5));
    assert!(can_call(&keys).await);
}

#[tokio::test]
async fn permit_fails_when_deadline_is_out_of_reach() {
    let keys = holding(&clock(), 1, &["one"]);
    drop(keys.permit(soon()).await.unwrap());
    let until = Instant::now() + Duration::from_millis(900);
    assert_eq!(keys.permit(until).await.unwrap_err(), NoPermit::Deadline);
    assert_eq!(keys.permit(Instant::now() - Duration::from_secs(1)).await.unwrap_err(), NoPermit::Deadline);
}

#[tokio::test]
async fn waiter_wakes_when_key_is_lost() {
    let keys = holding(&clock(), 1, &["one"]);
    drop(keys.permit(soon()).await.unwrap());
    let waiter = tokio::spawn({
        let keys = keys.clone();
        async move { keys.permit(soon()).await.map(drop) }
    });
    yield_now().await;
    keys.lose(&name("one"));
    assert_eq!(waiter.await.unwrap(), Err(NoPermit::NoUsableKey));
    assert_eq!(keys.fingerprints(), []);
}

#[test]
fn key_is_usable_while_both_clocks_agree() {
    let almost = LIFETIME.saturating_sub(SLOT_MARGIN + Duration::from_millis(1));
    for by_wall_only in [false, true] {
        let clock = clock();
        let keys = holding(&clock, 300, &["one"]);
        let pass = |duration| {
            if by_wall_only { clock.set_wall(clock.wall() + duration) } else { clock.advance(duration) }
        };
        pass(almost);
        assert!(run(can_call(&keys)), "by wall only: {by_wall_only}");
        pass(Duration::from_millis(1));
        assert!(!run(can_call(&keys)), "by wall only: {by_wall_only}");
        keys.confirm(&name("one"), SlotStart::now(&*clock), LIFETIME);
        assert!(run(can_call(&keys)), "by wall only: {by_wall_only}");
    }
}

#[test]
fn wall_clock_set_back_does_not_lengthen_slot() {
    let clock = clock();
    let keys = holding(&clock, 300, &["one"]);
    clock.advance(LIFETIME);
    clock.set_wall(Timestamp::EPOCH);
    assert_eq!(keys.usable(), 0);
}

#[tokio::test]
async fn slot_lapse_after_permit_stops_call() {
    let clock = clock();
    let keys = holding(&clock, 300, &["one"]);
    let permit = keys.permit(soon()).await.unwrap();
    clock.advance(LIFETIME);
    assert!(keys.begin(permit).await.is_none());
    assert_eq!(keys.calls_made(), 0);
}

#[tokio::test]
async fn kept_permit_is_void() {
    let keys = holding(&clock(), 300, &["one"]);
    let permit = keys.permit(soon()).await.unwrap();
    sleep(PERMIT_LIFETIME * 2).await;
    assert!(keys.begin(permit).await.is_none());
    assert!(can_call(&keys).await);
    assert_eq!(keys.calls_made(), 1);
}

fn player(tag: &str) -> ObjectId {
    ObjectId::player(tag.parse().unwrap())
}

#[test]
fn calls_throttled_together_halve_rate_once() {
    let clock = clock();
    let keys = holding(&clock, 32, &["one"]);
    let cooldown = Duration::from_secs(30);
    for tag in ["2PP", "2PY", "2PL"] {
        keys.throttled(&name("one"), cooldown, &player(tag));
    }
    assert_eq!(format!("{:?}", keys.rates()), format!("{:?}", [(name("one"), 16.0)]));
    assert_eq!((keys.usable(), keys.cooldowns().len()), (0, 1));
    clock.advance(cooldown);
    keys.confirm(&name("one"), SlotStart::now(&*clock), LIFETIME);
    assert_eq!((keys.usable(), keys.cooldowns().len()), (1, 0));
    keys.throttled(&name("one"), cooldown, &player("2PP"));
    assert_eq!(format!("{:?}", keys.rates()), format!("{:?}", [(name("one"), 8.0)]));
}

#[test]
fn single_object_does_not_lower_rate() {
    let clock = clock();
    let keys = holding(&clock, 32, &["one", "two"]);
    let cooldown = Duration::from_secs(30);
    for key in ["one", "one", "two"] {
        keys.throttled(&name(key), cooldown, &player("2PP"));
    }
    assert_eq!(format!("{:?}", keys.rates()), format!("{:?}", [(name("one"), 32.0), (name("two"), 32.0)]));
    assert!(keys.cooldowns().iter().all(|cooldown| cooldown.reason == "throttled"), "{:?}", keys.cooldowns());
}

#[test]
fn second_throttled_key_cools_down_all() {
    for (apart_s, cooling_down) in [(9, 3), (10, 2)] {
        let clock = clock();
        let keys = holding(&clock, 30, &["one", "two", "three"]);
        keys.throttled(&name("one"), Duration::from_secs(30), &player("2PP"));
        clock.advance(Duration::from_secs(apart_s));
        keys.throttled(&name("two"), Duration::from_secs(30), &player("2PY"));
        assert_eq!(keys.cooldowns().len(), cooling_down, "{apart_s} s apart");
    }
}

#[test]
fn cooldown_only_lengthens_and_rejection_stays() {
    let keys = holding(&clock(), 30, &["one", "two"]);
    for seconds in [30, 600, 5] {
        keys.throttled(&name("one"), Duration::from_secs(seconds), &player("2PP"));
    }
    keys.reject(&name("two"), "revoked");
    keys.throttled(&name("two"), Duration::ZERO, &player("2PP"));
    let cooldown = |token, reason: &str, remaining| Cooldown { key: name(token), reason: reason.to_owned(), remaining };
    let expected = [cooldown("one", "throttled", Some(Duration::from_secs(600))), cooldown("two", "revoked", None)];
    assert_eq!(keys.cooldowns(), expected);
    assert_eq!(keys.fingerprints().len(), 2, "they are held all the same");
}

#[tokio::test]
async fn adding_held_key_gives_no_burst() {
    let clock = clock();
    let keys = holding(&clock, 1, &["one"]);
    drop(keys.permit(soon()).await.unwrap());
    keys.add(key("one"), None, SlotStart::now(&*clock), LIFETIME);
    let until = Instant::now() + Duration::from_millis(500);
    assert_eq!(keys.permit(until).await.unwrap_err(), NoPermit::Deadline);
}

#[test]
fn unsendable_token_is_rejected() {
    let keys = holding(&clock(), 30, &["to\nken"]);
    assert_eq!((keys.usable(), keys.cooldowns().len()), (0, 1));
}

#[test]
fn rates_are_summed_over_keys() {
    let clock = clock();
    let keys = holding(&clock, 30, &["one", "two"]);
    keys.add(key("three"), Some(AimdState::plain(12.0)), SlotStart::now(&*clock), LIFETIME);
    keys.throttled(&name("two"), LIFETIME, &player("2PP"));
    assert_eq!(format!("{} {}", keys.cap_per_second(), keys.total_rate()), "90 42");
}

/// Watches for this long whether the call leaves.
async fn watch(call: &Begun<'_>, connects: &Connects, duration: Duration) {
    let _ = tokio::time::timeout(duration, call.watch(connects)).await;
}

#[tokio::test]
async fn call_counts_from_new_connection() {
    let keys = holding(&clock(), 2, &["one"]);
    let connects = Connects::default();
    let begin = async || {
        let permit = keys.permit(soon()).await.unwrap();
        keys.begin(permit).await.unwrap().0
    };
    let first = begin().await;
    let opening = connects.opening();
    let stands = async {
        sleep(Duration::from_millis(100)).await;
        drop(opening);
        Instant::now()
    };
    let ((), left) = tokio::join!(watch(&first, &connects, Duration::from_millis(150)), stands);
    drop(begin().await);
    begin().await;
    assert!(left.elapsed() >= CALL_WINDOW, "the third call follows {:?} after the first left", left.elapsed());
}

#[tokio::test]
async fn connecting_call_counts_against_cap() {
    let keys = holding(&clock(), 1, &["one"]);
    let connects = Connects::default();
    let permit = keys.permit(soon()).await.unwrap();
    let first = keys.begin(permit).await.unwrap().0;
    let opening = connects.opening();
    let stands = async {
        // Longer than the cap's own wait: the second call could begin meanwhile, if the first one counted as late only.
        sleep(CALL_WINDOW + Duration::from_millis(200)).await;
        drop(opening);
        Instant::now()
    };
    let second = async {
        loop {
            // A machine that stalls may let a permit lapse.
            let permit = keys.permit(soon()).await.unwrap();
            if let Some((begun, _)) = keys.begin(permit).await {
                return (begun, Instant::now());
            }
        }
    };
    let watched = watch(&first, &connects, CALL_WINDOW + Duration::from_millis(250));
    let ((), left, (_second, began)) = tokio::join!(watched, stands, second);
    assert!(
        began.duration_since(left) >= CALL_WINDOW,
        "the second follows {:?} after the first",
        began.duration_since(left)
    );
}

#[tokio::test]
async fn call_counts_from_departure() {
    let keys = holding(&clock(), 2, &["one"]);
    let begin = async || {
        let permit = keys.permit(soon()).await.unwrap();
        keys.begin(permit).await.unwrap().0
    };
    let first = begin().await;
    // The thread is busy with something else before the connection has its turn.
    std::thread::sleep(Duration::from_millis(100));
    let left = Instant::now();
    watch(&first, &Connects::default(), Duration::from_millis(1)).await;
    drop(begin().await);
    begin().await;
    assert!(left.elapsed() >= CALL_WINDOW, "the third call follows {:?} after the first left", left.elapsed());
}

#[tokio::test]
async fn release_cooldown_covers_last_calls() {
    let keys = holding(&clock(), 2, &["one", "two"]);
    let permit = keys.permit(soon()).await.unwrap();
    let (one, two) = (name("one"), name("two"));
    let call = keys.begin(permit).await.unwrap().0;
    assert_eq!(keys.release_cooldown(&two), Duration::ZERO, "nothing was called with it");
    assert!(
        keys.release_cooldown(&one) > Duration::from_millis(500),
        "{:?}: one interval from its leaving",
        keys.release_cooldown(&one)
    );
    drop(call);
    assert!(keys.release_cooldown(&one) <= Duration::from_millis(509), "{:?}", keys.release_cooldown(&one));
}
