//! Keys of the developer portal under runs: made, reused, replaced when the address changes, and never anybody else's.

use std::time::Duration;

use refresh_worker::{
    api::keys::KeyStore,
    config::{PortalAccount, PortalConfig},
    model::Fingerprint,
    queue::{Holder, SharedState as _, memory::MemoryQueue},
    sim::{Misbehaviour, PortalTrouble, Rule, Simulator},
    store::sqlite::SqliteStore,
    worker::{ApiAccess, RunOptions, Runs as _, Unwatched, Worker, report::StopReason},
};

use super::bed::{Bed, seconds};

const EMAIL: &str = "somebody@example.com";
const PASSWORD: &str = "correct horse battery staple";
const NAME: &str = "refresh-worker-test";

fn portal(simulator: &Simulator, key_name: &str, key_count: usize) -> PortalConfig {
    let account = PortalAccount { variable: "COC_EMAIL".to_owned(), email: EMAIL.into(), password: PASSWORD.into() };
    PortalConfig {
        url: simulator.portal_url(),
        accounts: vec![account],
        key_name: key_name.to_owned(),
        key_count,
        egress_ips: Vec::new(),
    }
}

fn key_store(config: &PortalConfig) -> KeyStore {
    KeyStore::default().with_portal(config).expect("the simulator's address is one")
}

/// A bed whose worker has no key but what the portal gives.
async fn bed(key_count: usize) -> Bed {
    let mut bed = Bed::with(|config| config.deadline_buffer = Duration::ZERO, &["of-nobody"]).await;
    bed.simulator.open_account(EMAIL, PASSWORD);
    bed.worker.api.key_store = key_store(&portal(&bed.simulator, NAME, key_count));
    bed
}

fn another(bed: &Bed, config: &PortalConfig) -> Worker<MemoryQueue, SqliteStore> {
    let another = bed.another();
    Worker { api: ApiAccess { key_store: key_store(config), ..another.api }, ..another }
}

/// Lets time pass by the bed's clock while something goes on, since rights end by it.
async fn while_time_passes<T>(bed: &Bed, work: impl Future<Output = T>) -> T {
    let tick = async {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            bed.clock.advance(Duration::from_millis(5));
        }
    };
    tokio::select! {
        done = work => done,
        () = tick => unreachable!("the clock goes on for ever"),
    }
}

/// The holder of the right to log in with the first account.
async fn who_logs_in(bed: &Bed) -> Holder {
    let slot = bed.worker.api.key_store.accounts()[0].login_slot();
    bed.worker.queue.look_at_key(&slot).await.unwrap().holder
}

fn count(bed: &Bed, act: &str) -> usize {
    bed.simulator.portal_acts().iter().filter(|done| done.starts_with(act)).count()
}

#[tokio::test]
async fn first_run_creates_keys_others_reuse() {
    let bed = bed(2).await;
    bed.ask(bed.players(20)).await;
    let report = bed.run().await;
    assert_eq!((report.stopped_because, report.processed_requests), (StopReason::QueueEmpty, 20), "{report:?}");
    assert_eq!(report.keys_held, 2);
    bed.ask(bed.clans(5)).await;
    assert_eq!(bed.run().await.stopped_because, StopReason::QueueEmpty);
    assert_eq!(
        bed.simulator.portal_acts(),
        ["login", "list", "create refresh-worker-test", "create refresh-worker-test"]
    );
    // Another sandbox knows nothing, and finds them in the account.
    let cold = another(&bed, &portal(&bed.simulator, NAME, 2));
    let report = cold.run(RunOptions::default(), &Unwatched).await;
    assert_eq!(report.keys_held, 2, "{report:?}");
    assert_eq!((count(&bed, "login"), count(&bed, "create"), count(&bed, "revoke")), (2, 2, 0));
}

