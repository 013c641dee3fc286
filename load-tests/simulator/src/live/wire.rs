//! A WebSocket as a client has it: whole text frames, unfragmented.

use std::time::Duration;

use guildhall_gateway::simulated::{Stream, connect};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::timeout;

/// A client that cannot write gives up after this time.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// What a client reads.
#[derive(Debug)]
pub(crate) enum Heard {
    Payload(Value),
    Ping(Vec<u8>),
    /// With the code, if there is one.
    Closed(Option<u16>),
}

pub(crate) struct Reader {
    half: ReadHalf<Stream>,
    bytes: Vec<u8>,
}

pub(crate) struct Writer(WriteHalf<Stream>);

/// Connects to a gateway; `None` if nobody listens.
pub(crate) fn open(client: &str, gateway: &str) -> Option<(Reader, Writer)> {
    let stream = connect(client, &format!("{gateway}:clients"))?.ok()?;
    let (half, writer) = split(stream);
    let bytes = Vec::new();
    Some((Reader { half, bytes }, Writer(writer)))
}

impl Reader {
    /// The next frame. May be given up on and called again.
    pub(crate) async fn next(&mut self) -> Heard {
        loop {
            if let Some((opcode, payload)) = self.cut() {
                match opcode {
                    0x1 => {
                        if let Ok(payload) = serde_json::from_slice(&payload) {
                            return Heard::Payload(payload);
                        }
                        return Heard::Closed(None);
                    }
                    0x8 => {
                        let code = payload.first_chunk().copied().map(u16::from_be_bytes);
                        return Heard::Closed(code);
                    }
                    0x9 => return Heard::Ping(payload),
                    _ => {}
                }
                continue;
            }
            match self.half.read_buf(&mut self.bytes).await {
                Ok(0) | Err(_) => return Heard::Closed(None),
                Ok(_) => {}
            }
        }
    }

    fn cut(&mut self) -> Option<(u8, Vec<u8>)> {
        let (header, len) = match self.bytes.as_slice() {
            [_, 127, rest @ ..] => (10, u64::from_be_bytes(*rest.first_chunk()?) as usize),
            [_, 126, a, b, ..] => (4, usize::from(u16::from_be_bytes([*a, *b]))),
            [_, len @ 0..=125, ..] => (2, usize::from(*len)),
            _ => return None,
        };
        let opcode = self.bytes[0] & 0xF;
        let payload = self.bytes.get(header..header + len)?.to_vec();
        self.bytes.drain(..header + len);
        Some((opcode, payload))
    }
}

impl Writer {
    pub(crate) async fn say(&mut self, payload: &Value) {
        self.frame(0x1, payload.to_string().as_bytes()).await;
    }

    pub(crate) async fn pong(&mut self, payload: &[u8]) {
        self.frame(0xA, payload).await;
    }

    /// Masked with zeros. A socket that is broken is noticed by its reader.
    async fn frame(&mut self, opcode: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            len @ 0..126 => frame.push(0x80 | len as u8),
            len => {
                frame.push(0x80 | 126);
                frame.extend((len as u16).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        let _ = timeout(WRITE_MAX, self.0.write_all(&frame)).await;
    }
}
