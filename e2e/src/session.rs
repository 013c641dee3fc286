//! A client that stays: identifies, heartbeats, resumes when its socket breaks, identifies anew
//! when it must, and keeps every dispatch it got over all its sockets.
//!
//! It checks on the way: `s` grows by exactly one, also across RESUME (I5); every frame obeys
//! [`wire`] and parses with twilight. What is wrong is kept as a fault; [`Session::assert_clean`].

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    sync::{Notify, mpsc::UnboundedSender},
    task::JoinHandle,
    time::Instant,
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    client::{self, Client, End},
    wait::NEVER,
    wire::{self, Frame},
};

/// Between two attempts to connect, and before IDENTIFY is repeated.
const PAUSE: Duration = Duration::from_millis(200);
/// IDENTIFY refused by its limit is tried again after this long.
const IDENTIFY_PAUSE: Duration = Duration::from_secs(1);
/// Well below 41 250 ms: some libraries beat at once, and a beat proves that the server answers.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Who identifies, and how.
#[derive(Debug, Clone)]
pub struct Login {
    pub token: String,
    /// `None` for humans.
    pub intents: Option<u32>,
    pub shard: Option<[u32; 2]>,
    /// Of user clients.
    pub capabilities: Option<u64>,
    /// Where to connect, in turns; RESUME goes to `resume_gateway_url` first.
    pub urls: Vec<String>,
}

impl Login {
    fn identify(&self) -> Value {
        let mut identify = client::identify(&self.token, self.intents, self.shard);
        if let Some(capabilities) = self.capabilities {
            identify["d"]["capabilities"] = json!(capabilities);
        }
        identify
    }
}

/// One dispatch as received.
#[derive(Debug, Clone)]
pub struct Dispatch {
    pub frame: Frame,
    /// How many READYs had come before or with it: 1 for the first session.
    pub life: usize,
}

impl Dispatch {
    pub fn t(&self) -> &str {
        self.frame.t.as_deref().unwrap_or_default()
    }

    pub fn d(&self) -> &Value {
        &self.frame.d
    }
}

/// What has happened so far.
#[derive(Debug, Default)]
pub struct Log {
    pub dispatches: Vec<Dispatch>,
    pub lives: usize,
    pub resumed: usize,
    /// op 9 answers with `d: false` to RESUME.
    pub refused: usize,
    /// op 7.
    pub reconnects: usize,
    /// Ends of sockets, in order.
    pub ends: Vec<End>,
    /// A close code after which clients give up.
    pub fatal: Option<u16>,
    pub faults: Vec<String>,
    pub heartbeats_acked: usize,
    /// Sockets opened.
    pub sockets: usize,
}

impl Log {
    /// Dispatches of one name, in order.
    pub fn named<'a>(&'a self, t: &'a str) -> impl DoubleEndedIterator<Item = &'a Dispatch> {
        self.dispatches
            .iter()
            .filter(move |dispatch| dispatch.t() == t)
    }

    /// Whether every guild that the newest READY announced as unavailable has come. What is
    /// written to a guild before that is in its snapshot, and no event of the session.
    pub fn has_its_guilds(&self) -> bool {
        let Some(ready) = self.named("READY").next_back() else {
            return false;
        };
        let came = |id: &Value| {
            self.named("GUILD_CREATE")
                .any(|guild| guild.life == ready.life && &guild.d()["id"] == id)
        };
        let mut guilds = ready.d()["guilds"].as_array().into_iter().flatten();
        guilds.all(|guild| guild["unavailable"] != true || came(&guild["id"]))
    }
}

#[derive(Debug, Default)]
struct Shared {
    log: Mutex<Log>,
    news: Notify,
    /// Of the newest socket.
    sender: Mutex<Option<UnboundedSender<Message>>>,
}

impl Shared {
    /// Files the end of a socket. True: clients give up after it.
    fn note_end(&self, end: End, faults: Vec<String>) -> bool {
        let mut log = lock(&self.log);
        log.faults.extend(faults);
        log.ends.push(end);
        if let End::Closed(code @ (4004 | 4010..=4014)) = end {
            log.fatal = Some(code);
        }
        let fatal = log.fatal.is_some();
        drop(log);
        self.news.notify_waiters();
        fatal
    }
}

