//! Both stores give the same tables for the same answers: random histories of a small world, committed to each.
//!
//! The answers come late, twice, of old copies and out of order, as overlapping runs give them. On a difference the
//! whole history is printed; the seed in the test makes it again.

use std::{fmt::Write as _, time::Duration};

use fastrand::Rng;
use refresh_worker::{
    clock::Timestamp,
    model::{Answered, Document, Fetched},
    planner::Strategy,
    store::{Arm, Looks as _, PutOff, Store, Teaching, Trial},
};
use serde_json::Value;

use super::{
    Bed, beds,
    documents::{Clan, Player, War, at, clan, gone, no_war, player, private_war_log, war},
    time,
};

const CLANS: [&str; 3] = ["8GG", "9CC", "2RR"];
const PLAYERS: [&str; 5] = ["2PP", "2YY", "2QQ", "2LL", "2UU"];
const BATCHES: usize = 40;

/// The number of batches between two comparisons of the tables.
const COMPARE_INTERVAL: usize = 5;

/// Table, its columns without ids, and their order.
const DUMPS: [(&str, &str); 6] = [
    ("clans", "SELECT tag, CAST(data AS text) AS data, updated_at, deep_link FROM clans ORDER BY tag"),
    (
        "players",
        "SELECT tag, name, town_hall, role, clan_tag, updated_at, CAST(data AS text) AS data, deep_link \
         FROM players ORDER BY tag",
    ),
    (
        "clan_snapshots",
        "SELECT ts, clan_tag, name, member_count, level, war_wins, war_losses, CAST(data AS text) AS data \
         FROM clan_snapshots ORDER BY clan_tag, ts",
    ),
    (
        "player_snapshots",
        "SELECT ts, player_tag, clan_tag, name, role, town_hall, trophies, donations, donations_received, \
         war_attacks_used, last_seen, CAST(data AS text) AS data FROM player_snapshots ORDER BY player_tag, ts",
    ),
    ("war_snapshots", "SELECT ts, clan_tag, CAST(data AS text) AS data FROM war_snapshots ORDER BY clan_tag, ts"),
    (
        "clan_memberships",
        "SELECT player_tag, clan_tag, joined_at, left_at FROM clan_memberships ORDER BY player_tag, joined_at, clan_tag",
    ),
];

#[tokio::test]
async fn both_stores_write_same_tables() {
    for seed in 1..=6 {
        let (postgres, sqlite) = (beds::postgres().await, beds::sqlite().await);
        let mut rng = Rng::with_seed(seed);
        let mut history = format!("seed {seed}\n");
        for step in 0..BATCHES {
            let now = at(i64::try_from(step).unwrap() * 100);
            let batch: Vec<Fetched> = (0..rng.usize(1..=6)).map(|_| answer(&mut rng, now)).collect();
            for fetched in &batch {
                writeln!(history, "{step}: {}", describe(fetched)).unwrap();
            }
            let mut one = postgres.store().commit(now, &batch).await.unwrap();
            let mut other = sqlite.store().commit(now, &batch).await.unwrap();
            for entry in one.outbox.iter_mut().chain(&mut other.outbox) {
                entry.id = 0; // Drawn at random.
            }
            assert_eq!(one, other, "results, PostgreSQL left, SQLite right, after\n{history}");
            if step % COMPARE_INTERVAL != COMPARE_INTERVAL - 1 {
                continue;
            }
            for (table, dump) in DUMPS {
                let (one, other) = (rows(&postgres, dump).await, rows(&sqlite, dump).await);
                assert_eq!(one, other, "{table}, PostgreSQL left, SQLite right, after\n{history}");
            }
        }
    }
}

/// The planner's part: the same lessons, places in the plan, levels and records.
#[tokio::test]
async fn both_stores_teach_alike() {
    let teaching = Teaching {
        trial: Some(Trial { strategy: Strategy::Tiers, percent: 20 }),
        recorded_percent: 100,
        ..Teaching::default()
    };
    for seed in 1..=4 {
        let (postgres, sqlite) = (beds::postgres().await, beds::sqlite().await);
        let (postgres, sqlite) = (postgres.with_teaching(teaching), sqlite.with_teaching(teaching));
        let mut rng = Rng::with_seed(seed);
        let mut history = format!("seed {seed}\n");
        for step in 0..BATCHES {
            let now = at(i64::try_from(step).unwrap() * 900);
            let batch: Vec<Fetched> = (0..rng.usize(1..=6)).map(|_| asked_or_not(&mut rng, now)).collect();
            for fetched in &batch {
                writeln!(history, "{step}: {} asked {:?}", describe(fetched), fetched.asked).unwrap();
            }
            let (one, other) = (postgres.commit(now, &batch).await.unwrap(), sqlite.commit(now, &batch).await.unwrap());
            assert_eq!(one.lessons, other.lessons, "lessons, PostgreSQL left, SQLite right, after\n{history}");
            let put_off = [PutOff::anyway(batch[0].object.clone(), now + Duration::from_secs(rng.u64(0..9000)))];
            let (move_by, walks) = (rng.f64() * 2.0 - 1.2, rng.u8(0..4) == 0);
            macro_rules! same {
                (|$store:ident| $ask:expr) => {{
                    let one = {
                        let $store = &postgres;
                        $ask.await.unwrap()
                    };
                    let other = {
                        let $store = &sqlite;
                        $ask.await.unwrap()
                    };
                    assert_eq!(one, other, "PostgreSQL left, SQLite right, after\n{history}");
                }};
            }
            same!(|store| store.put_off(&put_off));
            same!(|store| store.move_level(Arm::ALL[step % 2], move_by, now));
            if walks {
                same!(|store| store.plan_known_objects(now, teaching.policy.longest, 4));
            }
            for object in CLANS.iter().flat_map(|tag| [format!("clan:{tag}"), format!("war:{tag}")]) {
                same!(|store| store.plan_of(&object.parse().unwrap(), now));
            }
            for player in PLAYERS {
                same!(|store| store.plan_of(&format!("player:{player}").parse().unwrap(), now));
            }
            same!(|store| store.looks(at(0), now));
        }
    }
}

