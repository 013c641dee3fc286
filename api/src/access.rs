//! May this user do this here. Spec: permissions.md.
//!
//! One statement reads what the decision needs; `shared::permissions` makes it. Never
//! changes anything but locks: whoever writes to a guild first takes the lock of its
//! head, so that no permission changes between the check and the commit (I7).
//!
//! [`place`] answers for any kind of channel, [`channel`] for guild channels that are no
//! threads, [`guild`] for the guild as a whole; each has a `…_for_change` that also locks.

mod cache;
mod place;
mod read;
mod verification;

use guildhall_shared::{
    Id, Permissions, Timestamp,
    error_code::ErrorCode,
    id::marker::{self, Guild, Realm, Role, User},
    model::{Channel, ChannelKind, Member},
    permissions::{self, ChannelClass, MemberAccess, Overwrite, Rank, ThreadDoor},
};
use guildhall_store::ids_from_db;
use sqlx::{PgConnection, PgExecutor};

use self::read::{Found, private, read};
pub(crate) use self::{
    cache::AccessCache,
    place::{Audience, Place, PrivateAccess, Recipient, ThreadAccess},
};
use crate::{caller::CurrentUser, error::Result};

/// What decisions need to know of a role.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RoleInfo {
    pub(crate) id: Id<Role>,
    pub(crate) position: i32,
    pub(crate) permissions: Permissions,
    pub(crate) managed: bool,
    pub(crate) mentionable: bool,
}

impl RoleInfo {
    pub(crate) fn rank(&self) -> Rank {
        Rank::role(self.position, self.id)
    }
}

/// A member in their guild.
#[derive(Debug, Clone)]
pub(crate) struct GuildAccess {
    pub(crate) id: Id<Guild>,
    pub(crate) owner: Id<User>,
    /// The answers below hold while the guild's head still says this.
    pub(crate) state_seq: u64,
    /// Ascending by id; @everyone among them.
    pub(crate) roles: Vec<RoleInfo>,
    pub(crate) user: Id<User>,
    /// The guild asks its moderators for a second factor, and the caller (of a bot: its owner)
    /// has none. `state_seq` covers the guild's half of it only.
    pub(crate) lacks_factor: bool,
    /// 0 to 4; see [`Self::require_verified`].
    pub(crate) verification_level: u8,
    /// The membership of `user`, without its user object.
    pub(crate) member: Member,
}

/// A member at a channel of their guild.
#[derive(Debug, Clone)]
pub(crate) struct ChannelAccess {
    pub(crate) guild: GuildAccess,
    /// Its `last_message_id` is not read here.
    pub(crate) channel: Channel,
}

impl GuildAccess {
    pub(crate) fn is_owner(&self) -> bool {
        self.user == self.owner
    }

    pub(crate) fn role(&self, id: Id<Role>) -> Option<&RoleInfo> {
        let index = self.roles.binary_search_by_key(&id, |role| role.id).ok()?;
        self.roles.get(index)
    }

    /// Guild-level permissions, now.
    pub(crate) fn base(&self) -> Permissions {
        self.base_of(self.access())
    }

    /// Whether a timeout or a quarantine leaves the caller nothing but to look and to read.
    pub(crate) fn is_silenced(&self) -> bool {
        let until = self.member.silenced_until();
        until.is_some_and(|until| until > Timestamp::now())
            && !self.base().contains(Permissions::ADMINISTRATOR)
    }

    /// Guild-level permissions of another member.
    pub(crate) fn base_of_member(&self, user: Id<User>, member: &Member) -> Permissions {
        self.base_of(self.access_of(user, member))
    }

    /// Guild-level permissions, a quarantine apart: who is in one may still take a better name.
    pub(crate) fn base_out_of_quarantine(&self) -> Permissions {
        let flags = self.member.flags & !Member::QUARANTINED;
        let free = Member {
            flags,
            ..self.member.clone()
        };
        self.base_of_member(self.user, &free)
    }

    fn base_of(&self, member: MemberAccess<'_>) -> Permissions {
        permissions::base(
            self.id,
            member,
            |role| self.role(role).map(|role| role.permissions),
            Timestamp::now(),
        )
    }

