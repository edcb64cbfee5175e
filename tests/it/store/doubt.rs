//! Documents that are unreadable, incomplete or contradictory: they cause nothing that cannot be undone.

use refresh_worker::{
    api::response::{Body, Classified, Endpoint, Response, classify},
    model::{Answered, Document, Fetched, Kind, ObjectId, Tag},
    store::{Committed, RELAXED_TIMEOUT, Store},
};

use super::{
    Bed,
    documents::{at, clan, player, tag, war},
    membership, over_every_store, text,
};

over_every_store! {
    player_with_unreadable_clan_keeps_clan,
    a_player_without_a_clan_leaves_the_clan,
    new_player_with_unreadable_clan_has_none,
    incomplete_member_list_ends_no_membership,
    a_member_list_that_contradicts_itself_moves_nobody,
    a_really_empty_clan_ends_all_memberships,
    foreign_or_truncated_document_is_rejected,
    a_member_without_a_name_keeps_its_name,
    contradictory_war_sets_no_attacks,
    ; as_received:
    unknown_war_state_keeps_stored_war,
}

fn response(status: u16, body: &str) -> Response {
    Response { status, headers: reqwest::header::HeaderMap::new(), body: Body::Whole(body.into()) }
}

/// The result of a 200 response with this body for the object.
fn read(object: &ObjectId, body: &str) -> Option<Answered> {
    let endpoint = match object.kind {
        Kind::Clan => Endpoint::Clan(&object.tag),
        Kind::Player => Endpoint::Player(&object.tag),
        Kind::War => Endpoint::CurrentWar(&object.tag),
    };
    match classify(&endpoint, &Ok(response(200, body))) {
        Classified::Clan(clan) => Some(Answered::Document(Document::Clan(clan))),
        Classified::Player(player) => Some(Answered::Document(Document::Player(player))),
        Classified::War(war) => Some(Answered::Document(Document::War(war))),
        Classified::UnknownState(state) => Some(Answered::UnknownState(state)),
        Classified::Bad(_) => None,
        other => panic!("{body}: {other:?}"),
    }
}

/// Commits the answer with this body, when it is one.
async fn commit(bed: &impl Bed, object: &str, seconds: i64, body: &str) -> Option<Committed> {
    let object: ObjectId = object.parse().unwrap();
    let answered = read(&object, body)?;
    let (began, fresh_until) = (at(seconds), at(seconds + 120));
    let fetched = Fetched { object, began, copied_at: began, fresh_until, answered, league: None, asked: None };
    Some(bed.commit_one(fetched).await)
}

