//! PostgreSQL with several writers at once: our own overlapping runs, and other programs.

use futures_util::future::join_all;
use refresh_worker::{
    model::Fetched,
    store::{Arm, Committed, Looks as _, PutOff, Store, Teaching, postgres::PostgresStore},
};

use super::{
    Bed,
    beds::{self, PostgresBed, config},
    documents::{at, clan, nth_tag, player, war},
    event_count::EventCount,
};
use crate::support;

/// Two runs of the worker on one database.
async fn two_runs() -> (PostgresBed, PostgresStore) {
    let url = support::postgres::fresh().await;
    let bed = PostgresBed::on(&url).await;
    (bed, PostgresStore::connect(&config(&url)).unwrap())
}

#[tokio::test]
async fn opposite_order_batches_do_not_deadlock() {
    let (bed, other) = two_runs().await;
    let retries = EventCount::of("refresh_worker::store::postgres::commit");
    for round in 0..15 {
        // Half of the players change clan every round, and two more are new: unknown rows are locked in order too.
        let home = |tag: &str, turn: i64| {
            let members = (0..30).filter(move |n| (n + turn + round) % 2 == 0 || n % 3 == 0).chain([100 + round]);
            clan(tag).with(members.map(|n| player(nth_tag(usize::try_from(n).unwrap()).as_str())))
        };
        let players = || (0..30).map(|n| player(nth_tag(n).as_str()).of("8GG").trophies(i32::try_from(round).unwrap()));
        let fights = [nth_tag(3), nth_tag(17), nth_tag(90)];
        let fights = || war("9CC", &fights.each_ref().map(|tag| (tag.as_str(), 1)));
        let began = at(round * 10);
        let mut forward: Vec<Fetched> = vec![home("8GG", 0).fetched(began), home("9CC", 1).fetched(began)];
        forward.extend(players().map(|player| player.fetched(began)));
        forward.push(fights().fetched(began));
        let mut backward: Vec<Fetched> = players().rev().map(|player| player.fetched(at(round * 10 + 1))).collect();
        backward.extend([home("9CC", 0).fetched(at(round * 10 + 1)), home("8GG", 1).fetched(at(round * 10 + 1))]);
        let (one, two) = tokio::join!(bed.store().commit(at(1000), &forward), other.commit(at(1000), &backward));
        assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
    }
    assert_eq!(retries.take(), 0, "no conflict, so no retry");
    assert_eq!(
        bed.count(
            "(SELECT player_tag FROM clan_memberships WHERE left_at IS NULL GROUP BY 1 HAVING count(*) > 1) AS d"
        )
        .await,
        0
    );
}

/// Lists that overlap, in opposite orders, while a run puts looks off and walks over the same objects.
#[tokio::test]
async fn overlapping_lists_teach_without_deadlock() {
    let (bed, _) = two_runs().await;
    let teaching = Teaching { recorded_percent: 100, ..Teaching::default() };
    let (one, other, third) = (bed.with_teaching(teaching), bed.with_teaching(teaching), bed.with_teaching(teaching));
    one.move_level(Arm::Main, -9.0, at(0)).await.unwrap();
    let retries = EventCount::of("refresh_worker::store::postgres::commit");
    for round in 0..15 {
        // Everybody is active, and those without a response of their own are hinted; two more are new each round.
        let list = |tag: &str| {
            let members = (0..30).chain([100 + round, 200 + round]);
            let donations = i32::try_from(round).unwrap();
            clan(tag)
                .with(members.map(move |n| player(nth_tag(usize::try_from(n).unwrap()).as_str()).donations(donations)))
        };
        let players = |began| (0..15).map(move |n| player(nth_tag(n).as_str()).of("8GG").fetched(at(began)));
        let began = round * 400;
        let mut forward: Vec<Fetched> = vec![list("8GG").fetched(at(began)), list("9CC").fetched(at(began))];
        forward.extend(players(began - 100));
        let mut backward: Vec<Fetched> = players(began + 100).rev().collect();
        backward.extend([list("9CC").fetched(at(began + 1)), list("8GG").fetched(at(began + 1))]);
        let looks: Vec<_> =
            backward.iter().map(|fetched| PutOff::anyway(fetched.object.clone(), at(began + 600))).collect();
        let (first, second, put_off, walked) = tokio::join!(
            one.commit(at(began + 200), &forward),
            other.commit(at(began + 200), &backward),
            third.put_off(&looks),
            third.plan_known_objects(at(began), std::time::Duration::from_secs(86_400), 50),
        );
        assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
        assert!(put_off.is_ok() && walked.is_ok(), "{put_off:?} {walked:?}");
    }
    assert_eq!(retries.take(), 0, "no conflict, so no retry");
    assert!(bed.count("refresh_worker.plan WHERE hinted").await > 0);
    // Each response taught once: the spans between the looks of a player add up.
    let watched =
        bed.row(&format!("SELECT watched FROM refresh_worker.plan WHERE tag = '{}'", nth_tag(3).as_str())).await;
    let watched = watched["watched"].as_f64().unwrap();
    assert!((5000.0..=5801.0).contains(&watched), "{watched}");
}

