//! Two runs at once: a key is used by one run at a time, and its cap holds over all of them.

use refresh_worker::sim::{Misbehaviour, Rule};
use serde_json::json;

use super::{
    events,
    world::{PLENTY, Sizes, TOKEN, World, assert_processed},
};

#[tokio::test]
async fn second_run_with_one_key_is_already_running() {
    let world = World::start().await;
    let players = world.mail_players(3).await;
    world.simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased));
    let (mut first, mut second) = (world.worker().await, world.worker().await);
    let running = first.begin(&events::schedule(), PLENTY).await;
    world.wait_until_held(1).await;

    let turned_away = second.invoke(&events::schedule(), PLENTY).await;
    let answer = turned_away.response();
    assert_eq!(answer["stopped_because"], "already_running", "{answer}");
    assert_eq!((&answer["api_requests"], &answer["keys_held"]), (&json!(0), &json!(0)), "{answer}");

    world.simulator.clear();
    let done = first.finish(running).await;
    assert_processed(&done, players.len());
    assert_eq!(world.simulator.total_calls(), players.len() as u64);
    assert_eq!(world.sizes().await, Sizes::EMPTY);
}

#[tokio::test]
async fn runs_together_keep_the_cap_of_a_key() {
    let world = World::start().await;
    let players = world.mail_players(90).await;
    let rate = [("COC_REQS_PER_SEC", "30"), ("COC_MAX_REQS_PER_SEC", "30")];
    let mut workers = [world.worker_with(&rate).await, world.worker_with(&rate).await, world.worker_with(&rate).await];
    while world.sizes().await != Sizes::EMPTY {
        // Short runs, so that the key changes hands often.
        let [one, two, three] = &mut workers;
        let event = json!({ "max_requests": 10 });
        let (one, two, three) =
            tokio::join!(one.invoke(&event, PLENTY), two.invoke(&event, PLENTY), three.invoke(&event, PLENTY));
        for run in [one, two, three] {
            run.response();
        }
    }
    assert_eq!(world.simulator.total_calls(), players.len() as u64, "nothing is done twice");
    let most = world.simulator.most_in_any_second(TOKEN);
    assert!(most <= 30, "{most} calls within one second");
}
