//! A Redis whose clock is hours wrong: every run says so, and goes by what the database and the machine agree on.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    events,
    world::{PLENTY, World, assert_processed},
};

const HOUR: i64 = 60 * 60;

/// The URL of the same Redis with a clock that is so many seconds ahead.
async fn with_clock(url: &str, ahead: i64) -> String {
    let mut url = url::Url::parse(url).unwrap();
    let target = (url.host_str().unwrap().to_owned(), url.port().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(target.clone()).await.unwrap();
            tokio::spawn(carry(client, server, ahead));
        }
    });
    url.into()
}

async fn carry(client: TcpStream, server: TcpStream, ahead: i64) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let ask = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let answer = async {
        let mut bytes = vec![0; 1 << 20];
        while let Ok(read @ 1..) = from_server.read(&mut bytes).await {
            shift(&mut bytes[..read], ahead);
            if to_client.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = ask => {}
        () = answer => {}
    }
}

/// Moves a response to `TIME`: two texts, the first of them ten digits.
fn shift(bytes: &mut [u8], ahead: i64) {
    const START: &[u8] = b"*2\r\n$10\r\n1";
    let Some(at) = bytes.windows(START.len()).position(|window| window == START) else { return };
    let digits = at + START.len() - 1..at + START.len() + 9;
    let Some(Ok(text)) = bytes.get(digits.clone()).map(std::str::from_utf8) else { return };
    let Ok(seconds) = text.parse::<i64>() else { return };
    bytes[digits].copy_from_slice((seconds + ahead).to_string().as_bytes());
}

#[tokio::test]
async fn wrong_redis_clock_is_reported_and_unused() {
    const WRONG: &str =
        "SELECT count(*) FROM refresh_worker.refresh_state WHERE abs(extract(epoch FROM fetched_at - now())) > 120";
    const WRONG_RUNS: &str =
        "SELECT count(*) FROM refresh_worker.refresh_runs WHERE abs(extract(epoch FROM ended - now())) > 120";
    for ahead in [3 * HOUR, -3 * HOUR] {
        let world = World::start().await;
        let url = with_clock(&world.redis_url, ahead).await;
        let mut worker = world.worker_with(&[("REDIS_URL", url.as_str())]).await;
        for number in 0..2 {
            world.mail_more_players(number * 3, 3).await;
            let run = worker.invoke(&events::schedule(), PLENTY).await;
            assert_processed(&run, 3);
            let clocks = &run.response()["clocks"];
            assert_eq!(clocks["wrong"], "redis", "{clocks}");
            let apart = clocks["apart_seconds"].as_f64().unwrap();
            assert!((10_740.0..10_860.0).contains(&apart), "three hours: {clocks}");
            assert_eq!(run.logs.metrics()[0]["clocks_apart_seconds"], clocks["apart_seconds"]);
            let warnings = run.logs.logs("WARN");
            let names_it = |line: &serde_json::Value| line.to_string().contains("the clock of Redis is wrong");
            assert_eq!(warnings.iter().filter(|line| names_it(line)).count(), 1, "{}", run.logs);
        }
        assert_eq!((world.count(WRONG).await, world.count(WRONG_RUNS).await), (0, 0), "{ahead}");
        assert_eq!(world.simulator.total_calls(), 6);
        // What is asked for by name is called for, though it was a moment ago by one of the clocks.
        let player = world.simulator.world().player_tags()[0].to_string();
        let event = events::post_refresh(&json!({ "requests": [{ "type": "player", "tag": player }] }));
        tokio::time::sleep(Duration::from_millis(10)).await;
        let run = worker.invoke(&event, PLENTY).await;
        assert_eq!(run.response()["statusCode"], 200);
        assert_eq!(world.sizes().await.objects, 0, "nothing waits for the other clock: {}", run.logs);
    }
}

#[tokio::test]
async fn agreeing_clocks_are_not_reported() {
    let world = World::start().await;
    let url = with_clock(&world.redis_url, 2).await;
    let mut worker = world.worker_with(&[("REDIS_URL", url.as_str())]).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_eq!(run.response().get("clocks"), None);
    assert!(!run.logs.stdout.contains("set the clocks"), "{}", run.logs);
}