#[tokio::test]
async fn concurrent_claims_leave_one_open_membership() {
    let (bed, other) = two_runs().await;
    let clans = ["8GG", "9CC", "2QQ", "2VV", "2JJ", "2UU"];
    for round in 0..10 {
        let batches: Vec<[Fetched; 1]> = clans
            .iter()
            .enumerate()
            .map(|(place, tag)| {
                let members = (0..8).map(|n| player(nth_tag(n).as_str()));
                let seconds = round * 100 + i64::try_from(place).unwrap();
                [clan(tag).with(members).fetched_copy(at(seconds), at(seconds))]
            })
            .collect();
        let commits = batches.iter().enumerate().map(|(place, batch)| {
            let store = if place % 2 == 0 { bed.store() } else { &other };
            store.commit(at(10_000), batch)
        });
        for result in join_all(commits).await {
            result.unwrap();
        }
        for n in 0..8 {
            assert_eq!(bed.open_clans(nth_tag(n).as_str()).await, ["2UU"], "the latest copy's, round {round}");
        }
    }
}

#[tokio::test]
async fn newest_response_wins_in_any_order() {
    let (bed, other) = two_runs().await;
    for round in 0..10 {
        let answer = |seconds: i64| {
            let trophies = i32::try_from(round * 100 + seconds).unwrap();
            [player("2PP").trophies(trophies).fetched(at(round * 100 + seconds))]
        };
        let (early, late) = (answer(1), answer(2));
        let (one, two) = tokio::join!(bed.store().commit(at(9000), &late), other.commit(at(9000), &early));
        assert_eq!(one.unwrap().committed, [Committed::Stored]);
        assert!(matches!(two.unwrap().committed[0], Committed::Stored | Committed::Superseded));
        assert_eq!(bed.newest_player("2PP").await["trophies"], round * 100 + 2);
    }
}

#[tokio::test]
async fn a_deadlock_with_another_program_is_tried_again() {
    let bed = beds::postgres().await;
    let home = clan("8GG").with([player("2PP"), player("2YY")]);
    bed.commit_one(home.fetched(at(0))).await;
    let retries = EventCount::of("refresh_worker::store::postgres::commit");
    for round in 1..=3 {
        // The other program holds the later row, lets us run into it, and then asks for the earlier one.
        let mut others = bed.around.begin().await.unwrap();
        sqlx::query("UPDATE players SET name = 'x' WHERE tag = '2YY'").execute(&mut *others).await.unwrap();
        let changed = clan("8GG").with([player("2PP").named(&format!("p{round}")), player("2YY").named("y")]);
        let batch = [changed.fetched(at(round * 300))];
        let ours = bed.store().commit(at(9000), &batch);
        let theirs = async {
            while bed.count("pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()").await
                == 0
            {
                tokio::task::yield_now().await;
            }
            let asked = sqlx::query("UPDATE players SET name = 'x' WHERE tag = '2PP'").execute(&mut *others).await;
            // Either may be the victim; here it matters that ours is stored.
            match asked {
                Ok(_) => drop(others.commit().await),
                Err(_) => drop(others.rollback().await),
            }
        };
        let (committed, ()) = tokio::join!(ours, theirs);
        assert_eq!(committed.unwrap().committed, [Committed::Stored]);
        assert_eq!(bed.player("2PP").await["name"], format!("p{round}"));
    }
    assert!(retries.take() > 0, "at least once we were the victim");
}

#[tokio::test]
async fn fault_of_every_record_is_store_trouble() {
    let bed = beds::postgres().await;
    bed.exec("ALTER TABLE player_snapshots ADD COLUMN new_in_2031 integer NOT NULL").await;
    let batch: Vec<Fetched> = (0..6).map(|n| player(nth_tag(n).as_str()).fetched(at(0))).collect();
    let error = bed.store().commit(at(1), &batch).await.unwrap_err().to_string();
    assert!(error.contains("new_in_2031"), "{error}");
    let other = beds::postgres().await;
    other.exec("ALTER TABLE player_snapshots ADD COLUMN new_in_2031 integer NOT NULL").await;
    let one = other.store().commit(at(1), &batch[..1]).await.unwrap().committed;
    assert!(matches!(one[0], Committed::Held(_)), "a single record is not evidence");
}
