//! A client as libraries are: it stays connected, resumes where its session is, identifies anew
//! when it is told to, and writes down everything it is told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::checker::{
    Body, Millis, Picture, Record, Seen, SessionHistory, What, channel_of, fingerprint, number,
    role_of,
};
use crate::client::{connect_tcp, identify, resume};
use crate::cluster::lock;
use crate::wire::{self, Parts};

/// For TCP, the handshake and HELLO each.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// Between heartbeats. Libraries wait 41 s; this client finds a dead socket sooner.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// A socket without a sign of life for so long is dead.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// `resume_gateway_url` is tried this often before the others.
const HOME_ATTEMPTS: usize = 3;

/// Texts of dispatches, each kept once.
#[derive(Debug, Default)]
pub(crate) struct Bodies(Mutex<HashMap<u64, Body>>);

impl Bodies {
    fn keep(&self, t: &str, d: &str) -> u64 {
        let said = fingerprint(t, d);
        let mut bodies = lock(&self.0);
        bodies.entry(said).or_insert_with(|| Body {
            t: t.to_owned(),
            d: d.to_owned(),
        });
        said
    }

    pub(crate) fn take(&self) -> HashMap<u64, Body> {
        std::mem::take(&mut lock(&self.0))
    }
}

/// How a client logs in.
#[derive(Debug, Clone)]
pub(crate) struct Listening {
    pub(crate) name: String,
    pub(crate) user: u64,
    pub(crate) token: String,
    pub(crate) intents: Option<u32>,
    /// All gateways, in their order.
    pub(crate) urls: Vec<String>,
    /// The one to begin with.
    pub(crate) first: usize,
    /// Each connection leads to any of them, as behind a load balancer.
    pub(crate) roams: bool,
}

/// How a client went on after its socket broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WentOn {
    Resumed,
    /// It was told op 9 and identified anew.
    Anew,
}

#[derive(Debug, Default)]
struct Seat {
    records: Vec<Record>,
    /// READY or RESUMED came on the present socket.
    is_up: bool,
}

/// A running client.
pub(crate) struct Listener {
    how: Listening,
    seat: Arc<Mutex<Seat>>,
    task: JoinHandle<()>,
}

/// What survives a socket.
struct Held {
    session_id: String,
    url: String,
    s: u64,
}

/// What a socket's end means for the session.
enum Next {
    Again,
    /// Nothing to resume.
    Anew,
    Never,
}

type Socket = WebSocketStream<TcpStream>;

impl Listener {
    pub(crate) fn start(how: Listening, bodies: Arc<Bodies>) -> Self {
        let seat = Arc::new(Mutex::new(Seat::default()));
        let client = Client {
            how: how.clone(),
            seat: Arc::clone(&seat),
            bodies,
            held: None,
            got_through: false,
        };
        let task = tokio::spawn(client.run());
        Self { how, seat, task }
    }

    pub(crate) fn user(&self) -> u64 {
        self.how.user
    }

    pub(crate) fn is_up(&self) -> bool {
        lock(&self.seat).is_up
    }

    /// The gateway of its newest socket.
    pub(crate) fn node(&self) -> Option<usize> {
        let seat = lock(&self.seat);
        let newest = seat.records.iter().rev();
        let mut opened = newest.filter_map(|record| match record.what {
            What::Opened { node } => Some(node),
            _ => None,
        });
        opened.next()
    }

    /// How it went on after a time at which its socket broke; `None` while it has not.
    pub(crate) fn went_on(&self, since: Millis) -> Option<WentOn> {
        let seat = lock(&self.seat);
        let begin = seat.records.partition_point(|record| record.at < since);
        let mut later = seat.records[begin..].iter();
        later.find_map(|record| match record.what {
            What::Resumed { .. } => Some(WentOn::Resumed),
            What::Ready { .. } => Some(WentOn::Anew),
            _ => None,
        })
    }

    /// How much it has written down.
    pub(crate) fn filed(&self) -> usize {
        lock(&self.seat).records.len()
    }

    /// Guilds it has, by what came since the newest READY.
    pub(crate) fn guilds(&self) -> usize {
        let seat = lock(&self.seat);
        let is_ready = |record: &Record| matches!(record.what, What::Ready { .. });
        let begin = seat.records.iter().rposition(is_ready).unwrap_or(0);
        let mut guilds = BTreeSet::new();
        for record in &seat.records[begin..] {
            match &record.what {
                What::Ready { pictures, .. } => {
                    guilds.extend(pictures.iter().map(|picture| picture.guild));
                }
                What::Guild { picture, .. } => {
                    guilds.insert(picture.guild);
                }
                What::GuildGone { guild, .. } => {
                    guilds.remove(guild);
                }
                _ => {}
            }
        }
        guilds.len()
    }

