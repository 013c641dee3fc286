//! The tasks of a connection: one reads its socket, one writes it while it is behind. They
//! only move bytes and wait; what the bytes mean is the core's business. No lock, no channel:
//! everything of a core is on its thread.

use std::{cell::RefCell, io, rc::Rc};

use tokio::net::TcpStream;

use crate::{
    bus::{Accepted, Pass, SessionKey},
    codec::Resume,
    core::{Core, Next},
    format::Format,
    handshake,
    socket::Socket,
    wire::{Fragments, Inbound},
};

/// What a core reads at once; shared by all its connections.
pub(crate) const READ_BYTES: usize = 16 * 1024;

/// Serves one accepted connection until it ends.
pub(crate) async fn serve(core: Rc<RefCell<Core>>, accepted: Accepted) {
    let Accepted { socket, pass } = accepted;
    let Ok(stream) = TcpStream::from_std(socket) else {
        return;
    };
    // Boxed, so that the task of an open connection does not carry hyper's state.
    let Some(upgraded) = Box::pin(handshake::upgrade(stream)).await else {
        return;
    };
    let stream = Rc::new(Socket::Tcp(upgraded.stream));
    let format = upgraded.format.unwrap_or_default();
    let key = core.borrow_mut().connection_opened(stream.clone(), format);
    if let Err(code) = upgraded.format {
        core.borrow_mut().close(key, code);
    }
    run(core, key, stream, pass, format, upgraded.unread).await;
}

/// Serves a connection that another core accepted and that resumes a session of this one.
pub(crate) async fn serve_resume(
    core: Rc<RefCell<Core>>,
    accepted: Accepted,
    format: Format,
    resume: Resume,
    unread: Vec<u8>,
) {
    let Accepted { socket, pass } = accepted;
    let Ok(stream) = TcpStream::from_std(socket) else {
        return;
    };
    let stream = Rc::new(Socket::Tcp(stream));
    let key = core
        .borrow_mut()
        .connection_resumes(stream.clone(), format, resume);
    run(core, key, stream, pass, format, unread).await;
}

async fn run(
    core: Rc<RefCell<Core>>,
    key: SessionKey,
    stream: Rc<Socket>,
    pass: Pass,
    format: Format,
    unread: Vec<u8>,
) {
    match read(&core, key, &stream, unread).await {
        End::Closed => core.borrow_mut().connection_ended(key),
        End::Moves(moves) => {
            core.borrow_mut().connection_moved(key);
            // A writer still holds the socket only while HELLO is stuck in it; such a client
            // finds its connection closed and resumes again.
            if let Some(stream) = Rc::into_inner(stream)
                && let Some(socket) = stream.into_std()
            {
                let accepted = Accepted { socket, pass };
                core.borrow()
                    .hand_over(accepted, format, moves.resume, moves.unread);
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

async fn read(core: &Rc<RefCell<Core>>, key: SessionKey, stream: &Socket, unread: Vec<u8>) -> End {
    // Holds memory only while a frame is incomplete.
    let mut buffer = unread;
    let mut fragments: Option<Box<Fragments>> = None;
    loop {
        let used = match consume(&mut core.borrow_mut(), key, &buffer, &mut fragments) {
            Consumed::UpTo(used) => used,
            Consumed::End(end) => return end,
        };
        if used == buffer.len() {
            buffer = Vec::new();
        } else {
            buffer.drain(..used);
        }
        loop {
            if stream.readable().await.is_err() {
                return End::Closed;
            }
            match core.borrow_mut().read_some(stream, &mut buffer) {
                Ok(0) => return End::Closed,
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return End::Closed,
            }
        }
    }
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
        let inbound = match core.frame_len(&bytes[at..]) {
            Ok(Some(len)) if len <= bytes.len() - at => {
                at += len;
                core.parse(&bytes[at - len..at], fragments)
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
