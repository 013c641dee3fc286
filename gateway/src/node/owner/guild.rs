//! A guild's state at its owner: what snapshots show and permissions are computed from.
//!
//! Pure. Changed only by the guild's own events, in their order.

mod bodies;

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
};

use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::Envelope,
    gateway::EventKind,
    id::marker,
    model::{
        Channel, EventException, Guild, Member, ScheduledEvent, StageInstance, Thread, User,
        VoiceState,
    },
    permissions::{self, MemberAccess, Overwrite, OverwriteKind},
};
use guildhall_store::guild::Snapshot;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use serde::Deserialize;
use serde_json::Value;

use self::bodies::{
    Deleted, OfChannel, WithEmojis, WithId, WithPins, WithRole, WithRoleId, WithSoundId,
    WithSounds, WithStartTime, WithStatus, WithStickers, WithUser,
};
use super::{
    threads::{Sight, Threads},
    view::{Classes, Seen, Views},
};

/// An event's body does not say what its kind promises: the guild must be read again.
#[derive(Debug, thiserror::Error)]
#[error("body of {kind}: {source}")]
pub(crate) struct Unreadable {
    kind: &'static str,
    source: serde_json::Error,
}

/// One guild at its realm's position.
#[derive(Debug)]
pub(crate) struct GuildState {
    pub(crate) guild: Guild,
    pub(crate) channels: BTreeMap<Id<marker::Channel>, Channel>,
    pub(crate) members: BTreeMap<Id<marker::User>, Member>,
    pub(crate) member_count: u64,
    /// Without `guild_id` and `member`, as a GUILD_CREATE wants them.
    pub(crate) voice_states: BTreeMap<Id<marker::User>, VoiceState>,
    pub(crate) stages: BTreeMap<Id<marker::StageInstance>, StageInstance>,
    /// Those that are scheduled or active.
    pub(crate) events: BTreeMap<Id<marker::ScheduledEvent>, ScheduledEvent>,
    pub(crate) sounds: BTreeMap<Id<marker::Any>, Value>,
    pub(crate) threads: Threads,
    pub(crate) classes: Classes,
    /// Members whose name or picture has changed since somebody looked.
    pub(crate) renamed: Vec<Id<marker::User>>,
    roles: HashMap<Id<marker::Role>, Permissions, FxBuildHasher>,
    /// What was computed of who sees what; `None` since that may have changed for everybody.
    views: RefCell<Option<Views>>,
}

/// Whose view of the guild an event may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touched {
    Nobody,
    Member(Id<marker::User>),
    Everybody,
}

impl Touched {
    fn everybody_if(changed: bool) -> Self {
        if changed {
            Self::Everybody
        } else {
            Self::Nobody
        }
    }
}

/// What somebody is told who saw a thing where it was and does not see its new channel.
#[derive(Debug)]
pub(crate) struct Gone {
    /// `None`: it was in no channel, and for all.
    pub(crate) from: Option<Id<marker::Channel>>,
    pub(crate) to: Id<marker::Channel>,
    pub(crate) kind: EventKind,
    pub(crate) body: Value,
}

