//! The clients of a fan-out: one process and one epoll loop that drains all sockets and
//! counts deliveries, of the floor and of the gateway alike.
//!
//! Commands:
//! - `plain <address> <connections>`: connects; answered `open`.
//! - `bare <address> <connections>`: connects and upgrades; answered `open`.
//! - `session <address> <token> <intents> <listening|deaf> <compress>`: connects to a gateway with
//!   this value of `compress`, or `none`, identifies and waits for READY and GUILD_CREATE;
//!   answered `open <bytes of both>`.
//! - `frame <length>`: the length of a text message that is a delivery; answered `set`.
//! - `binary <length>`: the least length of a binary message that is one; answered `set`.
//! - `await <deliveries>`: answered `done` once that many came since the last `frame`.
//! - `beat`: a heartbeat on every connection.
//! - `bytes`: answered `bytes <payload bytes of the deliveries>`.
//! - `overheard`: answered `overheard <deliveries to deaf sessions>`.
//! - `close`: ends all sessions and connections.

use std::{
    io::{self, BufRead, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    fd::OwnedFd,
};
use serde_json::json;

/// Longest wait for an answer while a session opens.
const OPEN_PATIENCE: Duration = Duration::from_secs(20);
/// The mask of our frames: any is legal, and none keeps the bytes as they are.
const NO_MASK: [u8; 4] = [0; 4];
/// A close frame with 1000, which ends the session too.
const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8];
const INPUT: EventData = EventData::new_u64(u64::MAX);

/// Serves until stdin ends; what goes wrong is the last line of stdout.
pub fn run() -> Result<()> {
    let result = serve();
    if let Err(error) = &result {
        println!("failed: {error:#}");
    }
    result
}

fn serve() -> Result<()> {
    let mut readers = Readers {
        epoll: epoll::create(CreateFlags::CLOEXEC)?,
        connections: Vec::new(),
        delivery: Delivery::Text(0),
        deliveries: 0,
        bytes: 0,
        overheard: 0,
        awaited: None,
    };
    let input = io::stdin();
    epoll::add(&readers.epoll, &input, INPUT, EventFlags::IN)?;
    let mut events = Vec::with_capacity(1024);
    let mut commands = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        epoll::wait(&readers.epoll, spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            // Copied out: the event is packed, its fields have no address.
            let data = event.data;
            if data == INPUT {
                let mut input = input.lock();
                let fresh = input.fill_buf()?;
                if fresh.is_empty() {
                    return Ok(());
                }
                let count = fresh.len();
                commands.extend_from_slice(fresh);
                input.consume(count);
            } else {
                readers.drain(data.u64() as usize, &mut buffer)?;
            }
        }
        while let Some(end) = commands.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = commands.drain(..=end).collect();
            readers.obey(std::str::from_utf8(&line)?.trim())?;
        }
        readers.answer();
    }
}

struct Readers {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    delivery: Delivery,
    deliveries: u64,
    /// Of their payloads.
    bytes: u64,
    overheard: u64,
    awaited: Option<u64>,
}

/// Which message is a delivery.
#[derive(Debug, Clone, Copy)]
enum Delivery {
    /// Text of this length.
    Text(usize),
    /// Binary of at least this length.
    Binary(usize),
}

impl Delivery {
    fn is(self, first_byte: u8, len: usize) -> bool {
        match self {
            Self::Text(length) => first_byte == 0x81 && len == length,
            Self::Binary(least) => first_byte == 0x82 && len >= least,
        }
    }
}

struct Connection {
    stream: TcpStream,
    frames: Frames,
    /// Deliveries, of any length that counted when they came.
    heard: u64,
    deaf: bool,
}

impl Readers {
    fn obey(&mut self, command: &str) -> Result<()> {
        let words: Vec<&str> = command.split(' ').collect();
        match words[..] {
            ["plain", address, count] => {
                let address: SocketAddr = address.parse()?;
                for _ in 0..count.parse::<usize>()? {
                    let stream = TcpStream::connect(address)?;
                    self.add(stream, false)?;
                }
                println!("open");
            }
            ["bare", address, count] => {
                let address: SocketAddr = address.parse()?;
                for _ in 0..count.parse::<usize>()? {
                    let stream = upgrade(address)?;
                    ensure!(stream.buffer().is_empty(), "more than the upgrade came");
                    self.add(stream.into_inner(), false)?;
                }
                println!("open");
            }
            ["session", address, token, intents, hearing, compress] => {
                let address = address.parse()?;
                let intents = intents.parse()?;
                let (stream, bytes) = match compress {
                    "none" => log_in(address, token, intents)?,
                    compress => log_in_compressed(address, token, intents, compress)?,
                };
                self.add(stream, hearing == "deaf")?;
                println!("open {bytes}");
            }
            ["frame", length] => self.count(Delivery::Text(length.parse()?)),
            ["binary", length] => self.count(Delivery::Binary(length.parse()?)),
            ["await", deliveries] => self.awaited = Some(deliveries.parse()?),
            ["beat"] => {
                for connection in &self.connections {
                    // READY, GUILD_CREATE, and what came since.
                    let beat = format!(r#"{{"op":1,"d":{}}}"#, connection.heard + 2);
                    (&connection.stream)
                        .write_all(&client_frame(beat.as_bytes()))
                        .context("a connection takes no heartbeat")?;
                }
            }
            ["bytes"] => println!("bytes {}", self.bytes),
            ["overheard"] => println!("overheard {}", self.overheard),
            ["close"] => {
                for connection in self.connections.drain(..) {
                    // A server that has closed already need not hear it.
                    let _ = (&connection.stream).write_all(&CLOSE);
                }
            }
            _ => bail!("no such command: {}", words[0]),
        }
        Ok(())
    }

    fn count(&mut self, delivery: Delivery) {
        self.delivery = delivery;
        self.deliveries = 0;
        self.bytes = 0;
        self.overheard = 0;
        println!("set");
    }

    fn add(&mut self, stream: TcpStream, deaf: bool) -> Result<()> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let place = EventData::new_u64(self.connections.len() as u64);
        epoll::add(&self.epoll, &stream, place, EventFlags::IN)?;
        self.connections.push(Connection {
            stream,
            frames: Frames::default(),
            heard: 0,
            deaf,
        });
        Ok(())
    }

