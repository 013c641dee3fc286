//! A server as one writes it first: tokio and tungstenite (what axum's WebSocket is made of), a
//! task and a channel per connection, and JSON made for each recipient, because each has an `s` of
//! its own. It knows neither intents nor permissions nor RESUME.
//!
//! Commands: `event <connections> <hex of d>` (answered `set <length of its message>` once so many are
//! there), `send` (one event to every connection).

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_tungstenite::tungstenite::Message;

/// Events that may wait for one connection; further ones are dropped.
const QUEUE_MAX: usize = 256;
/// Its first `s`: with as many digits as its last, so that all messages are equally long.
const FIRST_S: u64 = 1_000_000;

type Peers = Arc<Mutex<Vec<mpsc::Sender<Arc<Value>>>>>;

/// Serves until stdin ends.
pub fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve())
}

async fn serve() -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("listening {}", listener.local_addr()?);
    let (peers, open) = (Peers::default(), Arc::new(Semaphore::new(0)));
    tokio::spawn({
        let (peers, open) = (peers.clone(), open.clone());
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (peers, open) = (peers.clone(), open.clone());
                tokio::spawn(async move {
                    // A connection that breaks is of no interest.
                    let _ = connection(stream, peers, open).await;
                });
            }
        }
    });
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    let mut event = Arc::new(Value::Null);
    while let Some(line) = commands.next_line().await? {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("event", rest) => {
                let (count, body) = rest.split_once(' ').context("event: two words")?;
                open.acquire_many(count.parse()?).await?.forget();
                event = Arc::new(serde_json::from_slice(&hex::decode(body)?)?);
                println!("set {}", text(&event, FIRST_S)?.len());
            }
            ("send", _) => {
                for peer in &*peers.lock().unwrap_or_else(PoisonError::into_inner) {
                    let _ = peer.try_send(event.clone());
                }
            }
            (word, _) => bail!("no such command: {word}"),
        }
    }
    Ok(())
}

async fn connection(stream: TcpStream, peers: Peers, open: Arc<Semaphore>) -> Result<()> {
    stream.set_nodelay(true)?;
    let (sender, mut events) = mpsc::channel(QUEUE_MAX);
    let (mut sink, mut stream) = tokio_tungstenite::accept_async(stream).await?.split();
    peers
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(sender);
    open.add_permits(1);
    let mut s = FIRST_S;
    loop {
        tokio::select! {
            event = events.recv() => {
                let event = event.context("the server ends")?;
                sink.send(Message::text(text(&event, s)?)).await?;
                s += 1;
            }
            message = stream.next() => {
                message.context("the client is gone")??;
            }
        }
    }
}

fn text(event: &Value, s: u64) -> Result<String> {
    Ok(serde_json::to_string(&json!({
        "t": "MESSAGE_CREATE", "s": s, "op": 0, "d": event,
    }))?)
}
