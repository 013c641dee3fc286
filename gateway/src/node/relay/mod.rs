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
            self.buffer.reserve(READ_BYTES.min(bytes_max));
            match timeout(silence_max, self.reader.read_buf(&mut self.buffer)).await {
                Ok(Ok(0)) => return Err(LinkError::Closed),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(LinkError::Silent),
            }
        }
    }
}
