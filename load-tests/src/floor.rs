//! The kernel floor: what the kernel alone takes to deliver a frame.
//!
//! One thread, one epoll loop, one `send()` of a ready frame per delivery; nothing else. It
//! is a process of its own, so that its CPU time is measured alone, and its clients are the
//! same readers that drain the gateway's sockets.
//!
//! Commands: `frame <hex>`, `accept <connections>` (answered `accepted`), `send <frames>`
//! (that many frames to every connection, one by one), `burst <frames>` (the same by one `send()` for
//! each connection), `close`.

use std::{
    io::{self, BufRead, ErrorKind, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use anyhow::{Context, Result, bail};
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
};

/// Serves until stdin ends.
pub fn run() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("listening {}", listener.local_addr()?);
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let input = io::stdin();
    epoll::add(&epoll, &input, EventData::new_u64(0), EventFlags::IN)?;
    let mut events = Vec::with_capacity(16);
    let mut commands = Vec::new();
    let mut floor = Floor::default();
    loop {
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        events.clear();
        let mut input = input.lock();
        let fresh = input.fill_buf()?;
        if fresh.is_empty() {
            return Ok(());
        }
        let count = fresh.len();
        commands.extend_from_slice(fresh);
        input.consume(count);
        while let Some(end) = commands.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = commands.drain(..=end).collect();
            floor.obey(std::str::from_utf8(&line)?.trim(), &listener)?;
        }
    }
}

#[derive(Default)]
struct Floor {
    frame: Vec<u8>,
    connections: Vec<TcpStream>,
}

impl Floor {
    fn obey(&mut self, command: &str, listener: &TcpListener) -> Result<()> {
        let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
        match word {
            "frame" => self.frame = hex::decode(rest)?,
            "accept" => {
                for _ in 0..rest.parse::<usize>()? {
                    let (stream, _) = listener.accept()?;
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    self.connections.push(stream);
                }
                println!("accepted");
            }
            "send" => {
                for _ in 0..rest.parse::<usize>()? {
                    self.send_to_all(&self.frame)?;
                }
            }
            "burst" => {
                let bytes = self.frame.repeat(rest.parse()?);
                self.send_to_all(&bytes)?;
            }
            "close" => self.connections.clear(),
            _ => bail!("no such command: {word}"),
        }
        Ok(())
    }

    fn send_to_all(&self, bytes: &[u8]) -> Result<()> {
        for mut stream in &self.connections {
            match stream.write(bytes) {
                Ok(sent) if sent == bytes.len() => {}
                // The readers keep up with a burst, or the burst fits the socket's buffer; a
                // server that waits for room is no floor.
                Ok(_) => bail!("a socket took only a part of what it was sent"),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    bail!("a socket had no room")
                }
                Err(error) => return Err(error).context("a reader is gone"),
            }
        }
        Ok(())
    }
}
