//! One bot: connects somewhere, identifies, heartbeats, resumes somewhere else; and holds every
//! dispatch against what happened.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use guildhall_shared::gateway::Intents;
use guildhall_shared::id::Id;
use guildhall_shared::id::marker::{Channel, Guild, User};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Shared;
use super::wire::{self, Heard, Reader, Writer};

/// Time to answer a connection or a command, and a heartbeat.
const PATIENCE: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Things that are remembered for the message about what is wrong.
const TRAIL: usize = 12;
/// A session whose client stays away for longer may be gone.
const WINDOW: Duration = Duration::from_secs(150);

pub(crate) struct Client {
    shared: Rc<Shared>,
    name: String,
    user: Id<User>,
    token: String,
    session: Known,
    /// When it identified last.
    identified: Instant,
    /// Where it was last.
    place: Option<usize>,
    /// What it did and was told last, for who looks for what is wrong.
    trail: VecDeque<String>,
}

/// A client's session, while it has one.
pub(crate) type Known = Rc<RefCell<Option<Session>>>;

/// What a client knows of its session.
pub(crate) struct Session {
    id: String,
    s: u64,
    guilds: BTreeMap<Id<Guild>, Option<Listed>>,
    /// When it was asked for: its gateway has it from then on, before READY is here.
    began: Instant,
    /// Where it was, or may have been.
    places: Vec<usize>,
    /// When its connection was last known to work.
    heard: Instant,
}

/// A guild that it has.
#[derive(Default)]
struct Listed {
    /// The newest message that it got or that its snapshot had, of all channels.
    newest: u64,
    /// Channels, each with the newest message that it has or was told of.
    channels: BTreeMap<Id<Channel>, u64>,
}

/// Why a connection is over.
enum End {
    /// It resumes, or identifies, at once or after a while.
    Again(Duration),
    Wrong(anyhow::Error),
}

impl Client {
    /// What it knows of its session is in `session`.
    pub(crate) fn new(shared: Rc<Shared>, user: Id<User>, token: String, session: Known) -> Self {
        Self {
            shared,
            name: format!("client-{user}"),
            user,
            token,
            session,
            identified: Instant::now(),
            place: None,
            trail: VecDeque::new(),
        }
    }

    /// As long as the task lives, or until something is wrong.
    pub(crate) async fn run(mut self) {
        loop {
            match self.connected().await {
                End::Again(pause) => sleep(pause).await,
                End::Wrong(error) => {
                    let trail: Vec<String> = self.trail.into();
                    let wrong = error.context(format!("{}, after {}", self.name, trail.join("; ")));
                    return self.shared.wrong(wrong);
                }
            }
        }
    }

    /// One connection from beginning to end.
    async fn connected(&mut self) -> End {
        let pause = Duration::from_millis(self.shared.chance().between(100, 3_000));
        let Some(place) = self.shared.gateway_for(self.place) else {
            return End::Again(pause);
        };
        let gateway = self.shared.name_of(place);
        let Some((mut reader, mut writer)) = wire::open(&self.name, &gateway) else {
            return End::Again(pause);
        };
        match timeout(PATIENCE, reader.next()).await {
            Ok(Heard::Payload(payload)) if payload["op"] == 10 => {}
            _ => return End::Again(pause),
        }
        self.place = Some(place);
        self.note(format!("at {gateway}"));
        let resume = self.session.borrow_mut().as_mut().map(|session| {
            session.places.push(place);
            json!({"op": 6, "d": {
                "token": self.token, "session_id": session.id, "seq": session.s,
            }})
        });
        let first = resume.unwrap_or_else(|| self.identify());
        writer.say(&first).await;
        let ends = self.live(&mut reader, &mut writer, place).await;
        match ends {
            Ok(true) => End::Again(pause),
            // Whoever is asked to reconnect does.
            Ok(false) => End::Again(Duration::from_millis(20)),
            Err(wrong) => End::Wrong(wrong),
        }
    }

    fn identify(&mut self) -> Value {
        self.identified = Instant::now();
        let intents = (Intents::GUILDS | Intents::GUILD_MESSAGES).bits();
        json!({"op": 2, "d": {"token": self.token, "intents": intents, "properties": {}}})
    }

