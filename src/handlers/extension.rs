//! An internal extension without events. Lambda sends SIGTERM only to a sandbox that has an extension.
//!
//! The runtime crate has such a helper, which brings a second HTTP stack and a second library for times.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

const NAME: &str = "refresh-worker-shutdown";

/// The Extensions API is on the same machine and returns within milliseconds.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(2);

/// A registered extension: a request for its next event, which is never sent. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Extension {
    _next_event: TcpStream,
}

/// Blocking: nothing else happens during a cold start.
pub(super) fn register(address: &str) -> io::Result<Extension> {
    // Without events: the extension exists only so that SIGTERM arrives.
    let body = r#"{"events": []}"#;
    let request = format!(
        "POST /2020-01-01/extension/register HTTP/1.1\r\nHost: {address}\r\nLambda-Extension-Name: {NAME}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let id = read_id(send(address, &request)?)?;
    // Lambda begins the first invocation only when every extension has asked for its next event.
    let next = format!(
        "GET /2020-01-01/extension/event/next HTTP/1.1\r\nHost: {address}\r\nLambda-Extension-Identifier: {id}\r\n\r\n"
    );
    Ok(Extension { _next_event: send(address, &next)? })
}

fn send(address: &str, request: &str) -> io::Result<TcpStream> {
    let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut connection = TcpStream::connect_timeout(&address, REGISTER_TIMEOUT)?;
    connection.set_read_timeout(Some(REGISTER_TIMEOUT))?;
    connection.set_write_timeout(Some(REGISTER_TIMEOUT))?;
    connection.write_all(request.as_bytes())?;
    Ok(connection)
}

/// Reads the extension's id from the head of the response.
fn read_id(response: TcpStream) -> io::Result<String> {
    let mut lines = BufReader::new(response).lines();
    let status = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, id)) = line.split_once(':')
            && name.eq_ignore_ascii_case("lambda-extension-identifier")
        {
            return Ok(id.trim().to_owned());
        }
    }
    Err(io::Error::other(format!("the Extensions API returned no identifier: {status}")))
}
