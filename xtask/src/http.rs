//! Just enough HTTP for a server on this machine: one request per connection, no TLS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Null if the body is no JSON.
    pub(crate) body: Value,
}

/// Sends a request and reads the whole answer.
///
/// HTTP/1.0, so that the body ends with the connection and is never chunked.
pub(crate) fn request(
    server: SocketAddr,
    method: &str,
    path: &str,
    authorization: Option<&str>,
    body: Option<&Value>,
) -> Result<Answer> {
    let mut head =
        format!("{method} {path} HTTP/1.0\r\nHost: {server}\r\nUser-Agent: guildhall-xtask\r\n");
    if let Some(token) = authorization {
        head.push_str(&format!("Authorization: {token}\r\n"));
    }
    let body = body.map(Value::to_string);
    if let Some(body) = &body {
        head.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        ));
    } else if method != "GET" {
        head.push_str("Content-Length: 0\r\n");
    }
    head.push_str("\r\n");

    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut socket = TcpStream::connect_timeout(&server, CONNECT_TIMEOUT)?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        socket.write_all(format!("{head}{}", body.unwrap_or_default()).as_bytes())?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().with_context(|| format!("{method} {path}: no answer from {server}"))?;
    parse(&answer).with_context(|| format!("{method} {path}: no HTTP answer from {server}"))
}

/// Does `/ready` answer 200?
pub(crate) fn is_ready(server: SocketAddr) -> bool {
    request(server, "GET", "/ready", None, None).is_ok_and(|answer| answer.status == 200)
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        bail!("no end of the headers");
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok());
    let Some(status) = status else {
        bail!("no status line")
    };
    Ok(Answer {
        status,
        body: serde_json::from_slice(&bytes[end + 4..]).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_split_into_status_and_body() {
        let answer =
            parse(b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"a\":1}").unwrap();
        assert_eq!((answer.status, &answer.body["a"]), (200, &Value::from(1)));
        assert_eq!(
            parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().body,
            Value::Null
        );
        assert!(parse(b"hello").is_err());
    }
}