/// Fifteen calls are in flight, and no attempt is counted.
#[tokio::test]
async fn address_change_mid_drain_needs_one_login() {
    let bed = bed(1).await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased));
    bed.ask(bed.players(40)).await;
    let moves = async {
        bed.simulator.wait_until_held(15).await;
        bed.simulator.move_to("198.51.100.4");
        bed.simulator.release();
    };
    let (report, ()) = tokio::join!(while_time_passes(&bed, bed.run()), moves);
    assert_eq!(report.stopped_because, StopReason::QueueEmpty, "{report:?}");
    assert_eq!((report.processed_requests, report.failed_requests), (40, 0), "{report:?}");
    assert_eq!(count(&bed, "login"), 2, "one at the start and one after the move: {:?}", bed.simulator.portal_acts());
    assert!(report.outcomes["released"] >= 15, "{report:?}");
    assert_eq!(bed.dead().await.len(), 0);
    let keys = bed.simulator.portal_keys(EMAIL);
    assert_eq!(keys.last().unwrap().cidr_ranges, ["198.51.100.4"]);
    let expected = "account COC_EMAIL: our address changed from 203.0.113.7 to 198.51.100.4";
    assert!(report.errors.iter().any(|error| error.starts_with(expected)), "{:?}", report.errors);
}

/// Keys are good for all of `EGRESS_IPS`, and only such keys are used.
#[tokio::test]
async fn egress_ips_select_the_keys() {
    let mut bed = bed(1).await;
    let mut config = portal(&bed.simulator, NAME, 1);
    config.egress_ips = ["203.0.113.7", "198.51.100.20"].map(|address| address.parse().unwrap()).to_vec();
    bed.worker.api.key_store = key_store(&config);
    bed.simulator.put_key(EMAIL, NAME, "203.0.113.7");
    bed.ask(bed.players(3)).await;
    assert_eq!(bed.run().await.processed_requests, 3);
    let keys = bed.simulator.portal_keys(EMAIL);
    assert_eq!(keys.last().unwrap().cidr_ranges, ["203.0.113.7", "198.51.100.20"], "one address alone is not enough");
    assert!(bed.simulator.calls().iter().all(|call| call.token == keys.last().unwrap().token));
    // Where the portal sees us does not matter any more: the one key is found again from the other address.
    bed.simulator.move_to("198.51.100.20");
    bed.ask(bed.clans(2)).await;
    let cold = another(&bed, &config);
    let report = cold.run(RunOptions::default(), &Unwatched).await;
    assert_eq!((report.processed_requests, count(&bed, "create")), (2, 1), "{report:?}");
}

#[tokio::test]
async fn warm_sandbox_takes_replaced_key() {
    let bed = bed(1).await;
    let other = another(&bed, &portal(&bed.simulator, NAME, 1));
    bed.run().await;
    assert_eq!(other.run(RunOptions::default(), &Unwatched).await.keys_held, 1, "both know the one key");
    bed.clock.advance(seconds(1));
    bed.simulator.move_to("198.51.100.4");
    bed.ask(bed.players(3)).await;
    assert_eq!(Box::pin(while_time_passes(&bed, bed.run())).await.processed_requests, 3);
    bed.clock.advance(seconds(1));
    bed.ask(bed.clans(2)).await;
    let refused = || bed.simulator.calls().iter().filter(|call| call.status == Some(403)).count();
    let before = refused();
    let report = Box::pin(while_time_passes(&bed, other.run(RunOptions::default(), &Unwatched))).await;
    assert_eq!((report.stopped_because, report.processed_requests), (StopReason::QueueEmpty, 2), "{report:?}");
    let acts = bed.simulator.portal_acts();
    assert_eq!((refused(), count(&bed, "login"), count(&bed, "create")), (before, 4, 2), "{acts:?}");
}

/// It replaces the key that was rejected elsewhere meanwhile.
#[tokio::test]
async fn warm_sandbox_starts_with_its_other_keys() {
    let bed = bed(2).await;
    let other = another(&bed, &portal(&bed.simulator, NAME, 2));
    bed.run().await;
    other.run(RunOptions::default(), &Unwatched).await;
    bed.clock.advance(seconds(1));
    let revoked = bed.simulator.portal_keys(EMAIL)[0].clone();
    bed.simulator.revoke_by_hand(&revoked.token);
    bed.ask(bed.players(20)).await;
    Box::pin(while_time_passes(&bed, bed.run())).await;
    bed.clock.advance(seconds(1));
    let calls = |token: &str| bed.simulator.calls().iter().filter(|call| call.token == token).count();
    let before = calls(&revoked.token);
    bed.ask(bed.players(120).into_iter().skip(20)).await;
    let report = Box::pin(while_time_passes(&bed, other.run(RunOptions::default(), &Unwatched))).await;
    assert_eq!((report.stopped_because, report.processed_requests), (StopReason::QueueEmpty, 100), "{report:?}");
    assert_eq!((calls(&revoked.token), count(&bed, "login")), (before, 4), "{:?}", bed.simulator.portal_acts());
    let all_known =
        bed.simulator.portal_keys(EMAIL).iter().all(|key| {
            other.api.key_store.keys().iter().any(|known| *known.fingerprint() == Fingerprint::of(&key.token))
        });
    assert!(all_known, "{:?}", other.api.key_store);
}

