//! Op 4: checked and stored, one request after the other for each user of a guild.
//!
//! Keeps the voice states of this node's sessions alive; those of a node that died end when
//! nobody does (the API's housekeeping).

use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use guildhall_redis::Connection;
use guildhall_shared::{
    Id,
    envelope::Envelope,
    gateway::EventKind,
    id::marker::{Guild, User},
    keys,
    shard::ShardId,
    voice::{VoiceServer, VoiceSettings},
};
use guildhall_store::voice::change::{self, Connected, Wanted};
use rustc_hash::FxHashMap;
use sqlx::PgPool;
use tokio::{task::spawn_local, time::sleep};

use super::{database, to_core::answer};
use crate::{
    bus::{CoreHandle, ToCore, VoiceRequest},
    names::CoreId,
};

/// Requests of one user in one guild that wait for their turn. When there are more, the newest of each
/// session alone has a place: how it was in voice before that is nobody's matter.
const WAITING_MAX: usize = 16;
/// Time between signs of life: a third of [`change::ALIVE_SECONDS`].
const ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Requests about one member, in their order.
type Line = VecDeque<(CoreId, VoiceRequest)>;
type Lines = FxHashMap<(Id<Guild>, Id<User>), Line>;

pub(crate) struct Voice {
    db: PgPool,
    redis: Connection,
    shards: u16,
    settings: VoiceSettings,
    cores: Rc<[CoreHandle]>,
    /// What waits behind the request that is being served.
    lines: RefCell<Lines>,
    /// Sessions of this node that are in voice, or were.
    alive: RefCell<BTreeSet<String>>,
}

impl Voice {
    pub(crate) fn new(
        db: PgPool,
        redis: Connection,
        shards: u16,
        settings: VoiceSettings,
        cores: Rc<[CoreHandle]>,
    ) -> Rc<Self> {
        Rc::new(Self {
            db,
            redis,
            shards,
            settings,
            cores,
            lines: RefCell::default(),
            alive: RefCell::default(),
        })
    }

    /// Serves a request once those before it are served.
    pub(crate) fn request(self: &Rc<Self>, core: CoreId, request: VoiceRequest) {
        let key = (request.command.guild, request.user);
        let mut lines = self.lines.borrow_mut();
        if let Some(line) = lines.get_mut(&key) {
            return wait(line, core, request);
        }
        lines.insert(key, Line::new());
        drop(lines);
        let voice = self.clone();
        spawn_local(async move {
            let mut next = Some((core, request));
            while let Some((core, request)) = next {
                voice.serve(core, request).await;
                let mut lines = voice.lines.borrow_mut();
                next = lines.get_mut(&key).and_then(VecDeque::pop_front);
                if next.is_none() {
                    lines.remove(&key);
                }
            }
        });
    }

    /// A session that is in voice, or was, comes from another node.
    pub(crate) fn adopt(&self, session_id: String) {
        self.alive.borrow_mut().insert(session_id);
    }

    /// A session goes on on another node, which keeps its voice state alive.
    pub(crate) fn let_go(&self, session_id: &str) {
        self.alive.borrow_mut().remove(session_id);
    }

    #[cfg(test)]
    pub(super) fn keeps_any(&self) -> bool {
        !self.alive.borrow().is_empty()
    }

    async fn serve(&self, core: CoreId, request: VoiceRequest) {
        let session_id = request.session_id.clone();
        if request.ended {
            self.alive.borrow_mut().remove(&session_id);
        } else if request.command.channel.is_some() {
            self.alive.borrow_mut().insert(session_id);
        }
        let key = request.session;
        match database::limited(self.change(&request)).await {
            Ok((events, dispatches)) => {
                self.publish(events).await;
                if !dispatches.is_empty() {
                    let session = key;
                    let message = ToCore::Tell {
                        session,
                        answers: None,
                        dispatches,
                    };
                    let _ = answer(&self.cores, core, message).await;
                }
            }
            Err(error) => tracing::warn!(%error, "a voice state was not changed"),
        }
    }

