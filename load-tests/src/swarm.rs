//! Thousands of clients that come, go and listen at the same time: one process, one epoll loop.
//!
//! Commands, each answered by one line:
//! - `plain <address> <connections>`: connects without a word; `open`.
//! - `open <address> <connections>`: connects all at once, upgrades, waits for HELLO;
//!   `open <ms of each, as p50 p99 max>`, from its start to HELLO.
//! - `tokens <token>…`: who the connections are, in order; `tokens`.
//! - `identify <intents> <shard> <of>`: IDENTIFYs on all connections at once and waits for READY
//!   (with `guilds <count>`, for that many GUILD_CREATEs of each, too); `ready <p50 p99 max> <op 9s>`.
//!   As with `open` and `return`, those who are through send heartbeats if it takes long.
//! - `drop`: breaks all connections without a close frame; `dropped`.
//! - `return <address>`: connects all dropped ones again at once and RESUMEs each, or IDENTIFYs it
//!   when it is told op 9; `returned <resumed> <identified anew> <p50 p99 max>`, from connecting to
//!   RESUMED or READY. A connection that breaks meanwhile tries again after a pause.
//! - `mute <connections>`: the first ones are not read from any more; `mute`.
//! - `frame <length>`: the length of a text message that is a delivery; `set`.
//! - `named <event>`: dispatches of this name are deliveries; `set`.
//! - `await <deliveries>`: `done` once that many came to those who read since the last `set`.
//! - `latency <ns of each message on the machine's clock>…`: when the n-th delivery of each connection
//!   since the last `set` came, against the n-th of these; `latency <p50 p99 max ms> <deliveries>`.
//! - `beat`: a heartbeat on every connection, with what it got last; `beat`.
//! - `say <connections> <text>`: the first ones send a text; `said`.
//! - `close`: closes all connections; `closed`.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{self, BufRead, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    fd::OwnedFd,
};
use serde_json::json;

use crate::{
    clients::BEAT_PERIOD,
    readers::{client_frame, payload_len},
    statistics::quantile,
};

/// Longest time for one command.
const PATIENCE: Duration = Duration::from_secs(120);
/// Connections begun at once: the rest of a storm follows as these are through the kernel's hands.
const CONNECTING_MAX: usize = 4096;
/// Pause before a broken connection, or one told op 9, tries again: this and up to as much again.
const RETRY_PAUSE: Duration = Duration::from_millis(1000);
/// Longest unfinished message: of a thousand members.
const TEXT_MAX: usize = 4 << 20;
const INPUT: EventData = EventData::new_u64(u64::MAX);

/// Serves until stdin ends; what goes wrong is the last line of stdout.
pub fn run() -> Result<()> {
    let result = Swarm::new().and_then(Swarm::serve);
    if let Err(error) = &result {
        println!("failed: {error:#}");
    }
    result
}

/// Now, on the clock that all processes of this machine share.
pub fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_nanos() as u64
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Not connected (dropped, or waiting for its turn).
    Away,
    /// The request is sent.
    Upgrading,
    /// The answer to it came; HELLO has not.
    AwaitingHello,
    Hello,
    /// IDENTIFY or RESUME is sent.
    Asked,
    Live,
}

/// What a connection does once HELLO has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    Resume,
    Identify,
}

struct Client {
    stream: Option<TcpStream>,
    state: State,
    token: String,
    session: String,
    s: u64,
    /// Guilds that are still to come before it counts as live.
    guilds: usize,
    input: Vec<u8>,
    began: Instant,
    muted: bool,
    /// When deliveries came since the last `set`.
    came: Vec<u64>,
    anew: bool,
}

/// Which text messages are deliveries.
enum Delivery {
    OfLength(usize),
    /// A dispatch of a name: what it starts with.
    Starting(String),
}

impl Delivery {
    fn is(&self, text: &[u8]) -> bool {
        match self {
            Self::OfLength(length) => text.len() == *length,
            Self::Starting(start) => text.starts_with(start.as_bytes()),
        }
    }
}