    /// True if the next connection is to wait a little. Errors: what is wrong.
    async fn live(
        &mut self,
        reader: &mut Reader,
        writer: &mut Writer,
        place: usize,
    ) -> Result<bool> {
        let mut beat_at = Instant::now() + HEARTBEAT;
        let mut answer_by = Some(Instant::now() + PATIENCE);
        let breaks_at = {
            let wait = self
                .shared
                .chance()
                .between(1, 2 * self.shared.breaks_every_ms);
            Instant::now() + Duration::from_millis(wait)
        };
        loop {
            let deadline = answer_by.map_or(beat_at, |by| by.min(beat_at));
            let deadline = if self.shared.writing_is_over() {
                deadline
            } else {
                deadline.min(breaks_at)
            };
            tokio::select! {
                biased;
                heard = reader.next() => match heard {
                    Heard::Ping(payload) => writer.pong(&payload).await,
                    Heard::Closed(code) => {
                        ensure!(
                            code.is_none_or(|code| matches!(code, 1000 | 1001 | 4000 | 4008 | 4009)),
                            "closed with {code:?}"
                        );
                        return Ok(true);
                    }
                    Heard::Payload(payload) => {
                        if let Some(session) = &mut *self.session.borrow_mut() {
                            session.heard = Instant::now();
                        }
                        match payload["op"].as_u64() {
                            Some(0) => {
                                self.dispatch(&payload, place)?;
                                answer_by = None;
                            }
                            Some(1) => writer.say(&self.heartbeat()).await,
                            Some(7) => return Ok(false),
                            Some(9) => {
                                self.note("op 9".to_owned());
                                ensure!(payload["d"] == false, "op 9 with d {}", payload["d"]);
                                self.invalid()?;
                                let wait = self.shared.chance().between(1_000, 5_000);
                                sleep(Duration::from_millis(wait)).await;
                                writer.say(&self.identify()).await;
                                answer_by = Some(Instant::now() + PATIENCE);
                            }
                            Some(11) => answer_by = None,
                            other => bail!("op {other:?}"),
                        }
                    }
                },
                () = sleep_until(deadline) => {
                    let now = Instant::now();
                    if answer_by.is_some_and(|by| by <= now) || now >= breaks_at && deadline == breaks_at {
                        // Nobody answers, or the connection breaks.
                        return Ok(true);
                    }
                    beat_at = now + HEARTBEAT;
                    answer_by = Some(now + PATIENCE);
                    writer.say(&self.heartbeat()).await;
                }
            }
        }
    }

    fn heartbeat(&self) -> Value {
        let s = self.session.borrow().as_ref().map(|session| session.s);
        json!({"op": 1, "d": s})
    }

    /// The session is gone: only after something that may cost sessions (I4).
    fn invalid(&mut self) -> Result<()> {
        let session = self.session.borrow_mut().take();
        let Some(session) = session else {
            // Too many identify, or the database does not answer.
            return Ok(());
        };
        let losses = self.shared.losses.borrow();
        let excused = losses.excuse(&session.places, session.began);
        let late = session.heard.elapsed() > WINDOW;
        let mut counts = self.shared.counts.borrow_mut();
        counts.invalid += 1;
        ensure!(
            excused || late,
            "I4: op 9 for a session of {:?} that nothing happened to",
            session.places
        );
        Ok(())
    }