impl GuildState {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        let mut classes = Classes::default();
        for channel in &snapshot.channels {
            classes.place(channel.id, &channel.permission_overwrites);
        }
        // Whoever subscribes is told of these as a whole.
        classes.changes();
        let mut state = Self {
            guild: snapshot.guild,
            channels: snapshot
                .channels
                .into_iter()
                .map(|channel| (channel.id, channel))
                .collect(),
            members: snapshot
                .members
                .into_iter()
                .filter_map(|member| Some((member.user.as_ref()?.id, member)))
                .collect(),
            member_count: snapshot.member_count,
            voice_states: BTreeMap::new(),
            stages: by_id(snapshot.stages, |stage| stage.id),
            events: by_id(snapshot.events, |event| event.id),
            sounds: BTreeMap::new(),
            threads: Threads::new(snapshot.threads, snapshot.thread_members),
            classes,
            renamed: Vec::new(),
            roles: HashMap::default(),
            views: RefCell::new(None),
        };
        for voice in snapshot.voice_states {
            state.put_voice(voice);
        }
        for sound in snapshot.sounds {
            // A sound without an id cannot be told of again: nobody stores one.
            let _ = state.put_sound(sound);
        }
        state.index_roles();
        state
    }

    /// What this event, not yet applied, takes from the view of those who see where its object was
    /// but not the channel where it will be.
    pub(crate) fn leaves(&self, event: &Envelope) -> Result<Option<Gone>, Unreadable> {
        let body = event.body.as_ref();
        let read = || -> Result<Option<Gone>, serde_json::Error> {
            Ok(match event.kind {
                EventKind::VoiceStateUpdate => {
                    let mut voice: VoiceState = serde_json::from_slice(body)?;
                    let before = self.voice_states.get(&voice.user_id);
                    let from = before.and_then(|before| before.channel_id);
                    let to = voice.channel_id.take();
                    voice.request_to_speak_timestamp = None;
                    voice.suppress = false;
                    match from {
                        Some(_) => gone(from, to, event.kind, &voice)?,
                        None => None,
                    }
                }
                EventKind::GuildScheduledEventUpdate => {
                    let after: ScheduledEvent = serde_json::from_slice(body)?;
                    let kind = EventKind::GuildScheduledEventDelete;
                    match self.events.get(&after.id) {
                        Some(before) => gone(before.channel_id, after.channel_id, kind, before)?,
                        None => None,
                    }
                }
                _ => None,
            })
        };
        read().map_err(|source| Unreadable {
            kind: event.kind.name(),
            source,
        })
    }

    fn put_voice(&mut self, mut voice: VoiceState) {
        voice.guild_id = None;
        voice.member = None;
        if voice.channel_id.is_some() {
            self.voice_states.insert(voice.user_id, voice);
        } else {
            self.voice_states.remove(&voice.user_id);
        }
    }

    fn put_sound(&mut self, sound: Value) -> Result<(), serde_json::Error> {
        let WithSoundId { sound_id } = WithSoundId::deserialize(&sound)?;
        self.sounds.insert(sound_id, sound);
        Ok(())
    }

    /// The classes a user sees; `None` for one who is no member.
    pub(crate) fn seen_by(&self, user: Id<marker::User>) -> Option<Seen> {
        let access = MemberAccess {
            // It takes nothing from a view.
            communication_disabled_until: None,
            ..self.access(user)?
        };
        let mut kept = self.views.borrow_mut();
        let views = kept.get_or_insert_with(|| Views::new(&self.classes, self.granting_roles()));
        Some(views.of(access, || {
            let now = Timestamp::now();
            let base = self.base(access, now);
            self.classes.seen_by(self.guild.id, base, access, now)
        }))
    }

    /// The roles by whose permissions their holders may see what not everybody does.
    fn granting_roles(&self) -> impl Iterator<Item = Id<marker::Role>> {
        let granting = match self.everyone_views() {
            true => Permissions::ADMINISTRATOR,
            false => Permissions::ADMINISTRATOR | Permissions::VIEW_CHANNEL,
        };
        let roles = self.roles.iter();
        let roles = roles.filter(move |(_, permissions)| permissions.intersects(granting));
        roles.map(|(&role, _)| role)
    }

    /// Whether @everyone may view channels that say nothing else.
    pub(crate) fn everyone_views(&self) -> bool {
        let everyone = self.roles.get(&self.guild.id.cast());
        let viewing = Permissions::VIEW_CHANNEL | Permissions::ADMINISTRATOR;
        everyone.is_some_and(|everyone| everyone.intersects(viewing))
    }

    /// Whether a member holds any of the permissions, in the channel if one is given.
    pub(crate) fn holds(
        &self,
        user: Id<marker::User>,
        any_of: Permissions,
        channel: Option<Id<marker::Channel>>,
        now: Timestamp,
    ) -> bool {
        self.held(user, channel, now).intersects(any_of)
    }

    /// What members may do in the guild, or in a channel of it: to ask for many of them.
    pub(crate) fn held_by_many(
        &self,
        channel: Option<Id<marker::Channel>>,
        now: Timestamp,
    ) -> Held<'_> {
        let known = channel.and_then(|channel| self.channels.get(&channel));
        let overwrites: &[Overwrite] =
            known.map_or(&[], |channel| channel.permission_overwrites.as_slice());
        let own = overwrites
            .iter()
            .filter(|overwrite| overwrite.kind == OverwriteKind::Member);
        Held {
            guild: self,
            channel,
            now,
            singled_out: own.map(|overwrite| overwrite.id.cast()).collect(),
            by_roles: FxHashMap::default(),
        }
    }

    /// The active threads that a user sees of the channels that pass `of`.
    pub(crate) fn threads_seen_by(
        &self,
        user: Id<marker::User>,
        now: Timestamp,
        of: impl Fn(Id<marker::Channel>) -> bool,
    ) -> Vec<Thread> {
        self.threads.seen_by(user, |channel| match of(channel) {
            true => Sight::of(self.held(user, Some(channel), now)),
            false => Sight::Nothing,
        })
    }

    /// What a user may do in the guild, or in a channel of it; nothing for who is no member.
    fn held(
        &self,
        user: Id<marker::User>,
        channel: Option<Id<marker::Channel>>,
        now: Timestamp,
    ) -> Permissions {
        let Some(access) = self.access(user) else {
            return Permissions::empty();
        };
        let base = self.base(access, now);
        let Some(channel) = channel else { return base };
        let Some(channel) = self.channels.get(&channel) else {
            return Permissions::empty();
        };
        permissions::in_channel(
            base,
            self.guild.id,
            access,
            &channel.permission_overwrites,
            channel.kind.class(),
            now,
        )
    }

    /// Takes an event's change over; says whose view it may have changed.
    ///
    /// Errors: the body is not of its kind's shape.
    pub(crate) fn apply(&mut self, event: &Envelope) -> Result<Touched, Unreadable> {
        let touched = self.change(event).map_err(|source| Unreadable {
            kind: event.kind.name(),
            source,
        })?;
        if touched == Touched::Everybody {
            *self.views.get_mut() = None;
        }
        Ok(touched)
    }

    fn change(&mut self, event: &Envelope) -> Result<Touched, serde_json::Error> {
        let body = event.body.as_ref();
        Ok(match event.kind {
            EventKind::GuildUpdate => {
                let guild: Guild = serde_json::from_slice(body)?;
                let moved = guild.owner_id != self.guild.owner_id;
                self.guild = guild;
                let changed = self.index_roles();
                Touched::everybody_if(moved || changed)
            }
            EventKind::ChannelCreate | EventKind::ChannelUpdate => {
                let mut channel: Channel = serde_json::from_slice(body)?;
                let known = self.channels.get(&channel.id);
                // CHANNEL_UPDATE may be older than the newest message.
                if let Some(Some(Some(newest))) = known.map(|known| known.last_message_id)
                    && channel.last_message_id.is_some_and(|id| id < Some(newest))
                {
                    channel.last_message_id = Some(Some(newest));
                }
                let changed = self
                    .classes
                    .place(channel.id, &channel.permission_overwrites);
                self.channels.insert(channel.id, channel);
                Touched::everybody_if(changed)
            }
            EventKind::ChannelDelete => {
                let WithId { id } = serde_json::from_slice(body)?;
                let id = id.cast();
                self.classes.remove(id);
                self.channels.remove(&id);
                self.voice_states
                    .retain(|_, voice| voice.channel_id != Some(id));
                self.stages.retain(|_, stage| stage.channel_id != id);
                self.events.retain(|_, event| event.channel_id != Some(id));
                Touched::Everybody
            }
            EventKind::GuildRoleCreate | EventKind::GuildRoleUpdate => {
                let WithRole { role } = serde_json::from_slice(body)?;
                match self
                    .guild
                    .roles
                    .iter_mut()
                    .find(|known| known.id == role.id)
                {
                    Some(known) => *known = role,
                    None => self.guild.roles.push(role),
                }
                Touched::everybody_if(self.index_roles())
            }
            EventKind::GuildRoleDelete => {
                let WithRoleId { role_id } = serde_json::from_slice(body)?;
                self.delete_role(role_id);
                Touched::Everybody
            }
            EventKind::GuildMemberAdd => {
                let member: Member = serde_json::from_slice(body)?;
                let Some(user) = member.user.as_ref().map(|user| user.id) else {
                    return Err(serde::de::Error::missing_field("user"));
                };
                if self.members.insert(user, member).is_none() {
                    self.member_count += 1;
                }
                Touched::Member(user)
            }
            EventKind::GuildMemberUpdate => self.update_member(body)?,
            EventKind::GuildMemberRemove => {
                let WithUser { user } = serde_json::from_slice(body)?;
                let user = user.id.cast();
                self.voice_states.remove(&user);
                self.threads.forget_user(user);
                if self.members.remove(&user).is_some() {
                    self.member_count = self.member_count.saturating_sub(1);
                }
                Touched::Member(user)
            }
            EventKind::VoiceStateUpdate => {
                self.put_voice(serde_json::from_slice(body)?);
                Touched::Nobody
            }
            EventKind::VoiceChannelStatusUpdate => {
                let WithStatus { id, status } = serde_json::from_slice(body)?;
                if let Some(channel) = self.channels.get_mut(&id) {
                    channel.settings.status = status;
                }
                Touched::Nobody
            }
            EventKind::VoiceChannelStartTimeUpdate => {
                let start: WithStartTime = serde_json::from_slice(body)?;
                if let Some(channel) = self.channels.get_mut(&start.id) {
                    channel.settings.voice_start_time = start.voice_start_time;
                }
                Touched::Nobody
            }
            EventKind::StageInstanceCreate | EventKind::StageInstanceUpdate => {
                let stage: StageInstance = serde_json::from_slice(body)?;
                self.stages.insert(stage.id, stage);
                Touched::Nobody
            }
            EventKind::StageInstanceDelete => {
                let WithId { id } = serde_json::from_slice(body)?;
                self.stages.remove(&id.cast());
                Touched::Nobody
            }
            EventKind::GuildScheduledEventCreate | EventKind::GuildScheduledEventUpdate => {
                let mut scheduled: ScheduledEvent = serde_json::from_slice(body)?;
                scheduled.user_count = None;
                if scheduled.status.is_open() {
                    self.events.insert(scheduled.id, scheduled);
                } else {
                    self.events.remove(&scheduled.id);
                }
                Touched::Nobody
            }
            EventKind::GuildScheduledEventDelete => {
                let WithId { id } = serde_json::from_slice(body)?;
                self.events.remove(&id.cast());
                Touched::Nobody
            }
            EventKind::GuildScheduledEventExceptionCreate
            | EventKind::GuildScheduledEventExceptionUpdate
            | EventKind::GuildScheduledEventExceptionDelete => {
                self.change_exception(event.kind, serde_json::from_slice(body)?);
                Touched::Nobody
            }
            EventKind::GuildEmojisUpdate => {
                let WithEmojis { emojis } = serde_json::from_slice(body)?;
                self.guild.emojis = emojis;
                Touched::Nobody
            }
            EventKind::GuildStickersUpdate => {
                let WithStickers { stickers } = serde_json::from_slice(body)?;
                self.guild.stickers = stickers;
                Touched::Nobody
            }
            EventKind::GuildSoundboardSoundCreate | EventKind::GuildSoundboardSoundUpdate => {
                self.put_sound(serde_json::from_slice(body)?)?;
                Touched::Nobody
            }
            EventKind::GuildSoundboardSoundDelete => {
                let WithSoundId { sound_id } = serde_json::from_slice(body)?;
                self.sounds.remove(&sound_id);
                Touched::Nobody
            }
            EventKind::GuildSoundboardSoundsUpdate => {
                let WithSounds { soundboard_sounds } = serde_json::from_slice(body)?;
                for sound in soundboard_sounds {
                    self.put_sound(sound)?;
                }
                Touched::Nobody
            }
            EventKind::ThreadCreate
            | EventKind::ThreadUpdate
            | EventKind::ThreadDelete
            | EventKind::ThreadMemberUpdate
            | EventKind::ThreadMembersUpdate => {
                let newest = self.threads.apply(event.kind, body)?;
                if let Some((forum, post)) = newest {
                    self.posted_in(forum, post);
                }
                Touched::Nobody
            }
            EventKind::MessageCreate => {
                let message: OfChannel = serde_json::from_slice(body)?;
                if let Some(channel) = self.channels.get_mut(&message.channel_id) {
                    channel.last_message_id = Some(Some(message.id));
                } else {
                    let OfChannel {
                        id,
                        channel_id,
                        kind,
                    } = message;
                    self.threads.posted(channel_id, id, kind);
                }
                Touched::Nobody
            }
            EventKind::MessageDelete | EventKind::MessageDeleteBulk => {
                let deleted: Deleted = serde_json::from_slice(body)?;
                if let Some(channel) = deleted.channel_id {
                    let ids = deleted.id.into_iter().chain(deleted.ids);
                    self.threads.deleted(channel, ids);
                }
                Touched::Nobody
            }
            EventKind::ChannelPinsUpdate => {
                let WithPins {
                    channel_id,
                    last_pin_timestamp,
                } = serde_json::from_slice(body)?;
                if let Some(channel) = self.channels.get_mut(&channel_id) {
                    channel.settings.last_pin_timestamp = Some(last_pin_timestamp);
                } else {
                    self.threads.pinned(channel_id, last_pin_timestamp);
                }
                Touched::Nobody
            }
            _ => Touched::Nobody,
        })
    }

    /// The newest "message" of a forum is its newest post.
    fn posted_in(&mut self, channel: Id<marker::Channel>, thread: Id<marker::Channel>) {
        if let Some(forum) = self.channels.get_mut(&channel)
            && forum.kind.is_forum()
            && forum.last_message_id.flatten() < Some(thread.cast())
        {
            forum.last_message_id = Some(Some(thread.cast()));
        }
    }

    fn change_exception(&mut self, kind: EventKind, exception: EventException) {
        let Some(event) = self.events.get_mut(&exception.event_id) else {
            return;
        };
        let exceptions = &mut event.guild_scheduled_event_exceptions;
        exceptions.retain(|known| known.event_exception_id != exception.event_exception_id);
        if kind != EventKind::GuildScheduledEventExceptionDelete {
            exceptions.push(exception);
            exceptions.sort_by_key(|known| known.event_exception_id);
        }
    }

    /// Fields that the body does not carry stay as they are.
    fn update_member(&mut self, body: &[u8]) -> Result<Touched, serde_json::Error> {
        let change: Value = serde_json::from_slice(body)?;
        let WithUser { user } = WithUser::deserialize(&change)?;
        let user = user.id.cast();
        let Some(member) = self.members.get_mut(&user) else {
            // Its GUILD_MEMBER_REMOVE came before: nothing to change.
            return Ok(Touched::Nobody);
        };
        let mut merged = serde_json::to_value(&*member)?;
        overlay(&mut merged, change);
        let after: Member = serde_json::from_value(merged)?;
        let changed = after.roles != member.roles;
        if is_renamed(member.user.as_ref(), after.user.as_ref()) {
            self.renamed.push(user);
        }
        *member = after;
        Ok(if changed {
            Touched::Member(user)
        } else {
            Touched::Nobody
        })
    }

    fn delete_role(&mut self, role: Id<marker::Role>) {
        self.guild.roles.retain(|known| known.id != role);
        for member in self.members.values_mut() {
            member.roles.retain(|&held| held != role);
        }
        for channel in self.channels.values_mut() {
            let before = channel.permission_overwrites.len();
            channel.permission_overwrites.retain(|overwrite| {
                overwrite.kind != OverwriteKind::Role || overwrite.id != role.cast()
            });
            if channel.permission_overwrites.len() != before {
                self.classes
                    .place(channel.id, &channel.permission_overwrites);
            }
        }
        self.index_roles();
    }

    /// Renews the roles' permissions; `true` if they have changed in what concerns viewing.
    fn index_roles(&mut self) -> bool {
        let viewing = Permissions::VIEW_CHANNEL | Permissions::ADMINISTRATOR;
        let roles: HashMap<_, _, FxBuildHasher> = self
            .guild
            .roles
            .iter()
            .map(|role| (role.id, role.permissions))
            .collect();
        let same = roles.len() == self.roles.len()
            && roles.iter().all(|(id, after)| {
                self.roles
                    .get(id)
                    .is_some_and(|before| (*before ^ *after) & viewing == Permissions::empty())
            });
        self.roles = roles;
        !same
    }

    fn access(&self, user: Id<marker::User>) -> Option<MemberAccess<'_>> {
        let member = self.members.get(&user)?;
        Some(MemberAccess {
            user,
            is_owner: self.guild.owner_id == user,
            roles: &member.roles,
            communication_disabled_until: member.silenced_until(),
        })
    }

    fn base(&self, access: MemberAccess<'_>, now: Timestamp) -> Permissions {
        permissions::base(
            self.guild.id,
            access,
            |role| self.roles.get(&role).copied(),
            now,
        )
    }
}

