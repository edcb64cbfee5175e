//! Documents and their history rows, as readers find them.

use refresh_worker::{
    model::ObjectId,
    store::{Committed, RELAXED_TIMEOUT, Store},
};

use super::{
    Bed,
    documents::{Player, at, clan, gone, nth_tag, player, tag, war},
    over_every_store, sql_time, text, time,
};

over_every_store! {
    a_key_that_was_left_out_stays_out,
    the_columns_are_filled_from_the_document,
    no_clan_is_the_empty_string,
    changed_content_inserts_row_unchanged_moves_time,
    one_history_row_per_change,
    unchanged_content_inserts_after_foreign_row,
    unchanged_document_restores_columns_of_player,
    a_touch_gives_back_what_other_programs_emptied,
    clan_response_refreshes_only_columns_of_members,
    short_form_keeps_labels_link_and_document,
    short_form_keeps_values_it_lacks,
    first_full_document_after_short_form_is_change,
    large_clan_and_full_batch_are_stored,
    long_names_and_roles_are_cut_by_characters,
    gone_is_noted_and_nothing_else_changes,
    freshness_has_call_time_and_expiry,
    foreign_row_in_same_millisecond_does_not_conflict,
    times_are_utc_whatever_the_server_thinks;
    as_received:
    clan_document_stored_as_received_with_link,
    document_with_link_stored_unchanged,
    member_without_snapshot_gets_one,
    name_loses_nul_document_keeps_escape,
    player_document_stored_as_received_with_link,
    unknown_members_get_rows_in_the_short_form,
}

const CLAN_LINK: &str = "https://link.clashofclans.com/en?action=OpenClanProfile&tag=%238GG";
const PLAYER_LINK: &str = "https://link.clashofclans.com/en?action=OpenPlayerProfile&tag=%232PP";

fn with_link(json: &str, link: &str) -> String {
    let end = json.trim_end().strip_suffix('}').expect("an object").trim_end();
    format!("{end},\"deep_link\":\"{link}\"{}", &json[end.len()..])
}

async fn clan_document_stored_as_received_with_link(bed: impl Bed) {
    let document = clan("8GG").with([player("2PP"), player("2YY").named("Zoë \u{1F600} \"quoted\"")]);
    assert_eq!(bed.commit_one(document.fetched(at(0))).await, Committed::Stored);
    let expected = with_link(&document.json(), CLAN_LINK);
    assert_eq!(text(&bed.newest_clan("8GG").await["data"]), expected);
    let row = bed.row("SELECT CAST(data AS text) AS data, deep_link, updated_at FROM clans WHERE tag = '8GG'").await;
    assert_eq!((text(&row["data"]), text(&row["deep_link"])), (expected, CLAN_LINK.to_owned()));
    assert_eq!(time(&row["updated_at"]), Some(at(0)));
}

async fn player_document_stored_as_received_with_link(bed: impl Bed) {
    let document = player("2PP").of("8GG");
    assert_eq!(bed.commit_one(document.fetched(at(0))).await, Committed::Stored);
    let expected = with_link(&document.json(), PLAYER_LINK);
    assert_eq!(text(&bed.newest_player("2PP").await["data"]), expected);
    let row = bed.player("2PP").await;
    assert_eq!((text(&row["data"]), text(&row["deep_link"])), (expected, PLAYER_LINK.to_owned()));
}

async fn document_with_link_stored_unchanged(bed: impl Bed) {
    let mut fetched = player("2PP").fetched(at(0));
    let json = r##"{"deep_link":"https://example.org/","tag":"#2PP"}"##;
    set_json(&mut fetched, json);
    bed.commit_one(fetched).await;
    assert_eq!(text(&bed.newest_player("2PP").await["data"]), json);
}

async fn a_key_that_was_left_out_stays_out(bed: impl Bed) {
    bed.commit_one(player("2PP").fetched(at(0))).await;
    let data: serde_json::Value = serde_json::from_str(&text(&bed.player("2PP").await["data"])).unwrap();
    assert!(data.get("league").is_none(), "an explicit null makes a reader fail");
    assert!(data.get("clan").is_none());
}

