//! What an event changes in who sees what, and what those are told who gain or lose by it.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use guildhall_shared::{
    Id, Timestamp,
    envelope::{Durability, Envelope, Scope, Visibility},
    gateway::{EventKind, Intents},
    id::marker::{Channel, User},
    model::{self, VoiceState},
};
use rustc_hash::FxHashMap;

use super::{Effect, Realm, as_told, channel_of};
use crate::{
    bus::{ClassId, ViewChange},
    node::owner::{
        guild::{Gone, Touched},
        moves::{Audience, Gathering, Moves, Regarded},
        threads::{Sight, ThreadListSync},
        view::{Moved, Seen, sees},
    },
};

/// An event that no change stands for.
struct Made {
    kind: EventKind,
    body: Bytes,
    /// Who is not told it.
    except: Option<Id<User>>,
}

/// What becomes of a channel for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Gained,
    Lost,
}

impl Realm {
    /// The views first, so that a revocation holds at this very event; then what the event
    /// means for those who gained a channel, the event itself, and for those who lost one. `before`
    /// is the channel that it updates, as it was.
    pub(super) fn change_views(
        &mut self,
        now: Instant,
        event: Arc<Envelope>,
        before: Option<&model::Channel>,
        touched: Touched,
        out: &mut Vec<Effect>,
    ) {
        let about = channel_of(&event);
        let moves = self.review(touched, out);
        for (channel, audience) in &moves.gained {
            // A channel that is new announces itself.
            if event.kind != EventKind::ChannelCreate || about != Some(*channel) {
                let kind = EventKind::ChannelCreate;
                self.synthesize(kind, audience, self.shown(*channel), out);
            }
            for made in self.inside(*channel, Turn::Gained) {
                self.make(made, audience, out);
            }
        }
        self.send(now, event, out);
        self.sync_threads(&moves, out);
        for (channel, audience) in &moves.lost {
            let hidden = before.filter(|before| before.id == *channel);
            let body = match hidden {
                Some(before) => self.last_seen(before),
                None => self.shown(*channel),
            };
            if hidden.is_some() {
                self.synthesize(EventKind::ChannelUpdate, audience, body.clone(), out);
            }
            for made in self.inside(*channel, Turn::Lost) {
                self.make(made, audience, out);
            }
            self.synthesize(EventKind::ChannelDelete, audience, body, out);
        }
    }

    /// Tells who gained channels of the active threads that they see there: once all who see the
    /// same ones and are in none of them.
    fn sync_threads(&self, moves: &Moves, out: &mut Vec<Effect>) {
        let Some(guild) = &self.guild else { return };
        if moves.gained.is_empty() {
            return;
        }
        let parents = guild.threads.parents();
        let insiders = guild.threads.insiders(&parents);
        let now = Timestamp::now();
        let mut syncs: Vec<(Audience, Bytes)> = Vec::new();
        for regarded in &moves.regarded {
            let gained = regarded.gained.iter();
            let of: Vec<Id<Channel>> = gained.filter(|id| parents.contains(*id)).copied().collect();
            if of.is_empty() {
                continue;
            }
            let mut held: Vec<_> = of
                .iter()
                .map(|&channel| guild.held_by_many(Some(channel), now))
                .collect();
            // Those in one of the threads get a list of their own.
            type Alike = (Vec<Sight>, Option<Id<User>>);
            let mut alike: FxHashMap<Alike, Gathering> = FxHashMap::default();
            for (&edge, users) in &regarded.who.edges {
                for &user in users {
                    let Some(member) = guild.members.get(&user) else {
                        continue;
                    };
                    let held = held.iter_mut();
                    let sights = held.map(|held| Sight::of(held.by(user, member))).collect();
                    let alone = insiders.contains(&user).then_some(user);
                    alike.entry((sights, alone)).or_default().add(edge, user);
                }
            }
            for ((sights, _), users) in alike {
                let audience = users.settle();
                let Some(first) = audience.first() else {
                    continue;
                };
                let threads = guild.threads.seen_by(first, |channel| {
                    let place = of.binary_search(&channel);
                    place.map_or(Sight::Nothing, |place| sights[place])
                });
                if threads.is_empty() {
                    continue;
                }
                let gained = Some(&regarded.gained[..]);
                let d = ThreadListSync::new(guild.guild.id, gained, threads);
                let Ok(body) = serde_json::to_vec(&d) else {
                    continue;
                };
                syncs.push((audience, body.into()));
            }
        }
        syncs.sort_by_key(|(audience, _)| audience.first());
        for (audience, body) in syncs {
            self.synthesize(EventKind::ThreadListSync, &audience, Some(body), out);
        }
    }

