//! Bodies of the API: each is classified, and each document can be stored in both stores.

use proptest::{prelude::*, sample::select};
use refresh_worker::{
    api::{
        response::{Bad, Body, Classified, Endpoint, Response, classify},
        verdict::Ending,
    },
    clock::{Clock as _, SystemClock},
    model::{Answered, Document, Fetched, Kind, ObjectId, Tag},
    sim::{SimConfig, Simulator},
    store::{Committed, Store},
};
use serde_json::Value;

use super::{
    cases,
    json::{Damage, any_json, damages, text},
    some,
};
use crate::store::beds;

/// The true responses of the API, by object.
#[derive(Clone, Debug)]
struct Truth {
    object: ObjectId,
    body: Value,
}

/// Some responses of a simulated world, one for each kind of document.
async fn truths() -> Vec<Truth> {
    // Another test may have installed it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let simulator = Simulator::start(SimConfig::default()).await.expect("a free port");
    let census = simulator.world();
    let clans = census.clan_tags().iter().take(12);
    let objects = clans.clone().cloned().map(ObjectId::clan);
    let wars = clans.cloned().map(|tag| ObjectId::new(Kind::War, tag));
    let players = census.player_tags().iter().take(12).cloned().map(ObjectId::player);
    let (client, mut truths) = (reqwest::Client::new(), Vec::new());
    for object in objects.chain(wars).chain(players) {
        let url = format!("{}/{}", simulator.base_url(), endpoint(&object).path());
        let answer = client
            .get(url)
            .bearer_auth("any")
            .send()
            .await
            .expect("the simulator answers")
            .bytes()
            .await
            .expect("a body");
        truths.push(Truth { object, body: serde_json::from_slice(&answer).expect("JSON") });
    }
    truths
}

const fn endpoint(object: &ObjectId) -> Endpoint<'_> {
    match object.kind {
        Kind::Clan => Endpoint::Clan(&object.tag),
        Kind::Player => Endpoint::Player(&object.tag),
        Kind::War => Endpoint::CurrentWar(&object.tag),
    }
}

fn damaged(truth: &Truth, damages: &[Damage]) -> Vec<u8> {
    let mut body = truth.body.clone();
    for damage in damages {
        damage.apply(&mut body);
    }
    text(&body).into_bytes()
}

fn response(status: u16, body: Vec<u8>) -> Response {
    Response { status, headers: reqwest::header::HeaderMap::new(), body: Body::Whole(body) }
}

fn document(classified: Classified) -> Option<Document> {
    match classified {
        Classified::Clan(clan) => Some(Document::Clan(clan)),
        Classified::Player(player) => Some(Document::Player(player)),
        Classified::War(war) => Some(Document::War(war)),
        _ => None,
    }
}

proptest! {
    #![proptest_config(super::config())]

    #[test]
    fn every_body_is_classified(
        status in select(&[200_u16, 200, 200, 400, 403, 404, 418, 429, 500, 503, 504][..]),
        body in prop_oneof![any::<Vec<u8>>(), any_json().prop_map(|value| text(&value).into_bytes())],
        which in 0..5_usize,
    ) {
        let tag: Tag = "#2PP".parse().unwrap();
        let endpoints = [
            Endpoint::Clan(&tag),
            Endpoint::Player(&tag),
            Endpoint::CurrentWar(&tag),
            Endpoint::LeagueGroup(&tag),
            Endpoint::LeagueWar { war: &tag, clan: &tag },
        ];
        match classify(&endpoints[which], &Ok(response(status, body))) {
            Classified::DeadLetter { reason, body } => {
                prop_assert!(!reason.detail.is_empty() && body.is_none_or(|body| body.len() <= 2_000));
            }
            Classified::Bad(Bad { reason, ending, .. }) => {
                prop_assert!(!reason.detail.is_empty() && reason.detail.len() < 2_000);
                let Ending::DeadLetter { body: Some(body) } = ending else { return Ok(()) };
                prop_assert!(body.len() <= 2_000);
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn damaged_document_is_stored_or_set_aside_alone() {
    let truths = truths().await;
    let (sqlite, postgres) = (beds::sqlite().await, beds::postgres().await);
    let batches = usize::try_from(cases()).unwrap() / 100;
    let (mut documents, mut stored) = (0, 0);
    for damages in some(batches, &proptest::collection::vec(damages(), truths.len())) {
        let now = SystemClock.wall();
        let batch: Vec<Fetched> = truths
            .iter()
            .zip(&damages)
            .filter_map(|(truth, damages)| {
                let body = damaged(truth, damages);
                let classified = classify(&endpoint(&truth.object), &Ok(response(200, body)));
                let answered = Answered::Document(document(classified)?);
                let object = truth.object.clone();
                Some(Fetched {
                    object,
                    began: now,
                    copied_at: now,
                    fresh_until: now,
                    answered,
                    league: None,
                    asked: None,
                })
            })
            .collect();
        documents += batch.len();
        for committed in [keep(&sqlite, &batch).await, keep(&postgres, &batch).await] {
            stored += committed.iter().filter(|one| !matches!(one, Committed::Poison(_))).count();
        }
    }
    // Most damages hurt nothing that is needed. Were nearly all bodies refused, the test would prove nothing.
    assert!(documents > batches * truths.len() / 4, "{documents} documents only");
    assert!(stored > documents, "{stored} of twice {documents} were stored");
}

async fn keep(bed: &impl crate::store::Bed, batch: &[Fetched]) -> Vec<Committed> {
    let committed = bed.store().commit(SystemClock.wall(), batch).await;
    let committed = committed.unwrap_or_else(|error| panic!("{error}\nfor {batch:#?}")).committed;
    assert_eq!(committed.len(), batch.len());
    committed
}