/// A running client; dropping it drops its socket.
#[derive(Debug)]
pub struct Session {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Session {
    /// Starts a client and waits for its READY and, with the intent for them, its guilds.
    pub async fn start(login: Login) -> Self {
        const GUILDS: u32 = 1;
        let guilds = login.intents.is_none_or(|intents| intents & GUILDS != 0);
        let session = Self::launch(login);
        session
            .wait("READY and the guilds", |log| {
                (log.lives > 0 && (!guilds || log.has_its_guilds())).then_some(())
            })
            .await;
        session
    }

    /// Starts a client; nothing may have happened yet.
    pub fn launch(login: Login) -> Self {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(run(login, Arc::clone(&shared)));
        Self { shared, task }
    }

    /// Looks at the log.
    pub fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.shared.log)
    }

    /// Sends a command on the newest socket; nothing happens if that has ended.
    pub fn send(&self, command: &Value) {
        if let Some(sender) = &*lock(&self.shared.sender) {
            let _ = sender.send(Message::Text(command.to_string().into()));
        }
    }

    /// Waits until `find` finds what it looks for in the log.
    ///
    /// # Panics
    /// After [`NEVER`], naming `what`; at once if the server closed with a fatal code.
    pub async fn wait<T>(&self, what: &str, mut find: impl FnMut(&Log) -> Option<T>) -> T {
        let end = Instant::now() + NEVER;
        loop {
            let bell = self.shared.news.notified();
            tokio::pin!(bell);
            bell.as_mut().enable();
            {
                let log = self.log();
                if let Some(found) = find(&log) {
                    return found;
                }
                assert!(
                    log.fatal.is_none() && Instant::now() < end,
                    "never came: {what}; {}",
                    summary(&log)
                );
            }
            let _ = tokio::time::timeout_at(end, bell).await;
        }
    }

    /// Waits for a dispatch named `t` that `matches`; its `d` comes back.
    pub async fn dispatch(&self, t: &str, matches: impl Fn(&Value) -> bool) -> Value {
        self.wait(t, |log| {
            log.named(t).map(Dispatch::d).find(|d| matches(d)).cloned()
        })
        .await
    }

    /// Waits for MESSAGE_CREATE with this content.
    pub async fn message(&self, content: &str) -> Value {
        self.wait(&format!("message {content:?}"), |log| {
            log.named("MESSAGE_CREATE")
                .map(Dispatch::d)
                .find(|d| d["content"] == content)
                .cloned()
        })
        .await
    }

    /// Ids and contents of the MESSAGE_CREATEs of one channel, in the order of arrival, with the
    /// life they came in.
    pub fn messages(&self, channel: &str) -> Vec<(u64, String, usize)> {
        self.log()
            .named("MESSAGE_CREATE")
            .filter(|dispatch| dispatch.d()["channel_id"] == channel)
            .map(|dispatch| {
                let d = dispatch.d();
                let id = d["id"].as_str().and_then(|id| id.parse().ok());
                let content = d["content"].as_str().unwrap_or_default();
                (id.unwrap_or_default(), content.to_owned(), dispatch.life)
            })
            .collect()
    }

    /// `session_id` of the newest READY.
    pub fn session_id(&self) -> String {
        let log = self.log();
        log.named("READY")
            .next_back()
            .and_then(|ready| ready.d()["session_id"].as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    /// # Panics
    /// If a frame broke a rule.
    pub fn assert_clean(&self) {
        let log = self.log();
        assert!(log.faults.is_empty(), "{:#?}", log.faults);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn summary(log: &Log) -> String {
    const SHOWN: usize = 40;
    let skip = log.dispatches.len().saturating_sub(SHOWN);
    let names: Vec<String> = log.dispatches[skip..]
        .iter()
        .map(|dispatch| {
            let content = dispatch.d()["content"].as_str().unwrap_or_default();
            format!("{} {content}", dispatch.t())
        })
        .collect();
    format!(
        "lives {}, resumed {}, refused {}, op 7 {}, sockets {}, ends {:?}, fatal {:?}, faults {:?}, {} dispatches, the last: {names:#?}",
        log.lives,
        log.resumed,
        log.refused,
        log.reconnects,
        log.sockets,
        log.ends,
        log.fatal,
        log.faults,
        log.dispatches.len(),
    )
}

/// What survives a socket.
#[derive(Debug, Default)]
struct Resumable {
    session_id: String,
    url: String,
    seq: u64,
}

async fn run(login: Login, shared: Arc<Shared>) {
    let mut held: Option<Resumable> = None;
    let mut attempt = 0;
    loop {
        // resume_gateway_url first, the others when it does not answer.
        let url = match &held {
            Some(held) if attempt == 0 => held.url.clone(),
            _ => login.urls[attempt % login.urls.len()].clone(),
        };
        attempt += 1;
        let Ok(mut socket) = Client::open(&url).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        lock(&shared.log).sockets += 1;
        *lock(&shared.sender) = Some(socket.sender());
        let alive = drive(&login, &shared, &mut socket, &mut held).await;
        if alive {
            attempt = 0;
        }
        let end = socket.end().unwrap_or(End::Lost);
        let fatal = shared.note_end(end, socket.faults());
        if fatal {
            return;
        }
        if matches!(end, End::Closed(1000 | 1001 | 4003 | 4007 | 4009)) {
            held = None;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Serves one socket to its end. True: it got as far as READY or RESUMED.
async fn drive(
    login: &Login,
    shared: &Shared,
    socket: &mut Client,
    held: &mut Option<Resumable>,
) -> bool {
    let mut alive = false;
    let mut next_beat = Instant::now() + HEARTBEAT;
    loop {
        let wait = next_beat.saturating_duration_since(Instant::now());
        let Some(frame) = socket.next_within(wait).await else {
            let seq = held.as_ref().map(|held| held.seq);
            socket.send(&json!({"op": 1, "d": seq}));
            next_beat = Instant::now() + HEARTBEAT;
            continue;
        };
        let Some(frame) = frame else { return alive };
        alive |= matches!(frame.t.as_deref(), Some("READY" | "RESUMED"));
        match take(login, shared, held, frame) {
            Next::Nothing => {}
            Next::Send(payload) => socket.send(&payload),
            Next::IdentifyAfter(pause) => {
                tokio::time::sleep(pause).await;
                socket.send(&login.identify());
            }
            Next::Leave => return true, // a socket dropped without 1000 keeps its session
        }
    }
}

/// What a frame asks for.
enum Next {
    Nothing,
    Send(Value),
    IdentifyAfter(Duration),
    Leave,
}

/// Files a frame, with what is wrong about it.
fn take(login: &Login, shared: &Shared, held: &mut Option<Resumable>, frame: Frame) -> Next {
    let fault = wire::check_with_twilight(&frame, login.intents.is_some()).err();
    let mut log = lock(&shared.log);
    log.faults.extend(fault);
    let next = match frame.op {
        0 => {
            dispatch(&mut log, held, frame);
            Next::Nothing
        }
        1 => Next::Send(json!({"op": 1, "d": held.as_ref().map(|held| held.seq)})),
        7 => {
            log.reconnects += 1;
            Next::Leave
        }
        9 if held.take().is_some() => {
            log.refused += 1;
            Next::IdentifyAfter(PAUSE)
        }
        9 => Next::IdentifyAfter(IDENTIFY_PAUSE),
        10 => Next::Send(match held {
            Some(held) => client::resume(&login.token, &held.session_id, held.seq),
            None => login.identify(),
        }),
        11 => {
            log.heartbeats_acked += 1;
            Next::Nothing
        }
        op => {
            log.faults.push(format!("op {op} from the server"));
            Next::Nothing
        }
    };
    drop(log);
    shared.news.notify_waiters();
    next
}

fn dispatch(log: &mut Log, held: &mut Option<Resumable>, frame: Frame) {
    let s = frame.s.unwrap_or_default();
    let t = frame.t.as_deref().unwrap_or_default();
    if t == "READY" {
        log.lives += 1;
        let text = |key: &str| frame.d[key].as_str().unwrap_or_default().to_owned();
        *held = Some(Resumable {
            session_id: text("session_id"),
            url: text("resume_gateway_url"),
            seq: 0,
        });
    }
    log.resumed += usize::from(t == "RESUMED");
    match held {
        Some(held) => {
            if s != held.seq + 1 {
                let fault = format!("{t}: s is {s} after {}", held.seq);
                log.faults.push(fault);
            }
            held.seq = s;
        }
        None => log.faults.push(format!("{t} before READY")),
    }
    let life = log.lives;
    log.dispatches.push(Dispatch { frame, life });
}