    /// Whether one of the newest dispatches said this.
    pub(crate) fn heard(&self, said: u64) -> bool {
        const LOOKED_AT: usize = 300;
        let seat = lock(&self.seat);
        let newest = seat.records.iter().rev().take(LOOKED_AT);
        let mut said_lately = newest.map(|record| &record.what);
        said_lately.any(|what| matches!(what, What::Dispatch { said: heard, .. } if *heard == said))
    }

    /// Ends it; what it saw.
    pub(crate) fn finish(self) -> SessionHistory {
        self.task.abort();
        let mut seat = lock(&self.seat);
        SessionHistory {
            name: self.how.name,
            user: self.how.user,
            intents: self.how.intents,
            records: std::mem::take(&mut seat.records),
            alive: seat.is_up,
        }
    }
}

struct Client {
    how: Listening,
    seat: Arc<Mutex<Seat>>,
    bodies: Arc<Bodies>,
    held: Option<Held>,
    /// READY or RESUMED came on this socket.
    got_through: bool,
}

impl Client {
    async fn run(mut self) {
        let mut attempt = 0;
        loop {
            let (node, url) = self.choose(attempt);
            attempt += 1;
            if let Some(mut socket) = open(&url).await {
                self.note(What::Opened { node });
                self.got_through = false;
                let next = self.drive(&mut socket).await;
                lock(&self.seat).is_up = false;
                if self.got_through {
                    attempt = 0;
                }
                match next {
                    Next::Again => {}
                    Next::Anew => self.held = None,
                    Next::Never => return,
                }
            }
            sleep(Duration::from_millis(rand::random_range(100..600))).await;
        }
    }

    /// Where to connect: at first where the session is, unless chance decides.
    fn choose(&self, attempt: usize) -> (usize, String) {
        let urls = &self.how.urls;
        if self.how.roams {
            let node = rand::random_range(0..urls.len());
            return (node, urls[node].clone());
        }
        if let Some(held) = &self.held
            && attempt < HOME_ATTEMPTS
            && let Some(node) = urls.iter().position(|url| *url == held.url)
        {
            return (node, held.url.clone());
        }
        let node = (self.how.first + attempt) % urls.len();
        (node, urls[node].clone())
    }

    fn note(&self, what: What) {
        let record = Record { at: now_ms(), what };
        lock(&self.seat).records.push(record);
    }

