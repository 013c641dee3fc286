//! What waits to be written to a link. Bounded: a link that does not keep up is reset, and
//! its edge subscribes again from the positions it has.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    io::IoSlice,
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

use super::frame::FRAME_BYTES_MAX;
use crate::clock::select;

/// Bytes that may wait. When full the link is reset.
pub(crate) const OUTBOX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes above which subscriptions, and answers that can be large, wait for their turn.
const CROWDED_BYTES: usize = 8 * 1024 * 1024;
/// Frames joined into one write.
const WRITE_FRAMES_MAX: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    frames: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
    /// Who writes, while there is nothing to write.
    writer: RefCell<Option<Waker>>,
    /// The task of the link runs.
    attended: Cell<bool>,
    drained: Notify,
    /// Cancelled when the link must end.
    pub(crate) broken: CancellationToken,
}

impl Outbox {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self::default())
    }

    /// Appends a whole frame; breaks the link if it does not fit.
    pub(crate) fn push(&self, frame: Bytes) {
        if self.broken.is_cancelled() {
            return;
        }
        let bytes = self.bytes.get() + frame.len();
        if bytes > OUTBOX_BYTES_MAX || frame.len() > FRAME_BYTES_MAX {
            tracing::warn!(bytes, "a link does not keep up and is reset");
            self.frames.borrow_mut().clear();
            self.broken.cancel();
            return;
        }
        self.bytes.set(bytes);
        self.frames.borrow_mut().push_back(frame);
        if !self.attended.get() {
            self.wake_writer();
        }
    }

    /// The whole task of a link, which writes what it says itself without being woken for it.
    pub(crate) async fn attend<T>(&self, link: impl Future<Output = T>) -> T {
        let mut link = pin!(link);
        poll_fn(|context| {
            self.attended.set(true);
            let ended = link.as_mut().poll(context);
            self.attended.set(false);
            if !self.frames.borrow().is_empty() {
                self.wake_writer();
            }
            ended
        })
        .await
    }

    fn wake_writer(&self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Not a lot is still to be written.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes.get() <= CROWDED_BYTES
    }

    /// Waits while a lot is still to be written, or until the link breaks.
    pub(crate) async fn room(&self) {
        while !self.has_room() && !self.broken.is_cancelled() {
            select! {
                () = self.drained.notified() => {}
                () = self.broken.cancelled() => {}
            }
        }
    }

    /// Waits until there is something to write.
    async fn filled(&self) {
        poll_fn(|context| {
            if !self.frames.borrow().is_empty() {
                return Poll::Ready(());
            }
            self.writer.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Writes what comes, until the writer fails or the link breaks.
    pub(crate) async fn write_to(
        &self,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> std::io::Result<()> {
        let mut batch: VecDeque<Bytes> = VecDeque::new();
        loop {
            {
                let mut frames = self.frames.borrow_mut();
                let room = WRITE_FRAMES_MAX - batch.len().min(WRITE_FRAMES_MAX);
                let count = frames.len().min(room);
                batch.extend(frames.drain(..count));
            }
            if batch.is_empty() {
                self.filled().await;
                continue;
            }
            let slices: Vec<IoSlice<'_>> = batch.iter().map(|frame| IoSlice::new(frame)).collect();
            let mut written = writer.write_vectored(&slices).await?;
            if written == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            self.bytes.set(self.bytes.get().saturating_sub(written));
            self.drained.notify_waiters();
            while let Some(front) = batch.front_mut()
                && written > 0
            {
                let taken = written.min(front.len());
                front.advance(taken);
                written -= taken;
                if front.is_empty() {
                    batch.pop_front();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncReadExt,
        task::{LocalSet, spawn_local},
    };

    use super::*;

    #[test]
    fn a_full_outbox_breaks_its_link() {
        let outbox = Outbox::new();
        let frame = Bytes::from(vec![0; OUTBOX_BYTES_MAX / 2]);
        outbox.push(frame.clone());
        outbox.push(frame.clone());
        assert!(!outbox.broken.is_cancelled());
        outbox.push(frame);
        assert!(outbox.broken.is_cancelled());
    }

    #[tokio::test]
    async fn frames_are_written_in_order() {
        let outbox = Outbox::new();
        let frames: Vec<Bytes> = (0..500u32)
            .map(|n| Bytes::copy_from_slice(&n.to_le_bytes()))
            .collect();
        for frame in &frames {
            outbox.push(frame.clone());
        }
        let (mut writer, mut reader) = tokio::io::duplex(7);
        let read = async {
            let mut got = vec![0; 2000];
            reader.read_exact(&mut got).await.unwrap();
            got
        };
        let got = tokio::select! {
            _ = outbox.write_to(&mut writer) => unreachable!("it writes for ever"),
            got = read => got,
        };
        assert_eq!(got, frames.concat());
        assert_eq!(outbox.bytes.get(), 0);
    }

    /// How often a link's task runs that says something at its first run, before or after its writer
    /// has had its turn; over once that was written.
    async fn runs(says_first: bool) -> u32 {
        let (outbox, runs) = (Outbox::new(), Rc::new(Cell::new(0)));
        let (mut writer, mut reader) = tokio::io::duplex(64);
        let counted = runs.clone();
        let link = async move {
            let says = poll_fn(|_| {
                counted.set(counted.get() + 1);
                if counted.get() == 1 {
                    outbox.push(Bytes::from_static(b"x"));
                }
                Poll::<()>::Pending
            });
            let link = async {
                if says_first {
                    tokio::select! {
                        biased;
                        () = says => {}
                        _ = outbox.write_to(&mut writer) => {}
                    }
                } else {
                    tokio::select! {
                        biased;
                        _ = outbox.write_to(&mut writer) => {}
                        () = says => {}
                    }
                }
            };
            outbox.attend(link).await;
        };
        let link = spawn_local(link);
        let mut got = [0];
        reader.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"x");
        link.abort();
        runs.get()
    }

    #[tokio::test]
    async fn a_link_is_not_woken_for_what_it_has_written_already() {
        let test = async { (runs(true).await, runs(false).await) };
        assert_eq!(LocalSet::new().run_until(test).await, (1, 2));
    }
}