#[tokio::test]
async fn login_ends_with_the_run_without_cooldown() {
    let mut bed = bed(1).await;
    bed.simulator.open_account("second@example.com", PASSWORD);
    let mut config = portal(&bed.simulator, NAME, 1);
    let (variable, email) = ("COC_EMAIL_2".to_owned(), "second@example.com".into());
    config.accounts.push(PortalAccount { variable, email, password: PASSWORD.into() });
    bed.worker.api.key_store = key_store(&config);
    bed.simulator.portal_trouble(Some(PortalTrouble::Stalled));
    bed.ask(bed.players(2)).await;
    let options = RunOptions { time_left: Some(seconds(2)), ..RunOptions::default() };
    let report = bed.run_with(options).await;
    assert_eq!(report.stopped_because, StopReason::NoUsableKey, "{report:?}");
    let failure = report.failure.unwrap_or_default();
    assert!(failure.contains("log in with COC_EMAIL: not done before the time for it was over"), "{failure}");
    assert!(failure.contains("log in with COC_EMAIL_2: no time is left for it"), "{failure}");
    assert_eq!((count(&bed, "login"), who_logs_in(&bed).await), (1, Holder::Nobody), "none is begun after the time");
    bed.simulator.portal_trouble(None);
    assert_eq!(bed.run().await.processed_requests, 2, "nobody rests");
}

#[tokio::test]
async fn stop_ends_login_and_releases_right() {
    let bed = bed(1).await;
    bed.simulator.portal_trouble(Some(PortalTrouble::Stalled));
    bed.ask(bed.players(2)).await;
    let stop = async {
        bed.simulator.wait_until_portal_stalls(1).await;
        assert!(matches!(who_logs_in(&bed).await, Holder::Run(_)));
        bed.worker.stop.ask();
    };
    let (report, ()) = tokio::join!(bed.run(), stop);
    assert_eq!((report.stopped_because, report.failure), (StopReason::Shutdown, None));
    assert_eq!(who_logs_in(&bed).await, Holder::Nobody);
    assert_eq!(bed.stats().await.ready, 2);
}

#[tokio::test]
async fn stop_ends_login_mid_drain() {
    let bed = bed(1).await;
    bed.run().await;
    bed.simulator.revoke_by_hand(&bed.simulator.portal_keys(EMAIL)[0].token);
    bed.simulator.portal_trouble(Some(PortalTrouble::Stalled));
    bed.ask(bed.players(5)).await;
    let stop = async {
        bed.simulator.wait_until_portal_stalls(1).await;
        bed.worker.stop.ask();
    };
    let (report, ()) = tokio::join!(bed.run(), stop);
    assert_eq!((report.stopped_because, report.failure), (StopReason::Shutdown, None));
    assert_eq!((who_logs_in(&bed).await, bed.stats().await.ready), (Holder::Nobody, 5));
}

#[tokio::test]
async fn failed_revoke_costs_no_good_key() {
    let bed = bed(2).await;
    for number in 0..8 {
        bed.simulator.put_key(EMAIL, &format!("foreign-{number}"), "203.0.113.7");
    }
    bed.simulator.put_key(EMAIL, NAME, "192.0.2.200");
    bed.simulator.put_key(EMAIL, NAME, "203.0.113.7");
    bed.simulator.portal_trouble(Some(PortalTrouble::CannotRevoke));
    bed.ask(bed.players(2)).await;
    let report = bed.run().await;
    assert_eq!((report.keys_held, report.processed_requests), (1, 2), "{report:?}");
    assert_eq!((count(&bed, "create"), bed.simulator.portal_keys(EMAIL).len()), (0, 10), "its place is not free");
}

