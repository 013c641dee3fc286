//! Places: whatever messages can be in. A guild channel, a thread, a DM or a group DM.
//!
//! A handler that works alike in all of them asks [`super::place`] (or
//! [`super::place_for_change`], which also locks) and then the [`Place`]: for permissions
//! ([`Place::require`]), for what bodies carry ([`Place::guild_id`], [`Place::member`]) and for
//! the audience of its events ([`Place::visibility`], [`Place::append`]).

use bytes::Bytes;
use guildhall_shared::{
    Id, Permissions,
    envelope::{Alt, Envelope, Scope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Guild, Realm, User},
    model::{Channel, ChannelKind, Member, Thread},
    permissions::ThreadDoor,
};
use serde::Serialize;
use sqlx::PgConnection;

use super::{ChannelAccess, GuildAccess};
use crate::{
    error::Result,
    events::{self, Publisher},
};

/// Where the caller is, and what they may do there.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "almost every place is a channel: a box would only cost"
)]
pub(crate) enum Place {
    /// A channel of a guild, of any kind but a thread.
    Channel(ChannelAccess),
    Thread(Box<ThreadAccess>),
    /// A DM or group DM that the caller is in.
    Private(PrivateAccess),
}

/// A member at a thread of their guild.
#[derive(Debug, Clone)]
pub(crate) struct ThreadAccess {
    pub(crate) guild: GuildAccess,
    /// The channel that the thread is in. Its `last_message_id` is not read here.
    pub(crate) parent: Channel,
    /// Its `last_message_id`, `member_count` and `member` are not read here.
    pub(crate) thread: Thread,
    /// Whether the caller is in it.
    pub(crate) joined: bool,
    /// Who is in it, ascending; read of private threads only.
    pub(crate) members: Vec<Id<User>>,
}

/// A participant at a private channel.
#[derive(Debug, Clone)]
pub(crate) struct PrivateAccess {
    pub(crate) user: Id<User>,
    pub(crate) id: Id<marker::Channel>,
    pub(crate) kind: ChannelKind,
    pub(crate) name: Option<String>,
    pub(crate) icon: Option<String>,
    /// Of a group DM.
    pub(crate) owner: Option<Id<User>>,
    /// Everyone in it, the caller too; ascending by user id.
    pub(crate) recipients: Vec<Recipient>,
}

/// Somebody in a private channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recipient {
    pub(crate) user: Id<User>,
    pub(crate) bot: bool,
    /// Of the user's realm, when this was read.
    pub(crate) state_seq: u64,
    /// The user does not list the channel at the moment.
    pub(crate) closed: bool,
}

/// Who hears of what happens in a place: the realms whose events it makes, and the scope in them.
#[derive(Debug, Clone)]
pub(crate) struct Audience {
    pub(crate) channel: Id<marker::Channel>,
    pub(crate) kind: ChannelKind,
    /// `None` of private channels.
    pub(crate) guild: Option<Id<Guild>>,
    scope: Scope,
    /// Ascending.
    realms: Vec<Id<Realm>>,
}

impl Audience {
    /// Of a guild channel that is no thread.
    pub(crate) fn of_channel(
        guild: Id<Guild>,
        channel: Id<marker::Channel>,
        kind: ChannelKind,
    ) -> Self {
        Self {
            channel,
            kind,
            guild: Some(guild),
            scope: Scope::Channel(channel),
            realms: vec![guild.cast()],
        }
    }

    /// Of a thread; `members` (of a private one) as they are at the event.
    pub(crate) fn of_thread(
        guild: Id<Guild>,
        thread: Id<marker::Channel>,
        kind: ChannelKind,
        parent: Id<marker::Channel>,
        members: Vec<Id<User>>,
    ) -> Self {
        let scope = match kind {
            ChannelKind::PRIVATE_THREAD => Scope::Thread { parent, members },
            _ => Scope::Channel(parent),
        };
        Self {
            channel: thread,
            kind,
            guild: Some(guild),
            scope,
            realms: vec![guild.cast()],
        }
    }

