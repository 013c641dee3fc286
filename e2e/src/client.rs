//! One gateway socket of our own: sends what it is told, records what comes.
//!
//! It decides nothing (that is [`session`](crate::session)'s part); dropping it drops the TCP
//! connection without a closing handshake, as a crashed client does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::{
    wait::NEVER,
    wire::{self, Frame},
};

/// How a socket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The server sent a close frame with this code.
    Closed(u16),
    /// Without a close frame or code: cut, reset, dropped.
    Lost,
}

impl End {
    /// The close code, if there was one.
    pub fn code(self) -> Option<u16> {
        match self {
            Self::Closed(code) => Some(code),
            Self::Lost => None,
        }
    }
}

#[derive(Debug, Default)]
struct Received {
    frames: Vec<Frame>,
    /// Frames that break the rules of [`wire`].
    faults: Vec<String>,
    end: Option<End>,
}

/// An open gateway socket.
#[derive(Debug)]
pub struct Client {
    received: Arc<Mutex<Received>>,
    news: Arc<Notify>,
    outgoing: mpsc::UnboundedSender<Message>,
    /// Frames already handed out by [`next`](Self::next).
    read: usize,
    task: JoinHandle<()>,
}

/// Opens the TCP connection behind a `ws://` URL.
pub async fn connect_tcp(url: &str) -> Result<TcpStream> {
    let address = url
        .strip_prefix("ws://")
        .with_context(|| format!("not a plain WebSocket URL: {url}"))?;
    let address = address.split(['/', '?']).next().unwrap_or(address);
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("cannot connect to {url}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Client {
    /// Opens `url` (scheme, host, port) as discord.js and twilight do: `/?v=10&encoding=json`.
    pub async fn open(url: &str) -> Result<Self> {
        Self::open_with(url, "/?v=10&encoding=json").await
    }

    /// The same with another path and query.
    pub async fn open_with(url: &str, path_and_query: &str) -> Result<Self> {
        let stream = connect_tcp(url).await?;
        let url = format!("{}{path_and_query}", url.trim_end_matches('/'));
        let request = url.as_str().into_client_request()?;
        let (socket, _) = client_async(request, stream)
            .await
            .with_context(|| format!("no WebSocket at {url}"))?;
        let received = Arc::new(Mutex::new(Received::default()));
        let news = Arc::new(Notify::new());
        let (outgoing, mut to_send) = mpsc::unbounded_channel();
        let (mut sink, mut stream) = socket.split();
        let (log, bell) = (Arc::clone(&received), Arc::clone(&news));
        let task = tokio::spawn(async move {
            let mut end = End::Lost;
            loop {
                let message = tokio::select! {
                    message = stream.next() => message,
                    Some(message) = to_send.recv() => {
                        if sink.send(message).await.is_err() {
                            // What the server still said is in the read half.
                            while let Some(Ok(message)) = stream.next().await {
                                if let Some(code) = note(&log, &bell, message) {
                                    end = code;
                                }
                            }
                            break;
                        }
                        continue;
                    }
                };
                match message {
                    Some(Ok(message)) => {
                        if let Some(code) = note(&log, &bell, message) {
                            end = code;
                        }
                    }
                    Some(Err(_)) | None => break,
                }
            }
            lock(&log).end = Some(end);
            bell.notify_waiters();
        });
        Ok(Self {
            received,
            news,
            outgoing,
            read: 0,
            task,
        })
    }

    /// Sends a JSON text frame. Nothing happens if the socket has ended.
    pub fn send(&self, payload: &Value) {
        self.send_text(payload.to_string());
    }

    /// Sends a text frame as it is.
    pub fn send_text(&self, text: impl Into<String>) {
        let _ = self.outgoing.send(Message::Text(text.into().into()));
    }

    /// Another hand to send with; nothing happens once the socket has ended.
    pub fn sender(&self) -> mpsc::UnboundedSender<Message> {
        self.outgoing.clone()
    }

    /// Sends any message.
    pub fn send_message(&self, message: Message) {
        let _ = self.outgoing.send(message);
    }

    /// Starts the closing handshake, as a client that logs out.
    pub fn close(&self, code: u16) {
        self.send_message(Message::Close(Some(CloseFrame {
            code: CloseCode::from(code),
            reason: "".into(),
        })));
    }

    /// The next frame in order; `None` once the socket has ended and all were read.
    ///
    /// # Panics
    /// After [`NEVER`] without a frame.
    pub async fn next(&mut self) -> Option<Frame> {
        self.next_within(NEVER)
            .await
            .unwrap_or_else(|| panic!("no frame and no end; so far {}", self.summary()))
    }

    /// As [`next`](Self::next), but `None` on the outside when `time` passes first.
    pub async fn next_within(&mut self, time: std::time::Duration) -> Option<Option<Frame>> {
        let wait = async {
            loop {
                let bell = self.news.notified();
                tokio::pin!(bell);
                bell.as_mut().enable();
                {
                    let received = lock(&self.received);
                    if let Some(frame) = received.frames.get(self.read) {
                        return Some(frame.clone());
                    }
                    if received.end.is_some() {
                        return None;
                    }
                }
                bell.await;
            }
        };
        let frame = tokio::time::timeout(time, wait).await.ok()?;
        if frame.is_some() {
            self.read += 1;
        }
        Some(frame)
    }

    /// Reads on until a frame with this opcode.
    ///
    /// # Panics
    /// If the socket ends first.
    pub async fn expect_op(&mut self, op: u64) -> Frame {
        loop {
            match self.next().await {
                Some(frame) if frame.op == op => return frame,
                Some(_) => {}
                None => panic!("ended before op {op}: {}", self.summary()),
            }
        }
    }

    /// Reads on until a dispatch of this name.
    ///
    /// # Panics
    /// If the socket ends first.
    pub async fn expect_dispatch(&mut self, name: &str) -> Frame {
        loop {
            match self.next().await {
                Some(frame) if frame.t.as_deref() == Some(name) => return frame,
                Some(_) => {}
                None => panic!("ended before {name}: {}", self.summary()),
            }
        }
    }

    /// Reads HELLO, then identifies; see [`identify`].
    pub async fn identify(&mut self, token: &str, intents: Option<u32>) {
        self.expect_op(10).await;
        self.send(&identify(token, intents, None));
    }

    /// Waits for the end of the socket.
    ///
    /// # Panics
    /// If it stays open for [`NEVER`].
    pub async fn ended(&mut self) -> End {
        while self.next().await.is_some() {}
        lock(&self.received).end.unwrap_or(End::Lost)
    }

    /// How it ended, if it has.
    pub fn end(&self) -> Option<End> {
        lock(&self.received).end
    }

    /// Everything received so far.
    pub fn frames(&self) -> Vec<Frame> {
        lock(&self.received).frames.clone()
    }

    /// Frames that broke the rules of [`wire`].
    pub fn faults(&self) -> Vec<String> {
        lock(&self.received).faults.clone()
    }

    fn summary(&self) -> String {
        let received = lock(&self.received);
        let names: Vec<String> = received
            .frames
            .iter()
            .map(|frame| frame.t.clone().unwrap_or(format!("op {}", frame.op)))
            .collect();
        format!(
            "{names:?}, end {:?}, faults {:?}",
            received.end, received.faults
        )
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Files a message; the code of a close frame comes back.
fn note(log: &Mutex<Received>, bell: &Notify, message: Message) -> Option<End> {
    let mut received = lock(log);
    let mut end = None;
    match message {
        Message::Text(text) => match wire::parse(&text) {
            Ok(frame) => received.frames.push(frame),
            Err(fault) => received.faults.push(fault),
        },
        Message::Binary(_) => received
            .faults
            .push("a binary frame nobody asked for".into()),
        Message::Close(Some(frame)) => end = Some(End::Closed(frame.code.into())),
        Message::Close(None) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
    }
    drop(received);
    bell.notify_waiters();
    end
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// IDENTIFY, as libraries send it. Humans have no intents.
pub fn identify(token: &str, intents: Option<u32>, shard: Option<[u32; 2]>) -> Value {
    let mut d = json!({
        "token": token,
        "properties": {"os": "linux", "browser": "e2e", "device": "e2e"},
        "compress": false,
        "large_threshold": 250,
    });
    if let Some(intents) = intents {
        d["intents"] = json!(intents);
    }
    if let Some(shard) = shard {
        d["shard"] = json!(shard);
    }
    json!({"op": 2, "d": d})
}

/// Op 4: enters a voice channel of a guild, or leaves.
pub fn voice(guild: &str, channel: Option<&str>) -> Value {
    json!({"op": 4, "d": {
        "guild_id": guild, "channel_id": channel, "self_mute": false, "self_deaf": false,
    }})
}

/// RESUME.
pub fn resume(token: &str, session_id: &str, seq: u64) -> Value {
    json!({"op": 6, "d": {"token": token, "session_id": session_id, "seq": seq}})
}
