//! CHANNEL_UNREAD_UPDATE: where people's sessions have something to read, in guilds that they do
//! not look at (op 14, 37).
//!
//! Best effort and late by up to [`TOLD_EVERY`]: the messages themselves are events of their own.
//! Costs nothing while no session reads it: today's official clients ask for newer forms instead.

use std::time::{Duration, Instant};

use guildhall_shared::{
    Id,
    envelope::{Envelope, Scope},
    gateway::{Capabilities, EventKind},
    id::marker::{Channel, Guild, Message, Realm},
};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::Core;
use crate::{
    bus::SessionSlot,
    session::{GuildPhase, Session},
};

const TOLD_EVERY: Duration = Duration::from_secs(30);
/// Channels kept between two rounds; further ones are left out of the next.
const CHANNELS_MAX: usize = 10_000;

/// What was written since the last round.
#[derive(Debug)]
pub(super) struct Unread {
    /// Whether any session of this core is told at all.
    read: bool,
    told: Instant,
    channels: usize,
    by_realm: FxHashMap<Id<Realm>, FxHashMap<Id<Channel>, Newest>>,
}

#[derive(Debug, Clone, Copy)]
struct Newest {
    message: Id<Message>,
    /// Who sees this channel sees it: for a thread, the channel it is in.
    seen_as: Id<Channel>,
}

#[derive(Deserialize)]
struct Posted {
    id: Id<Message>,
    channel_id: Id<Channel>,
}

#[derive(Serialize)]
struct Update {
    guild_id: Id<Guild>,
    channel_unread_updates: Vec<UnreadChannel>,
}

#[derive(Serialize)]
struct UnreadChannel {
    id: Id<Channel>,
    last_message_id: Id<Message>,
}

impl Unread {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            read: false,
            told: now,
            channels: 0,
            by_realm: FxHashMap::default(),
        }
    }

    /// Files a message, if anybody is to be told of it.
    pub(super) fn note(&mut self, event: &Envelope) {
        if !self.read || event.kind != EventKind::MessageCreate {
            return;
        }
        // Private threads and private channels are for named users, who look at them.
        let Scope::Channel(seen_as) = event.vis.scope else {
            return;
        };
        let Ok(Posted { id, channel_id }) = serde_json::from_slice(&event.body) else {
            return;
        };
        let channels = self.by_realm.entry(event.realm).or_default();
        let newest = Newest {
            message: id,
            seen_as,
        };
        if let Some(known) = channels.get_mut(&channel_id) {
            *known = newest;
        } else if self.channels < CHANNELS_MAX {
            channels.insert(channel_id, newest);
            self.channels += 1;
        }
    }
}

/// Whether a session is told: a person's, of a client that reads no newer form.
fn reads(session: &Session) -> bool {
    let newer = Capabilities::PASSIVE_GUILD_UPDATE | Capabilities::PASSIVE_GUILD_UPDATE_V2;
    !session.bot && !session.capabilities.intersects(newer)
}

impl Core {
    /// Tells those who read it, once in a while.
    pub(super) fn tick_unread(&mut self) {
        self.unread.read = self.sessions.iter().any(|(_, session)| reads(session));
        if self.now.duration_since(self.unread.told) < TOLD_EVERY {
            return;
        }
        self.unread.told = self.now;
        self.unread.channels = 0;
        let by_realm = std::mem::take(&mut self.unread.by_realm);
        if by_realm.is_empty() {
            return;
        }
        let mut updates: Vec<(SessionSlot, Update)> = Vec::new();
        for (slot, session) in &self.sessions {
            // Who is not connected gets the messages when they resume.
            if !reads(session) || session.connection.is_none() {
                continue;
            }
            for &(guild, phase) in &session.guilds {
                let realm = guild.cast();
                let Some(channels) = by_realm.get(&realm) else {
                    continue;
                };
                let watched = session.watches.iter().any(|(known, _)| *known == guild);
                if watched || phase != GuildPhase::Present {
                    continue;
                }
                let Some(hub) = self.hub.get(realm) else {
                    continue;
                };
                let seen = channels
                    .iter()
                    .filter(|(_, newest)| hub.sees(session.user, newest.seen_as));
                let channel_unread_updates: Vec<_> = seen
                    .map(|(&id, newest)| UnreadChannel {
                        id,
                        last_message_id: newest.message,
                    })
                    .collect();
                if !channel_unread_updates.is_empty() {
                    let update = Update {
                        guild_id: guild,
                        channel_unread_updates,
                    };
                    updates.push((slot as SessionSlot, update));
                }
            }
        }
        for (slot, update) in updates {
            if let Ok(body) = serde_json::to_vec(&update) {
                self.dispatch_body(slot, EventKind::ChannelUnreadUpdate, &body);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use guildhall_shared::{
        envelope::{Durability, Visibility},
        gateway::Intents,
        id::marker::User,
        shard::Position,
    };

    use super::*;

    fn id<T>(id: u64) -> Id<T> {
        Id::new(id).unwrap()
    }

    fn message(number: u64, channel: u64, scope: Scope) -> Envelope {
        let body = serde_json::json!({ "id": number.to_string(), "content": "hi",
                                       "channel_id": channel.to_string() });
        Envelope {
            realm: id(1),
            durability: Durability::Durable(Position {
                era: 1,
                seq: number,
            }),
            kind: EventKind::MessageCreate,
            vis: Visibility::of(scope, Intents::GUILD_MESSAGES),
            at_ms: 0,
            trace: 0,
            body: body.to_string().into(),
            alt: None,
        }
    }

    #[test]
    fn the_newest_message_of_each_channel_is_kept_while_somebody_reads_it() {
        let mut unread = Unread::new(Instant::now());
        let in_thread = message(8, 6, Scope::Channel(id(5)));
        unread.note(&in_thread);
        assert!(unread.by_realm.is_empty());
        unread.read = true;
        unread.note(&message(7, 5, Scope::Channel(id(5))));
        unread.note(&in_thread);
        unread.note(&message(9, 5, Scope::Channel(id(5))));
        unread.note(&message(10, 4, Scope::Users([id::<User>(3)].into())));
        let kept = &unread.by_realm[&id(1)];
        assert_eq!((kept.len(), unread.channels), (2, 2));
        let of = |channel| {
            (
                kept[&id(channel)].message.get(),
                kept[&id(channel)].seen_as.get(),
            )
        };
        assert_eq!((of(5), of(6)), ((9, 5), (8, 5)));
    }
}