    /// Permissions in a channel of this guild, now.
    pub(crate) fn in_channel(&self, kind: ChannelKind, overwrites: &[Overwrite]) -> Permissions {
        permissions::in_channel(
            self.base(),
            self.id,
            self.access(),
            overwrites,
            kind.class(),
            Timestamp::now(),
        )
    }

    /// Permissions by these overwrites, without what follows from those that are denied.
    pub(crate) fn given(&self, overwrites: &[Overwrite]) -> Permissions {
        permissions::in_channel(
            self.base(),
            self.id,
            self.access(),
            overwrites,
            ChannelClass::Plain,
            Timestamp::now(),
        )
    }

    /// Permissions in a thread of a channel with these overwrites, now.
    pub(crate) fn in_thread(&self, parent: &[Overwrite], door: ThreadDoor) -> Permissions {
        let (base, now) = (self.base(), Timestamp::now());
        permissions::in_thread(base, self.id, self.access(), parent, door, now)
    }

    /// What the caller may act by, of what they hold here.
    pub(crate) fn usable(&self, held: Permissions) -> Permissions {
        match self.lacks_factor {
            true => held - Permissions::NEEDS_FACTOR,
            false => held,
        }
    }

    /// Errors: 50013, 60003.
    pub(crate) fn require(&self, needed: Permissions) -> Result<()> {
        self.require_one_of(self.base(), &[needed])
    }

    /// Passes who holds one of the sets whole and may act by it.
    ///
    /// Errors: 50013, 60003 if it is only for a second factor.
    pub(crate) fn require_one_of(&self, held: Permissions, sets: &[Permissions]) -> Result<()> {
        let suffices = |held: Permissions| sets.iter().any(|&set| held.contains(set));
        if suffices(self.usable(held)) {
            Ok(())
        } else if suffices(held) {
            Err(ErrorCode::SecondFactorMissing.into())
        } else {
            Err(ErrorCode::MissingPermissions.into())
        }
    }

    /// For who changes an emoji, a sticker or a sound: passes who manages expressions, or made it
    /// themselves and still may.
    ///
    /// Errors: 50013, 60003.
    pub(crate) fn require_own_expression(&self, creator: Option<Id<User>>) -> Result<()> {
        let any_of = [
            Permissions::MANAGE_GUILD_EXPRESSIONS,
            Permissions::CREATE_GUILD_EXPRESSIONS,
        ];
        let any_of = match creator == Some(self.user) {
            true => &any_of[..],
            false => &any_of[..1],
        };
        self.require_one_of(self.base(), any_of)
    }

    pub(crate) fn rank(&self) -> Rank {
        self.rank_of(self.user, &self.member.roles)
    }

    /// The place in the hierarchy of whoever holds `roles`.
    pub(crate) fn rank_of(&self, user: Id<User>, roles: &[Id<Role>]) -> Rank {
        Rank::of_member(user == self.owner, roles, |role| {
            self.role(role).map(RoleInfo::rank)
        })
    }

    /// Errors: 50013 unless the caller stands above `rank`.
    pub(crate) fn require_above(&self, rank: Rank) -> Result<()> {
        if self.rank() > rank {
            Ok(())
        } else {
            Err(ErrorCode::MissingPermissions.into())
        }
    }

    /// What the computation needs to know of the caller.
    pub(crate) fn access(&self) -> MemberAccess<'_> {
        self.access_of(self.user, &self.member)
    }

    /// The same of another member.
    pub(crate) fn access_of<'a>(&self, user: Id<User>, member: &'a Member) -> MemberAccess<'a> {
        MemberAccess {
            user,
            is_owner: user == self.owner,
            roles: &member.roles,
            communication_disabled_until: member.silenced_until(),
        }
    }
}

impl ChannelAccess {
    /// Channel-level permissions, now.
    pub(crate) fn permissions(&self) -> Permissions {
        self.guild
            .in_channel(self.channel.kind, &self.channel.permission_overwrites)
    }

    /// The permissions, which hold `needed`.
    ///
    /// Errors: 50001 if the channel cannot be seen, 50013, 60003.
    pub(crate) fn require(&self, needed: Permissions) -> Result<Permissions> {
        let held = self.permissions();
        if !held.contains(Permissions::VIEW_CHANNEL) {
            return Err(ErrorCode::MissingAccess.into());
        }
        self.guild.require_one_of(held, &[needed])?;
        Ok(held)
    }
}

