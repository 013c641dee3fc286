//! The network: connections that keep their order, take their time, and end with either end.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::Shutdown,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    time::{Instant, Sleep, sleep_until},
};

use super::world::delay;

/// Bytes on their way in one direction; whoever writes more waits.
const WAY_BYTES_MAX: usize = 4 << 20;

thread_local! {
    static NET: RefCell<Option<Rc<Net>>> = const { RefCell::new(None) };
}

/// See the module.
#[derive(Default)]
pub(super) struct Net {
    listeners: RefCell<BTreeMap<String, mpsc::UnboundedSender<Stream>>>,
    /// Pairs, the lesser name first, and until when nothing arrives between them.
    cuts: RefCell<BTreeMap<(String, String), Instant>>,
    hushed: RefCell<BTreeSet<String>>,
}

impl Net {
    pub(super) fn cut(&self, one: &str, other: &str, until: Instant) {
        self.cuts.borrow_mut().insert(pair(one, other), until);
    }

    pub(super) fn hush(&self, node: &str) {
        self.hushed.borrow_mut().insert(node.to_owned());
    }

    /// What connects to this address from now on comes out here.
    pub(super) fn listen(&self, node: &str, address: &str) -> mpsc::UnboundedReceiver<Stream> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.hushed.borrow_mut().remove(node);
        self.listeners
            .borrow_mut()
            .insert(address.to_owned(), sender);
        receiver
    }

    pub(super) fn connect(&self, who: &str, address: &str) -> io::Result<Stream> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let mut listeners = self.listeners.borrow_mut();
        let listener = listeners.get(address).ok_or_else(refused)?;
        let (here, there) = (Rc::<str>::from(who), Rc::<str>::from(host(address)));
        let (out, back) = (Rc::default(), Rc::default());
        let stream = |here: &Rc<str>, there: &Rc<str>, incoming: &Way, outgoing: &Way| Stream {
            here: here.clone(),
            there: there.clone(),
            incoming: incoming.clone(),
            outgoing: outgoing.clone(),
        };
        if listener.send(stream(&there, &here, &out, &back)).is_err() {
            listeners.remove(address);
            return Err(refused());
        }
        Ok(stream(&here, &there, &back, &out))
    }

    fn cut_until(&self, one: &str, other: &str) -> Option<Instant> {
        let cuts = self.cuts.borrow();
        if cuts.is_empty() {
            return None;
        }
        cuts.get(&pair(one, other)).copied()
    }
}

/// Begins a network of this thread; see [`super::Simulation::begin`].
pub(super) fn begin() {
    NET.set(Some(Rc::default()));
}

pub(super) fn end() {
    NET.set(None);
}

pub(super) fn with<T>(act: impl FnOnce(&Net) -> T) -> Option<T> {
    let net = NET.with_borrow(Clone::clone)?;
    Some(act(&net))
}

/// Connects to a listener of the simulation as somebody with this name. `None`: there is no
/// simulation. Errors: nobody listens there.
pub fn connect(who: &str, address: &str) -> Option<io::Result<Stream>> {
    with(|net| net.connect(who, address))
}

/// The node of an address, which says more after a colon.
fn host(address: &str) -> &str {
    address.split_once(':').map_or(address, |(host, _)| host)
}

fn pair(one: &str, other: &str) -> (String, String) {
    let (a, b) = if one < other {
        (one, other)
    } else {
        (other, one)
    };
    (a.to_owned(), b.to_owned())
}

type Way = Rc<RefCell<OneWay>>;

/// One direction.
#[derive(Debug, Default)]
struct OneWay {
    /// What was sent, with the time of its arrival.
    chunks: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// Nothing more will be sent.
    ended: bool,
    /// Nobody reads.
    unread: bool,
    /// Who reads, while nothing is on its way.
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Wakes the reader when the first chunk arrives.
    timer: Option<Pin<Box<Sleep>>>,
}

impl OneWay {
    /// Waits for the arrival of the first chunk, which is to come.
    fn poll_arrival(&mut self, due: Instant, context: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(context)
    }

    /// The first chunk is on its way: a reader has nothing to do before it arrives.
    fn wake_at(&mut self, due: Instant) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        let mut context = Context::from_waker(&reader);
        if due <= Instant::now() || self.poll_arrival(due, &mut context).is_ready() {
            reader.wake();
        }
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Stream {
    here: Rc<str>,
    there: Rc<str>,
    incoming: Way,
    outgoing: Way,
}

impl Stream {
    pub(crate) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        self.read_with(into.len(), |bytes| {
            into[read..read + bytes.len()].copy_from_slice(bytes);
            read += bytes.len();
        })
    }

