//! A client's socket: it waits only so long for a client that takes nothing of its answers.
//!
//! How long a client may take to send is not watched here: see `http`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Has a clock only while a write waits.
#[derive(Debug)]
pub(crate) struct Socket<T> {
    stream: T,
    stall_max: Duration,
    stall: Option<Pin<Box<Sleep>>>,
}

impl<T> Socket<T> {
    /// Writes fail after `stall_max` in which the client took nothing.
    pub(crate) fn new(stream: T, stall_max: Duration) -> Self {
        Self {
            stream,
            stall_max,
            stall: None,
        }
    }

    fn in_time(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let stall_max = self.stall_max;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(stall_max)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Socket<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Socket<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::timeout,
    };

    use super::*;

    #[tokio::test]
    async fn only_a_client_that_takes_nothing_is_given_up() {
        let (near, _far) = duplex(4);
        let mut socket = Socket::new(near, Duration::from_millis(50));
        socket.write_all(b"full").await.unwrap();
        let error = socket.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);

        let (near, mut far) = duplex(4);
        let mut socket = Socket::new(near, Duration::from_secs(60));
        let taken = async {
            let mut bytes = [0; 12];
            far.read_exact(&mut bytes).await.unwrap();
            bytes
        };
        let both = async { tokio::join!(socket.write_all(b"twelve bytes"), taken) };
        let (written, taken) = timeout(Duration::from_secs(10), both).await.unwrap();
        written.unwrap();
        assert_eq!(&taken, b"twelve bytes");
        assert!(socket.stall.is_none());
    }
}
