//! May this user do this here. Spec: permissions.md.
//!
//! One statement reads what the decision needs; `shared::permissions` makes it. Never
//! changes anything but locks: whoever writes to a guild first takes the lock of its
//! head, so that no permission changes between the check and the commit (I7).
//!
//! [`place`] answers for any kind of channel, [`channel`] for guild channels that are no
//! threads, [`guild`] for the guild as a whole; each has a `…_for_change` that also locks.

mod place;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use guildhall_shared::{
    Id, Permissions, Timestamp,
    error_code::ErrorCode,
    id::marker::{self, Guild, Realm, Role, User},
    model::{Channel, ChannelKind, ChannelSettings, Member, Thread, ThreadMetadata},
    permissions::{self, ChannelClass, MemberAccess, Overwrite, Rank, ThreadDoor},
};
use guildhall_store::ids_from_db;
use rustc_hash::FxHashMap;
use sqlx::{PgConnection, PgExecutor, PgPool, types::Json};
use time::OffsetDateTime;

pub(crate) use self::place::{Audience, Place, PrivateAccess, Recipient, ThreadAccess};
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
    /// The guild asks its moderators for a second factor, and the caller (of a bot: its owner)
    /// has none. `state_seq` covers the guild's half of it only.
    pub(crate) lacks_factor: bool,
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
            communication_disabled_until: member.silenced_until(),
        })
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
        MemberAccess {
            user: self.user,
            is_owner: self.is_owner(),
            roles: &self.member.roles,
            communication_disabled_until: self.member.silenced_until(),
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
    lock_place(db, channel, None).await?;
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
    audience_for_change_with(db, channel, None).await
}