async fn the_columns_are_filled_from_the_document(bed: impl Bed) {
    bed.commit_one(clan("8GG").named("Ünïon").level(17).with([player("2YY")]).fetched(at(0))).await;
    let row = bed.newest_clan("8GG").await;
    assert_eq!((&row["name"], &row["level"]), (&"Ünïon".into(), &17.into()));
    assert_eq!((&row["member_count"], &row["war_wins"]), (&1.into(), &7.into()));
    assert!(row["war_losses"].is_null(), "unknown when the war log is private");
    assert_eq!(time(&row["ts"]), Some(at(0)));

    bed.commit_one(player("2PP").of("8GG").role("admin").town_hall(15).fetched(at(0))).await;
    let row = bed.newest_player("2PP").await;
    assert_eq!((&row["name"], &row["role"]), (&"name of 2PP".into(), &"admin".into()));
    assert_eq!((&row["town_hall"], &row["trophies"]), (&15.into(), &1000.into()));
    assert_eq!((&row["donations"], &row["donations_received"]), (&10.into(), &20.into()));
    assert_eq!((&row["clan_tag"], time(&row["ts"])), (&"8GG".into(), Some(at(0))));
    let row = bed.player("2PP").await;
    assert_eq!((&row["name"], &row["role"]), (&"name of 2PP".into(), &"admin".into()));
    assert_eq!((&row["town_hall"], &row["clan_tag"]), (&15.into(), &"8GG".into()));
    assert_eq!(time(&row["updated_at"]), Some(at(0)));
}

async fn no_clan_is_the_empty_string(bed: impl Bed) {
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    bed.commit_one(player("2PP").fetched(at(300))).await;
    assert_eq!(bed.player("2PP").await["clan_tag"], "");
    let row = bed.newest_player("2PP").await;
    assert_eq!(row["clan_tag"], "");
    assert!(row["role"].is_null());
}

async fn changed_content_inserts_row_unchanged_moves_time(bed: impl Bed) {
    let first = player("2PP");
    assert_eq!(bed.commit_one(first.fetched(at(0))).await, Committed::Stored);
    assert_eq!(bed.commit_one(first.fetched(at(300))).await, Committed::Unchanged);
    assert_eq!(bed.count("player_snapshots WHERE player_tag = '2PP'").await, 1);
    assert_eq!(time(&bed.newest_player("2PP").await["ts"]), Some(at(300)));
    assert_eq!(bed.commit_one(first.trophies(1500).fetched(at(600))).await, Committed::Stored);
    let rows = bed.rows("SELECT ts, trophies FROM player_snapshots WHERE player_tag = '2PP' ORDER BY ts").await;
    let rows: Vec<_> = rows.iter().map(|row| (time(&row["ts"]).unwrap(), row["trophies"].as_i64().unwrap())).collect();
    assert_eq!(rows, [(at(300), 1000), (at(600), 1500)]);
}

async fn one_history_row_per_change(bed: impl Bed) {
    for (seconds, level) in [(0, 1), (300, 1), (600, 2), (900, 2), (1200, 2), (1500, 1)] {
        bed.commit_one(clan("8GG").level(level).fetched(at(seconds))).await;
    }
    let rows = bed.rows("SELECT ts, level FROM clan_snapshots WHERE clan_tag = '8GG' ORDER BY ts").await;
    let rows: Vec<_> = rows.iter().map(|row| (time(&row["ts"]).unwrap(), row["level"].as_i64().unwrap())).collect();
    assert_eq!(rows, [(at(300), 1), (at(1200), 2), (at(1500), 1)]);
}

async fn unchanged_content_inserts_after_foreign_row(bed: impl Bed) {
    bed.commit_one(clan("8GG").fetched(at(0))).await;
    bed.exec(&format!(
        "INSERT INTO clan_snapshots (id, ts, clan_tag, name, data) \
         SELECT max(id) + 1, {}, '8GG', 'by another', '{{}}' FROM clan_snapshots",
        sql_time(at(100))
    ))
    .await;
    assert_eq!(bed.commit_one(clan("8GG").fetched(at(300))).await, Committed::Unchanged);
    let rows = bed.rows("SELECT ts, name FROM clan_snapshots WHERE clan_tag = '8GG' ORDER BY ts").await;
    let rows: Vec<_> = rows.iter().map(|row| (time(&row["ts"]).unwrap(), text(&row["name"]))).collect();
    let ours = || "clan 8GG".to_owned();
    assert_eq!(rows, [(at(0), ours()), (at(100), "by another".to_owned()), (at(300), ours())]);
    bed.commit_one(clan("8GG").fetched(at(600))).await;
    assert_eq!(time(&bed.newest_clan("8GG").await["ts"]), Some(at(600)));
    assert_eq!(bed.count("clan_snapshots WHERE clan_tag = '8GG'").await, 3, "from then on our row is the newest again");
}