#[tokio::test]
async fn refused_revoke_without_key_is_reported() {
    let bed = bed(1).await;
    for number in 0..9 {
        bed.simulator.put_key(EMAIL, &format!("foreign-{number}"), "203.0.113.7");
    }
    bed.simulator.put_key(EMAIL, NAME, "192.0.2.200");
    bed.simulator.portal_trouble(Some(PortalTrouble::CannotRevoke));
    let failure = bed.run().await.failure.unwrap_or_default();
    assert!(failure.contains("revoke a key at the developer portal with COC_EMAIL: it refuses for now"), "{failure}");
}

#[tokio::test]
async fn login_revokes_no_held_key() {
    let bed = bed(1).await;
    for number in 0..9 {
        bed.simulator.put_key(EMAIL, &format!("foreign-{number}"), "203.0.113.7");
    }
    let away = bed.simulator.put_key(EMAIL, NAME, "192.0.2.200");
    let name = Fingerprint::of(&away.token);
    bed.worker.queue.take_key(&name, "a-run-elsewhere", seconds(60)).await.unwrap();
    bed.ask(bed.players(2)).await;
    let report = bed.run().await;
    assert_eq!(report.stopped_because, StopReason::NoUsableKey, "{report:?}");
    let failure = report.failure.unwrap_or_default();
    assert!(failure.contains("a run is using every key called `refresh-worker-test`"), "{failure}");
    assert!(bed.simulator.portal_keys(EMAIL).contains(&away));
    // That run is over, and with it the cooldown: a run ends by itself, no person has to help.
    bed.clock.advance(seconds(61));
    assert_eq!(bed.run().await.processed_requests, 2);
}

#[tokio::test]
async fn key_revoked_by_hand_is_replaced() {
    let bed = bed(5).await;
    bed.ask(bed.players(10)).await;
    bed.run().await;
    let revoked = bed.simulator.portal_keys(EMAIL)[0].clone();
    bed.simulator.revoke_by_hand(&revoked.token);
    bed.ask(bed.players(100).into_iter().skip(10)).await;
    let report = bed.run().await;
    assert_eq!((report.stopped_because, report.failed_requests), (StopReason::QueueEmpty, 0), "{report:?}");
    assert_eq!(count(&bed, "login"), 2, "{:?}", bed.simulator.portal_acts());
    let keys = bed.simulator.portal_keys(EMAIL);
    assert_eq!((keys.len(), keys.contains(&revoked)), (5, false));
    let refused = bed.simulator.calls().iter().filter(|call| call.status == Some(403)).count();
    let uses = bed.simulator.calls_to("/").iter().filter(|call| call.token == revoked.token).count();
    assert!(refused > 0 && uses < 60, "{refused} refused, {uses} with the old key");
}

#[tokio::test]
async fn ten_foreign_keys_are_left_alone() {
    let bed = bed(1).await;
    for number in 0..10 {
        bed.simulator.put_key(EMAIL, &format!("foreign-{number}"), "203.0.113.7");
    }
    let before = bed.simulator.portal_keys(EMAIL);
    bed.ask(bed.players(3)).await;
    let report = bed.run().await;
    assert_eq!(report.stopped_because, StopReason::NoUsableKey, "{report:?}");
    let failure = report.failure.unwrap_or_default();
    assert!(failure.contains("10 keys") && failure.contains("revoke one"), "{failure}");
    assert_eq!((bed.simulator.portal_keys(EMAIL), bed.simulator.total_calls()), (before, 0));
    assert_eq!(bed.stats().await.ready, 3);
    // The next run does not even ask: only a person can help.
    assert_eq!(bed.run().await.stopped_because, StopReason::NoUsableKey);
    assert_eq!(count(&bed, "login"), 1);
}

#[tokio::test]
async fn full_account_gives_fewer_keys() {
    let bed = bed(5).await;
    for number in 0..7 {
        bed.simulator.put_key(EMAIL, &format!("foreign-{number}"), "203.0.113.7");
    }
    bed.simulator.put_key(EMAIL, NAME, "192.0.2.200");
    bed.ask(bed.players(5)).await;
    let report = bed.run().await;
    assert_eq!((report.stopped_because, report.keys_held), (StopReason::QueueEmpty, 3), "{report:?}");
    let names: Vec<String> = bed.simulator.portal_keys(EMAIL).into_iter().map(|key| key.name).collect();
    assert_eq!(names.iter().filter(|name| name.starts_with("foreign-")).count(), 7);
    assert_eq!(names.len(), 10);
}

