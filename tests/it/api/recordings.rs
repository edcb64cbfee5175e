//! All recorded responses of the real API become the right documents.

use std::{fs, path::PathBuf};

use refresh_worker::{
    api::{
        judge::Sign,
        response::{Bad, Body, Classified, Endpoint, Response, classify},
        wire,
    },
    model::Tag,
};
use reqwest::header::HeaderMap;
use serde_json::Value;

struct Recording {
    kind: String,
    tag: Option<Tag>,
    status: u16,
    file: String,
    text: String,
    value: Value,
}

impl Recording {
    fn classify(&self, endpoint: &Endpoint<'_>) -> Classified {
        let body = Body::Whole(self.text.clone().into_bytes());
        classify(endpoint, &Ok(Response { status: self.status, headers: HeaderMap::new(), body }))
    }

    fn count(&self, pointer: &str) -> usize {
        self.value.pointer(pointer).and_then(Value::as_array).map_or(0, Vec::len)
    }

    fn text_at(&self, pointer: &str) -> Option<&str> {
        self.value.pointer(pointer).and_then(Value::as_str)
    }
}

fn recordings() -> Option<Vec<Recording>> {
    let Some(folder) = std::env::var_os("COC_FIXTURES_DIR").map(PathBuf::from) else {
        eprintln!("not run: set COC_FIXTURES_DIR to the folder with the recorded responses");
        return None;
    };
    let manifest: Value = serde_json::from_str(&fs::read_to_string(folder.join("manifest.json")).unwrap()).unwrap();
    let recording = |entry: &Value| {
        let file = entry["file"].as_str()?.to_owned();
        let text = fs::read_to_string(folder.join(&file)).unwrap();
        Some(Recording {
            kind: entry["kind"].as_str()?.to_owned(),
            tag: entry["tag"].as_str().map(|tag| tag.parse().unwrap()),
            status: u16::try_from(entry["http_status"].as_u64()?).unwrap(),
            value: serde_json::from_str(&text).unwrap(),
            file,
            text,
        })
    };
    Some(manifest.as_array().unwrap().iter().filter_map(recording).collect())
}

fn anyone() -> Tag {
    "2PP".parse().unwrap()
}

#[test]
fn recorded_responses_become_right_documents() {
    let Some(recordings) = recordings() else { return };
    let mut seen = 0;
    for recording in &recordings {
        match recording.kind.as_str() {
            "clan" => check_clan(recording),
            "player" => check_player(recording),
            "currentwar" | "cwlwar" => check_war(recording),
            "leaguegroup" => check_group(recording),
            "error" => check_error(recording),
            _ => continue,
        }
        seen += 1;
    }
    assert!(seen >= 35, "only {seen} recordings were of a kind that is fetched");
}

fn check_clan(recording: &Recording) {
    let tag = recording.tag.as_ref().unwrap();
    let Classified::Clan(clan) = recording.classify(&Endpoint::Clan(tag)) else { panic!("{}", recording.file) };
    assert_eq!(clan.json.as_str(), recording.text, "{}", recording.file);
    assert_eq!(Some(clan.name.as_str()), recording.text_at("/name"), "{}", recording.file);
    assert_eq!(clan.level.map(Value::from), recording.value.get("clanLevel").cloned(), "{}", recording.file);
    assert_eq!(clan.war_losses.map(Value::from), recording.value.get("warLosses").cloned(), "{}", recording.file);
    assert_eq!(clan.members.len(), recording.count("/memberList"), "{}", recording.file);
    for (member, entry) in clan.members.iter().zip(recording.value["memberList"].as_array().unwrap()) {
        assert_eq!(&serde_json::from_str::<Value>(&member.json).unwrap(), entry);
        assert_eq!(Some(member.name.as_str()), entry["name"].as_str());
        assert_eq!(member.town_hall.map(Value::from), entry.get("townHallLevel").cloned());
        assert_eq!(member.donations.map(Value::from), entry.get("donations").cloned());
        assert!(member.role.is_some() && member.trophies.is_some(), "{}", recording.file);
    }
}