async fn unchanged_document_restores_columns_of_player(bed: impl Bed) {
    let document = player("2PP").of("8GG");
    bed.commit_one(document.fetched(at(0))).await;
    let listed = player("2PP").role("leader").trophies(1300).donations(99).named("other");
    bed.commit_one(clan("8GG").with([listed]).fetched(at(300))).await;
    assert_eq!(bed.commit_one(document.fetched(at(600))).await, Committed::Unchanged);
    let row = bed.newest_player("2PP").await;
    assert_eq!((&row["role"], &row["trophies"]), (&"member".into(), &1000.into()));
    assert_eq!((&row["donations"], &row["name"]), (&10.into(), &"name of 2PP".into()));
    assert_eq!(bed.player("2PP").await["role"], "member");
}

async fn a_touch_gives_back_what_other_programs_emptied(bed: impl Bed) {
    let document = player("2PP").of("8GG");
    bed.commit_one(document.fetched(at(0))).await;
    let stored = bed.player("2PP").await;
    bed.exec("UPDATE players SET data = '{\"tag\":\"#2PP\"}', deep_link = '', clan_tag = '' WHERE tag = '2PP'").await;
    bed.commit_one(document.fetched(at(300))).await;
    let again = bed.player("2PP").await;
    for column in ["data", "deep_link", "clan_tag"] {
        assert_eq!(again[column], stored[column], "{column}");
    }
}

async fn clan_response_refreshes_only_columns_of_members(bed: impl Bed) {
    bed.commit_one(player("2PP").of("9CC").fetched(at(0))).await;
    let before = bed.newest_player("2PP").await;
    let listed = player("2PP").named("new name").role("coLeader").town_hall(13).trophies(1100);
    let listed = listed.donations(11).donations_received(22);
    bed.commit_one(clan("8GG").with([listed]).fetched(at(300))).await;
    let row = bed.newest_player("2PP").await;
    assert_eq!((&row["id"], &row["ts"], &row["data"]), (&before["id"], &before["ts"], &before["data"]), "untouched");
    assert_eq!((&row["name"], &row["role"]), (&"new name".into(), &"coLeader".into()));
    assert_eq!((&row["town_hall"], &row["trophies"]), (&13.into(), &1100.into()));
    assert_eq!((&row["donations"], &row["donations_received"]), (&11.into(), &22.into()));
    assert_eq!((&row["clan_tag"], time(&row["last_seen"])), (&"8GG".into(), Some(at(300))));
    let row = bed.player("2PP").await;
    assert_eq!((&row["name"], &row["role"]), (&"new name".into(), &"coLeader".into()));
    assert_eq!((&row["town_hall"], &row["clan_tag"]), (&13.into(), &"8GG".into()));
    assert_eq!(bed.count("player_snapshots WHERE player_tag = '2PP'").await, 1);
}

async fn short_form_keeps_labels_link_and_document(bed: impl Bed) {
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    let before = bed.player("2PP").await;
    bed.commit_one(clan("8GG").with([player("2PP").trophies(1)]).fetched(at(300))).await;
    let after = bed.player("2PP").await;
    assert_eq!((&after["data"], &after["deep_link"]), (&before["data"], &before["deep_link"]));
    assert!(text(&after["data"]).contains("labels"));
}

async fn short_form_keeps_values_it_lacks(bed: impl Bed) {
    bed.commit_one(player("2PP").of("8GG").town_hall(14).fetched(at(0))).await;
    let listed = Player { town_hall: None, ..player("2PP") };
    bed.commit_one(clan("8GG").with([listed]).fetched(at(300))).await;
    assert_eq!(bed.newest_player("2PP").await["town_hall"], 14);
    assert_eq!(bed.player("2PP").await["town_hall"], 14);
}