    /// For those who see where something was, but not where it is now. `own` get the event itself.
    pub(super) fn tell_of_leaving(&self, gone: Gone, own: &[Id<User>], out: &mut Vec<Effect>) {
        let Some(guild) = &self.guild else { return };
        let from = gone.from.map(|channel| guild.classes.of(channel));
        let to = guild.classes.of(gone.to);
        if from == Some(to) {
            return;
        }
        let is_seen =
            |seen: &Seen, class: Option<ClassId>| class.is_some_and(|class| sees(seen, class));
        let mut audience = Gathering::default();
        for (&edge, known) in self.edges.iter() {
            for (&user, seen) in known.iter() {
                let Some(seen) = seen else { continue };
                let saw = from.is_none_or(|from| is_seen(seen, from));
                if saw && !is_seen(seen, to) && !own.contains(&user) {
                    audience.add(edge, user);
                }
            }
        }
        let audience = audience.settle();
        if !audience.edges.is_empty() {
            let body = Bytes::from(gone.body.to_string());
            self.synthesize(gone.kind, &audience, Some(body), out);
        }
    }

    /// What is in a channel, as it is told to those who see it from now on, or no longer: nobody
    /// would tell these of its end.
    fn inside(&self, channel: Id<Channel>, turn: Turn) -> Vec<Made> {
        let Some(guild) = &self.guild else {
            return Vec::new();
        };
        let mut inside = Vec::new();
        let mut add = |kind, except, body: serde_json::Result<serde_json::Value>| {
            inside.extend(body.map(|body| Made {
                kind,
                body: Bytes::from(body.to_string()),
                except,
            }));
        };
        for voice in guild.voice_states.values() {
            if voice.channel_id == Some(channel) {
                let mut told = VoiceState {
                    guild_id: Some(guild.guild.id),
                    member: guild.members.get(&voice.user_id).cloned(),
                    ..voice.clone()
                };
                let mut except = None;
                if turn == Turn::Lost {
                    told.channel_id = None;
                    told.suppress = false;
                    told.request_to_speak_timestamp = None;
                    // Who is in it stays there, seeing it or not.
                    except = Some(voice.user_id);
                }
                let kind = EventKind::VoiceStateUpdate;
                add(kind, except, serde_json::to_value(told));
            }
        }
        for stage in guild.stages.values() {
            if stage.channel_id == channel {
                let kind = match turn {
                    Turn::Gained => EventKind::StageInstanceCreate,
                    Turn::Lost => EventKind::StageInstanceDelete,
                };
                add(kind, None, serde_json::to_value(stage));
            }
        }
        for event in guild.events.values() {
            if event.channel_id == Some(channel) {
                let kind = match turn {
                    Turn::Gained => EventKind::GuildScheduledEventCreate,
                    Turn::Lost => EventKind::GuildScheduledEventDelete,
                };
                add(kind, None, serde_json::to_value(event));
            }
        }
        inside
    }

