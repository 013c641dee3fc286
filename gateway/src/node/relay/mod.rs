//! Links between gateways: an edge connects to every owner it needs and gets, per event,
//! one frame whatever the number of its cores and sessions.

pub(crate) mod auth;
mod events;
pub(crate) mod frame;
pub(crate) mod link;
pub(crate) mod outbox;
pub(crate) mod server;

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use self::frame::{BadFrame, Frame};

/// Time between pings of the connecting side.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Silence after which a link counts as broken.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// Time to connect, and to prove oneself.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;
/// Room for less is not read into. More would be a new buffer for each event that comes alone: it
/// holds the one that it came in.
const READ_BYTES_MIN: usize = 4 * 1024;

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] BadFrame),
    #[error("the other side closed")]
    Closed,
    #[error("the other side was silent for too long")]
    Silent,
    #[error("the other side does not know the cluster key, or is another node")]
    Unproven,
    #[error("the other side speaks version {0} of the relay")]
    Version(u16),
    #[error("an unexpected frame")]
    Unexpected,
}

/// Reads whole frames.
struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: BytesMut::new(),
        }
    }

    /// The next frame of at most `bytes_max`. Waits for each piece of it no longer than `silence_max`.
    async fn next(&mut self, bytes_max: usize, silence_max: Duration) -> Result<Frame, LinkError> {
        loop {
            if let Some(payload) = frame::cut(&mut self.buffer, bytes_max)? {
                return Ok(Frame::decode(payload)?);
            }
            if self.buffer.capacity() - self.buffer.len() < READ_BYTES_MIN {
                self.buffer.reserve(READ_BYTES.min(bytes_max));
            }
            match timeout(silence_max, self.reader.read_buf(&mut self.buffer)).await {
                Ok(Ok(0)) => return Err(LinkError::Closed),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(LinkError::Silent),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use guildhall_shared::{
        Id,
        envelope::{Durability, Envelope, Visibility},
        gateway::{EventKind, Intents},
        shard::Position,
    };
    use tokio::io::AsyncWriteExt;

    use super::{
        frame::{FRAME_BYTES_MAX, HELLO_BYTES_MAX},
        *,
    };

    /// An event whose body has so many bytes.
    fn event(bytes: usize) -> Frame {
        Frame::Ev(Arc::new(Envelope {
            realm: Id::new(77 << 22).unwrap(),
            durability: Durability::Durable(Position { era: 1, seq: 1 }),
            kind: EventKind::MessageCreate,
            vis: Visibility::realm(Intents::empty()),
            at_ms: 0,
            trace: 0,
            body: vec![b'x'; bytes].into(),
            alt: None,
        }))
    }

    /// Frames that come one after the other, as they were read.
    async fn read(frames: &[Frame], bytes_max: usize) -> Vec<Frame> {
        let (mut there, here) = tokio::io::duplex(READ_BYTES);
        let mut reader = FrameReader::new(here);
        let mut read = Vec::new();
        for frame in frames {
            there.write_all(&frame.encode()).await.unwrap();
            read.push(reader.next(bytes_max, SILENCE_MAX).await.unwrap());
        }
        read
    }

    #[tokio::test]
    async fn events_that_come_alone_and_are_kept_share_a_buffer() {
        let events: Vec<Frame> = (1..=50).map(event).collect();
        let read = read(&events, FRAME_BYTES_MAX).await;
        assert_eq!(read, events);
        let begin = |frame: &Frame| match frame {
            Frame::Ev(event) => event.body.as_ptr().addr(),
            _ => panic!("{frame:?}"),
        };
        let begins: Vec<usize> = read.iter().map(begin).collect();
        let (first, last) = (begins.iter().min().unwrap(), begins.iter().max().unwrap());
        assert!(last - first < READ_BYTES, "{begins:?}");
    }

    #[tokio::test]
    async fn frames_of_any_size_are_read_whole() {
        let events: Vec<Frame> = [1, 5_000, 70_000, 3, 400_000, 2].map(event).to_vec();
        for pieces in [7, 999, READ_BYTES] {
            let bytes: Vec<u8> = events.iter().flat_map(Frame::encode).collect();
            let (mut there, here) = tokio::io::duplex(pieces);
            let mut reader = FrameReader::new(here);
            let write = async { there.write_all(&bytes).await.unwrap() };
            let read = async {
                let mut read = Vec::new();
                for _ in &events {
                    read.push(reader.next(FRAME_BYTES_MAX, SILENCE_MAX).await.unwrap());
                }
                read
            };
            let ((), read) = tokio::join!(write, read);
            assert!(read == events, "{pieces}");
        }
        let small = [Frame::Ping, Frame::Proof([7; 32]), Frame::Pong];
        assert_eq!(read(&small, HELLO_BYTES_MAX).await, small);
    }
}
