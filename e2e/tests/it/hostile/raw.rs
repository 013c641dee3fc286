//! Clients made of bytes: what a library would never send.

use std::net::SocketAddr;

use e2e::{client, wait::NEVER};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// A whole request to upgrade.
pub(super) const UPGRADE: &str = "GET /?v=10&encoding=json HTTP/1.1\r\nhost: gateway\r\n\
    connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A connection with what was read and not used yet.
pub(super) struct Raw {
    pub(super) stream: TcpStream,
    bytes: Vec<u8>,
}

impl Raw {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let bytes = Vec::new();
        Self { stream, bytes }
    }

    /// From another address of this machine, with hardly any room for what it does not read.
    pub(super) async fn connect_from(from: &str, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let stream = socket.connect(address).await.unwrap();
        let bytes = Vec::new();
        Self { stream, bytes }
    }

    /// Connected, upgraded, HELLO read.
    pub(super) async fn open(address: SocketAddr) -> Self {
        let mut raw = Self::connect(address).await;
        raw.upgrade().await;
        raw
    }

    pub(super) async fn upgrade(&mut self) {
        self.send(UPGRADE.as_bytes()).await;
        assert_eq!(self.status().await, Some(101));
        let hello = self.next_text().await.expect("HELLO");
        assert!(hello.contains(r#""op":10"#), "{hello}");
    }

    /// Identifies as a person; the READY.
    pub(super) async fn identify(&mut self, token: &str) -> String {
        let identify = client::identify(token, None, None).to_string();
        self.send(&masked(0x81, identify.as_bytes())).await;
        self.expect(r#""t":"READY""#).await
    }

    /// Sends what the server takes; it may be quicker to end.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// The same, each byte by itself.
    pub(super) async fn send_slowly(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    }

    /// The status of the next answer, its head and body read; `None`: the connection ended.
    pub(super) async fn status(&mut self) -> Option<u16> {
        loop {
            let text = String::from_utf8_lossy(&self.bytes).into_owned();
            if let Some((head, _)) = text.split_once("\r\n\r\n") {
                let head = head.to_ascii_lowercase();
                let length = head.split("content-length: ").nth(1);
                let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
                let whole = head.len() + 4 + length.unwrap_or(0);
                if self.bytes.len() >= whole {
                    self.bytes.drain(..whole);
                    return head.split(' ').nth(1)?.parse().ok();
                }
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next text of the server; `None` once it closed or broke the connection.
    pub(super) async fn next_text(&mut self) -> Option<String> {
        loop {
            match self.next_frame().await {
                Some((0x1, payload)) => return Some(String::from_utf8(payload).unwrap()),
                Some((0x8, _)) | None => return None,
                Some(_) => {}
            }
        }
    }

    /// Reads up to a text with `part` in it.
    pub(super) async fn expect(&mut self, part: &str) -> String {
        loop {
            let text = self.next_text().await;
            let text = text.unwrap_or_else(|| panic!("ended before {part}"));
            if text.contains(part) {
                return text;
            }
        }
    }

    /// Reads to the end: the code of the close frame, if there was one.
    pub(super) async fn closed_with(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some((opcode, payload)) = self.next_frame().await {
            if let (0x8, [a, b, ..]) = (opcode, payload.as_slice()) {
                code = Some(u16::from_be_bytes([*a, *b]));
            }
        }
        code
    }

    async fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((opcode, start, end)) = frame_in(&self.bytes) {
                let payload = self.bytes[start..end].to_vec();
                self.bytes.drain(..end);
                return Some((opcode, payload));
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Reads something; false at the end, however it ends.
    async fn more(&mut self) -> bool {
        let mut part = [0; 4096];
        let read = timeout(NEVER, self.stream.read(&mut part)).await;
        match read.expect("neither bytes nor an end") {
            Ok(count @ 1..) => {
                self.bytes.extend(&part[..count]);
                true
            }
            Ok(0) | Err(_) => false,
        }
    }
}

/// Opcode, start and end of the payload of the whole frame that `bytes` begins with.
fn frame_in(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (start, length) = match *bytes {
        [_, 127, ref rest @ ..] => (10, u64::from_be_bytes(*rest.first_chunk()?) as usize),
        [_, 126, a, b, ..] => (4, usize::from(u16::from_be_bytes([a, b]))),
        [_, length, ..] => (2, usize::from(length)),
        _ => return None,
    };
    let end = start + length;
    (bytes.len() >= end).then_some((bytes[0] & 0x0F, start, end))
}

/// A masked frame; `first` is FIN, RSV and the opcode.
pub(super) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    super::flood::frame(&mut out, first, payload, true);
    out
}