    /// Of a private channel with these participants.
    pub(crate) fn of_private(
        channel: Id<marker::Channel>,
        kind: ChannelKind,
        participants: impl IntoIterator<Item = Id<User>>,
    ) -> Self {
        let mut realms: Vec<Id<Realm>> = participants.into_iter().map(Id::cast).collect();
        realms.sort_unstable();
        Self {
            channel,
            kind,
            guild: None,
            scope: Scope::Realm,
            realms,
        }
    }

    /// Those who may see the place and have one of `intents`, which are named as for guilds
    /// (`GUILD_MESSAGES`): in private channels their twins count (`DIRECT_MESSAGES`).
    pub(crate) fn visibility(&self, intents: Intents) -> Visibility {
        let intents = match self.guild {
            Some(_) => intents,
            None => private_twin(intents),
        };
        Visibility::of(self.scope.clone(), intents)
    }

    /// Numbers one event in the guild's realm, or one in the realm of each participant. The
    /// heads must be locked already if anything was checked (`place_for_change`).
    pub(crate) async fn append(
        &self,
        db: &mut PgConnection,
        kind: EventKind,
        vis: Visibility,
        body: &impl Serialize,
        alt: Option<Alt>,
    ) -> Result<Vec<Envelope>> {
        let body = Bytes::from(serde_json::to_vec(body)?);
        self.append_bytes(db, kind, vis, body, alt).await
    }

    /// [`Self::append`] for those who may see the place and have one of `intents`: see
    /// [`Self::visibility`].
    pub(crate) async fn tell(
        &self,
        db: &mut PgConnection,
        kind: EventKind,
        intents: Intents,
        body: &impl Serialize,
    ) -> Result<Vec<Envelope>> {
        self.append(db, kind, self.visibility(intents), body, None)
            .await
    }

    /// [`Self::append`] of a body that is JSON already.
    pub(crate) async fn append_bytes(
        &self,
        db: &mut PgConnection,
        kind: EventKind,
        vis: Visibility,
        body: Bytes,
        alt: Option<Alt>,
    ) -> Result<Vec<Envelope>> {
        let mut appended = Vec::with_capacity(self.realms.len());
        for &realm in &self.realms {
            let (vis, body, alt) = (vis.clone(), body.clone(), alt.clone());
            appended.push(events::append_bytes(db, realm, kind, vis, body, alt).await?);
        }
        Ok(appended)
    }
}

/// The intents that let an event of private channels through, by those of its guild twin.
fn private_twin(intents: Intents) -> Intents {
    [
        (Intents::GUILD_MESSAGES, Intents::DIRECT_MESSAGES),
        (
            Intents::GUILD_MESSAGE_REACTIONS,
            Intents::DIRECT_MESSAGE_REACTIONS,
        ),
        (
            Intents::GUILD_MESSAGE_TYPING,
            Intents::DIRECT_MESSAGE_TYPING,
        ),
        (Intents::GUILD_MESSAGE_POLLS, Intents::DIRECT_MESSAGE_POLLS),
        // CHANNEL_PINS_UPDATE.
        (Intents::GUILDS, Intents::DIRECT_MESSAGES),
    ]
    .into_iter()
    .filter(|(guild, _)| intents.contains(*guild))
    .fold(Intents::empty(), |twins, (_, twin)| twins | twin)
}

impl ThreadAccess {
    /// Permissions in the thread, now.
    pub(crate) fn permissions(&self) -> Permissions {
        let door = match self.thread.kind {
            ChannelKind::PRIVATE_THREAD if self.joined => ThreadDoor::Inside,
            ChannelKind::PRIVATE_THREAD => ThreadDoor::Outside,
            _ => ThreadDoor::Open,
        };
        self.guild
            .in_thread(&self.parent.permission_overwrites, door)
    }

    /// The permissions, which hold `needed`.
    ///
    /// Errors: 50001 if the thread cannot be seen, 50013, 60003.
    pub(crate) fn require(&self, needed: Permissions) -> Result<Permissions> {
        let held = self.permissions();
        if !held.contains(Permissions::VIEW_CHANNEL) {
            return Err(ErrorCode::MissingAccess.into());
        }
        self.guild.require_one_of(held, &[needed])?;
        Ok(held)
    }

