//! Permission bits and their computation, used alike by the API and the gateway.
//!
//! Spec: permissions.md. `computed` is the channel level, `base` the guild level.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

use crate::{
    Timestamp,
    id::{
        Id,
        marker::{Guild, Role, Target, User},
    },
};

bitflags::bitflags! {
    /// A set of permissions. On the wire a decimal string; integers are accepted,
    /// bits that mean nothing are dropped.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Permissions: u64 {
        const CREATE_INSTANT_INVITE = 1 << 0;
        const KICK_MEMBERS = 1 << 1;
        const BAN_MEMBERS = 1 << 2;
        const ADMINISTRATOR = 1 << 3;
        const MANAGE_CHANNELS = 1 << 4;
        const MANAGE_GUILD = 1 << 5;
        const ADD_REACTIONS = 1 << 6;
        const VIEW_AUDIT_LOG = 1 << 7;
        const PRIORITY_SPEAKER = 1 << 8;
        const STREAM = 1 << 9;
        const VIEW_CHANNEL = 1 << 10;
        const SEND_MESSAGES = 1 << 11;
        const SEND_TTS_MESSAGES = 1 << 12;
        const MANAGE_MESSAGES = 1 << 13;
        const EMBED_LINKS = 1 << 14;
        const ATTACH_FILES = 1 << 15;
        const READ_MESSAGE_HISTORY = 1 << 16;
        const MENTION_EVERYONE = 1 << 17;
        const USE_EXTERNAL_EMOJIS = 1 << 18;
        const VIEW_GUILD_INSIGHTS = 1 << 19;
        const CONNECT = 1 << 20;
        const SPEAK = 1 << 21;
        const MUTE_MEMBERS = 1 << 22;
        const DEAFEN_MEMBERS = 1 << 23;
        const MOVE_MEMBERS = 1 << 24;
        const USE_VAD = 1 << 25;
        const CHANGE_NICKNAME = 1 << 26;
        const MANAGE_NICKNAMES = 1 << 27;
        const MANAGE_ROLES = 1 << 28;
        const MANAGE_WEBHOOKS = 1 << 29;
        const MANAGE_GUILD_EXPRESSIONS = 1 << 30;
        const USE_APPLICATION_COMMANDS = 1 << 31;
        const REQUEST_TO_SPEAK = 1 << 32;
        const MANAGE_EVENTS = 1 << 33;
        const MANAGE_THREADS = 1 << 34;
        const CREATE_PUBLIC_THREADS = 1 << 35;
        const CREATE_PRIVATE_THREADS = 1 << 36;
        const USE_EXTERNAL_STICKERS = 1 << 37;
        const SEND_MESSAGES_IN_THREADS = 1 << 38;
        const USE_EMBEDDED_ACTIVITIES = 1 << 39;
        const MODERATE_MEMBERS = 1 << 40;
        const VIEW_CREATOR_MONETIZATION_ANALYTICS = 1 << 41;
        const USE_SOUNDBOARD = 1 << 42;
        const CREATE_GUILD_EXPRESSIONS = 1 << 43;
        const CREATE_EVENTS = 1 << 44;
        const USE_EXTERNAL_SOUNDS = 1 << 45;
        const SEND_VOICE_MESSAGES = 1 << 46;
        const SET_VOICE_CHANNEL_STATUS = 1 << 48;
        const SEND_POLLS = 1 << 49;
        const USE_EXTERNAL_APPS = 1 << 50;
        const PIN_MESSAGES = 1 << 51;
        const BYPASS_SLOWMODE = 1 << 52;
    }
}

impl Permissions {
    /// What a timed-out member keeps.
    pub const TIMED_OUT: Self = Self::VIEW_CHANNEL.union(Self::READ_MESSAGE_HISTORY);

    /// What takes a second factor, of a bot its owner's, in guilds whose `mfa_level` is 1.
    pub const NEEDS_FACTOR: Self = Self::KICK_MEMBERS
        .union(Self::BAN_MEMBERS)
        .union(Self::ADMINISTRATOR)
        .union(Self::MANAGE_CHANNELS)
        .union(Self::MANAGE_GUILD)
        .union(Self::MANAGE_MESSAGES)
        .union(Self::MANAGE_ROLES)
        .union(Self::MANAGE_WEBHOOKS)
        .union(Self::MANAGE_GUILD_EXPRESSIONS)
        .union(Self::MANAGE_THREADS)
        .union(Self::VIEW_CREATOR_MONETIZATION_ANALYTICS);