fn asked_or_not(rng: &mut Rng, now: Timestamp) -> Fetched {
    let fetched = answer(rng, now);
    let asked = rng.bool().then(|| fetched.began - Duration::from_secs(rng.u64(0..2000)));
    Fetched { asked, ..fetched }
}

/// An answer of some call that began in the last three minutes, of a copy up to two minutes old.
fn answer(rng: &mut Rng, now: Timestamp) -> Fetched {
    let began = now - Duration::from_millis(rng.u64(0..180_000));
    let copied_at = began - Duration::from_millis(rng.u64(0..120_000));
    let (clan_tag, player_tag) = (CLANS[rng.usize(..CLANS.len())], PLAYERS[rng.usize(..PLAYERS.len())]);
    let fetched = match rng.u8(0..10) {
        0..=3 => some_clan(rng, clan_tag).fetched(began),
        4..=6 => some_player(rng, player_tag).fetched(began),
        7 => some_war(rng, clan_tag).fetched(began),
        8 if rng.bool() => no_war(clan_tag).fetched(began),
        8 => private_war_log(clan_tag, began),
        _ => gone(player(player_tag).fetched(began).object, began),
    };
    Fetched { copied_at, ..fetched }
}

/// Few values, so that the same content comes again.
fn some_player(rng: &mut Rng, tag: &str) -> Player {
    let player = player(tag).trophies(rng.i32(1000..1002)).donations(rng.i32(10..12));
    let player = if rng.u8(0..4) == 0 { Player { town_hall: None, ..player } } else { player };
    match rng.usize(..=CLANS.len()) {
        clan if clan < CLANS.len() => player.of(CLANS[clan]),
        _ => player,
    }
}

fn some_clan(rng: &mut Rng, tag: &str) -> Clan {
    let members: Vec<&str> = PLAYERS.into_iter().filter(|_| rng.bool()).collect();
    let members: Vec<Player> = members.into_iter().map(|tag| some_player(rng, tag)).collect();
    clan(tag).level(rng.i32(1..3)).with(members)
}

fn some_war(rng: &mut Rng, clan: &str) -> War {
    let members: Vec<(&str, i32)> =
        PLAYERS.into_iter().map(|tag| (tag, rng.i32(-2..3))).filter(|(_, attacks)| *attacks >= 0).collect();
    war(clan, &members)
}

/// The rows, with times in one spelling.
async fn rows(bed: &impl Bed, dump: &str) -> Vec<Value> {
    let mut rows = bed.rows(dump).await;
    for row in &mut rows {
        for column in ["ts", "updated_at", "last_seen", "joined_at", "left_at"] {
            if let Some(value) = row.get_mut(column) {
                *value = time(value).map_or(Value::Null, |at| Value::from(at.to_string()));
            }
        }
    }
    rows
}

fn describe(fetched: &Fetched) -> String {
    let seconds = |at: Timestamp| format!("{:.3}", at.as_seconds_f64() - super::documents::at(0).as_seconds_f64());
    let (began, copied_at) = (seconds(fetched.began), seconds(fetched.copied_at));
    let said = match &fetched.answered {
        Answered::Document(Document::Clan(clan)) => {
            let members = clan.members.iter().map(|member| format!("{} {:?}", member.tag, member.trophies));
            format!("level {:?}, members {}", clan.level, members.collect::<Vec<_>>().join(", "))
        }
        Answered::Document(Document::Player(player)) => {
            format!("clan {:?}, trophies {:?}, donations {:?}", player.clan, player.trophies, player.donations)
        }
        Answered::Document(Document::War(war)) => format!("{} {:?}", war.state, war.members),
        Answered::Gone => "gone".to_owned(),
        Answered::PrivateWarLog => "private".to_owned(),
        Answered::UnknownState(state) => state.clone(),
    };
    format!("{} began {began}, copied {copied_at}: {said}", fetched.object)
}