    /// Sends every edge what these users of it see differently now; which channels members gained
    /// and lost by it. Those who came or left do not count, they get the whole guild or lose it.
    pub(super) fn review(&mut self, touched: Touched, out: &mut Vec<Effect>) -> Moves {
        // Only what touches everybody moves channels.
        let moved: Vec<Moved> = match (&mut self.guild, touched) {
            (Some(guild), Touched::Everybody) => guild.classes.changes(),
            _ => Vec::new(),
        };
        let guild = self.guild.as_deref();
        let mut regarded = Regarded::default();
        for (&edge, known) in self.edges.iter_mut() {
            let mut users = Vec::new();
            let mut look_at = |user: Id<User>, believed: &mut Option<Seen>| {
                let seen = guild.and_then(|guild| guild.seen_by(user));
                let is_same = *believed == seen;
                if let (Some(saw), Some(sees)) = (&*believed, &seen)
                    && !(is_same && moved.is_empty())
                {
                    regarded.add(edge, user, saw, sees);
                }
                if !is_same {
                    users.push((user, as_told(&seen)));
                    *believed = seen;
                }
            };
            match touched {
                // One among perhaps 20,000: not looked for.
                Touched::Member(user) => {
                    if let Some(believed) = known.get_mut(&user) {
                        look_at(user, believed);
                    }
                }
                Touched::Nobody | Touched::Everybody => {
                    for (&user, believed) in known.iter_mut() {
                        look_at(user, believed);
                    }
                }
            }
            if !moved.is_empty() || !users.is_empty() {
                let channels = moved.iter().map(|moved| (moved.channel, moved.now));
                let channels = channels.collect();
                out.push(Effect::View(edge, ViewChange { channels, users }));
            }
        }
        match guild {
            Some(guild) => regarded.moves(&moved, guild.classes.told()),
            None => Moves::default(),
        }
    }

    /// A channel as its events show it.
    fn shown(&self, channel: Id<Channel>) -> Option<Bytes> {
        let channel = self.guild.as_ref()?.channels.get(&channel)?;
        serde_json::to_vec(channel).ok().map(Bytes::from)
    }

    /// A channel that an update hides, as those who lose it may know it: with the overwrites that
    /// hide it, and else as they saw it.
    fn last_seen(&self, before: &model::Channel) -> Option<Bytes> {
        let now = self.guild.as_ref()?.channels.get(&before.id)?;
        let seen = model::Channel {
            permission_overwrites: now.permission_overwrites.clone(),
            ..before.clone()
        };
        serde_json::to_vec(&seen).ok().map(Bytes::from)
    }

    /// [`Self::make`] of this body, if there is one.
    fn synthesize(
        &self,
        kind: EventKind,
        audience: &Audience,
        body: Option<Bytes>,
        out: &mut Vec<Effect>,
    ) {
        let except = None;
        if let Some(body) = body {
            self.make(Made { kind, body, except }, audience, out);
        }
    }

    /// An event that no change stands for: these users' view of a channel began or ended. Each edge
    /// is told of its own users, who are named by the same list whatever else they are told.
    fn make(&self, made: Made, audience: &Audience, out: &mut Vec<Effect>) {
        let Made { kind, body, except } = made;
        out.extend(audience.edges.iter().map(|(edge, users)| {
            let scope = Scope::Users(users.clone());
            let event = Envelope {
                realm: self.id,
                durability: Durability::Ephemeral,
                kind,
                vis: Visibility {
                    except: except.into_iter().collect(),
                    ..Visibility::of(scope, intents_of(kind))
                },
                at_ms: 0,
                trace: 0,
                body: body.clone(),
                alt: None,
            };
            Effect::EventTo(*edge, Arc::new(event))
        }));
    }
}

/// What a session must have asked for to get an event that no change stands for.
fn intents_of(kind: EventKind) -> Intents {
    match kind {
        EventKind::VoiceStateUpdate => Intents::GUILD_VOICE_STATES,
        EventKind::GuildScheduledEventCreate | EventKind::GuildScheduledEventDelete => {
            Intents::GUILD_SCHEDULED_EVENTS
        }
        _ => Intents::GUILDS,
    }
}