/// [`audience_for_change`] of a channel where something is told to somebody who may not be in
/// it: of a private one their head is locked too.
pub(crate) async fn audience_for_change_with(
    db: &mut PgConnection,
    channel: Id<marker::Channel>,
    also: Option<Id<User>>,
) -> Result<Audience> {
    lock_place(db, channel, also).await?;
    let row = sqlx::query!(
        r#"select c.guild_id, c.kind, c.parent_id,
                  array(select user_id from thread_member m
                        where c.kind = 12 and m.thread_id = c.channel_id) as "members!",
                  array(select user_id from private_recipient r
                        where c.guild_id is null and r.channel_id = c.channel_id) as "recipients!"
           from channel c where c.channel_id = $1"#,
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
    lock_place(db, id, None).await?;
    channel(db, user, id, needed).await
}

/// Locks the heads that events of a channel go to, for a private one `also` that of `also`.
/// Statements of their own: the next one must see what was committed while these waited.
///
/// Errors: 10003.
async fn lock_place(
    db: &mut PgConnection,
    channel: Id<marker::Channel>,
    also: Option<Id<User>>,
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
    let participants = ids_from_db::<Realm>(participants).into_iter();
    lock_realms(db, participants.chain(also.map(Id::cast))).await
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

/// A DM or group DM; `None` if there is none or the user is not in it.
async fn private(
    db: &mut PgConnection,
    user: Id<User>,
    channel: Id<marker::Channel>,
) -> Result<Option<PrivateAccess>> {
    let rows = sqlx::query!(
        r#"select c.kind, c.name, c.icon, c.owner_id,
                  c.settings as "settings: Json<ChannelSettings>", r.user_id, r.closed, a.bot,
                  h.state_seq
           from channel c
           join private_recipient r on r.channel_id = c.channel_id
           join account a on a.user_id = r.user_id
           join realm_head h on h.realm_id = r.user_id
           where c.channel_id = $1 and c.guild_id is null
           order by r.user_id"#,
        channel.to_db(),
    )
    .fetch_all(db)
    .await?;
    let recipients: Vec<Recipient> = rows
        .iter()
        .map(|row| Recipient {
            user: Id::from_db(row.user_id),
            bot: row.bot,
            state_seq: row.state_seq as u64,
            closed: row.closed,
        })
        .collect();
    if recipients.iter().all(|recipient| recipient.user != user) {
        return Ok(None);
    }
    Ok(rows.into_iter().next().map(|row| PrivateAccess {
        user,
        id: channel,
        kind: ChannelKind(row.kind as u8),
        name: row.name,
        icon: row.icon,
        owner: row.owner_id.map(Id::from_db),
        settings: row.settings.0,
        recipients,
    }))
}

/// What users could do at places, as read at some `state_seq`.
///
/// Entries may be out of date: only for writers that compare `state_seq` under the head's
/// lock (`message_writer`), and forget the entry when it differs.
#[derive(Debug, Default)]
pub(crate) struct AccessCache(Mutex<Entries>);

type Entries = FxHashMap<Key, Arc<Place>>;

/// Who, where, and whether with a second factor: no guild's `state_seq` tells that that changed.
type Key = (Id<User>, Id<marker::Channel>, bool);

const CACHE_ENTRIES_MAX: usize = 8192;

impl AccessCache {
    /// From memory, else from the database. Errors: 10003, 50001 for who is no member.
    pub(crate) async fn place(
        &self,
        db: &PgPool,
        user: &CurrentUser,
        channel: Id<marker::Channel>,
    ) -> Result<Arc<Place>> {
        let key = Self::key(user, channel);
        if let Some(access) = self.lock().get(&key) {
            return Ok(Arc::clone(access));
        }
        let asked = async {
            let mut db = db.acquire().await?;
            place_unchecked(&mut db, user.id, channel).await
        };
        let access = Arc::new(Box::pin(asked).await?);
        let mut entries = self.lock();
        if entries.len() >= CACHE_ENTRIES_MAX {
            entries.clear();
        }
        entries.insert(key, Arc::clone(&access));
        Ok(access)
    }

    pub(crate) fn forget(&self, user: &CurrentUser, channel: Id<marker::Channel>) {
        self.lock().remove(&Self::key(user, channel));
    }

    fn key(user: &CurrentUser, channel: Id<marker::Channel>) -> Key {
        (user.id, channel, user.account.user.mfa_enabled)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct AccessRow {
    guild_id: i64,
    owner_id: i64,
    state_seq: i64,
    lacks_factor: bool,
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
    member_avatar: Option<String>,
    member_banner: Option<String>,
    channel_id: Option<i64>,
    kind: Option<i16>,
    name: Option<String>,
    position: Option<i32>,
    parent_id: Option<i64>,
    overwrites: Option<Json<Vec<Overwrite>>>,
    settings: Option<Json<ChannelSettings>>,
    parent_kind: Option<i16>,
    parent_name: Option<String>,
    parent_position: Option<i32>,
    parent_parent_id: Option<i64>,
    parent_overwrites: Option<Json<Vec<Overwrite>>>,
    parent_settings: Option<Json<ChannelSettings>>,
    owner: Option<i64>,
    archived: Option<bool>,
    locked: Option<bool>,
    invitable: Option<bool>,
    auto_archive_minutes: Option<i32>,
    archive_at: Option<OffsetDateTime>,
    message_count: Option<i32>,
    total_message_sent: Option<i32>,
    applied_tags: Option<Vec<i64>>,
    joined: Option<i64>,
    thread_members: Vec<i64>,
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
                  coalesce(g.settings ->> 'mfa_level', '0') <> '0'
                    and not exists (
                      select from account_mfa f
                      where f.user_id = coalesce((select a.owner_id from application a
                                                  where a.application_id = $1), $1)
                    ) as "lacks_factor!",
                  r.ids as "role_ids!", r.positions as "role_positions!",
                  r.permissions as "role_permissions!", r.managed as "role_managed!",
                  r.mentionable as "role_mentionable!",
                  m.nick as "nick?", m.roles as "member_roles?", m.joined_at as "joined_at?",
                  m.communication_disabled_until as "communication_disabled_until?",
                  m.deaf as "deaf?", m.mute as "mute?", m.pending as "pending?",
                  m.flags as "flags?", m.avatar as "member_avatar?",
                  m.banner as "member_banner?", c.channel_id as "channel_id?", c.kind as "kind?",
                  c.name as "name?", c.position as "position?", c.parent_id as "parent_id?",
                  c.overwrites as "overwrites?: Json<Vec<Overwrite>>",
                  c.settings as "settings?: Json<ChannelSettings>",
                  p.kind as "parent_kind?", p.name as "parent_name?",
                  p.position as "parent_position?", p.parent_id as "parent_parent_id?",
                  p.overwrites as "parent_overwrites?: Json<Vec<Overwrite>>",
                  p.settings as "parent_settings?: Json<ChannelSettings>",
                  t.owner_id as "owner?", t.archived as "archived?", t.locked as "locked?",
                  t.invitable, t.auto_archive_minutes as "auto_archive_minutes?",
                  t.archive_at as "archive_at?", t.message_count as "message_count?",
                  t.total_message_sent as "total_message_sent?",
                  t.applied_tags as "applied_tags?", tm.user_id as "joined?",
                  array(select x.user_id from thread_member x
                        where c.kind = 12 and x.thread_id = c.channel_id
                        order by x.user_id) as "thread_members!"
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
           left join thread t on t.thread_id = c.channel_id
           left join channel p on p.channel_id = t.parent_id
           left join thread_member tm on tm.thread_id = t.thread_id and tm.user_id = $1
           where g.guild_id = coalesce($2, (select guild_id from channel where channel_id = $3))"#,
        user.to_db(),
        guild.map(Id::to_db),
        channel.map(Id::to_db),
    )
    .fetch_optional(db)
    .await?;
    Ok(row)
}

/// What a row was of.
#[expect(clippy::large_enum_variant, reason = "taken apart where it is made")]
enum Found {
    /// It named no channel.
    Guild(GuildAccess),
    Place(Place),
}

impl AccessRow {
    /// Errors: 50001 for who is no member.
    fn decode(self, user: Id<User>) -> Result<Found> {
        let guild_id = Id::from_db(self.guild_id);
        let (Some(roles), Some(joined_at)) = (self.member_roles, self.joined_at) else {
            return Err(ErrorCode::MissingAccess.into());
        };
        let member = Member {
            user: None,
            nick: self.nick,
            avatar: self.member_avatar,
            banner: self.member_banner,
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
        let guild = GuildAccess {
            id: guild_id,
            owner: Id::from_db(self.owner_id),
            state_seq: self.state_seq as u64,
            roles,
            user,
            lacks_factor: self.lacks_factor,
            member,
        };
        let Some(id) = self.channel_id.map(Id::from_db) else {
            return Ok(Found::Guild(guild));
        };
        let kind = ChannelKind(self.kind.unwrap_or_default() as u8);
        let settings = self.settings.map(|settings| settings.0).unwrap_or_default();
        if !kind.is_thread() {
            let channel = Channel {
                id,
                kind,
                guild_id,
                name: self.name.unwrap_or_default(),
                position: self.position.unwrap_or_default(),
                parent_id: self.parent_id.map(Id::from_db),
                permission_overwrites: self.overwrites.map(|list| list.0).unwrap_or_default(),
                last_message_id: None,
                settings,
            };
            return Ok(Found::Place(Place::Channel(ChannelAccess {
                guild,
                channel,
            })));
        }
        let (Some(parent), Some(parent_kind), Some(owner), Some(archive_at)) = (
            self.parent_id.map(Id::from_db),
            self.parent_kind,
            self.owner.map(Id::from_db),
            self.archive_at,
        ) else {
            return Ok(Found::Guild(guild));
        };
        let thread = Thread {
            id,
            kind,
            guild_id,
            parent_id: parent,
            owner_id: owner,
            name: self.name.unwrap_or_default(),
            last_message_id: None,
            last_pin_timestamp: settings.last_pin_timestamp.flatten(),
            flags: settings.flags,
            rate_limit_per_user: settings.rate_limit_per_user.unwrap_or_default(),
            message_count: self.message_count.unwrap_or_default() as u32,
            member_count: 0,
            total_message_sent: self.total_message_sent.unwrap_or_default() as u32,
            thread_metadata: ThreadMetadata {
                archived: self.archived.unwrap_or_default(),
                auto_archive_duration: self.auto_archive_minutes.unwrap_or_default() as u32,
                archive_timestamp: Timestamp(archive_at),
                locked: self.locked.unwrap_or_default(),
                invitable: self.invitable,
                create_timestamp: Some(Timestamp::from_unix_ms(id.created_ms())),
            },
            applied_tags: self.applied_tags.map(ids_from_db).unwrap_or_default(),
            member: None,
        };
        let parent = Channel {
            id: parent,
            kind: ChannelKind(parent_kind as u8),
            guild_id,
            name: self.parent_name.unwrap_or_default(),
            position: self.parent_position.unwrap_or_default(),
            parent_id: self.parent_parent_id.map(Id::from_db),
            permission_overwrites: self
                .parent_overwrites
                .map(|list| list.0)
                .unwrap_or_default(),
            last_message_id: None,
            settings: self.parent_settings.map(|list| list.0).unwrap_or_default(),
        };
        let access = ThreadAccess {
            guild,
            parent,
            thread,
            joined: self.joined.is_some(),
            members: ids_from_db(self.thread_members),
        };
        Ok(Found::Place(Place::Thread(Box::new(access))))
    }
}