async fn player_with_unreadable_clan_keeps_clan(bed: impl Bed) {
    bed.commit_one(clan("8GG").with([player("2PP").role("admin")]).fetched(at(0))).await;
    let odd = [
        r#""clan":{}"#,
        r#""clan":[]"#,
        r#""clan":false"#,
        r#""clan":"8GG""#,
        r#""clan":{"tag":null},"role":"member""#,
        r##""clan":{"tag":"#AAA"},"role":"leader""##,
        r##""clan":{"tag":"#0"}"##,
        r##""clan":{"tag":"#9CC"},"clan":null"##,
        r##""clan":{"tag":"#9CC","tag":"#9QQ"}"##,
        r##""clan":{"tag":"#9CC"},"role":"notMember""##,
        r#""role":"coLeader""#,
        r#""clan":null,"role":"member""#,
    ];
    for (seconds, odd) in (300..).step_by(300).zip(odd) {
        let body = format!(r##"{{"tag":"#2PP","name":"n","trophies":{seconds},{odd}}}"##);
        assert_eq!(commit(&bed, "player:2PP", seconds, &body).await, Some(Committed::Stored), "{odd}");
        assert_eq!(bed.memberships("2PP").await, [membership("8GG", at(0), None)], "{odd}");
        for row in [bed.player("2PP").await, bed.newest_player("2PP").await] {
            assert_eq!((&row["clan_tag"], &row["role"]), (&"8GG".into(), &"admin".into()), "{odd}");
        }
        assert_eq!(bed.newest_player("2PP").await["trophies"], seconds, "the rest is as new as it is");
    }
}

async fn a_player_without_a_clan_leaves_the_clan(bed: impl Bed) {
    for (seconds, none) in [(600, ""), (1200, r#","clan":null"#), (1800, r#","clan":null,"role":"notMember""#)] {
        bed.commit_one(player("2PP").of("8GG").fetched(at(seconds - 300))).await;
        commit(&bed, "player:2PP", seconds, &format!(r##"{{"tag":"#2PP","name":"n"{none}}}"##)).await;
        assert_eq!(bed.open_clans("2PP").await, [""; 0], "{none}");
        assert_eq!(bed.player("2PP").await["clan_tag"], "");
    }
}

async fn new_player_with_unreadable_clan_has_none(bed: impl Bed) {
    commit(&bed, "player:2PP", 0, r##"{"tag":"#2PP","name":"n","clan":{"tag":"?"},"role":"member"}"##).await;
    assert_eq!(bed.memberships("2PP").await, []);
    assert_eq!(bed.player("2PP").await["clan_tag"], "");
}

const TWO: &str = r##"{"tag":"#2PP","name":"a"},{"tag":"#2YY","name":"b"}"##;

/// Three players in clan 8GG, one in 9CC.
async fn settle(bed: &impl Bed) {
    bed.commit_one(clan("8GG").with(["2PP", "2YY", "2QQ"].map(player)).fetched(at(0))).await;
    bed.commit_one(clan("9CC").with([player("2LL")]).fetched(at(0))).await;
}

async fn all_stay(bed: &impl Bed, why: &str) {
    for member in ["2PP", "2YY", "2QQ"] {
        assert_eq!(bed.memberships(member).await, [membership("8GG", at(0), None)], "{member} after {why}");
    }
    assert_eq!(bed.memberships("2LL").await, [membership("9CC", at(0), None)], "2LL after {why}");
}

async fn incomplete_member_list_ends_no_membership(bed: impl Bed) {
    settle(&bed).await;
    for (seconds, odd) in (300..).step_by(300).zip([
        r#""members":3,"memberList":[]"#.to_owned(),
        r#""members":3"#.to_owned(),
        r#""members":3,"memberList":null"#.to_owned(),
        r#""members":3,"memberList":{}"#.to_owned(),
        r#""memberList":[]"#.to_owned(),
        r#""members":"many","memberList":[]"#.to_owned(),
        format!(r#""members":"2","memberList":[{TWO}]"#),
        format!(r##""members":3,"memberList":[{TWO},{{"tag":"#AAA"}}]"##),
        format!(r#""members":3,"memberList":[{TWO},7]"#),
        r#""members":3,"memberList":[{"tag":"?"},{"tag":""},{"player":"x"}]"#.to_owned(),
    ]) {
        commit(&bed, "clan:8GG", seconds, &format!(r##"{{"tag":"#8GG","name":"n",{odd}}}"##)).await;
        all_stay(&bed, &odd).await;
    }
    bed.commit_one(clan("8GG").with(["2PP", "2YY"].map(player)).fetched(at(9000))).await;
    assert_eq!(bed.open_clans("2QQ").await, [""; 0], "the next whole list is believed");
}

async fn a_member_list_that_contradicts_itself_moves_nobody(bed: impl Bed) {
    settle(&bed).await;
    for (seconds, odd) in (300..).step_by(300).zip([
        format!(r#""members":50,"memberList":[{TWO}]"#),
        format!(r#""members":1,"memberList":[{TWO}]"#),
        format!(r#""members":0,"memberList":[{TWO}]"#),
        format!(r##""members":50,"memberList":[{TWO},{{"tag":"#2LL"}}]"##),
        format!(r##""members":3,"memberList":[{TWO},{{"tag":"#2PP"}}]"##),
        format!(r##""members":2,"memberList":[{TWO}],"memberList":[{{"tag":"#2LL"}},{{"tag":"#2PP"}}]"##),
        format!(r#""members":3,"members":2,"memberList":[{TWO}]"#),
    ]) {
        let body = format!(r##"{{"tag":"#8GG","name":"n","odd":{seconds},{odd}}}"##);
        assert_eq!(commit(&bed, "clan:8GG", seconds, &body).await, Some(Committed::Stored), "{odd}");
        all_stay(&bed, &odd).await;
        assert_eq!(bed.player("2LL").await["clan_tag"], "9CC", "{odd}");
    }
    assert_eq!(bed.newest_clan("8GG").await["member_count"], 2, "as the clan counts");
}

async fn a_really_empty_clan_ends_all_memberships(bed: impl Bed) {
    settle(&bed).await;
    commit(&bed, "clan:8GG", 300, r##"{"tag":"#8GG","name":"n","members":0,"memberList":[]}"##).await;
    assert_eq!(bed.count("clan_memberships WHERE clan_tag = '8GG' AND left_at IS NULL").await, 0);
    assert_eq!(bed.memberships("2LL").await, [membership("9CC", at(0), None)]);
}

async fn foreign_or_truncated_document_is_rejected(bed: impl Bed) {
    settle(&bed).await;
    let whole = format!(r##"{{"tag":"#8GG","name":"n","members":2,"memberList":[{TWO}]}}"##);
    for body in [
        &whole.replace("#8GG", "#9CC"),
        &whole.replace(r##""tag":"#8GG""##, r##""tag":"#9CC","tag":"#8GG""##),
        &whole[..whole.len() - 1],
        &whole[..whole.len() / 2],
        "{}",
        "null",
        "[]",
        "",
    ] {
        assert_eq!(commit(&bed, "clan:8GG", 300, body).await, None, "{body}");
    }
    for body in [r##"{"tag":"#2YY","name":"n"}"##, r##"{"tag":"#2PP","name":"n""##, r#"{"name":"n"}"#] {
        assert_eq!(commit(&bed, "player:2PP", 300, body).await, None, "{body}");
    }
    let tag: Tag = tag("2PP");
    for body in [
        "",
        "{}",
        "not found",
        r#"{"reason":7}"#,
        r#"{"reason":"notFound""#,
        r##"{"reason":"notFound","tag":"#2PP","name":"n"}"##,
    ] {
        let classified = classify(&Endpoint::Player(&tag), &Ok(response(404, body)));
        assert!(matches!(classified, Classified::Bad(_)), "404 with {body}: {classified:?}");
    }
    all_stay(&bed, "documents of others").await;
}

async fn a_member_without_a_name_keeps_its_name(bed: impl Bed) {
    settle(&bed).await;
    let body = r##"{"tag":"#8GG","name":"n","memberList":[{"tag":"#2PP","name":7,"role":7,"trophies":9}]}"##;
    commit(&bed, "clan:8GG", 300, body).await;
    let row = bed.player("2PP").await;
    assert_eq!((&row["name"], &row["role"]), (&"name of 2PP".into(), &"member".into()));
}

async fn unknown_war_state_keeps_stored_war(bed: impl Bed) {
    let fought = war("8GG", &[("2PP", 1)]);
    bed.commit_one(fought.fetched(at(0))).await;
    let odd = [
        r#"{"state":"accessDenied"}"#,
        r#"{"state":"inMatchmaking","clan":{},"opponent":{}}"#,
        r##"{"state":"enterWar","clan":{"tag":"#8GG"}}"##,
        r#"{"state":"warNotFound"}"#,
        r#"{"state":null,"clan":{},"opponent":{}}"#,
        r#"{"clan":{},"opponent":{}}"#,
        r#"{"state":"","clan":{}}"#,
        r#"{"state":"inWar","clan":{},"opponent":{}}"#,
    ];
    for (seconds, body) in (300..).step_by(300).zip(odd) {
        assert_eq!(commit(&bed, "war:8GG", seconds, body).await, Some(Committed::Noted), "{body}");
        let row = bed.row("SELECT CAST(data AS text) AS data FROM war_snapshots WHERE clan_tag = '8GG'").await;
        assert_eq!(text(&row["data"]), fought.json(), "{body}");
        let object: ObjectId = "war:8GG".parse().unwrap();
        let known = bed.store().freshness(std::slice::from_ref(&object), RELAXED_TIMEOUT).await.unwrap();
        assert_eq!(known[&object].fresh_until, at(seconds + 120), "it is not asked again at once");
    }
    assert_eq!(bed.commit_one(fought.fetched(at(9000))).await, Committed::Unchanged);
}

async fn contradictory_war_sets_no_attacks(bed: impl Bed) {
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    bed.commit_one(war("8GG", &[("2PP", 1)]).fetched(at(300))).await;
    let side = r##"{"tag":"#8GG","members":[{"tag":"#2PP","attacks":[{},{}]}]}"##;
    let times = r#""startTime":"20260304T050000.000Z","endTime":"20260305T050000.000Z""#;
    let odd = format!(
        r##"{{"state":"inWar","teamSize":15,{times},"clan":{side},"opponent":{{"tag":"#9CC","members":[]}}}}"##
    );
    assert_eq!(commit(&bed, "war:8GG", 600, &odd).await, Some(Committed::Stored));
    let row = bed.row("SELECT war_attacks_used AS n FROM player_snapshots WHERE player_tag = '2PP'").await;
    assert_eq!(row["n"], 1);
}