struct Swarm {
    epoll: OwnedFd,
    clients: Vec<Client>,
    address: Option<SocketAddr>,
    then: Then,
    intents: u32,
    shard: (u32, u32),
    guilds: usize,
    delivery: Delivery,
    keep_times: bool,
    deliveries: u64,
    awaited: Option<u64>,
    /// Clients that try (again) at a time.
    retries: BinaryHeap<Reverse<(Instant, usize)>>,
    connecting: usize,
    /// Clients that have to come to a state for the present command.
    left: usize,
    took_ms: Vec<f64>,
    op9: usize,
}

impl Swarm {
    fn new() -> Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            clients: Vec::new(),
            address: None,
            then: Then::Nothing,
            intents: 0,
            shard: (0, 1),
            guilds: 0,
            delivery: Delivery::OfLength(0),
            keep_times: false,
            deliveries: 0,
            awaited: None,
            retries: BinaryHeap::new(),
            connecting: 0,
            left: 0,
            took_ms: Vec::new(),
            op9: 0,
        })
    }

    fn serve(mut self) -> Result<()> {
        let input = io::stdin();
        epoll::add(&self.epoll, &input, INPUT, EventFlags::IN)?;
        let mut commands = Vec::new();
        let mut events = Vec::with_capacity(1024);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            if self.turn(&mut events, &mut buffer, None)? {
                let mut input = input.lock();
                let fresh = input.fill_buf()?;
                if fresh.is_empty() {
                    return Ok(());
                }
                let count = fresh.len();
                commands.extend_from_slice(fresh);
                input.consume(count);
            }
            while let Some(end) = commands.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = commands.drain(..=end).collect();
                let line = String::from_utf8(line)?;
                self.obey(line.trim(), &mut events, &mut buffer)?;
            }
        }
    }

    /// Handles what has come, waiting for it no longer than given. True if a command has.
    fn turn(
        &mut self,
        events: &mut Vec<epoll::Event>,
        buffer: &mut [u8],
        wait: Option<Duration>,
    ) -> Result<bool> {
        let wait = wait.map(|wait| Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        });
        epoll::wait(&self.epoll, spare_capacity(events), wait.as_ref())?;
        let mut command = false;
        for event in events.drain(..) {
            let data = event.data;
            if data == INPUT {
                command = true;
            } else {
                self.drain(data.u64() as usize, buffer)?;
            }
        }
        if self.awaited.is_some_and(|count| self.deliveries >= count) {
            self.awaited = None;
            println!("done");
        }
        Ok(command)
    }

    /// These are deliveries from now on.
    fn count(&mut self, delivery: Delivery) {
        self.delivery = delivery;
        self.deliveries = 0;
        self.keep_times = true;
        for client in &mut self.clients {
            client.came.clear();
        }
        println!("set");
    }

    /// Turns until nobody is left to wait for.
    fn until_done(&mut self, events: &mut Vec<epoll::Event>, buffer: &mut [u8]) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut beat_at = Instant::now() + BEAT_PERIOD;
        while self.left > 0 {
            let now = Instant::now();
            ensure!(now < end, "{} clients are not through", self.left);
            if now >= beat_at {
                self.beat()?;
                beat_at = now + BEAT_PERIOD;
            }
            while let Some(&Reverse((at, place))) = self.retries.peek() {
                if at > now || self.connecting >= CONNECTING_MAX {
                    break;
                }
                self.retries.pop();
                self.start(place)?;
            }
            self.turn(events, buffer, Some(Duration::from_millis(5)))?;
        }
        Ok(())
    }

    fn obey(
        &mut self,
        command: &str,
        events: &mut Vec<epoll::Event>,
        buffer: &mut [u8],
    ) -> Result<()> {
        let words: Vec<&str> = command.split(' ').collect();
        match words[..] {
            ["plain", address, count] => {
                let address: SocketAddr = address.parse()?;
                for _ in 0..count.parse::<usize>()? {
                    let stream = TcpStream::connect(address)?;
                    self.adopt(stream)?;
                }
                println!("open");
            }
            ["open", address, count] => {
                let count: usize = count.parse()?;
                self.address = Some(address.parse()?);
                self.then = Then::Nothing;
                self.begin(count);
                let first = self.clients.len();
                let now = Instant::now();
                for place in first..first + count {
                    self.clients.push(Client::new(now));
                    self.retries.push(Reverse((now, place)));
                }
                self.until_done(events, buffer)?;
                println!("open {}", self.spread());
            }
            ["tokens", ref tokens @ ..] => {
                let mut without = self.clients.iter_mut().filter(|one| one.token.is_empty());
                for token in tokens {
                    let client = without.next().context("more tokens than connections")?;
                    client.token = (*token).to_owned();
                }
                println!("tokens");
            }
            ["guilds", count] => {
                self.guilds = count.parse()?;
                println!("guilds");
            }
            ["identify", intents, shard, of] => {
                self.intents = intents.parse()?;
                self.shard = (shard.parse()?, of.parse()?);
                let waiting: Vec<usize> = (0..self.clients.len())
                    .filter(|&place| self.clients[place].state == State::Hello)
                    .collect();
                self.begin(waiting.len());
                self.then = Then::Identify;
                for place in waiting {
                    if self.clients[place].state != State::Hello {
                        continue; // broken meanwhile: it comes again and identifies then
                    }
                    self.clients[place].began = Instant::now();
                    self.identify(place)?;
                    // Answers are read meanwhile, as by clients of their own.
                    if place.is_multiple_of(64) {
                        self.turn(events, buffer, Some(Duration::ZERO))?;
                    }
                }
                self.until_done(events, buffer)?;
                println!("ready {} {}", self.spread(), self.op9);
            }
            ["drop"] => {
                for client in &mut self.clients {
                    client.stream = None;
                    client.state = State::Away;
                    client.input = Vec::new();
                }
                println!("dropped");
            }
            ["return", address] => {
                self.address = Some(address.parse()?);
                self.then = Then::Resume;
                self.begin(self.clients.len());
                let now = Instant::now();
                for place in 0..self.clients.len() {
                    self.clients[place].anew = false;
                    self.clients[place].began = now;
                    self.retries.push(Reverse((now, place)));
                }
                self.until_done(events, buffer)?;
                let anew = self.clients.iter().filter(|client| client.anew).count();
                let resumed = self.clients.len() - anew;
                println!("returned {resumed} {anew} {}", self.spread());
            }
            ["mute", count] => {
                for client in self.clients.iter_mut().take(count.parse()?) {
                    if let Some(stream) = &client.stream {
                        epoll::delete(&self.epoll, stream)?;
                    }
                    client.muted = true;
                }
                println!("mute");
            }
            ["frame", length] => self.count(Delivery::OfLength(length.parse()?)),
            ["named", event] => self.count(Delivery::Starting(format!(r#"{{"t":"{event}""#))),
            ["await", deliveries] => self.awaited = Some(deliveries.parse()?),
            ["latency", ref sent @ ..] => {
                let sent: Vec<u64> = sent.iter().map(|ns| ns.parse()).collect::<Result<_, _>>()?;
                self.took_ms.clear();
                for client in self.clients.iter().filter(|client| !client.muted) {
                    let pairs = client.came.iter().zip(&sent);
                    self.took_ms
                        .extend(pairs.map(|(came, sent)| came.saturating_sub(*sent) as f64 / 1e6));
                }
                println!("latency {} {}", self.spread(), self.took_ms.len());
            }
            ["beat"] => {
                self.beat()?;
                println!("beat");
            }
            ["say", count, ..] => {
                let text = command.splitn(3, ' ').nth(2).unwrap_or_default();
                let frame = client_frame(text.as_bytes());
                for client in self.clients.iter().take(count.parse()?) {
                    if let Some(mut stream) = client.stream.as_ref() {
                        stream
                            .write_all(&frame)
                            .context("a connection takes nothing")?;
                    }
                }
                println!("said");
            }
            ["close"] => {
                self.clients.clear();
                self.connecting = 0;
                self.guilds = 0;
                println!("closed");
            }
            _ => bail!("no such command: {}", words[0]),
        }
        Ok(())
    }

    /// A heartbeat of each that is live.
    fn beat(&self) -> Result<()> {
        for client in &self.clients {
            let beat = json!({"op": 1, "d": client.s}).to_string();
            if let (Some(mut stream), State::Live) = (client.stream.as_ref(), client.state) {
                stream
                    .write_all(&client_frame(beat.as_bytes()))
                    .context("a connection takes no heartbeat")?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, clients: usize) {
        self.left = clients;
        self.took_ms.clear();
        self.op9 = 0;
        self.retries.clear();
    }

    /// `p50 p99 max` of the times taken, ms.
    fn spread(&mut self) -> String {
        self.took_ms.sort_by(f64::total_cmp);
        let at = |share| quantile(&self.took_ms, share);
        format!("{:.2} {:.2} {:.2}", at(0.5), at(0.99), at(1.0))
    }

    fn adopt(&mut self, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let place = EventData::new_u64(self.clients.len() as u64);
        epoll::add(&self.epoll, &stream, place, EventFlags::IN)?;
        let mut client = Client::new(Instant::now());
        client.stream = Some(stream);
        client.state = State::Live;
        self.clients.push(client);
        Ok(())
    }

    /// Connects a client and sends its upgrade.
    fn start(&mut self, place: usize) -> Result<()> {
        let address = self.address.context("no address")?;
        let client = &mut self.clients[place];
        if self.then == Then::Nothing {
            client.began = Instant::now();
        }
        // Loopback: done as soon as the server's kernel has taken it.
        let Ok(mut stream) = TcpStream::connect(address) else {
            self.later(place);
            return Ok(());
        };
        stream.set_nodelay(true)?;
        let request = format!(
            "GET /?v=10&encoding=json HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: bG9hZCB0ZXN0IGNsaWVudA==\r\n\r\n"
        );
        if stream.write_all(request.as_bytes()).is_err() {
            self.later(place);
            return Ok(());
        }
        stream.set_nonblocking(true)?;
        epoll::add(
            &self.epoll,
            &stream,
            EventData::new_u64(place as u64),
            EventFlags::IN,
        )?;
        client.stream = Some(stream);
        client.state = State::Upgrading;
        client.input.clear();
        self.connecting += 1;
        Ok(())
    }

    /// A client tries again after a pause.
    fn later(&mut self, place: usize) {
        let client = &mut self.clients[place];
        if matches!(client.state, State::Upgrading | State::AwaitingHello) {
            self.connecting -= 1;
        }
        client.state = State::Away;
        client.stream = None;
        let pause = RETRY_PAUSE.mul_f64(1.0 + rand::random::<f64>());
        self.retries.push(Reverse((Instant::now() + pause, place)));
    }

    fn drain(&mut self, place: usize, buffer: &mut [u8]) -> Result<()> {
        loop {
            let Some(client) = self.clients.get_mut(place) else {
                return Ok(());
            };
            let Some(stream) = &mut client.stream else {
                return Ok(());
            };
            match stream.read(buffer) {
                Ok(0) => return self.broke(place),
                Ok(read) => {
                    self.take(place, &buffer[..read])?;
                    if read < buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return self.broke(place),
            }
        }
    }

    fn broke(&mut self, place: usize) -> Result<()> {
        let state = self.clients[place].state;
        ensure!(
            self.left > 0 && state != State::Live,
            "the server closed a connection ({state:?})"
        );
        self.later(place);
        Ok(())
    }

    fn take(&mut self, place: usize, bytes: &[u8]) -> Result<()> {
        let now = now_ns();
        let client = &mut self.clients[place];
        // A whole frame at a time is the rule; only what is left over is copied.
        let mut kept = std::mem::take(&mut client.input);
        let bytes: &[u8] = if kept.is_empty() {
            bytes
        } else {
            kept.extend_from_slice(bytes);
            &kept
        };
        let mut at = 0;
        while let Some((len, payload_at, payload)) = self.next_part(place, &bytes[at..])? {
            let payload = &bytes[at + payload_at..at + payload_at + payload];
            let text = bytes[at] == 0x81;
            at += len;
            if self.clients[place].state == State::Upgrading {
                self.clients[place].state = State::AwaitingHello;
                continue;
            }
            if !text {
                continue;
            }
            if self.clients[place].state == State::Live {
                let client = &mut self.clients[place];
                // Not so what answers a heartbeat.
                client.s += u64::from(payload.starts_with(br#"{"t":""#));
                if self.delivery.is(payload) {
                    self.deliveries += 1;
                    if self.keep_times {
                        client.came.push(now);
                    }
                }
                continue;
            }
            self.heard(place, payload)?;
        }
        let rest = bytes[at..].to_vec();
        ensure!(rest.len() <= TEXT_MAX, "an endless message");
        if let Some(client) = self.clients.get_mut(place)
            && client.stream.is_some()
        {
            client.input = rest;
        }
        Ok(())
    }

    /// Length of the next whole part of a stream, and where its payload is: of the HTTP answer,
    /// or of a frame.
    fn next_part(&self, place: usize, bytes: &[u8]) -> Result<Option<(usize, usize, usize)>> {
        if self.clients[place].state == State::Upgrading {
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
            ensure!(
                end.is_none() || bytes.starts_with(b"HTTP/1.1 101"),
                "no upgrade"
            );
            return Ok(end.map(|end| (end + 4, 0, 0)));
        }
        for header in 2..=10.min(bytes.len()) {
            if let Some(len) = payload_len(&bytes[..header]) {
                let whole = bytes.len() >= header + len;
                return Ok(whole.then_some((header + len, header, len)));
            }
        }
        Ok(None)
    }

    /// A message to a client that is not live yet.
    fn heard(&mut self, place: usize, text: &[u8]) -> Result<()> {
        let starts = |word: &str| text.starts_with(word.as_bytes());
        let client = &mut self.clients[place];
        if starts(r#"{"t":null,"s":null,"op":10"#) {
            self.connecting -= 1;
            client.state = State::Hello;
            match self.then {
                Then::Nothing => self.through(place, State::Hello),
                Then::Resume if !client.session.is_empty() && !client.anew => self.resume(place)?,
                Then::Resume | Then::Identify => self.identify(place)?,
            }
        } else if starts(r#"{"t":"READY""#) {
            let text = std::str::from_utf8(text)?;
            client.s = 1;
            client.session = between(text, r#""session_id":""#).context("no session id")?;
            client.guilds = self.guilds;
            if client.guilds == 0 {
                self.through(place, State::Live);
            }
        } else if starts(r#"{"t":"RESUMED""#) {
            client.s += 1;
            self.through(place, State::Live);
        } else if starts(r#"{"t":null,"s":null,"op":9"#) {
            self.op9 += 1;
            client.anew = true;
            client.session.clear();
            // Told to identify: on another connection, after a pause.
            self.later(place);
        } else if starts(r#"{"t":""#) {
            client.s += 1;
            if client.guilds > 0 && starts(r#"{"t":"GUILD_CREATE""#) {
                client.guilds -= 1;
                if client.guilds == 0 {
                    self.through(place, State::Live);
                }
            }
        }
        Ok(())
    }

    fn through(&mut self, place: usize, state: State) {
        let client = &mut self.clients[place];
        client.state = state;
        self.took_ms
            .push(client.began.elapsed().as_secs_f64() * 1e3);
        self.left = self.left.saturating_sub(1);
    }

    fn identify(&mut self, place: usize) -> Result<()> {
        let identify = json!({"op": 2, "d": {
            "token": self.clients[place].token,
            "intents": self.intents,
            "shard": [self.shard.0, self.shard.1],
            "properties": {"os": "linux", "browser": "load-tests", "device": "load-tests"},
        }});
        self.ask(place, &identify.to_string())
    }

    fn resume(&mut self, place: usize) -> Result<()> {
        let client = &self.clients[place];
        let resume = json!({"op": 6, "d": {
            "token": client.token, "session_id": client.session, "seq": client.s,
        }});
        self.ask(place, &resume.to_string())
    }

    fn ask(&mut self, place: usize, text: &str) -> Result<()> {
        let client = &mut self.clients[place];
        client.state = State::Asked;
        let sent = client
            .stream
            .as_mut()
            .is_some_and(|stream| stream.write_all(&client_frame(text.as_bytes())).is_ok());
        if !sent {
            self.later(place);
        }
        Ok(())
    }
}

impl Client {
    fn new(now: Instant) -> Self {
        Self {
            stream: None,
            state: State::Away,
            token: String::new(),
            session: String::new(),
            s: 0,
            guilds: 0,
            input: Vec::new(),
            began: now,
            muted: false,
            came: Vec::new(),
            anew: false,
        }
    }
}

/// What stands behind `start` up to the next quote.
fn between(text: &str, start: &str) -> Option<String> {
    let (_, rest) = text.split_once(start)?;
    Some(rest.split_once('"')?.0.to_owned())
}