/// What one without any role may do in a channel. `base` are @everyone's permissions.
pub(crate) fn of_everyone(
    guild: Id<Guild>,
    base: Permissions,
    kind: ChannelKind,
    overwrites: &[Overwrite],
) -> Permissions {
    let nobody = MemberAccess {
        user: guild.cast(),
        is_owner: false,
        roles: &[],
        communication_disabled_until: None,
    };
    let (class, now) = (kind.class(), Timestamp::now());
    permissions::in_channel(base, guild, nobody, overwrites, class, now)
}

/// The caller in a guild. Errors: 10004, 50001 for who is no member, 50013, 60003.
pub(crate) async fn guild(
    db: impl PgExecutor<'_>,
    user: &CurrentUser,
    guild: Id<Guild>,
    needed: Permissions,
) -> Result<GuildAccess> {
    let access = member(db, user.id, guild).await?;
    access.require(needed)?;
    Ok(access)
}

/// A member in their guild, whoever asks. Errors: 10004, 50001 for who is no member.
pub(crate) async fn member(
    db: impl PgExecutor<'_>,
    user: Id<User>,
    guild: Id<Guild>,
) -> Result<GuildAccess> {
    let row = read(db, user, Some(guild), None)
        .await?
        .ok_or(ErrorCode::UnknownGuild)?;
    match row.decode(user)? {
        Found::Guild(access) => Ok(access),
        Found::Place(_) => Err(ErrorCode::UnknownGuild.into()),
    }
}

/// The caller at a guild channel that is no thread.
///
/// Errors: 10003, 50001 if it cannot be seen, 50013, 60003, 50003 for a DM, 50024 for a thread.
pub(crate) async fn channel(
    db: &mut PgConnection,
    user: &CurrentUser,
    channel: Id<marker::Channel>,
    needed: Permissions,
) -> Result<ChannelAccess> {
    let access = place(db, user, channel, Permissions::VIEW_CHANNEL).await?;
    match access {
        Place::Channel(access) => {
            access.require(needed)?;
            Ok(access)
        }
        Place::Thread(_) => Err(ErrorCode::InvalidChannelType.into()),
        Place::Private(_) => Err(ErrorCode::CannotOnDm.into()),
    }
}

/// The caller at a channel of any kind.
///
/// Errors: 10003 (also for DMs of others), 50001 if it cannot be seen, 50013, 60003; 50003 for
/// what nobody can do in a DM.
pub(crate) async fn place(
    db: &mut PgConnection,
    user: &CurrentUser,
    channel: Id<marker::Channel>,
    needed: Permissions,
) -> Result<Place> {
    let place = place_unchecked(db, user.id, channel).await?;
    place.require(needed)?;
    Ok(place)
}

/// [`place`] for whoever changes it or writes to it: the heads of its guild, or of all its
/// participants, are locked from here to the commit.
pub(crate) async fn place_for_change(
    db: &mut PgConnection,
    user: &CurrentUser,
    channel: Id<marker::Channel>,
    needed: Permissions,
) -> Result<Place> {
    lock_place(db, channel, &[]).await?;
    place(db, user, channel, needed).await
}

/// Who hears of what happens in a channel of any kind, asked by the server itself
/// (polls that end, webhooks, interactions); its heads are locked from here to the commit.
///
/// Errors: 10003.
pub(crate) async fn audience_for_change(
    db: &mut PgConnection,
    channel: Id<marker::Channel>,
) -> Result<Audience> {
    audience_for_change_with(db, channel, &[]).await
}