    /// What participants of a DM hold.
    pub const DM: Self = Self::VIEW_CHANNEL
        .union(Self::SEND_MESSAGES)
        .union(Self::READ_MESSAGE_HISTORY)
        .union(Self::ADD_REACTIONS)
        .union(Self::ATTACH_FILES)
        .union(Self::EMBED_LINKS)
        .union(Self::MENTION_EVERYONE)
        .union(Self::CONNECT)
        .union(Self::SPEAK);

    /// What participants of a DM may do there, voice apart: [`Self::DM`] and what rides on sending.
    pub const PRIVATE: Self = Self::DM
        .union(Self::SEND_TTS_MESSAGES)
        .union(Self::USE_EXTERNAL_EMOJIS)
        .union(Self::USE_EXTERNAL_STICKERS)
        .union(Self::USE_APPLICATION_COMMANDS)
        .union(Self::SEND_VOICE_MESSAGES)
        .union(Self::SEND_POLLS)
        .union(Self::PIN_MESSAGES);

    /// @everyone of a new guild.
    pub const NEW_GUILD: Self = Self::CREATE_INSTANT_INVITE
        .union(Self::ADD_REACTIONS)
        .union(Self::STREAM)
        .union(Self::VIEW_CHANNEL)
        .union(Self::SEND_MESSAGES)
        .union(Self::EMBED_LINKS)
        .union(Self::ATTACH_FILES)
        .union(Self::READ_MESSAGE_HISTORY)
        .union(Self::MENTION_EVERYONE)
        .union(Self::USE_EXTERNAL_EMOJIS)
        .union(Self::CONNECT)
        .union(Self::SPEAK)
        .union(Self::USE_VAD)
        .union(Self::CHANGE_NICKNAME)
        .union(Self::USE_APPLICATION_COMMANDS)
        .union(Self::REQUEST_TO_SPEAK)
        .union(Self::CREATE_PUBLIC_THREADS)
        .union(Self::CREATE_PRIVATE_THREADS)
        .union(Self::USE_EXTERNAL_STICKERS)
        .union(Self::SEND_MESSAGES_IN_THREADS)
        .union(Self::USE_EMBEDDED_ACTIVITIES)
        .union(Self::USE_SOUNDBOARD)
        .union(Self::CREATE_GUILD_EXPRESSIONS)
        .union(Self::CREATE_EVENTS)
        .union(Self::USE_EXTERNAL_SOUNDS)
        .union(Self::SEND_VOICE_MESSAGES)
        .union(Self::SET_VOICE_CHANNEL_STATUS)
        .union(Self::SEND_POLLS)
        .union(Self::USE_EXTERNAL_APPS);

    /// What cannot be done in a text channel (or thread) one may not send to.
    const NEEDS_SENDING: Self = Self::MENTION_EVERYONE
        .union(Self::SEND_TTS_MESSAGES)
        .union(Self::ATTACH_FILES)
        .union(Self::EMBED_LINKS)
        .union(Self::SEND_VOICE_MESSAGES)
        .union(Self::SEND_POLLS);
}

impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.bits())
    }
}

impl<'de> Deserialize<'de> for Permissions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Permissions;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a set of permissions, as a decimal string or an integer")
            }
            fn visit_u64<E: de::Error>(self, bits: u64) -> Result<Permissions, E> {
                Ok(Permissions::from_bits_truncate(bits))
            }
            fn visit_i64<E: de::Error>(self, bits: i64) -> Result<Permissions, E> {
                let bits =
                    u64::try_from(bits).map_err(|_| E::custom("permissions are not negative"))?;
                self.visit_u64(bits)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Permissions, E> {
                // More digits than 64 bits hold can only be unknown bits, but unreadable is unreadable.
                let bits = text
                    .parse()
                    .map_err(|_| E::custom("permissions are a decimal number"))?;
                self.visit_u64(bits)
            }
            /// Null means none, as an absent field does.
            fn visit_unit<E: de::Error>(self) -> Result<Permissions, E> {
                Ok(Permissions::empty())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Whose overwrite it is; 0 and 1 on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum OverwriteKind {
    Role = 0,
    Member = 1,
}

/// A channel's exception for one role or member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct Overwrite {
    pub id: Id<Target>,
    #[serde(rename = "type")]
    pub kind: OverwriteKind,
    #[serde(default)]
    pub allow: Permissions,
    #[serde(default)]
    pub deny: Permissions,
}

impl Serialize for OverwriteKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

impl<'de> Deserialize<'de> for OverwriteKind {
    /// Accepts the numbers, also as text (older libraries).
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Number(u64),
            Text(String),
        }
        match Wire::deserialize(deserializer)? {
            Wire::Number(0) => Ok(Self::Role),
            Wire::Number(1) => Ok(Self::Member),
            Wire::Text(text) if text == "0" || text == "role" => Ok(Self::Role),
            Wire::Text(text) if text == "1" || text == "member" => Ok(Self::Member),
            _ => Err(de::Error::custom("overwrite type is 0 or 1")),
        }
    }
}