    /// Errors: 160005 in a locked one for who does not manage threads, 60003.
    pub(crate) fn require_unlocked(&self) -> Result<()> {
        if !self.thread.thread_metadata.locked {
            return Ok(());
        }
        let needed = Permissions::MANAGE_THREADS;
        if !self.permissions().contains(needed) {
            return Err(ErrorCode::ThreadLocked.into());
        }
        self.require(needed)?;
        Ok(())
    }

    pub(crate) fn audience(&self) -> Audience {
        Audience::of_thread(
            self.guild.id,
            self.thread.id,
            self.thread.kind,
            self.parent.id,
            self.members.clone(),
        )
    }
}

impl PrivateAccess {
    pub(crate) fn participants(&self) -> impl Iterator<Item = Id<User>> {
        self.recipients.iter().map(|recipient| recipient.user)
    }

    /// The other one of a DM of two.
    pub(crate) fn other(&self) -> Option<Recipient> {
        let mut others = self.recipients.iter().filter(|one| one.user != self.user);
        others
            .next()
            .copied()
            .filter(|_| self.kind == ChannelKind::DM)
    }

    pub(crate) fn audience(&self) -> Audience {
        Audience::of_private(self.id, self.kind, self.participants())
    }
}

impl Place {
    pub(crate) fn id(&self) -> Id<marker::Channel> {
        match self {
            Self::Channel(access) => access.channel.id,
            Self::Thread(access) => access.thread.id,
            Self::Private(access) => access.id,
        }
    }

    pub(crate) fn kind(&self) -> ChannelKind {
        match self {
            Self::Channel(access) => access.channel.kind,
            Self::Thread(access) => access.thread.kind,
            Self::Private(access) => access.kind,
        }
    }

    /// `None` in private channels.
    pub(crate) fn guild(&self) -> Option<&GuildAccess> {
        match self {
            Self::Channel(access) => Some(&access.guild),
            Self::Thread(access) => Some(&access.guild),
            Self::Private(_) => None,
        }
    }

    /// As bodies of events carry it.
    pub(crate) fn guild_id(&self) -> Option<Id<Guild>> {
        self.guild().map(|guild| guild.id)
    }

    /// The caller's membership, without its user; `None` in private channels.
    pub(crate) fn member(&self) -> Option<&Member> {
        self.guild().map(|guild| &guild.member)
    }

    pub(crate) fn thread(&self) -> Option<&ThreadAccess> {
        match self {
            Self::Thread(access) => Some(access),
            Self::Channel(_) | Self::Private(_) => None,
        }
    }

    /// What the caller may do here, now.
    pub(crate) fn permissions(&self) -> Permissions {
        match self {
            Self::Channel(access) => access.permissions(),
            Self::Thread(access) => access.permissions(),
            Self::Private(_) => Permissions::PRIVATE,
        }
    }

    /// What the caller was given here, without what follows from what they were not: one who
    /// may not send may still hold ATTACH_FILES.
    pub(crate) fn given(&self) -> Permissions {
        match self {
            Self::Channel(access) => access.guild.given(&access.channel.permission_overwrites),
            Self::Thread(access) => access.guild.given(&access.parent.permission_overwrites),
            Self::Private(_) => Permissions::PRIVATE,
        }
    }

    /// The permissions, which hold `needed`.
    ///
    /// Errors: 50001 if the place cannot be seen, 50013, 60003, 50003 for what nobody can do in a
    /// DM.
    pub(crate) fn require(&self, needed: Permissions) -> Result<Permissions> {
        match self {
            Self::Channel(access) => access.require(needed),
            Self::Thread(access) => access.require(needed),
            Self::Private(_) if Permissions::PRIVATE.contains(needed) => Ok(Permissions::PRIVATE),
            Self::Private(_) => Err(ErrorCode::CannotOnDm.into()),
        }
    }

    /// The permission that sending here takes.
    pub(crate) fn sending(&self) -> Permissions {
        match self {
            Self::Thread(_) => Permissions::SEND_MESSAGES_IN_THREADS,
            Self::Channel(_) | Self::Private(_) => Permissions::SEND_MESSAGES,
        }
    }

    /// Errors: 50083 in an archived thread, where nothing is edited, reacted to or joined.
    pub(crate) fn require_unarchived(&self) -> Result<()> {
        match self {
            Self::Thread(access) if access.thread.thread_metadata.archived => {
                Err(ErrorCode::ThreadArchived.into())
            }
            Self::Channel(_) | Self::Thread(_) | Self::Private(_) => Ok(()),
        }
    }