#[tokio::test]
async fn deployments_never_revoke_each_others_keys() {
    let bed = bed(4).await;
    let staging = portal(&bed.simulator, "refresh-worker-staging", 4);
    for round in 0..20 {
        // Both move all the time, and every sandbox is a cold one: as bad as it gets.
        bed.simulator.move_to(&format!("198.51.100.{round}"));
        let mut theirs = 4;
        for config in [portal(&bed.simulator, NAME, 4), staging.clone()] {
            let of_the_other = |keys: Vec<refresh_worker::sim::PortalKey>| -> Vec<String> {
                keys.into_iter().filter(|key| key.name != config.key_name).map(|key| key.id).collect()
            };
            let before = of_the_other(bed.simulator.portal_keys(EMAIL));
            let report = another(&bed, &config).run(RunOptions::default(), &Unwatched).await;
            assert_eq!(report.stopped_because, StopReason::QueueEmpty, "{report:?}");
            assert_eq!(of_the_other(bed.simulator.portal_keys(EMAIL)), before, "round {round}, {}", config.key_name);
            theirs = theirs.min(report.keys_held);
            bed.clock.advance(seconds(1));
        }
        assert!(theirs >= 4, "round {round}: {theirs} keys");
        assert!(bed.simulator.portal_keys(EMAIL).len() <= 10);
    }
}

#[tokio::test]
async fn ten_cold_sandboxes_log_in_one_by_one() {
    let bed = bed(1).await;
    let config = portal(&bed.simulator, NAME, 1);
    let workers: Vec<_> = (0..10).map(|_| another(&bed, &config)).collect();
    let runs = workers.iter().map(|worker| worker.run(RunOptions::default(), &Unwatched));
    let reports = while_time_passes(&bed, futures_util::future::join_all(runs)).await;
    for report in reports {
        let fine = matches!(report.stopped_because, StopReason::QueueEmpty | StopReason::AlreadyRunning);
        assert!(fine, "{report:?}");
    }
    // A login beside another one would have failed, and nobody would have logged in for 30 s after it.
    assert_eq!((count(&bed, "login"), count(&bed, "create")), (10, 1), "{:?}", bed.simulator.portal_acts());
}

#[tokio::test]
async fn portal_failures_are_named_and_back_off() {
    for (trouble, expected) in [
        (PortalTrouble::Temporary, "it refuses for now: Temporary application error"),
        (PortalTrouble::Down, "it is down: status 503"),
        (PortalTrouble::Nonsense, "sets no cookie"),
        (PortalTrouble::CannotCreate, "create a key at the developer portal with COC_EMAIL: it refuses for now"),
    ] {
        let bed = bed(1).await;
        bed.simulator.portal_trouble(Some(trouble));
        bed.ask(bed.players(2)).await;
        for _ in 0..3 {
            let report = bed.run().await;
            assert_eq!(report.stopped_because, StopReason::NoUsableKey, "{report:?}");
            let failure = report.failure.unwrap_or_default();
            assert!(failure.contains(expected), "{trouble:?}: {failure}");
            assert!(!failure.contains(PASSWORD) && !failure.contains(EMAIL), "{failure}");
        }
        assert_eq!(count(&bed, "login"), 1, "nobody tries again within 30 s");
        bed.simulator.portal_trouble(None);
        bed.clock.advance(seconds(31));
        let report = bed.run().await;
        assert_eq!((report.stopped_because, report.processed_requests), (StopReason::QueueEmpty, 2), "{report:?}");
    }
}

#[tokio::test]
async fn wrong_password_cools_down_15_minutes() {
    let mut bed = bed(1).await;
    let mut config = portal(&bed.simulator, NAME, 1);
    config.accounts[0].password = "wrong".into();
    bed.worker.api.key_store = key_store(&config);
    bed.ask(bed.players(1)).await;
    for _ in 0..5 {
        let report = bed.run().await;
        assert_eq!(report.stopped_because, StopReason::NoUsableKey, "{report:?}");
        assert!(report.failure.unwrap_or_default().contains("wrong e-mail or password"));
        bed.clock.advance(seconds(120));
    }
    assert_eq!(count(&bed, "login"), 1);
}