    /// Stores what a request asks for: the events that tell of it, and what its session alone
    /// is told.
    async fn change(
        &self,
        request: &VoiceRequest,
    ) -> guildhall_store::Result<(Vec<Envelope>, Vec<(EventKind, Bytes)>)> {
        let command = &request.command;
        let mut tx = self.db.begin().await?;
        let Some(channel) = command.channel else {
            let (guild, session) = (command.guild, Some(request.session_id.as_str()));
            let events = change::disconnect(&mut tx, guild, request.user, session, 0).await?;
            tx.commit().await?;
            return Ok((events, Vec::new()));
        };
        let wanted = Wanted {
            channel,
            session_id: request.session_id.clone(),
            self_mute: command.self_mute,
            self_deaf: command.self_deaf,
            self_video: command.self_video,
        };
        let done = change::connect(&mut tx, command.guild, request.user, &wanted, 0).await?;
        tx.commit().await?;
        let Connected::Done {
            state,
            events,
            entered,
        } = done
        else {
            return Ok((Vec::new(), Vec::new()));
        };
        let mut dispatches = Vec::new();
        if events.is_empty() {
            // It asks for what it has: it may have lost the answers.
            let body = serde_json::to_vec(&*state)?.into();
            dispatches.push((EventKind::VoiceStateUpdate, body));
        }
        if (entered || events.is_empty())
            && let Some(server) = VoiceServer::for_state(&self.settings, &state)
        {
            let body = serde_json::to_vec(&server)?.into();
            dispatches.push((EventKind::VoiceServerUpdate, body));
        }
        Ok((events, dispatches))
    }

    /// As the API publishes: what is lost here is found by the owners.
    async fn publish(&self, events: Vec<Envelope>) {
        if events.is_empty() {
            return;
        }
        let mut pipeline = redis::pipe();
        for event in &events {
            let key = keys::shard_events(ShardId::of(event.realm, self.shards));
            let bytes = event.encode();
            pipeline
                .cmd("XADD")
                .arg(&key)
                .arg("MAXLEN")
                .arg("~")
                .arg(keys::STREAM_LENGTH_MAX)
                .arg("*")
                .arg(keys::STREAM_FIELD)
                .arg(&bytes[..])
                .ignore()
                .cmd("SPUBLISH")
                .arg(&key)
                .arg(&bytes[..])
                .ignore();
        }
        let mut redis = self.redis.clone();
        if let Err(error) = pipeline.query_async::<()>(&mut redis).await {
            tracing::debug!(%error, "voice states were not published");
        }
    }

    /// Says again and again that this node's sessions are there.
    pub(crate) async fn keep_alive(self: Rc<Self>) {
        loop {
            sleep(ALIVE_INTERVAL).await;
            let sessions: Vec<String> = self.alive.borrow().iter().cloned().collect();
            if sessions.is_empty() {
                continue;
            }
            let kept = database::limited(change::keep_alive(&self.db, &sessions)).await;
            if let Err(error) = kept {
                tracing::warn!(%error, "voice states were not kept alive");
            }
        }
    }
}

/// A request takes the last place in a line: none is dropped, since clients do not ask again. If the
/// line is full, what its session asked for before makes way.
fn wait(line: &mut Line, core: CoreId, request: VoiceRequest) {
    if line.len() >= WAITING_MAX {
        let is_before = |(_, before): &(CoreId, VoiceRequest)| {
            before.session_id == request.session_id && !before.ended
        };
        if let Some(place) = line.iter().rposition(is_before) {
            line.remove(place);
        }
    }
    line.push_back((core, request));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec::VoiceCommand, names::SessionKey};

    fn id<T>(id: u64) -> Id<T> {
        Id::new(id).unwrap()
    }

    fn request(session: u32, channel: Option<u64>) -> VoiceRequest {
        VoiceRequest {
            session: SessionKey {
                slot: session,
                generation: 1,
            },
            session_id: session.to_string(),
            user: id(1),
            command: VoiceCommand {
                guild: id(2),
                channel: channel.map(id),
                self_mute: false,
                self_deaf: false,
                self_video: false,
            },
            ended: false,
        }
    }

    /// The channels that a session asks for, in order.
    fn asked(line: &Line, session: u32) -> Vec<Option<u64>> {
        let of = line
            .iter()
            .filter(|(_, request)| request.session.slot == session);
        of.map(|(_, request)| request.command.channel.map(Id::get))
            .collect()
    }

    #[test]
    fn what_a_session_asks_for_last_is_never_lost() {
        let mut line = Line::new();
        for channel in 1..=40 {
            wait(&mut line, 0, request(1, Some(channel)));
        }
        wait(&mut line, 0, request(1, None));
        assert_eq!(line.len(), WAITING_MAX);
        assert_eq!(asked(&line, 1).last(), Some(&None));
        // Others of the user's have a place each, behind what was asked before.
        for channel in 1..=40 {
            wait(&mut line, 1, request(2, Some(channel)));
        }
        assert_eq!(line.len(), WAITING_MAX + 1);
        assert_eq!(asked(&line, 2), [Some(40)]);
        let ended = VoiceRequest {
            ended: true,
            ..request(2, None)
        };
        wait(&mut line, 1, ended);
        wait(&mut line, 0, request(1, Some(7)));
        assert_eq!(line.len(), WAITING_MAX + 1);
        assert_eq!(asked(&line, 2), [None]);
        assert_eq!(asked(&line, 1).last(), Some(&Some(7)));
        assert!(line.iter().any(|(_, request)| request.ended));
    }
}
