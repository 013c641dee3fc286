//! A lean REST client: HTTP/1.1 by hand over one keep-alive connection, buffers reused.
//!
//! The generator must cost less than what it measures. Knows only what our API sends:
//! `Content-Length` bodies.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Longest answer.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// One connection to an API.
#[derive(Debug)]
pub struct Rest {
    stream: TcpStream,
    /// `Host` of every request.
    host: SocketAddr,
    out: Vec<u8>,
    input: Vec<u8>,
    /// Where the body of the last answer lies in `input`.
    body: std::ops::Range<usize>,
}

impl Rest {
    pub async fn connect(api: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(api)
            .await
            .with_context(|| format!("no API at {api}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            host: api,
            out: Vec::with_capacity(1024),
            input: Vec::with_capacity(4096),
            body: 0..0,
        })
    }

    /// Sends a request and reads its answer; the status comes back.
    ///
    /// `path` starts behind `/api/v10`; `token` is the whole `Authorization`, or empty.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        body: &[u8],
    ) -> Result<u16> {
        self.out.clear();
        write_request(&mut self.out, self.host, (method, path), token, body);
        self.stream.write_all(&self.out).await?;
        self.answer().await
    }

    /// A request for [`Rest::send_prepared`].
    pub fn prepare(&self, method: &str, path: &str, token: &str, body: &[u8]) -> Vec<u8> {
        let mut request = Vec::new();
        write_request(&mut request, self.host, (method, path), token, body);
        request
    }

    /// [`Rest::send`] of a request that is sent more than once.
    pub async fn send_prepared(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request).await?;
        self.answer().await
    }

    /// Body of the last answer.
    pub fn body(&self) -> &[u8] {
        &self.input[self.body.clone()]
    }

    async fn answer(&mut self) -> Result<u16> {
        self.input.clear();
        let (status, head, length) = loop {
            self.read_more().await?;
            if let Some(head) = parse_head(&self.input)? {
                break head;
            }
        };
        while self.input.len() < head + length {
            self.read_more().await?;
        }
        self.body = head..head + length;
        Ok(status)
    }

    async fn read_more(&mut self) -> Result<()> {
        ensure!(self.input.len() < ANSWER_BYTES_MAX, "an endless answer");
        let read = self.stream.read_buf(&mut self.input).await?;
        ensure!(read > 0, "the API closed the connection");
        Ok(())
    }

    /// A request that must succeed; its JSON.
    pub async fn call(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        body: &Value,
    ) -> Result<Value> {
        let body = match body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        let status = self.send(method, path, token, &body).await?;
        if !(200..300).contains(&status) {
            bail!(
                "{method} {path}: {status} {}",
                String::from_utf8_lossy(self.body())
            );
        }
        if self.body().is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_slice(self.body())?)
    }
}

fn write_request(
    out: &mut Vec<u8>,
    host: SocketAddr,
    (method, path): (&str, &str),
    token: &str,
    body: &[u8],
) {
    // Writing into a Vec cannot fail.
    let mut put = |parts: &[&str]| {
        parts
            .iter()
            .for_each(|part| out.extend_from_slice(part.as_bytes()));
    };
    let (host, length) = (host.to_string(), body.len().to_string());
    put(&[method, " /api/v10", path, " HTTP/1.1\r\nHost: "]);
    put(&[&host, "\r\nContent-Length: ", &length, "\r\n"]);
    if !token.is_empty() {
        put(&["Authorization: ", token, "\r\n"]);
    }
    put(&["Content-Type: application/json\r\n\r\n"]);
    out.extend_from_slice(body);
}

/// The address in a URL; it must be this machine's.
pub fn address(url: &str) -> Result<SocketAddr> {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let address: SocketAddr = host
        .trim_end_matches('/')
        .replace("localhost", "127.0.0.1")
        .parse()
        .with_context(|| format!("{url} is no address with a port"))?;
    ensure!(address.ip().is_loopback(), "{url} is not on this machine");
    Ok(address)
}

/// Status, length of the head and of the body, once the head is complete.
fn parse_head(bytes: &[u8]) -> Result<Option<(u16, usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end]).context("a head that is no text")?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .context("no status")?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map(|(_, value)| value.trim().parse().context("content-length"))
        .transpose()?;
    let length = match length {
        Some(length) => length,
        None if status == 204 => 0,
        None => bail!("an answer without a length"),
    };
    Ok(Some((status, end + 4, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_once_they_are_whole() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: x\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(
            parse_head(answer).unwrap(),
            Some((200, answer.len() - 2, 2))
        );
        assert_eq!(parse_head(&answer[..20]).unwrap(), None);
        let empty = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(parse_head(empty).unwrap(), Some((204, empty.len(), 0)));
        assert!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse_head(b"nonsense\r\n\r\n").is_err());
    }
}