async fn unknown_members_get_rows_in_the_short_form(bed: impl Bed) {
    bed.commit_one(clan("8GG").with([player("2PP").role("admin")]).fetched(at(0))).await;
    let row = bed.newest_player("2PP").await;
    assert_eq!((time(&row["ts"]), time(&row["last_seen"])), (Some(at(0)), Some(at(0))));
    assert_eq!((&row["clan_tag"], &row["role"]), (&"8GG".into(), &"admin".into()));
    let data = text(&row["data"]);
    assert!(data.ends_with(&format!("\"clanRank\":1,\"deep_link\":\"{PLAYER_LINK}\"}}")), "{data}");
    let row = bed.player("2PP").await;
    assert_eq!((text(&row["data"]), text(&row["deep_link"])), (data, PLAYER_LINK.to_owned()));
    assert_eq!((&row["clan_tag"], &row["town_hall"]), (&"8GG".into(), &12.into()));
    let known = bed.store().freshness(&[ObjectId::player(tag("2PP"))], RELAXED_TIMEOUT).await.unwrap();
    assert!(known.is_empty(), "a clan reply never claims a player's full document");
}

async fn first_full_document_after_short_form_is_change(bed: impl Bed) {
    bed.commit_one(clan("8GG").with([player("2PP")]).fetched(at(0))).await;
    assert_eq!(bed.commit_one(player("2PP").of("8GG").fetched(at(300))).await, Committed::Stored);
    assert!(text(&bed.player("2PP").await["data"]).contains("labels"));
    assert_eq!(bed.count("player_snapshots WHERE player_tag = '2PP'").await, 2);
}

async fn member_without_snapshot_gets_one(bed: impl Bed) {
    bed.exec("INSERT INTO players (tag, name, data, deep_link) VALUES ('2PP', 'old', '{\"labels\":[]}', 'link')").await;
    bed.commit_one(clan("8GG").with([player("2PP")]).fetched(at(0))).await;
    assert_eq!(bed.newest_player("2PP").await["clan_tag"], "8GG", "else the member list would leave the player out");
    let row = bed.player("2PP").await;
    assert_eq!((&row["data"], &row["deep_link"]), (&"{\"labels\":[]}".into(), &"link".into()));
}

async fn large_clan_and_full_batch_are_stored(bed: impl Bed) {
    let fifty = clan("8GG").with((0..50).map(|number| player(nth_tag(number).as_str())));
    let mut batch = vec![fifty.fetched(at(0))];
    for number in 25..75 {
        batch.push(player(nth_tag(number).as_str()).of("8GG").fetched(at(1)));
    }
    // The same objects again, older: they are superseded inside the batch.
    for number in 25..35 {
        batch.push(player(nth_tag(number).as_str()).trophies(1).fetched(at(-5)));
    }
    batch.push(war("8GG", &[(nth_tag(3).as_str(), 1), (nth_tag(30).as_str(), 2)]).fetched(at(2)));
    batch.push(war("8GG", &[]).fetched(at(0)));
    batch.push(gone(ObjectId::player(tag("9QQ")), at(0)));
    assert_eq!(batch.len(), 64);
    let results = bed.commit(&batch).await;
    let count = |of: &Committed| results.iter().filter(|result| *result == of).count();
    assert_eq!((count(&Committed::Stored), count(&Committed::Superseded), count(&Committed::Noted)), (52, 11, 1));
    assert_eq!(results[62], Committed::Superseded);
    assert_eq!(bed.count("players WHERE clan_tag = '8GG'").await, 75);
    assert_eq!(bed.count("player_snapshots WHERE clan_tag = '8GG'").await, 75);
    assert_eq!(bed.count("player_snapshots WHERE trophies = 1").await, 0);
    let full: Vec<_> = bed.rows("SELECT CAST(data AS text) AS data FROM players WHERE clan_tag = '8GG'").await;
    assert_eq!(full.iter().filter(|row| text(&row["data"]).contains("labels")).count(), 50);
    assert_eq!(bed.newest_player(nth_tag(3).as_str()).await["war_attacks_used"], 1);
    assert_eq!(bed.newest_player(nth_tag(30).as_str()).await["war_attacks_used"], 2);
}

async fn long_names_and_roles_are_cut_by_characters(bed: impl Bed) {
    let long = "é".repeat(80);
    bed.commit_one(player("2PP").of("8GG").named(&long).role("a role longer than twenty").fetched(at(0))).await;
    bed.commit_one(clan("8GG").named(&long).with([player("2YY").named(&long)]).fetched(at(0))).await;
    let cut = "é".repeat(50);
    assert_eq!(text(&bed.newest_player("2PP").await["name"]), cut);
    assert_eq!(bed.player("2PP").await["role"], "a role longer than t");
    assert_eq!(text(&bed.newest_clan("8GG").await["name"]), cut);
    assert_eq!(text(&bed.player("2YY").await["name"]), cut);
}