/// What members may do in one place, computed once for all with the same roles.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    guild: &'a GuildState,
    /// `None`: in the guild.
    channel: Option<Id<marker::Channel>>,
    now: Timestamp,
    /// Members with an overwrite of their own there.
    singled_out: FxHashSet<Id<marker::User>>,
    by_roles: FxHashMap<&'a [Id<marker::Role>], Permissions>,
}

impl<'a> Held<'a> {
    /// `member` is the one of the guild.
    pub(crate) fn by(&mut self, user: Id<marker::User>, member: &'a Member) -> Permissions {
        let Self {
            guild,
            channel,
            now,
            singled_out,
            by_roles,
        } = self;
        let is_like_others = guild.guild.owner_id != user
            && member.silenced_until().is_none()
            && !singled_out.contains(&user);
        let held = || guild.held(user, *channel, *now);
        match is_like_others {
            true => *by_roles.entry(&member.roles[..]).or_insert_with(held),
            false => held(),
        }
    }
}

fn by_id<K: Ord, T>(list: Vec<T>, id: impl Fn(&T) -> K) -> BTreeMap<K, T> {
    list.into_iter().map(|item| (id(&item), item)).collect()
}

fn is_renamed(before: Option<&User>, after: Option<&User>) -> bool {
    let (Some(before), Some(after)) = (before, after) else {
        return false;
    };
    before.username != after.username
        || before.discriminator != after.discriminator
        || before.global_name != after.global_name
        || before.avatar != after.avatar
}

/// Nothing is gone if it stays where it was, or is in no channel any more.
fn gone(
    from: Option<Id<marker::Channel>>,
    to: Option<Id<marker::Channel>>,
    kind: EventKind,
    body: &impl serde::Serialize,
) -> Result<Option<Gone>, serde_json::Error> {
    let Some(to) = to.filter(|&to| from != Some(to)) else {
        return Ok(None);
    };
    let body = serde_json::to_value(body)?;
    Ok(Some(Gone {
        from,
        to,
        kind,
        body,
    }))
}

/// Puts the fields of `change` over those of `base`, also inside objects of both.
fn overlay(base: &mut Value, change: Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (name, value) in change {
                match base.get_mut(&name) {
                    Some(below) => overlay(below, value),
                    None => {
                        base.insert(name, value);
                    }
                }
            }
        }
        (base, change) => *base = change,
    }
}

#[cfg(test)]
#[path = "guild_tests.rs"]
mod tests;