    fn dispatch(&mut self, payload: &Value, place: usize) -> Result<()> {
        let (kind, d) = (payload["t"].as_str().unwrap_or_default(), &payload["d"]);
        let s = payload["s"].as_u64().context("a dispatch without s")?;
        self.note(format!("{s} {kind} {}", short(d)));
        let had = self.s();
        ensure!(s == had + 1, "I5: {kind} with s {s} after {had}");
        self.shared.counts.borrow_mut().dispatches += 1;
        let mut known = self.session.borrow_mut();
        if kind == "READY" {
            ensure!(known.is_none(), "a second READY");
            let id = d["session_id"]
                .as_str()
                .context("READY without a session")?;
            let guilds = d["guilds"].as_array().into_iter().flatten();
            let guilds: Result<BTreeMap<_, _>> = guilds
                .map(|guild| Ok((read_id(&guild["id"])?, None)))
                .collect();
            *known = Some(Session {
                id: id.to_owned(),
                s,
                guilds: guilds?,
                began: self.identified,
                places: vec![place],
                heard: Instant::now(),
            });
            return Ok(());
        }
        let session = known.as_mut().context("a dispatch before READY")?;
        session.s = s;
        session.follow(&self.shared, self.user, kind, d)
    }

    fn note(&mut self, what: String) {
        if self.trail.len() >= TRAIL {
            self.trail.pop_front();
        }
        self.trail.push_back(what);
    }

    fn s(&self) -> u64 {
        self.session
            .borrow()
            .as_ref()
            .map_or(0, |session| session.s)
    }
}

impl Session {
    fn follow(&mut self, shared: &Shared, user: Id<User>, kind: &str, d: &Value) -> Result<()> {
        let guild_of = |key: &str| read_id::<Guild>(&d[key]);
        match kind {
            "RESUMED" => shared.counts.borrow_mut().resumed += 1,
            "GUILD_CREATE" => {
                let guild = guild_of("id")?;
                let before = self.guilds.insert(guild, Some(Listed::read(d)?));
                ensure!(
                    !matches!(before, Some(Some(_))),
                    "I6: a snapshot of a guild that it has"
                );
                let listed = self.guilds.get(&guild).and_then(Option::as_ref);
                for (&channel, &last) in listed.iter().flat_map(|listed| &listed.channels) {
                    shared.history(guild, |history| {
                        ensure!(
                            history.saw_since(user, channel, last),
                            "I7: {channel} is listed"
                        );
                        Ok(())
                    })?;
                }
            }
            "GUILD_DELETE" => {
                let guild = guild_of("id")?;
                let before = self.guilds.remove(&guild);
                ensure!(before.is_some(), "the end of a guild that it does not have");
                if d["unavailable"] == true {
                    self.guilds.insert(guild, None);
                }
            }
            "CHANNEL_CREATE" => {
                let (channel, last) = read_channel(d)?;
                let before = self
                    .listed(guild_of("guild_id")?)?
                    .channels
                    .insert(channel, last);
                ensure!(before.is_none(), "a channel that it has");
            }
            "CHANNEL_UPDATE" => {
                self.listed(guild_of("guild_id")?)?;
            }
            "CHANNEL_DELETE" => {
                let (channel, _) = read_channel(d)?;
                let before = self
                    .listed(guild_of("guild_id")?)?
                    .channels
                    .remove(&channel);
                ensure!(before.is_some(), "a channel that it lacks");
            }
            "MESSAGE_CREATE" => {
                let guild = guild_of("guild_id")?;
                let channel: Id<Channel> = read_id(&d["channel_id"])?;
                let seq = read_id::<Channel>(&d["id"])?.get();
                self.listed(guild)?
                    .message(shared, guild, user, channel, seq)?;
            }
            other => bail!("{other} was not asked for"),
        }
        Ok(())
    }

    fn listed(&mut self, guild: Id<Guild>) -> Result<&mut Listed> {
        let listed = self.guilds.get_mut(&guild).and_then(Option::as_mut);
        listed.context("of a guild that it does not have")
    }

    /// Whether it has all there is, once nothing more happens. Errors: what it lacks.
    pub(crate) fn is_whole(&self, shared: &Shared, user: Id<User>) -> Result<()> {
        for (&guild, history) in &*shared.histories.borrow() {
            let listed = self.guilds.get(&guild);
            if !history.is_member(user) {
                ensure!(listed.is_none(), "{guild} is listed though it was kicked");
                continue;
            }
            let listed = listed.and_then(Option::as_ref);
            let listed = listed.with_context(|| format!("{guild} is lacking"))?;
            let seen = history.seen_by(user);
            let has: Vec<Id<Channel>> = listed.channels.keys().copied().collect();
            ensure!(
                has == seen,
                "I3: it lists {has:?} of {guild}, and sees {seen:?}"
            );
            for (&channel, &last) in &listed.channels {
                let newest = history.last_message(channel);
                ensure!(
                    last == newest,
                    "I3: {channel} ends with {last} for it, and with {newest}"
                );
            }
        }
        Ok(())
    }
}

