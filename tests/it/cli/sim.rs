//! `sim`: the simulator as a server of its own.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::Shell;

#[tokio::test]
async fn sim_serves_until_ctrl_c() {
    let mut sim = Shell::new().start(&["sim", "--listen", "127.0.0.1:0", "--clans", "16"]);
    let first = sim.line().await;
    let address = first.split("http://").nth(1).and_then(|rest| rest.split("/v1").next()).expect("an address");

    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /_sim/world HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("private_war_log"), "{answer}");

    sim.interrupt();
    let ran = sim.end().await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains(&format!("export COC_BASE_URL=http://{address}/v1")), "{}", ran.stdout);
    assert!(ran.stdout.ends_with("served 0 calls\n"), "{}", ran.stdout);
}

#[tokio::test]
async fn sim_names_a_taken_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Shell::new().run(&["sim", "--listen", &address]).await.badly(1);
    assert!(output.contains(&address), "{output}");
}
