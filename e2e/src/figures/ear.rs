//! A client that only listens: it notes to the microsecond when each message came, and checks
//! that `s` grows by one. It stays on one socket; the end of that is wrong.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval_at, sleep};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::client::{connect_tcp, identify};
use crate::cluster::lock;
use crate::wait::{LOOK, NEVER};
use crate::wire;

const HEARTBEAT: Duration = Duration::from_secs(15);
/// IDENTIFY that is told op 9 is repeated after this long.
const IDENTIFY_PAUSE: Duration = Duration::from_secs(1);

/// A MESSAGE_CREATE.
#[derive(Debug, Clone, Copy)]
pub(super) struct Came {
    pub(super) guild: u64,
    pub(super) id: u64,
    /// Microseconds since the Unix epoch.
    pub(super) at_us: i64,
}

/// What one client was told.
#[derive(Debug, Default)]
pub(super) struct Heard {
    is_up: bool,
    pub(super) messages: Vec<Came>,
    /// Frames that break a rule, and the end of the socket.
    pub(super) faults: Vec<String>,
}

/// A running client; dropping it drops its socket.
pub(super) struct Ear {
    /// Place of its account among the people of its town.
    pub(super) person: usize,
    heard: Arc<Mutex<Heard>>,
    task: JoinHandle<()>,
}

impl Ear {
    pub(super) fn open(person: usize, url: String, token: String) -> Self {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let notes = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            if let Err(error) = listen(&url, &token, &notes).await {
                lock(&notes).faults.push(format!("{error:#}"));
            }
        });
        Self {
            person,
            heard,
            task,
        }
    }

    /// Waits for READY.
    ///
    /// Errors: its socket ended first, or it never came.
    pub(super) async fn is_up(&self) -> Result<()> {
        let end = Instant::now() + NEVER;
        loop {
            {
                let heard = lock(&self.heard);
                if heard.is_up {
                    return Ok(());
                }
                ensure!(heard.faults.is_empty(), "no READY: {:?}", heard.faults);
            }
            ensure!(Instant::now() < end, "READY never came");
            sleep(LOOK).await;
        }
    }

    /// Messages so far.
    pub(super) fn count(&self) -> usize {
        lock(&self.heard).messages.len()
    }

    /// Ends it; what it was told.
    pub(super) fn finish(&self) -> Heard {
        self.task.abort();
        std::mem::take(&mut lock(&self.heard))
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Of the message; everything else is skipped.
#[derive(Deserialize)]
struct Created<'a> {
    id: &'a str,
    guild_id: &'a str,
}

/// Serves its socket; never ends without an error.
async fn listen(url: &str, token: &str, heard: &Mutex<Heard>) -> Result<()> {
    let stream = connect_tcp(url).await?;
    let address = format!("{url}/?v=10&encoding=json");
    let request = address.as_str().into_client_request()?;
    let (mut socket, _) = client_async(request, stream)
        .await
        .context("no WebSocket")?;
    let mut beat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    let mut last: Option<u64> = None;
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            _ = beat.tick() => {
                let beat = json!({"op": 1, "d": last}).to_string();
                socket.send(Message::Text(beat.into())).await?;
                continue;
            }
        };
        let at_us = now_us();
        let text = match message.context("the socket ended")?? {
            Message::Text(text) => text,
            Message::Close(frame) => bail!("closed by the server: {frame:?}"),
            _ => continue,
        };
        let parts = wire::split(&text).map_err(|fault| anyhow!(fault))?;
        match parts.op {
            0 => {
                let mut heard = lock(heard);
                let (s, due) = (parts.s.unwrap_or_default(), last.map_or(1, |s| s + 1));
                if s != due {
                    heard.faults.push(format!("s is {s}, {due} was due"));
                }
                last = Some(s);
                match parts.t {
                    Some("READY") => heard.is_up = true,
                    Some("MESSAGE_CREATE") => {
                        let created: Created<'_> = serde_json::from_str(parts.d)?;
                        heard.messages.push(Came {
                            guild: created.guild_id.parse()?,
                            id: created.id.parse()?,
                            at_us,
                        });
                    }
                    _ => {}
                }
            }
            9 => {
                ensure!(last.is_none(), "op 9 after READY");
                sleep(IDENTIFY_PAUSE).await;
                let identify = identify(token, None, None).to_string();
                socket.send(Message::Text(identify.into())).await?;
            }
            10 => {
                let identify = identify(token, None, None).to_string();
                socket.send(Message::Text(identify.into())).await?;
            }
            7 => bail!("op 7"),
            _ => {}
        }
    }
}

/// Now, in microseconds since the Unix epoch; the clock of Postgres here too.
pub(super) fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_micros() as i64
}
