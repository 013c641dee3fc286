//! May this user do this here. Spec: permissions.md.
//!
//! One statement reads what the decision needs; `shared::permissions` makes it. Never
//! changes anything but locks: whoever writes to a guild first takes the lock of its
//! head, so that no permission changes between the check and the commit (I7).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use guildhall_shared::{
    Id, Permissions, Timestamp,
    error_code::ErrorCode,
    id::marker::{self, Guild, Realm, Role, User},
    model::{Channel, ChannelKind, ChannelSettings, Member},
    permissions::{self, MemberAccess, Overwrite, Rank},
};
use guildhall_store::ids_from_db;
use rustc_hash::FxHashMap;
use sqlx::{PgConnection, PgExecutor, types::Json};
use time::OffsetDateTime;

use crate::{auth::CurrentUser, error::Result};

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

    /// Guild-level permissions of another member.
    pub(crate) fn base_of_member(&self, user: Id<User>, member: &Member) -> Permissions {
        self.base_of(MemberAccess {
            user,
            is_owner: user == self.owner,
            roles: &member.roles,
            communication_disabled_until: member.communication_disabled_until,
        })
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

    /// Errors: 50013.
    pub(crate) fn require(&self, needed: Permissions) -> Result<()> {
        require(self.base(), needed)
    }

    pub(crate) fn rank(&self) -> Rank {
        self.rank_of(self.user, &self.member.roles)
    }

    /// The place in the hierarchy of whoever holds `roles`.
    pub(crate) fn rank_of(&self, user: Id<User>, roles: &[Id<Role>]) -> Rank {
        if user == self.owner {
            return Rank::Owner;
        }
        roles
            .iter()
            .filter_map(|&role| self.role(role))
            .map(RoleInfo::rank)
            .max()
            .unwrap_or(Rank::Everyone)
    }

    /// Errors: 50013 unless the caller stands above `rank`.
    pub(crate) fn require_above(&self, rank: Rank) -> Result<()> {
        if self.rank() > rank {
            Ok(())
        } else {
            Err(ErrorCode::MissingPermissions.into())
        }
    }

    fn access(&self) -> MemberAccess<'_> {
        MemberAccess {
            user: self.user,
            is_owner: self.is_owner(),
            roles: &self.member.roles,
            communication_disabled_until: self.member.communication_disabled_until,
        }
    }
}

impl ChannelAccess {
    /// Channel-level permissions, now.
    pub(crate) fn permissions(&self) -> Permissions {
        self.guild
            .in_channel(self.channel.kind, &self.channel.permission_overwrites)
    }

    /// The permissions, which hold `needed`. Errors: 50001 if the channel cannot be seen, 50013.
    pub(crate) fn require(&self, needed: Permissions) -> Result<Permissions> {
        let held = self.permissions();
        if !held.contains(Permissions::VIEW_CHANNEL) {
            return Err(ErrorCode::MissingAccess.into());
        }
        require(held, needed)?;
        Ok(held)
    }
}

/// Errors: 50013.
pub(crate) fn require(held: Permissions, needed: Permissions) -> Result<()> {
    if held.contains(needed) {
        Ok(())
    } else {
        Err(ErrorCode::MissingPermissions.into())
    }
}

/// The caller in a guild. Errors: 10004, 50001 for who is no member, 50013.
pub(crate) async fn guild(
    db: impl PgExecutor<'_>,
    user: &CurrentUser,
    guild: Id<Guild>,
    needed: Permissions,
) -> Result<GuildAccess> {
    let row = read(db, user.id, Some(guild), None)
        .await?
        .ok_or(ErrorCode::UnknownGuild)?;
    let (access, _) = row.decode(user.id)?;
    access.require(needed)?;
    Ok(access)
}