impl Listed {
    fn read(guild: &Value) -> Result<Self> {
        let channels = guild["channels"].as_array().into_iter().flatten();
        let channels: Result<BTreeMap<_, _>> = channels.map(read_channel).collect();
        let channels = channels?;
        Ok(Self {
            newest: channels.values().copied().max().unwrap_or(0),
            channels,
        })
    }

    /// Each message that it may see, once, in order.
    fn message(
        &mut self,
        shared: &Shared,
        guild: Id<Guild>,
        user: Id<User>,
        channel: Id<Channel>,
        seq: u64,
    ) -> Result<()> {
        ensure!(seq > self.newest, "I3: message {seq} after {}", self.newest);
        self.newest = seq;
        shared.history(guild, |history| {
            ensure!(
                history.saw_since(user, channel, seq),
                "I7: message {seq} of {channel}, which it does not see"
            );
            // What it lists otherwise than it is, it is told of behind this.
            let Some(last) = self.channels.get_mut(&channel) else {
                return Ok(());
            };
            if seq <= *last {
                // From when the channel was hidden; a replay goes by what is seen now.
                return Ok(());
            }
            let next = history.next_message(channel, *last);
            ensure!(
                next == Some(seq),
                "I3: message {seq} of {channel}, after {last} there is {next:?}"
            );
            *last = seq;
            Ok(())
        })
    }
}

/// A channel, and its last message.
fn read_channel(channel: &Value) -> Result<(Id<Channel>, u64)> {
    let last = match &channel["last_message_id"] {
        Value::Null => 0,
        last => read_id::<Channel>(last)?.get(),
    };
    Ok((read_id(&channel["id"])?, last))
}

fn read_id<T>(value: &Value) -> Result<Id<T>> {
    let text = value.as_str().unwrap_or_default();
    let id = text.parse().ok().and_then(Id::new);
    id.with_context(|| format!("{value} is no id"))
}

fn short(d: &Value) -> String {
    let fields = ["id", "guild_id", "channel_id", "unavailable"];
    let said = fields
        .iter()
        .filter_map(|field| Some((field, d.get(field)?)));
    let said: Vec<String> = said
        .map(|(field, value)| format!("{field} {value}"))
        .collect();
    said.join(" ")
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::Settings;
    use crate::live::{Live, Sample};

    /// Of a cluster without anybody else.
    fn alone() -> (Live, Client) {
        let sample = Sample {
            guilds: 0,
            clients: 0,
            ..Settings::small(1).sample
        };
        let live = Live::begin(&sample, 1, (1, 1), Duration::ZERO);
        let user = Id::new(1).unwrap();
        let client = Client::new(live.shared.clone(), user, String::new(), Known::default());
        (live, client)
    }

    fn ready(client: &mut Client) {
        let ready = json!({"t": "READY", "s": 1, "d": {"session_id": "a", "guilds": []}});
        client.dispatch(&ready, 0).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_began_without_redis_may_be_lost_before_it_answers() {
        let (live, mut client) = alone();
        live.redis_goes_away(Duration::from_secs(8));
        advance(Duration::from_secs(4)).await;
        client.identify();
        ready(&mut client);
        client.invalid().unwrap();
        advance(Duration::from_secs(5)).await;
        client.identify();
        ready(&mut client);
        assert!(client.invalid().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_may_be_lost_with_a_node_that_ends_while_ready_is_on_its_way() {
        let (live, mut client) = alone();
        client.identify();
        advance(Duration::from_millis(1)).await;
        live.shared.lost_node(0);
        advance(Duration::from_millis(1)).await;
        ready(&mut client);
        client.invalid().unwrap();
        client.identify();
        ready(&mut client);
        assert!(client.invalid().is_err());
    }
}
