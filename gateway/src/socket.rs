//! A client's socket, as cores use it: they write what it takes and never wait for it.
//! In tests a script stands in for the kernel, in simulations an object of this process.

use std::{future::poll_fn, io, net::Shutdown};

use tokio::net::TcpStream;

/// See the module.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(test)]
    Script(Script),
    #[cfg(feature = "simulated")]
    Simulated(crate::simulated::net::Stream),
}

impl Socket {
    /// Writes what the socket takes at once.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            #[cfg(test)]
            Self::Script(script) => script.try_write(bytes),
            #[cfg(feature = "simulated")]
            Self::Simulated(stream) => stream.try_write(bytes),
        }
    }

    /// Reads what is there.
    pub(crate) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(into),
            #[cfg(test)]
            Self::Script(_) => Err(io::ErrorKind::WouldBlock.into()),
            #[cfg(feature = "simulated")]
            Self::Simulated(stream) => stream.try_read(into),
        }
    }

    /// Of one task at a time. Smaller than the stream's own, which any number may wait for: every
    /// open connection has one.
    pub(crate) fn readable(&self) -> impl Future<Output = io::Result<()>> {
        poll_fn(|context| match self {
            Self::Tcp(stream) => stream.poll_read_ready(context),
            #[cfg(test)]
            Self::Script(_) => std::task::Poll::Pending,
            #[cfg(feature = "simulated")]
            Self::Simulated(stream) => stream.poll_read_ready(context),
        })
    }

    /// Of one task at a time.
    pub(crate) fn writable(&self) -> impl Future<Output = io::Result<()>> {
        poll_fn(|context| match self {
            Self::Tcp(stream) => stream.poll_write_ready(context),
            #[cfg(test)]
            Self::Script(_) => std::task::Poll::Pending,
            #[cfg(feature = "simulated")]
            Self::Simulated(stream) => stream.poll_write_ready(context),
        })
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        match self {
            // Fails only if the socket is no longer connected, which is what is wanted.
            Self::Tcp(stream) => {
                let _ = socket2::SockRef::from(stream).shutdown(how);
            }
            #[cfg(test)]
            Self::Script(script) => script.shutdown(),
            #[cfg(feature = "simulated")]
            Self::Simulated(stream) => stream.shut(how),
        }
    }

    /// For another thread; `None` if it cannot be.
    pub(crate) fn into_std(self) -> Option<std::net::TcpStream> {
        match self {
            Self::Tcp(stream) => stream.into_std().ok(),
            #[cfg(test)]
            Self::Script(_) => None,
            #[cfg(feature = "simulated")]
            Self::Simulated(_) => None,
        }
    }
}

/// A socket whose room is the test's to give, and that keeps what was written.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Script(std::cell::RefCell<Scripted>);

#[cfg(test)]
#[derive(Debug, Default)]
struct Scripted {
    written: Vec<u8>,
    room: usize,
    is_shut: bool,
}

#[cfg(test)]
impl Script {
    pub(crate) fn with_room(room: usize) -> Self {
        let script = Self::default();
        script.0.borrow_mut().room = room;
        script
    }

    pub(crate) fn add_room(&self, room: usize) {
        let mut script = self.0.borrow_mut();
        script.room = script.room.saturating_add(room);
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.0.borrow().is_shut
    }

    /// What was written since the last time.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.borrow_mut().written)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut script = self.0.borrow_mut();
        if script.is_shut {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(script.room);
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        script.room -= taken;
        script.written.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn shutdown(&self) {
        self.0.borrow_mut().is_shut = true;
    }
}