/// What the computation needs to know of a member.
#[derive(Debug, Clone, Copy)]
pub struct MemberAccess<'a> {
    pub user: Id<User>,
    pub is_owner: bool,
    /// Without @everyone.
    pub roles: &'a [Id<Role>],
    /// Of a timeout, or of a quarantine ([`crate::model::Member::silenced_until`]).
    pub communication_disabled_until: Option<Timestamp>,
}

impl MemberAccess<'_> {
    fn is_timed_out(&self, now: Timestamp) -> bool {
        self.communication_disabled_until
            .is_some_and(|until| until > now)
    }
}

/// Which implicit denials a channel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelClass {
    /// Text-like: without SEND_MESSAGES nothing that rides on a message.
    Text,
    /// The same by SEND_MESSAGES_IN_THREADS.
    Thread,
    /// Voice and stage: without CONNECT only the view.
    Voice,
    /// Categories: no further denial.
    Plain,
}

/// Guild-level permissions. `role_permissions` answers for any role of the guild;
/// a role it does not know adds nothing.
pub fn base(
    guild: Id<Guild>,
    member: MemberAccess<'_>,
    role_permissions: impl Fn(Id<Role>) -> Option<Permissions>,
    now: Timestamp,
) -> Permissions {
    if member.is_owner {
        return Permissions::all();
    }
    let everyone = role_permissions(guild.cast()).unwrap_or_default();
    let granted = member
        .roles
        .iter()
        .filter_map(|&role| role_permissions(role))
        .fold(everyone, Permissions::union);
    if granted.contains(Permissions::ADMINISTRATOR) {
        Permissions::all()
    } else if member.is_timed_out(now) {
        granted & Permissions::TIMED_OUT
    } else {
        granted
    }
}

/// Channel-level permissions from the guild-level ones. A thread's are computed with
/// its parent's overwrites.
pub fn in_channel(
    base: Permissions,
    guild: Id<Guild>,
    member: MemberAccess<'_>,
    overwrites: &[Overwrite],
    class: ChannelClass,
    now: Timestamp,
) -> Permissions {
    if member.is_owner || base.contains(Permissions::ADMINISTRATOR) {
        return Permissions::all();
    }
    let everyone: Id<Target> = guild.cast();
    let (mut role_deny, mut role_allow) = (Permissions::empty(), Permissions::empty());
    let (mut all, mut own) = (None, None);
    for overwrite in overwrites {
        match overwrite.kind {
            OverwriteKind::Role if overwrite.id == everyone => all = Some(overwrite),
            OverwriteKind::Role if member.roles.contains(&overwrite.id.cast()) => {
                role_deny |= overwrite.deny;
                role_allow |= overwrite.allow;
            }
            OverwriteKind::Member if overwrite.id == member.user.cast() => own = Some(overwrite),
            OverwriteKind::Role | OverwriteKind::Member => {}
        }
    }
    let apply =
        |set: Permissions, deny: Permissions, allow: Permissions| set.difference(deny).union(allow);
    let mut set = base;
    if let Some(overwrite) = all {
        set = apply(set, overwrite.deny, overwrite.allow);
    }
    set = apply(set, role_deny, role_allow);
    if let Some(overwrite) = own {
        set = apply(set, overwrite.deny, overwrite.allow);
    }
    if member.is_timed_out(now) {
        set &= Permissions::TIMED_OUT;
    }
    implicit_denials(set, class)
}

/// How a user stands to a thread, before permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadDoor {
    /// Public: whoever sees the parent sees it.
    Open,
    /// Private, and the user is in it.
    Inside,
    /// Private, and the user is not in it: seen with MANAGE_THREADS only.
    Outside,
}

/// Permissions in a thread, from the guild-level ones and its parent's overwrites.
pub fn in_thread(
    base: Permissions,
    guild: Id<Guild>,
    member: MemberAccess<'_>,
    parent: &[Overwrite],
    door: ThreadDoor,
    now: Timestamp,
) -> Permissions {
    let held = in_channel(base, guild, member, parent, ChannelClass::Thread, now);
    match door {
        ThreadDoor::Outside if !held.contains(Permissions::MANAGE_THREADS) => Permissions::empty(),
        ThreadDoor::Open | ThreadDoor::Inside | ThreadDoor::Outside => held,
    }
}

