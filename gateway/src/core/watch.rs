//! What people's sessions look at: kept here so that a client may change a part of it, and
//! told to the node, which tells whoever owns the guild. A session that has not got the guild yet
//! may be of a user whom the owner does not know yet: it is told of once it has. One that asks for
//! many blocks is told of as it may be shown them, with what it looks at by then.

use guildhall_shared::{Id, id::marker::Guild};

use super::Core;
use crate::{
    ask::{Watch, WatchChange},
    bus::ToNode,
    codec::WatchCommand,
    names::{Address, SessionKey, SessionSlot},
    session::{GuildPhase, Looks},
};

/// Guilds that a session looks at, and members that it follows in all of them: those that it named
/// longest ago make way. The delivery log has all of it with every change.
const GUILDS_MAX: usize = 100;
const FOLLOWED_MAX: usize = 1000;
/// Sessions told of anew at one tick: each gets whole lists.
const AGAIN_MAX: usize = 256;
/// Sessions that look at more than they are shown at once, seen to at one tick.
const LOOKING_MAX: usize = 1024;

impl Core {
    /// Op 14 and 37. Of guilds that the session is not in, nothing is shown.
    pub(super) fn watch(&mut self, slot: SessionSlot, commands: Vec<(Id<Guild>, WatchCommand)>) {
        for (guild, command) in commands {
            let Some(session) = self.sessions.get(slot as usize) else {
                return;
            };
            let Some(phase) = session.guild_phase(guild).filter(|_| !session.bot) else {
                continue;
            };
            // A GUILD_CREATE that is still to come has them.
            if command.threads && phase == GuildPhase::Present {
                self.ask_threads(slot, guild);
            }
            let Some(session) = self.sessions.get_mut(slot as usize) else {
                return;
            };
            session.recorded_at = None;
            let place = session
                .watches
                .iter()
                .position(|(known, _)| *known == guild);
            let mut watch = match place {
                Some(place) => session.watches.remove(place).1,
                None => Watch::default(),
            };
            if let Some(channels) = command.channels {
                watch.channels = channels;
            }
            if let Some(members) = command.members {
                watch.members = members;
            }
            if watch == Watch::default() {
                if place.is_some() {
                    self.tell_watch(slot, guild, None);
                }
                continue;
            }
            session.watches.push((guild, watch));
            if phase == GuildPhase::Present {
                self.look_at(slot, guild);
            }
            while let Some(oldest) = self.beyond(slot) {
                self.stop_watching(slot, oldest);
            }
        }
    }

    /// The guild that makes way if a session looks at too much.
    fn beyond(&self, slot: SessionSlot) -> Option<Id<Guild>> {
        let watches = &self.sessions.get(slot as usize)?.watches;
        let followed: usize = watches.iter().map(|(_, watch)| watch.members.len()).sum();
        let is_too_much = watches.len() > GUILDS_MAX || followed > FOLLOWED_MAX;
        let (oldest, _) = watches.first().filter(|_| is_too_much)?;
        Some(*oldest)
    }

    /// A session has a guild from here on, or looks at something else in it.
    pub(super) fn look_at(&mut self, slot: SessionSlot, guild: Id<Guild>) {
        if self.may_look_at(slot, guild) {
            return;
        }
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        let key = session.key(slot);
        let Some(looks) = &mut session.looks else {
            return;
        };
        looks.later.retain(|known| *known != guild);
        looks.later.push(guild);
        if !std::mem::replace(&mut looks.in_line, true) {
            self.looking.push_back(key);
        }
    }

    /// Tells what a session looks at in a guild; `false`: these are more blocks than it is shown now.
    fn may_look_at(&mut self, slot: SessionSlot, guild: Id<Guild>) -> bool {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return true;
        };
        let mut watches = session.watches.iter();
        let Some((_, watch)) = watches.find(|(known, _)| *known == guild) else {
            return true;
        };
        let looks = session
            .looks
            .get_or_insert_with(|| Box::new(Looks::new(now)));
        if !looks.limit.take(now, watch.blocks()) {
            return false;
        }
        looks.later.retain(|known| *known != guild);
        let watch = watch.clone();
        self.tell_watch(slot, guild, Some(watch));
        true
    }

    /// Sessions that look at more than they are shown at once: told of what they may be shown by now.
    pub(super) fn tick_looking(&mut self) {
        for _ in 0..self.looking.len().min(LOOKING_MAX) {
            let Some(key) = self.looking.pop_front() else {
                return;
            };
            if self.looks_on(key) {
                self.looking.push_back(key);
            }
        }
    }

    /// Whether there is more that a session looks at and may not be shown yet.
    fn looks_on(&mut self, key: SessionKey) -> bool {
        loop {
            let session = self.sessions.get_mut(key.slot as usize);
            let Some(session) = session.filter(|session| session.key(key.slot) == key) else {
                return false;
            };
            let Some(looks) = &mut session.looks else {
                return false;
            };
            // What it named last comes first.
            let Some(guild) = looks.later.pop() else {
                looks.in_line = false;
                return false;
            };
            // What it looks at is told of when it has the guild.
            let has_it = session.guild_phase(guild) == Some(GuildPhase::Present);
            if has_it && !self.may_look_at(key.slot, guild) {
                let session = self.sessions.get_mut(key.slot as usize);
                if let Some(looks) = session.and_then(|session| session.looks.as_mut()) {
                    looks.later.push(guild);
                }
                return true;
            }
        }
    }

    /// Sessions whose lists may lack a change, because this core had no room for it: told of anew, they
    /// get them whole.
    pub(super) fn tick_watches(&mut self) {
        for _ in 0..AGAIN_MAX {
            let Some(key) = self.bell.next_untold() else {
                return;
            };
            let session = self.sessions.get(key.slot as usize);
            let Some(session) = session.filter(|session| session.key(key.slot) == key) else {
                continue;
            };
            let watched = session.watches.iter().map(|&(guild, _)| guild);
            let has = |guild: &Id<Guild>| session.guild_phase(*guild) == Some(GuildPhase::Present);
            let watched: Vec<_> = watched.filter(has).collect();
            for guild in watched {
                self.look_at(key.slot, guild);
            }
        }
    }

    /// A session looks at nothing of a guild any more: it ends, or has left the guild.
    pub(super) fn stop_watching(&mut self, slot: SessionSlot, guild: Id<Guild>) {
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        let before = session.watches.len();
        session.watches.retain(|(known, _)| *known != guild);
        if session.watches.len() != before {
            self.tell_watch(slot, guild, None);
        }
    }

    fn tell_watch(&mut self, slot: SessionSlot, guild: Id<Guild>, watch: Option<Watch>) {
        let core = self.core_id();
        let Some(session) = self.sessions.get(slot as usize) else {
            return;
        };
        self.outbox.push_back(ToNode::Watch(Box::new(WatchChange {
            guild,
            from: Address {
                core,
                session: session.key(slot),
            },
            user: session.user,
            watch,
        })));
    }
}