/// [`audience_for_change`] of a channel where something is told to some who may not be in it: of
/// a private one their heads are locked too.
pub(crate) async fn audience_for_change_with(
    db: &mut PgConnection,
    channel: Id<marker::Channel>,
    also: &[Id<User>],
) -> Result<Audience> {
    lock_place(db, channel, also).await?;
    let row = sqlx::query!(
        r#"select c.guild_id, c.kind, c.parent_id,
                  array(select user_id from thread_member m
                        where c.kind = 12 and m.thread_id = c.channel_id) as "members!",
                  array(select user_id from private_recipient r
                        where c.guild_id is null and r.channel_id = c.channel_id) as "recipients!"
           from channel c where c.channel_id = $1
             -- Threads of a deleted channel wait to be collected.
             and (c.kind not in (10, 11, 12)
                  or exists (select from channel p where p.channel_id = c.parent_id))"#,
        channel.to_db(),
    )
    .fetch_optional(db)
    .await?
    .ok_or(ErrorCode::UnknownChannel)?;
    let kind = ChannelKind(row.kind as u8);
    Ok(match (row.guild_id.map(Id::from_db), row.parent_id) {
        (None, _) => Audience::of_private(channel, kind, ids_from_db(row.recipients)),
        (Some(guild), Some(parent)) if kind.is_thread() => Audience::of_thread(
            guild,
            channel,
            kind,
            Id::from_db(parent),
            ids_from_db(row.members),
        ),
        (Some(guild), _) => Audience::of_channel(guild, channel, kind),
    })
}

/// [`guild`] for whoever changes it: the guild's head is locked from here to the commit.
pub(crate) async fn guild_for_change(
    db: &mut PgConnection,
    user: &CurrentUser,
    id: Id<Guild>,
    needed: Permissions,
) -> Result<GuildAccess> {
    lock_realms(db, [id.cast()]).await?;
    guild(db, user, id, needed).await
}

/// [`channel`] for whoever changes it or writes to it: the guild's head is locked from
/// here to the commit.
pub(crate) async fn channel_for_change(
    db: &mut PgConnection,
    user: &CurrentUser,
    id: Id<marker::Channel>,
    needed: Permissions,
) -> Result<ChannelAccess> {
    lock_place(db, id, &[]).await?;
    channel(db, user, id, needed).await
}

/// Locks the heads that events of a channel go to, for a private one also those of `also`.
/// Statements of their own: the next one must see what was committed while these waited.
///
/// Errors: 10003.
async fn lock_place(
    db: &mut PgConnection,
    channel: Id<marker::Channel>,
    also: &[Id<User>],
) -> Result<()> {
    let guild = sqlx::query!(
        "select h.realm_id from channel c join realm_head h on h.realm_id = c.guild_id
         where c.channel_id = $1 for update of h",
        channel.to_db(),
    )
    .fetch_optional(&mut *db)
    .await?;
    if guild.is_some() {
        return Ok(());
    }
    // Of a private channel the row comes first: whoever adds or removes somebody holds it, so
    // the participants read next stay the ones there are.
    sqlx::query!(
        "select channel_id from channel where channel_id = $1 and guild_id is null for update",
        channel.to_db(),
    )
    .fetch_optional(&mut *db)
    .await?
    .ok_or(ErrorCode::UnknownChannel)?;
    let participants = sqlx::query_scalar!(
        "select user_id from private_recipient where channel_id = $1",
        channel.to_db(),
    )
    .fetch_all(&mut *db)
    .await?;
    let mut realms = ids_from_db::<Realm>(participants);
    realms.extend(also.iter().map(|user| user.cast::<Realm>()));
    lock_realms(db, realms).await
}

/// Locks heads, the smallest id first, as everyone does: so nobody waits in a circle.
pub(crate) async fn lock_realms(
    db: &mut PgConnection,
    realms: impl IntoIterator<Item = Id<Realm>>,
) -> Result<()> {
    let realms: Vec<i64> = realms.into_iter().map(Id::to_db).collect();
    sqlx::query!(
        "select realm_id from realm_head where realm_id = any($1) order by realm_id for update",
        &realms,
    )
    .fetch_all(db)
    .await?;
    Ok(())
}

/// [`place`] for anybody, whatever they may do there; [`Place::permissions`] says.
///
/// Errors: 10003, 50001 for who is no member.
pub(crate) async fn place_unchecked(
    db: &mut PgConnection,
    user: Id<User>,
    channel: Id<marker::Channel>,
) -> Result<Place> {
    let found = match read(&mut *db, user, None, Some(channel)).await? {
        Some(row) => match row.decode(user)? {
            Found::Place(place) => Some(place),
            Found::Guild(_) => None,
        },
        None => private(db, user, channel).await?.map(Place::Private),
    };
    found.ok_or_else(|| ErrorCode::UnknownChannel.into())
}