bitflags::bitflags! {
    /// What a change of a thread touches.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ThreadChange: u8 {
        /// Name, time until it archives itself, tags.
        const EDIT = 1 << 0;
        const ARCHIVE = 1 << 1;
        const UNARCHIVE = 1 << 2;
        /// Lock, slowmode, pin.
        const MODERATE = 1 << 3;
        /// Whether anybody in a private thread may add people.
        const INVITABLE = 1 << 4;
    }
}

/// Whether a user who holds `held` in a thread may change it so. `locked`: as it was before.
pub fn may_change_thread(
    held: Permissions,
    is_owner: bool,
    joined: bool,
    locked: bool,
    change: ThreadChange,
) -> bool {
    if !held.contains(Permissions::VIEW_CHANNEL) {
        return false;
    }
    if held.contains(Permissions::MANAGE_THREADS) || change.is_empty() {
        return true;
    }
    if locked || change.contains(ThreadChange::MODERATE) {
        return false;
    }
    let owners = ThreadChange::EDIT | ThreadChange::ARCHIVE | ThreadChange::INVITABLE;
    if change.intersects(owners) && !is_owner {
        return false;
    }
    let may_wake = joined || held.contains(Permissions::SEND_MESSAGES_IN_THREADS);
    !change.contains(ThreadChange::UNARCHIVE) || may_wake
}

/// Bits whose state differs for any target. An overwrite of another kind is another target's.
pub fn changed_bits(before: &[Overwrite], after: &[Overwrite]) -> Permissions {
    let state = |list: &[Overwrite], of: &Overwrite| {
        let mut list = list.iter();
        let found = list.find(|overwrite| (overwrite.id, overwrite.kind) == (of.id, of.kind));
        found.map_or((Permissions::empty(), Permissions::empty()), |overwrite| {
            (overwrite.allow, overwrite.deny)
        })
    };
    let targets = before.iter().chain(after);
    targets.fold(Permissions::empty(), |bits, of| {
        let ((allow, deny), (new_allow, new_deny)) = (state(before, of), state(after, of));
        bits | (allow ^ new_allow) | (deny ^ new_deny)
    })
}

/// What a member must hold, in the guild or in the channel's category, to change the channel's
/// overwrites so, besides MANAGE_ROLES in the channel: the bits that change, unless an overwrite
/// there gives MANAGE_ROLES to them.
pub fn overwrites_need(
    guild: Id<Guild>,
    member: MemberAccess<'_>,
    before: &[Overwrite],
    after: &[Overwrite],
) -> Permissions {
    let explicit = before.iter().any(|overwrite| {
        let own = match overwrite.kind {
            OverwriteKind::Role => {
                overwrite.id == guild.cast() || member.roles.contains(&overwrite.id.cast())
            }
            OverwriteKind::Member => overwrite.id == member.user.cast(),
        };
        own && overwrite.allow.contains(Permissions::MANAGE_ROLES)
    });
    match explicit {
        true => Permissions::empty(),
        false => changed_bits(before, after),
    }
}

fn implicit_denials(set: Permissions, class: ChannelClass) -> Permissions {
    if !set.contains(Permissions::VIEW_CHANNEL) {
        return Permissions::empty();
    }
    match class {
        ChannelClass::Text if !set.contains(Permissions::SEND_MESSAGES) => {
            set.difference(Permissions::NEEDS_SENDING)
        }
        ChannelClass::Thread if !set.contains(Permissions::SEND_MESSAGES_IN_THREADS) => {
            set.difference(Permissions::NEEDS_SENDING)
        }
        ChannelClass::Voice if !set.contains(Permissions::CONNECT) => Permissions::VIEW_CHANNEL,
        ChannelClass::Text | ChannelClass::Thread | ChannelClass::Voice | ChannelClass::Plain => {
            set
        }
    }
}

/// A member's or role's place in the hierarchy; greater outranks. Of equal positions
/// the smaller id is the higher role. A member without roles ranks as @everyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    Everyone,
    Role {
        position: i32,
        id: std::cmp::Reverse<Id<Role>>,
    },
    Owner,
}

impl Rank {
    pub fn role(position: i32, id: Id<Role>) -> Self {
        Self::Role {
            position,
            id: std::cmp::Reverse(id),
        }
    }

    /// Of whoever holds `roles`: the highest of them. `place` answers for any role of the guild.
    pub fn of_member(
        is_owner: bool,
        roles: &[Id<Role>],
        place: impl Fn(Id<Role>) -> Option<Self>,
    ) -> Self {
        if is_owner {
            return Self::Owner;
        }
        let places = roles.iter().filter_map(|&role| place(role));
        places.max().unwrap_or(Self::Everyone)
    }
}

#[cfg(test)]
#[path = "permissions_tests.rs"]
mod tests;