#[tokio::test]
async fn new_password_is_tried_at_once() {
    let mut bed = bed(1).await;
    let mut config = portal(&bed.simulator, NAME, 1);
    config.accounts[0].password = "the old one".into();
    bed.worker.api.key_store = key_store(&config);
    bed.ask(bed.players(1)).await;
    assert_eq!(bed.run().await.stopped_because, StopReason::NoUsableKey);
    bed.worker.api.key_store = key_store(&portal(&bed.simulator, NAME, 1));
    assert_eq!(bed.run().await.processed_requests, 1);
    // A process with the old password leaves the portal alone, and no other process cools down because of it.
    bed.worker.api.key_store = key_store(&config);
    let report = bed.run().await;
    assert!(report.failure.unwrap_or_default().contains("wrong e-mail or password (tried again in"));
    assert_eq!(count(&bed, "login"), 2);
}

#[tokio::test]
async fn repeated_rejections_do_not_repeat_logins() {
    let bed = bed(1).await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::InvalidAuthorization));
    bed.ask(bed.players(5)).await;
    for _ in 0..5 {
        let report = Box::pin(while_time_passes(&bed, bed.run())).await;
        assert_eq!(report.stopped_because, StopReason::NoUsableKey, "{report:?}");
        assert_eq!(report.failed_requests, 0);
    }
    assert_eq!(count(&bed, "login"), 3, "{:?}", bed.simulator.portal_acts());
    assert!(bed.simulator.portal_keys(EMAIL).len() <= 10);
    bed.simulator.clear();
    bed.clock.advance(seconds(601));
    assert_eq!(bed.run().await.processed_requests, 5);
}

#[tokio::test]
async fn cold_sandbox_skips_key_rejected_elsewhere() {
    let bed = bed(1).await;
    bed.ask(bed.players(3)).await;
    // Good for the portal, and refused by the API all the same.
    let refused = bed.simulator.put_key(EMAIL, NAME, "203.0.113.7");
    bed.simulator.misbehave(Rule::new(Misbehaviour::InvalidAuthorization).on_token(&refused.token));
    let report = Box::pin(while_time_passes(&bed, bed.run())).await;
    assert_eq!((report.stopped_because, report.processed_requests), (StopReason::QueueEmpty, 3), "{report:?}");
    let refusals = || bed.simulator.calls().iter().filter(|call| call.status == Some(403)).count();
    let before = refusals();
    bed.ask(bed.clans(2)).await;
    let cold = another(&bed, &portal(&bed.simulator, NAME, 1));
    let report = cold.run(RunOptions::default(), &Unwatched).await;
    assert_eq!((report.stopped_because, report.processed_requests), (StopReason::QueueEmpty, 2), "{report:?}");
    assert_eq!((refusals(), count(&bed, "create")), (before, 1), "{:?}", bed.simulator.portal_acts());
}

#[tokio::test]
async fn failing_account_leaves_others_working() {
    let mut bed = bed(2).await;
    bed.simulator.open_account("second@example.com", PASSWORD);
    let mut config = portal(&bed.simulator, NAME, 2);
    for (number, (email, password)) in [("second@example.com", PASSWORD), ("third@example.com", "x")].iter().enumerate()
    {
        let variable = format!("COC_ACCOUNTS[{}]", number + 1);
        config.accounts.push(PortalAccount { variable, email: (*email).into(), password: (*password).into() });
    }
    bed.worker.api.key_store = key_store(&config);
    bed.ask(bed.players(30)).await;
    let report = bed.run().await;
    assert_eq!((report.stopped_because, report.processed_requests), (StopReason::QueueEmpty, 30), "{report:?}");
    assert_eq!((report.keys_held, report.logins_failed), (4, 1));
    assert!(report.errors[0].contains("log in to the developer portal with COC_ACCOUNTS[2]"), "{:?}", report.errors);
    assert_eq!(bed.simulator.portal_keys("second@example.com").len(), 2);
}