    fn drain(&mut self, place: usize, buffer: &mut [u8]) -> Result<()> {
        // Closed by a command of the same round.
        let Some(connection) = self.connections.get_mut(place) else {
            return Ok(());
        };
        loop {
            match connection.stream.read(buffer) {
                Ok(0) => bail!("the server closed a connection"),
                Ok(read) => {
                    let (found, bytes) = connection.frames.count(&buffer[..read], self.delivery)?;
                    connection.heard += found;
                    if connection.deaf {
                        self.overheard += found;
                    } else {
                        self.deliveries += found;
                        self.bytes += bytes;
                    }
                    if read < buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("a connection broke"),
            }
        }
    }

    fn answer(&mut self) {
        if self.awaited.is_some_and(|count| self.deliveries >= count) {
            self.awaited = None;
            println!("done");
        }
    }
}

/// Counts whole frames in a byte stream.
#[derive(Default)]
struct Frames {
    header: [u8; 10],
    have: usize,
    /// Bytes of the current payload that are still to come.
    left: usize,
}

impl Frames {
    /// Deliveries whose header ends in these bytes, and the bytes of their payloads.
    fn count(&mut self, mut bytes: &[u8], delivery: Delivery) -> Result<(u64, u64)> {
        let (mut found, mut found_bytes) = (0, 0);
        while !bytes.is_empty() {
            let skip = self.left.min(bytes.len());
            self.left -= skip;
            bytes = &bytes[skip..];
            while self.left == 0
                && let Some((&byte, rest)) = bytes.split_first()
            {
                bytes = rest;
                self.header[self.have] = byte;
                self.have += 1;
                if let Some(len) = payload_len(&self.header[..self.have]) {
                    ensure!(self.header[0] & 0xF != 0x8, "the server sent a close frame");
                    if delivery.is(self.header[0], len) {
                        found += 1;
                        found_bytes += len as u64;
                    }
                    self.have = 0;
                    self.left = len;
                }
            }
        }
        Ok((found, found_bytes))
    }
}

/// The payload's length once a server's frame header is complete.
pub(crate) fn payload_len(header: &[u8]) -> Option<usize> {
    match (*header.get(1)?, &header[2..]) {
        (126, &[a, b]) => Some(usize::from(u16::from_be_bytes([a, b]))),
        (127, &[a, b, c, d, e, f, g, h]) => {
            usize::try_from(u64::from_be_bytes([a, b, c, d, e, f, g, h])).ok()
        }
        (126 | 127, _) => None,
        (len, _) => Some(usize::from(len)),
    }
}

/// Opens a WebSocket of JSON.
fn upgrade(address: SocketAddr) -> Result<io::BufReader<TcpStream>> {
    upgrade_with(address, "")
}

fn upgrade_with(address: SocketAddr, query: &str) -> Result<io::BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(OPEN_PATIENCE))?;
    let request = format!(
        "GET /?v=10&encoding=json{query} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: bG9hZCB0ZXN0IGNsaWVudA==\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut stream = io::BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    ensure!(line.starts_with("HTTP/1.1 101"), "no upgrade: {line}");
    while !line.trim().is_empty() {
        line.clear();
        stream.read_line(&mut line)?;
    }
    Ok(stream)
}

