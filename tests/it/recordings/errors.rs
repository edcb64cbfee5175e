//! Recorded errors and their verdicts.

use refresh_worker::{
    api::{Verdict, judge::Sign},
    model::{Answered, ObjectId},
};

use super::{
    folder::{self, Recording},
    path::{Replay, at, group_path, path_of},
};

/// The verdict in a word, as in the table of responses.
fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Answered(fetched) => match fetched.answered {
            Answered::Document(_) => "document",
            Answered::Gone => "gone",
            Answered::PrivateWarLog => "private war log",
            Answered::UnknownState(_) => "unknown state",
        },
        Verdict::DeadLetter { .. } => "dead letter",
        Verdict::Bad { accusation, .. } => match accusation.sign() {
            Sign::Maintenance => "maintenance",
            Sign::Unavailable => "unavailable",
            Sign::Failed => "failed",
            Sign::Foreign(_) => "somebody else's",
            Sign::Forbidden => "key forbidden",
            Sign::Rejected => "key rejected",
        },
        Verdict::Throttled { .. } => "throttled",
        Verdict::Prevented(_) => "prevented",
    }
}

/// On a clan, a player and a war.
fn expected(recording: &Recording) -> [&'static str; 3] {
    let forbidden = "key forbidden";
    match recording.file.as_str() {
        "error/400-location.json" => ["dead letter"; 3],
        "error/403-accessDenied-invalid-token.json" | "error/403-accessDenied.invalidIp.json" => ["key rejected"; 3],
        // The same response means something else for objects without a war log.
        "error/403-currentwar-private-warlog.json" | "error/403-warlog-private-warlog.json" => {
            [forbidden, forbidden, "private war log"]
        }
        "error/404-leaguegroup.json" | "error/404-player.json" => ["gone"; 3],
        "error/503-inMaintenance.json" => ["maintenance"; 3],
        unknown => panic!("nobody has said what {unknown} means"),
    }
}

#[tokio::test]
async fn recorded_errors_are_classified_as_documented() {
    let replay = Replay::start().await;
    let tag: refresh_worker::model::Tag = "2PP".parse().unwrap();
    for recording in folder::of_kind("error") {
        let mut words = Vec::new();
        for object in [ObjectId::clan(tag.clone()), ObjectId::player(tag.clone()), ObjectId::war(tag.clone())] {
            replay.serve(&path_of(&object), &recording);
            let verdict = replay.fetch(at(0), &object, None).await;
            if let Verdict::DeadLetter { body, .. } = &verdict {
                assert_eq!(
                    body.as_deref(),
                    Some(recording.body.as_str()),
                    "{}: kept for whoever looks",
                    recording.file
                );
            }
            words.push(word(&verdict));
        }
        assert_eq!(words, expected(&recording), "{}", recording.file);
    }
}

#[tokio::test]
async fn recorded_no_league_keeps_plain_war() {
    let (Some(none), Some(plain)) = (
        folder::named("error", "error/404-leaguegroup.json"),
        folder::named("currentwar", "currentwar/notinwar-2025.json"),
    ) else {
        return;
    };
    let (replay, object) = (Replay::start().await, ObjectId::war("2PP".parse().unwrap()));
    replay.serve(&path_of(&object), &plain);
    replay.serve(&group_path(&object.tag), &none);
    let fetched = replay.fetched(at(0), &object).await;
    assert_eq!(replay.asked(), [path_of(&object), group_path(&object.tag)]);
    let Answered::Document(document) = &fetched.answered else { panic!("{fetched:?}") };
    assert_eq!(document.json(), plain.body);

    let Verdict::Answered(_) = replay.fetch(at(0), &object, fetched.league.as_ref()).await else { panic!("a war") };
    assert_eq!(replay.asked(), [path_of(&object)], "no call is spent on the league again");
}
