//! The memory of the real process when every response has the maximum size.

use std::time::Duration;

use refresh_worker::model::Tag;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::world::World;

const MAX_BODY: usize = 4 * 1024 * 1024;

const MOST_MEMORY: u64 = 128 * 1000 * 1000;

/// Answers every clan and player with a document of the largest size.
async fn large_api() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    url
}

async fn serve(mut stream: TcpStream) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?;
        let path = head.split(' ').nth(1)?.to_owned();
        let tag = path.rsplit("%23").next()?.to_owned();
        let body = document(&tag, path.contains("/clans/"));
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.ok()?;
        stream.write_all(body.as_bytes()).await.ok()?;
    }
}

fn document(tag: &str, is_clan: bool) -> String {
    let mut text = format!(r##"{{"tag":"#{tag}","name":"large","##);
    if is_clan {
        let member = |nth: usize| {
            let pad = "x".repeat(40_000);
            format!(r##"{{"tag":"#{}","name":"m","role":"member","pad":"{pad}"}}"##, nth_tag(nth))
        };
        let members: Vec<String> = (0..50).map(member).collect();
        text = format!(r#"{text}"members":50,"memberList":[{}],"#, members.join(","));
    }
    let pad = MAX_BODY - text.len() - r#""pad":""}"#.len();
    format!(r#"{text}"pad":"{}"}}"#, "y".repeat(pad))
}

fn nth_tag(nth: usize) -> String {
    let digits: Vec<char> = "0289PYLQGRJCUV".chars().collect();
    format!("P{}{}{}Y", digits[nth / 196 % 14], digits[nth / 14 % 14], digits[nth % 14])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn largest_responses_fit_in_128_megabytes() {
    let (world, api) = (World::start().await, large_api().await);
    for nth in 0..80 {
        let tag: Tag = nth_tag(1000 + nth).parse().unwrap();
        world.mail(if nth % 2 == 0 { "clan" } else { "player" }, &tag.to_string(), 1).await;
    }
    let settings = [("COC_BASE_URL", api.as_str()), ("FOLLOWUP_PLAYERS_PER_CLAN", "0"), ("MAX_BODY_BYTES", "4194304")];
    let mut worker = world.worker_with(&settings).await;
    let run = worker.invoke(&json!({}), Duration::from_secs(240)).await;
    assert_eq!(run.response()["processed_requests"], 80, "{run:?}");
    let peak = worker.peak_memory_bytes().expect("a process of Linux");
    eprintln!("peak memory: {} MB", peak / 1_000_000);
    assert!(peak < MOST_MEMORY, "{} MB", peak / 1_000_000);
}