async fn name_loses_nul_document_keeps_escape(bed: impl Bed) {
    let document = player("2PP").named("a\0b");
    assert_eq!(bed.commit_one(document.fetched(at(0))).await, Committed::Stored);
    assert_eq!(bed.newest_player("2PP").await["name"], "ab");
    assert!(text(&bed.player("2PP").await["data"]).contains("\\u0000"));
}

async fn gone_is_noted_and_nothing_else_changes(bed: impl Bed) {
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    let object = ObjectId::player(tag("2PP"));
    assert_eq!(bed.commit_one(gone(object.clone(), at(300))).await, Committed::Noted);
    assert_eq!(time(&bed.newest_player("2PP").await["ts"]), Some(at(0)));
    assert_eq!(bed.player("2PP").await["clan_tag"], "8GG");
    let freshness = bed.store().freshness(std::slice::from_ref(&object), RELAXED_TIMEOUT).await.unwrap();
    assert_eq!((freshness[&object].fetched_at, freshness[&object].fresh_until), (at(300), at(360)));
    assert_eq!(
        bed.commit_one(player("2PP").of("8GG").fetched(at(600))).await,
        Committed::Unchanged,
        "and it came back"
    );
}

async fn freshness_has_call_time_and_expiry(bed: impl Bed) {
    let (known, unknown) = (ObjectId::clan(tag("8GG")), ObjectId::war(tag("8GG")));
    bed.commit_one(clan("8GG").fetched(at(0))).await;
    bed.commit_one(clan("8GG").fetched(at(300))).await;
    let freshness = bed.store().freshness(&[known.clone(), unknown.clone()], RELAXED_TIMEOUT).await.unwrap();
    assert_eq!((freshness[&known].fetched_at, freshness[&known].fresh_until), (at(300), at(360)));
    assert_eq!((freshness.len(), &freshness[&known].league), (1, &None));
    assert!(bed.store().freshness(&[], RELAXED_TIMEOUT).await.unwrap().is_empty());
}

async fn foreign_row_in_same_millisecond_does_not_conflict(bed: impl Bed) {
    for (table, column, tag) in [
        ("player_snapshots", "player_tag", "2PP"),
        ("clan_snapshots", "clan_tag", "8GG"),
        ("war_snapshots", "clan_tag", "8GG"),
    ] {
        bed.exec(&format!(
            "INSERT INTO {table} (id, ts, {column}, data) \
             SELECT coalesce(max(id), 0) + 1, {}, '{tag}', '{{\"by\":\"another\"}}' FROM {table}",
            sql_time(at(300))
        ))
        .await;
    }
    let batch = [player("2PP").fetched(at(300)), clan("8GG").fetched(at(300)), war("8GG", &[]).fetched(at(300))];
    assert_eq!(bed.commit(&batch).await, [Committed::Stored, Committed::Stored, Committed::Stored]);
    assert!(text(&bed.newest_player("2PP").await["data"]).contains("labels"), "ours is what readers see");
    assert_eq!(bed.newest_clan("8GG").await["name"], "clan 8GG");
}

async fn times_are_utc_whatever_the_server_thinks(bed: impl Bed) {
    bed.commit_one(clan("8GG").with([player("2PP")]).fetched(at(0))).await;
    let times = [
        "SELECT ts AS t FROM clan_snapshots WHERE clan_tag = '8GG'",
        "SELECT updated_at AS t FROM clans WHERE tag = '8GG'",
        "SELECT updated_at AS t FROM players WHERE tag = '2PP'",
        "SELECT ts AS t FROM player_snapshots WHERE player_tag = '2PP'",
        "SELECT last_seen AS t FROM player_snapshots WHERE player_tag = '2PP'",
        "SELECT joined_at AS t FROM clan_memberships WHERE player_tag = '2PP'",
    ];
    for sql in times {
        assert_eq!(time(&bed.row(sql).await["t"]), Some(at(0)), "{sql}");
    }
}

fn set_json(fetched: &mut refresh_worker::model::Fetched, json: &str) {
    use refresh_worker::model::{Answered, Document};
    match &mut fetched.answered {
        Answered::Document(Document::Clan(clan)) => clan.json = json.to_owned().into(),
        Answered::Document(Document::Player(player)) => player.json = json.to_owned().into(),
        Answered::Document(Document::War(war)) => war.json = json.to_owned().into(),
        Answered::Gone | Answered::PrivateWarLog | Answered::UnknownState(_) => panic!("an answer with a document"),
    }
}