    /// Errors: 160005 in a locked thread for who does not manage threads, 60003.
    pub(crate) fn require_unlocked(&self) -> Result<()> {
        match self {
            Self::Thread(access) => access.require_unlocked(),
            Self::Channel(_) | Self::Private(_) => Ok(()),
        }
    }

    /// Seconds between two messages of one person; 0: none.
    pub(crate) fn slowmode_seconds(&self) -> u32 {
        match self {
            Self::Channel(access) => access.channel.settings.rate_limit_per_user.unwrap_or(0),
            Self::Thread(access) => access.thread.rate_limit_per_user,
            Self::Private(_) => 0,
        }
    }

    /// A thread is what its parent is.
    pub(crate) fn is_nsfw(&self) -> bool {
        match self {
            Self::Channel(access) => access.channel.settings.nsfw.unwrap_or(false),
            Self::Thread(access) => access.parent.settings.nsfw.unwrap_or(false),
            Self::Private(_) => false,
        }
    }

    /// Who hears of what happens here.
    pub(crate) fn audience(&self) -> Audience {
        match self {
            Self::Channel(access) => {
                Audience::of_channel(access.guild.id, access.channel.id, access.channel.kind)
            }
            Self::Thread(access) => access.audience(),
            Self::Private(access) => access.audience(),
        }
    }

    /// Those who may see the place and have one of `intents`: see [`Audience::visibility`].
    pub(crate) fn visibility(&self, intents: Intents) -> Visibility {
        self.audience().visibility(intents)
    }

    /// Numbers an event for those who may see the place and have one of `intents` (as for
    /// guilds; in private channels the direct twins count). In private channels it is one
    /// event in each participant's realm. Publish all after the commit.
    pub(crate) async fn append(
        &self,
        db: &mut PgConnection,
        kind: EventKind,
        intents: Intents,
        body: &impl Serialize,
    ) -> Result<Vec<Envelope>> {
        self.audience().tell(db, kind, intents, body).await
    }

    /// Publishes an event without a number to the same people as [`Self::append`].
    pub(crate) fn publish_ephemeral(
        &self,
        publisher: &Publisher,
        kind: EventKind,
        intents: Intents,
        body: &impl Serialize,
    ) -> Result<()> {
        let audience = self.audience();
        let vis = audience.visibility(intents);
        for &realm in &audience.realms {
            publisher.publish_ephemeral(realm, kind, vis.clone(), body)?;
        }
        Ok(())
    }

    /// The realms that events of this place go to, ascending, each with the `state_seq` that
    /// the answers above hold at.
    pub(crate) fn checked_at(&self) -> Vec<(Id<Realm>, u64)> {
        match self {
            Self::Channel(ChannelAccess { guild, .. }) => vec![(guild.id.cast(), guild.state_seq)],
            Self::Thread(access) => vec![(access.guild.id.cast(), access.guild.state_seq)],
            Self::Private(access) => access
                .recipients
                .iter()
                .map(|recipient| (recipient.user.cast(), recipient.state_seq))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_twins_of_intents() {
        let twins = private_twin(Intents::GUILD_MESSAGES | Intents::GUILD_MESSAGE_TYPING);
        assert_eq!(
            twins,
            Intents::DIRECT_MESSAGES | Intents::DIRECT_MESSAGE_TYPING
        );
        assert_eq!(private_twin(Intents::GUILDS), Intents::DIRECT_MESSAGES);
        assert_eq!(private_twin(Intents::empty()), Intents::empty());
    }

    #[test]
    fn realms_of_private_channels_ascend() {
        let id = |id| Id::new(id).unwrap();
        let audience = Audience::of_private(
            id(1),
            ChannelKind::DM,
            [Id::new(9), Id::new(3)].map(Option::unwrap),
        );
        assert_eq!(audience.realms, [Id::new(3).unwrap(), Id::new(9).unwrap()]);
        assert_eq!(
            audience.visibility(Intents::GUILD_MESSAGES),
            Visibility::realm(Intents::DIRECT_MESSAGES)
        );
    }
}