fn check_player(recording: &Recording) {
    let tag = recording.tag.as_ref().unwrap();
    let Classified::Player(player) = recording.classify(&Endpoint::Player(tag)) else { panic!("{}", recording.file) };
    assert_eq!(player.json.as_str(), recording.text, "{}", recording.file);
    assert_eq!(Some(player.name.as_str()), recording.text_at("/name"), "{}", recording.file);
    assert_eq!(player.town_hall.map(Value::from), recording.value.get("townHallLevel").cloned());
    assert_eq!(player.trophies.map(Value::from), recording.value.get("trophies").cloned());
    let clan = recording.text_at("/clan/tag").map(|tag| tag.parse::<Tag>().unwrap());
    assert_eq!(player.clan, clan.into(), "{}", recording.file);
}

/// Checks the war as seen from either clan: its players, its side first, and the same war.
fn check_war(recording: &Recording) {
    let state = recording.text_at("/state").unwrap();
    for side in ["clan", "opponent"] {
        let Some(tag) = recording.text_at(&format!("/{side}/tag")) else {
            let Classified::War(war) = recording.classify(&Endpoint::CurrentWar(&anyone())) else {
                panic!("{}", recording.file)
            };
            assert_eq!((war.state.as_str(), war.members.len()), ("notInWar", 0), "{}", recording.file);
            assert_eq!(war.json.as_str(), recording.text);
            return;
        };
        let tag: Tag = tag.parse().unwrap();
        let endpoint = Endpoint::LeagueWar { war: &anyone(), clan: &tag };
        let Classified::War(war) = recording.classify(&endpoint) else { panic!("{}", recording.file) };
        assert_eq!(war.state, state);
        assert!(war.starts < war.ends && war.starts.is_some(), "{}", recording.file);
        assert!(war.opponent.is_some(), "{}", recording.file);
        assert_eq!(war.members.len(), recording.count(&format!("/{side}/members")), "{}", recording.file);
        let used: i32 = war.members.iter().map(|member| member.attacks_used).sum();
        let attacks = recording.value[side]["members"].as_array().unwrap().iter();
        let expected: usize = attacks.map(|member| member["attacks"].as_array().map_or(0, Vec::len)).sum();
        assert_eq!(usize::try_from(used).unwrap(), expected, "{}", recording.file);
        let stored: Value = serde_json::from_str(&war.json).unwrap();
        assert_eq!(stored["clan"], recording.value[side], "{}", recording.file);
        assert_eq!(war.json.len(), recording.text.len());
    }
    let others = recording.classify(&Endpoint::LeagueWar { war: &anyone(), clan: &"QQQQ2QQQQ".parse().unwrap() });
    assert!(matches!(others, Classified::OtherWar { .. }), "{}", recording.file);
}

fn check_group(recording: &Recording) {
    let Classified::Group(group) = recording.classify(&Endpoint::LeagueGroup(&anyone())) else {
        panic!("{}", recording.file)
    };
    let undrawn = recording.text.matches("\"#0\"").count();
    let wars: usize = group.rounds.iter().map(Vec::len).sum();
    assert_eq!(wars + undrawn, 4 * recording.count("/rounds"), "{}", recording.file);
    assert_eq!(Some(group.state.as_str()), recording.text_at("/state"));
    assert_eq!(Some(group.season.as_str()), recording.text_at("/season"));
}

fn check_error(recording: &Recording) {
    assert!(wire::complaint(&recording.text).is_some_and(|complaint| !complaint.reason.is_empty()));
    let tag = anyone();
    let classified = |endpoint| recording.classify(&endpoint);
    match recording.file.rsplit('/').next().unwrap() {
        "400-location.json" => assert!(matches!(classified(Endpoint::Clan(&tag)), Classified::DeadLetter { .. })),
        "403-accessDenied-invalid-token.json" | "403-accessDenied.invalidIp.json" => {
            let rejected = classified(Endpoint::CurrentWar(&tag));
            assert!(matches!(rejected, Classified::Bad(Bad { sign: Sign::Rejected, .. })), "{rejected:?}");
        }
        "403-currentwar-private-warlog.json" | "403-warlog-private-warlog.json" => {
            assert!(matches!(classified(Endpoint::CurrentWar(&tag)), Classified::PrivateWarLog));
        }
        "404-leaguegroup.json" => assert!(matches!(classified(Endpoint::LeagueGroup(&tag)), Classified::NotInLeague)),
        "404-player.json" => assert!(matches!(classified(Endpoint::Player(&tag)), Classified::Gone)),
        "503-inMaintenance.json" => {
            assert!(matches!(classified(Endpoint::Clan(&tag)), Classified::Bad(Bad { sign: Sign::Maintenance, .. })));
        }
        other => panic!("an error without a classification: {other}"),
    }
}
