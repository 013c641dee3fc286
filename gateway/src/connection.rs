//! The tasks of a connection: one reads its socket, one writes it while it is behind. They
//! only move bytes and wait; what the bytes mean is the core's business. No lock, no channel:
//! everything of a core is on its thread.

use std::{cell::RefCell, io, rc::Rc};

use tokio::{net::TcpStream, task::spawn_local};

use crate::{
    bus::{Accepted, Handover, Pass},
    codec::Resume,
    core::{Core, Next},
    format::Format,
    handshake,
    names::SessionKey,
    socket::Socket,
    wire::{Fragments, Inbound},
};

/// What a core reads at once; shared by all its connections.
pub(crate) const READ_BYTES: usize = 16 * 1024;

/// An open connection.
struct Open {
    core: Rc<RefCell<Core>>,
    key: SessionKey,
    stream: Rc<Socket>,
    pass: Pass,
    format: Format,
    /// Holds memory only while a frame is incomplete.
    unread: Vec<u8>,
}

/// Opens an accepted connection. It is served by a task of its own, which does not carry what the
/// handshake needs.
pub(crate) async fn serve(core: Rc<RefCell<Core>>, accepted: Accepted) {
    let Accepted { socket, pass } = accepted;
    let Ok(stream) = TcpStream::from_std(socket) else {
        return;
    };
    let Some(upgraded) = handshake::upgrade(stream).await else {
        return;
    };
    let stream = Rc::new(Socket::Tcp(upgraded.stream));
    let format = upgraded.format.unwrap_or_default();
    let key = core.borrow_mut().connection_opened(stream.clone(), format);
    if let Err(code) = upgraded.format {
        core.borrow_mut().close(key, code);
    }
    let unread = upgraded.unread;
    Open::start(core, key, stream, pass, format, unread);
}

/// Serves a connection that another core accepted and that resumes a session of this one.
pub(crate) async fn serve_resume(core: Rc<RefCell<Core>>, handover: Handover) {
    let Handover {
        socket: Accepted { socket, pass },
        format,
        life,
        resume,
        unread,
    } = handover;
    let Ok(stream) = TcpStream::from_std(socket) else {
        return;
    };
    let stream = Rc::new(Socket::Tcp(stream));
    let key = core
        .borrow_mut()
        .connection_resumes(stream.clone(), format, life, resume);
    Open::start(core, key, stream, pass, format, unread);
}

/// Serves a client of a simulation.
#[cfg(feature = "simulated")]
pub(crate) fn serve_simulated(
    core: Rc<RefCell<Core>>,
    stream: crate::simulated::net::Stream,
    pass: Pass,
) {
    let (stream, format) = (Rc::new(Socket::Simulated(stream)), Format::default());
    let key = core.borrow_mut().connection_opened(stream.clone(), format);
    Open::start(core, key, stream, pass, format, Vec::new());
}

impl Open {
    fn start(
        core: Rc<RefCell<Core>>,
        key: SessionKey,
        stream: Rc<Socket>,
        pass: Pass,
        format: Format,
        unread: Vec<u8>,
    ) {
        let open = Self {
            core,
            key,
            stream,
            pass,
            format,
            unread,
        };
        spawn_local(open.run());
    }

    /// Until it ends. Not an `async fn`: that has its arguments twice, and every session has one.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` would be larger")]
    fn run(mut self) -> impl Future<Output = ()> {
        async move {
            let mut fragments: Option<Box<Fragments>> = None;
            let end = loop {
                if let Some(end) = self.consume(&mut fragments) {
                    break end;
                }
                if self.stream.readable().await.is_err() {
                    break End::Closed;
                }
                match self.read_some() {
                    Ok(0) => break End::Closed,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => break End::Closed,
                }
            };
            self.end(end);
        }
    }

    fn read_some(&mut self) -> io::Result<usize> {
        let mut core = self.core.borrow_mut();
        core.read_some(&self.stream, &mut self.unread)
    }

    /// Acts on the whole frames that were read; why the connection is not read any more, if so.
    fn consume(&mut self, fragments: &mut Option<Box<Fragments>>) -> Option<End> {
        let mut core = self.core.borrow_mut();
        let used = match consume(&mut core, self.key, &self.unread, fragments) {
            Consumed::UpTo(used) => used,
            Consumed::End(end) => return Some(end),
        };
        if used == self.unread.len() {
            self.unread = Vec::new();
        } else {
            self.unread.drain(..used);
        }
        None
    }

    fn end(self, end: End) {
        let Self {
            core, key, stream, ..
        } = self;
        match end {
            End::Closed => core.borrow_mut().connection_ended(key),
            End::Moves(moves) => {
                let Some(life) = core.borrow_mut().connection_moved(key) else {
                    return;
                };
                // A writer still holds the socket only while HELLO is stuck in it; such a client
                // finds its connection closed and resumes again.
                if let Some(stream) = Rc::into_inner(stream)
                    && let Some(socket) = stream.into_std()
                {
                    let socket = Accepted {
                        socket,
                        pass: self.pass,
                    };
                    core.borrow().hand_over(Handover {
                        socket,
                        format: self.format,
                        life,
                        resume: moves.resume,
                        unread: moves.unread,
                    });
                }
            }
        }
    }
}

/// How a connection ended here.
enum End {
    /// The client has gone, or the socket broke.
    Closed,
    Moves(Box<Moves>),
}

/// A RESUME whose session lives on another core.
struct Moves {
    resume: Resume,
    unread: Vec<u8>,
}

enum Consumed {
    /// All whole frames, which end here.
    UpTo(usize),
    End(End),
}

fn consume(
    core: &mut Core,
    key: SessionKey,
    bytes: &[u8],
    fragments: &mut Option<Box<Fragments>>,
) -> Consumed {
    let mut at = 0;
    loop {
        if core.is_closing(key) {
            // A close frame is out; what the client still sends is of no interest.
            return Consumed::UpTo(bytes.len());
        }
        let inbound = match core.frame_len(key, &bytes[at..]) {
            Ok(Some(len)) if len <= bytes.len() - at => {
                at += len;
                core.parse(key, &bytes[at - len..at], fragments)
            }
            Ok(_) => {
                core.flush();
                return Consumed::UpTo(at);
            }
            Err(code) => Err(code),
        };
        match inbound {
            Ok(Inbound::Close(code)) => core.echo_close(key, code),
            Ok(inbound) => {
                if let Next::Move(resume) = core.received(key, inbound) {
                    let unread = bytes[at..].to_vec();
                    return Consumed::End(End::Moves(Box::new(Moves {
                        resume: *resume,
                        unread,
                    })));
                }
            }
            Err(code) => core.close(key, code),
        }
    }
}

/// Writes what a connection is behind with, as its socket takes it.
pub(crate) async fn write(core: Rc<RefCell<Core>>, key: SessionKey, stream: Rc<Socket>) {
    while stream.writable().await.is_ok() {
        if !core.borrow_mut().write_more(key) {
            return;
        }
    }
}