/// Opens a session; back come its socket and the bytes of READY and GUILD_CREATE.
fn log_in(address: SocketAddr, token: &str, intents: u32) -> Result<(TcpStream, usize)> {
    let mut stream = upgrade(address)?;
    let hello = read_text(&mut stream)?;
    ensure!(hello.contains(r#""op":10"#), "no HELLO");
    stream.get_mut().write_all(&identify(token, intents))?;
    let ready = read_text(&mut stream)?;
    ensure!(
        ready.starts_with(r#"{"t":"READY""#),
        "no READY but {ready:.60}"
    );
    let guild = read_text(&mut stream)?;
    ensure!(
        guild.starts_with(r#"{"t":"GUILD_CREATE""#),
        "no GUILD_CREATE but {guild:.60}"
    );
    ensure!(stream.buffer().is_empty(), "more than GUILD_CREATE came");
    Ok((stream.into_inner(), ready.len() + guild.len()))
}

/// The same over a compressed stream, which is not looked into.
fn log_in_compressed(
    address: SocketAddr,
    token: &str,
    intents: u32,
    compress: &str,
) -> Result<(TcpStream, usize)> {
    let mut stream = upgrade_with(address, &format!("&compress={compress}"))?;
    read_message(&mut stream, 0x82).context("no HELLO")?;
    stream.get_mut().write_all(&identify(token, intents))?;
    let ready = read_message(&mut stream, 0x82).context("no READY")?;
    let guild = read_message(&mut stream, 0x82).context("no GUILD_CREATE")?;
    ensure!(stream.buffer().is_empty(), "more than GUILD_CREATE came");
    Ok((stream.into_inner(), ready.len() + guild.len()))
}

/// The frame of an IDENTIFY.
fn identify(token: &str, intents: u32) -> Vec<u8> {
    let identify = json!({"op": 2, "d": {
        "token": token,
        "intents": intents,
        "properties": {"os": "linux", "browser": "load-tests", "device": "load-tests"},
    }});
    client_frame(identify.to_string().as_bytes())
}

/// A session of its own that waits for one message at a time.
pub struct Listener {
    stream: TcpStream,
    heard: Vec<u8>,
}

impl Listener {
    /// Logs in and waits for GUILD_CREATE. Blocks.
    pub fn log_in(address: SocketAddr, token: &str, intents: u32) -> Result<Self> {
        let (stream, _) = log_in(address, token, intents)?;
        let heard = Vec::with_capacity(64 * 1024);
        Ok(Self { stream, heard })
    }

    /// Reads on until `word` has come; blocks at most [`OPEN_PATIENCE`] for each read.
    pub fn hear(&mut self, word: &[u8]) -> Result<()> {
        self.heard.clear();
        let mut buffer = [0; 16 * 1024];
        while !self.heard.windows(word.len()).any(|bytes| bytes == word) {
            let read = self.stream.read(&mut buffer)?;
            ensure!(read > 0, "the server closed a connection");
            self.heard.extend_from_slice(&buffer[..read]);
        }
        Ok(())
    }
}

fn read_text(stream: &mut impl Read) -> Result<String> {
    Ok(String::from_utf8(read_message(stream, 0x81)?)?)
}

/// The payload of a message whose first byte is this.
fn read_message(stream: &mut impl Read, first_byte: u8) -> Result<Vec<u8>> {
    let mut header = [0; 10];
    let mut have = 0;
    let len = loop {
        stream.read_exact(&mut header[have..=have])?;
        have += 1;
        if let Some(len) = payload_len(&header[..have]) {
            break len;
        }
    };
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload)?;
    if header[0] != first_byte {
        let code = payload
            .first_chunk()
            .map_or(0, |code| u16::from_be_bytes(*code));
        bail!("closed with {code}");
    }
    Ok(payload)
}

/// A text frame as clients send it.
pub(crate) fn client_frame(text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match text.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&NO_MASK);
    frame.extend_from_slice(text);
    frame
}

#[cfg(test)]
mod tests {
    use guildhall_gateway::dispatch::{Frame, frame};

    use super::*;

    #[test]
    fn frames_are_counted_wherever_the_stream_is_cut() {
        let mut stream = Vec::new();
        for len in [600, 5, 600, 70_000, 125, 126, 600] {
            stream.extend(frame(Frame::Text, &vec![b'x'; len]));
        }
        stream.extend(frame(Frame::Pong, &[0; 60]));
        for piece in [1, 2, 7, 599, 604, 1000, stream.len()] {
            let mut frames = Frames::default();
            let found: u64 = stream
                .chunks(piece)
                .map(|bytes| frames.count(bytes, Delivery::Text(600)).unwrap().0)
                .sum();
            assert_eq!(found, 3, "in pieces of {piece}");
            assert_eq!((frames.left, frames.have), (0, 0));
        }
    }

    #[test]
    fn binary_messages_count_from_their_least_length() {
        let mut stream = Vec::new();
        for len in [40, 100, 300] {
            stream.extend(frame(Frame::Binary, &vec![b'x'; len]));
        }
        stream.extend(frame(Frame::Text, &[b'x'; 300]));
        let counted = Frames::default().count(&stream, Delivery::Binary(100));
        assert_eq!(counted.unwrap(), (2, 400));
    }

    #[test]
    fn a_close_frame_is_an_error() {
        let close = frame(Frame::Close, &4000u16.to_be_bytes());
        assert!(
            Frames::default()
                .count(&close, Delivery::Text(600))
                .is_err()
        );
    }
}