/// The caller at a channel. Errors: 10003, 50001 if it cannot be seen, 50013.
pub(crate) async fn channel(
    db: impl PgExecutor<'_>,
    user: &CurrentUser,
    channel: Id<marker::Channel>,
    needed: Permissions,
) -> Result<ChannelAccess> {
    let access = channel_unchecked(db, user.id, channel).await?;
    access.require(needed)?;
    Ok(access)
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
    // A statement of its own: the next one must see what was committed while this one waited.
    sqlx::query!(
        "select h.realm_id from channel c join realm_head h on h.realm_id = c.guild_id
         where c.channel_id = $1 for update of h",
        id.to_db(),
    )
    .fetch_optional(&mut *db)
    .await?
    .ok_or(ErrorCode::UnknownChannel)?;
    channel(db, user, id, needed).await
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

async fn channel_unchecked(
    db: impl PgExecutor<'_>,
    user: Id<User>,
    channel: Id<marker::Channel>,
) -> Result<ChannelAccess> {
    let row = read(db, user, None, Some(channel))
        .await?
        .ok_or(ErrorCode::UnknownChannel)?;
    let (guild, channel) = row.decode(user)?;
    let channel = channel.ok_or(ErrorCode::UnknownChannel)?;
    Ok(ChannelAccess { guild, channel })
}

/// What users could do at channels, as read at some `state_seq`.
///
/// Entries may be out of date: only for writers that compare `state_seq` under the head's
/// lock (`message_writer`), and forget the entry when it differs.
#[derive(Debug, Default)]
pub(crate) struct AccessCache(Mutex<Entries>);

type Entries = FxHashMap<(Id<User>, Id<marker::Channel>), Arc<ChannelAccess>>;

const CACHE_ENTRIES_MAX: usize = 8192;

impl AccessCache {
    /// From memory, else from the database. Errors: 10003, 50001 for who is no member.
    pub(crate) async fn channel(
        &self,
        db: impl PgExecutor<'_>,
        user: Id<User>,
        channel: Id<marker::Channel>,
    ) -> Result<Arc<ChannelAccess>> {
        let key = (user, channel);
        if let Some(access) = self.lock().get(&key) {
            return Ok(Arc::clone(access));
        }
        let access = Arc::new(channel_unchecked(db, user, channel).await?);
        let mut entries = self.lock();
        if entries.len() >= CACHE_ENTRIES_MAX {
            entries.clear();
        }
        entries.insert(key, Arc::clone(&access));
        Ok(access)
    }

    pub(crate) fn forget(&self, user: Id<User>, channel: Id<marker::Channel>) {
        self.lock().remove(&(user, channel));
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct AccessRow {
    guild_id: i64,
    owner_id: i64,
    state_seq: i64,
    role_ids: Vec<i64>,
    role_positions: Vec<i32>,
    role_permissions: Vec<i64>,
    role_managed: Vec<bool>,
    role_mentionable: Vec<bool>,
    nick: Option<String>,
    member_roles: Option<Vec<i64>>,
    joined_at: Option<OffsetDateTime>,
    communication_disabled_until: Option<OffsetDateTime>,
    deaf: Option<bool>,
    mute: Option<bool>,
    pending: Option<bool>,
    flags: Option<i64>,
    channel_id: Option<i64>,
    kind: Option<i16>,
    name: Option<String>,
    position: Option<i32>,
    parent_id: Option<i64>,
    overwrites: Option<Json<Vec<Overwrite>>>,
    settings: Option<Json<ChannelSettings>>,
}

async fn read(
    db: impl PgExecutor<'_>,
    user: Id<User>,
    guild: Option<Id<Guild>>,
    channel: Option<Id<marker::Channel>>,
) -> Result<Option<AccessRow>> {
    let row = sqlx::query_as!(
        AccessRow,
        r#"select g.guild_id, g.owner_id, h.state_seq,
                  r.ids as "role_ids!", r.positions as "role_positions!",
                  r.permissions as "role_permissions!", r.managed as "role_managed!",
                  r.mentionable as "role_mentionable!",
                  m.nick as "nick?", m.roles as "member_roles?", m.joined_at as "joined_at?",
                  m.communication_disabled_until as "communication_disabled_until?",
                  m.deaf as "deaf?", m.mute as "mute?", m.pending as "pending?",
                  m.flags as "flags?", c.channel_id as "channel_id?", c.kind as "kind?",
                  c.name as "name?", c.position as "position?", c.parent_id as "parent_id?",
                  c.overwrites as "overwrites?: Json<Vec<Overwrite>>",
                  c.settings as "settings?: Json<ChannelSettings>"
           from guild g
           join realm_head h on h.realm_id = g.guild_id
           cross join lateral (
             select array_agg(role_id order by role_id) as ids,
                    array_agg(position order by role_id) as positions,
                    array_agg(permissions order by role_id) as permissions,
                    array_agg(managed order by role_id) as managed,
                    array_agg(mentionable order by role_id) as mentionable
             from role where role.guild_id = g.guild_id
           ) r
           left join member m on m.guild_id = g.guild_id and m.user_id = $1
           left join channel c on c.channel_id = $3
           where g.guild_id = coalesce($2, (select guild_id from channel where channel_id = $3))"#,
        user.to_db(),
        guild.map(Id::to_db),
        channel.map(Id::to_db),
    )
    .fetch_optional(db)
    .await?;
    Ok(row)
}

impl AccessRow {
    /// Errors: 50001 for who is no member.
    fn decode(self, user: Id<User>) -> Result<(GuildAccess, Option<Channel>)> {
        let guild_id = Id::from_db(self.guild_id);
        let (Some(roles), Some(joined_at)) = (self.member_roles, self.joined_at) else {
            return Err(ErrorCode::MissingAccess.into());
        };
        let member = Member {
            user: None,
            nick: self.nick,
            avatar: None,
            banner: None,
            roles: ids_from_db(roles),
            joined_at: Timestamp(joined_at),
            premium_since: None,
            deaf: self.deaf.unwrap_or_default(),
            mute: self.mute.unwrap_or_default(),
            flags: self.flags.unwrap_or_default() as u64,
            pending: self.pending.unwrap_or_default(),
            communication_disabled_until: self.communication_disabled_until.map(Timestamp),
            avatar_decoration_data: None,
            collectibles: None,
        };
        let positions = self.role_positions.into_iter();
        let roles = self
            .role_ids
            .into_iter()
            .zip(positions)
            .zip(self.role_permissions)
            .zip(self.role_managed.into_iter().zip(self.role_mentionable))
            .map(
                |(((id, position), permissions), (managed, mentionable))| RoleInfo {
                    id: Id::from_db(id),
                    position,
                    permissions: Permissions::from_bits_truncate(permissions as u64),
                    managed,
                    mentionable,
                },
            )
            .collect();
        let channel = self.channel_id.map(|id| Channel {
            id: Id::from_db(id),
            kind: ChannelKind(self.kind.unwrap_or_default() as u8),
            guild_id,
            name: self.name.unwrap_or_default(),
            position: self.position.unwrap_or_default(),
            parent_id: self.parent_id.map(Id::from_db),
            permission_overwrites: self.overwrites.map(|list| list.0).unwrap_or_default(),
            last_message_id: None,
            settings: self.settings.map(|settings| settings.0).unwrap_or_default(),
        });
        let guild = GuildAccess {
            id: guild_id,
            owner: Id::from_db(self.owner_id),
            state_seq: self.state_seq as u64,
            roles,
            user,
            member,
        };
        Ok((guild, channel))
    }
}