    /// Gives away what has come, at most so many bytes, and says how many these were.
    fn read_with(&self, room: usize, mut give: impl FnMut(&[u8])) -> io::Result<usize> {
        let mut way = self.incoming.borrow_mut();
        let now = Instant::now();
        let mut read = 0;
        if room == 0 {
            return Ok(0);
        }
        while read < room
            && let Some((due, chunk)) = way.chunks.front_mut()
            && *due <= now
        {
            let some = chunk.len().min(room - read);
            give(&chunk[..some]);
            chunk.advance(some);
            read += some;
            if chunk.is_empty() {
                way.chunks.pop_front();
            }
        }
        way.bytes -= read;
        if read > 0 {
            wake(&mut way.writer);
        } else if !(way.ended && way.chunks.is_empty()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(read)
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut way = self.outgoing.borrow_mut();
        if way.unread || way.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let some = bytes.len().min(WAY_BYTES_MAX.saturating_sub(way.bytes));
        if some == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let cut = with(|net| net.cut_until(&self.here, &self.there)).flatten();
        let before = way.chunks.back().map(|&(due, _)| due);
        let late = [cut, before].into_iter().flatten();
        let due = late.fold(Instant::now() + delay(), Instant::max);
        way.chunks
            .push_back((due, Bytes::copy_from_slice(&bytes[..some])));
        way.bytes += some;
        way.wake_at(due);
        Ok(some)
    }

    /// Of one task at a time.
    pub(crate) fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut way = self.incoming.borrow_mut();
        match way.chunks.front().map(|&(due, _)| due) {
            None if way.ended => Poll::Ready(Ok(())),
            None => {
                way.reader = Some(context.waker().clone());
                Poll::Pending
            }
            Some(due) if due <= Instant::now() => Poll::Ready(Ok(())),
            Some(due) => way.poll_arrival(due, context).map(Ok),
        }
    }

    /// Of one task at a time.
    pub(crate) fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut way = self.outgoing.borrow_mut();
        if way.unread || way.ended || way.bytes < WAY_BYTES_MAX {
            return Poll::Ready(Ok(()));
        }
        way.writer = Some(context.waker().clone());
        Poll::Pending
    }

    pub(crate) fn shut(&self, how: Shutdown) {
        let both = [&self.outgoing, &self.incoming];
        let ways = if how == Shutdown::Both { 2 } else { 1 };
        for way in &both[..ways] {
            let mut way = way.borrow_mut();
            way.ended = true;
            wake(&mut way.reader);
            wake(&mut way.writer);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let hushed = with(|net| net.hushed.borrow().contains(&*self.here));
        if hushed.unwrap_or(true) {
            return;
        }
        let mut way = self.incoming.borrow_mut();
        way.unread = true;
        wake(&mut way.writer);
        let mut way = self.outgoing.borrow_mut();
        way.ended = true;
        wake(&mut way.reader);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.read_with(buffer.remaining(), |bytes| buffer.put_slice(bytes)) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            if self.poll_read_ready(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            if self.poll_write_ready(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut way = self.outgoing.borrow_mut();
        way.ended = true;
        wake(&mut way.reader);
        Poll::Ready(Ok(()))
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::{super::Simulation, *};

    #[tokio::test(start_paused = true)]
    async fn a_reader_is_woken_when_what_was_sent_arrives_and_not_before() {
        let _simulation = Simulation::begin(1, 5, None);
        let listening = with(|net| net.listen("b", "b:1"));
        let here = connect("a", "b:1").unwrap().unwrap();
        let there = listening.unwrap().recv().await.unwrap();
        for byte in 0..50 {
            let mut looks = 0;
            let arrives = poll_fn(|context| {
                looks += 1;
                there.poll_read_ready(context)
            });
            let (arrived, sent) = tokio::join!(arrives, async { here.try_write(&[byte]) });
            arrived.unwrap();
            assert_eq!((sent.unwrap(), looks), (1, 2));
            let mut read = [0; 2];
            assert_eq!(there.try_read(&mut read).unwrap(), 1);
            assert_eq!(read[0], byte);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_behind_something_arrives_behind_it_and_the_end_last() {
        let _simulation = Simulation::begin(1, 5, None);
        let listening = with(|net| net.listen("b", "b:1"));
        let here = connect("a", "b:1").unwrap().unwrap();
        let there = listening.unwrap().recv().await.unwrap();
        let read = async {
            let mut all = Vec::new();
            loop {
                poll_fn(|context| there.poll_read_ready(context))
                    .await
                    .unwrap();
                let mut bytes = [0; 16];
                match there.try_read(&mut bytes) {
                    Ok(0) => return all,
                    Ok(read) => all.extend_from_slice(&bytes[..read]),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
        };
        let write = async {
            for byte in 0..50 {
                assert_eq!(here.try_write(&[byte]).unwrap(), 1);
                tokio::time::sleep(std::time::Duration::from_millis(u64::from(byte) % 3)).await;
            }
            drop(here);
        };
        let (all, ()) = tokio::join!(read, write);
        assert_eq!(all, (0..50).collect::<Vec<u8>>());
    }
}