    /// Serves one socket to its end.
    async fn drive(&mut self, socket: &mut Socket) -> Next {
        let (mut next_beat, mut last_sign) = (Instant::now() + HEARTBEAT, Instant::now());
        loop {
            if last_sign.elapsed() > SILENCE_MAX {
                self.note(What::Ended { code: None });
                return Next::Again;
            }
            let Ok(message) = timeout_at(next_beat, socket.next()).await else {
                next_beat = Instant::now() + HEARTBEAT;
                let beat = json!({"op": 1, "d": self.held.as_ref().map(|held| held.s)});
                let beat = Message::Text(beat.to_string().into());
                let _ = timeout(ANSWER_MAX, socket.send(beat)).await; // its end shows in reading
                continue;
            };
            last_sign = Instant::now();
            let text = match message {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.map(|frame| frame.code.into());
                    self.note(What::Ended { code });
                    return match code {
                        Some(4004 | 4010..=4014) => Next::Never,
                        Some(1000 | 1001 | 4003 | 4007 | 4009) => Next::Anew,
                        _ => Next::Again,
                    };
                }
                Some(Ok(Message::Binary(_))) => {
                    self.note(What::Malformed("a binary frame nobody asked for".into()));
                    continue;
                }
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => {
                    self.note(What::Ended { code: None });
                    return Next::Again;
                }
            };
            match self.take(&text) {
                Answer::Nothing => {}
                Answer::Send(payload) => {
                    let payload = Message::Text(payload.to_string().into());
                    let _ = timeout(ANSWER_MAX, socket.send(payload)).await;
                }
                Answer::IdentifyAfter(pause) => {
                    sleep(pause).await;
                    last_sign = Instant::now();
                    let payload = Message::Text(self.identify().to_string().into());
                    let _ = timeout(ANSWER_MAX, socket.send(payload)).await;
                }
                Answer::Leave => {
                    self.note(What::Ended { code: None });
                    return Next::Again;
                }
            }
        }
    }

    fn identify(&self) -> Value {
        identify(&self.how.token, self.how.intents, None)
    }

    /// Files a frame.
    fn take(&mut self, text: &str) -> Answer {
        let parts = match wire::split(text) {
            Ok(parts) => parts,
            Err(fault) => {
                self.note(What::Malformed(fault));
                return Answer::Nothing;
            }
        };
        match parts.op {
            0 => {
                self.dispatch(parts);
                Answer::Nothing
            }
            1 => Answer::Send(json!({"op": 1, "d": self.held.as_ref().map(|held| held.s)})),
            7 => {
                self.note(What::SentAway);
                Answer::Leave
            }
            9 if self.held.take().is_some() => {
                lock(&self.seat).is_up = false;
                self.note(What::Refused);
                Answer::IdentifyAfter(Duration::from_millis(rand::random_range(300..1_500)))
            }
            9 => {
                self.note(What::NotNow);
                Answer::IdentifyAfter(Duration::from_millis(rand::random_range(1_000..4_000)))
            }
            10 => Answer::Send(match &self.held {
                Some(held) => resume(&self.how.token, &held.session_id, held.s),
                None => self.identify(),
            }),
            _ => Answer::Nothing,
        }
    }

    fn dispatch(&mut self, parts: Parts<'_>) {
        let Parts { t, s, d, .. } = parts;
        let (t, s) = (t.unwrap_or_default(), s.unwrap_or_default());
        let what = match t {
            "READY" => self.ready(s, d),
            "RESUMED" => Ok(What::Resumed { s }),
            "GUILD_CREATE" => picture(d).map(|picture| What::Guild {
                s,
                picture: Box::new(picture),
            }),
            "GUILD_DELETE" => serde_json::from_str(d).map(|d: Value| What::GuildGone {
                s,
                guild: number(&d["id"]),
            }),
            _ => Ok(What::Dispatch {
                s,
                said: self.bodies.keep(t, d),
            }),
        };
        if let Some(held) = &mut self.held {
            held.s = s;
        }
        if matches!(t, "READY" | "RESUMED") {
            self.got_through = true;
            lock(&self.seat).is_up = true;
        }
        self.note(what.unwrap_or_else(|error| What::Malformed(format!("{t}: {error}"))));
    }

    fn ready(&mut self, s: u64, d: &str) -> serde_json::Result<What> {
        #[derive(Deserialize)]
        struct Ready {
            session_id: String,
            resume_gateway_url: String,
            guilds: Vec<Value>,
        }
        let ready: Ready = serde_json::from_str(d)?;
        let whole = ready
            .guilds
            .iter()
            .filter(|guild| guild["unavailable"] != true);
        let pictures = whole.map(picture_of).collect();
        let is_home = |url: &String| *url == ready.resume_gateway_url;
        let node = self.how.urls.iter().position(is_home).unwrap_or(usize::MAX);
        self.held = Some(Held {
            session_id: ready.session_id,
            url: ready.resume_gateway_url,
            s,
        });
        Ok(What::Ready { s, node, pictures })
    }
}

/// What a frame asks for.
enum Answer {
    Nothing,
    Send(Value),
    IdentifyAfter(Duration),
    Leave,
}

async fn open(url: &str) -> Option<Socket> {
    let stream = timeout(ANSWER_MAX, connect_tcp(url)).await.ok()?.ok()?;
    let url = format!("{url}/?v=10&encoding=json");
    let request = url.as_str().into_client_request().ok()?;
    let opened = timeout(ANSWER_MAX, client_async(request, stream)).await;
    Some(opened.ok()?.ok()?.0)
}

fn picture(d: &str) -> serde_json::Result<Picture> {
    Ok(picture_of(&serde_json::from_str(d)?))
}

fn picture_of(d: &Value) -> Picture {
    let list = |key: &str| d[key].as_array().into_iter().flatten();
    let channels: BTreeMap<u64, Seen> = list("channels")
        .map(|channel| {
            let known = channel_of(channel);
            let seen = Seen {
                topic: known.topic,
                last: known.last,
            };
            (number(&channel["id"]), seen)
        })
        .collect();
    Picture {
        guild: number(&d["id"]),
        channels,
        roles: list("roles").map(role_of).collect(),
        member_count: d["member_count"].as_u64().unwrap_or_default(),
    }
}

/// Now, as the log counts time.
pub(crate) fn now_ms() -> Millis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_millis() as Millis
}
