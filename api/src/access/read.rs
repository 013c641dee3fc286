//! What decisions are made by, as Postgres has it: a statement for guilds and what is in them, and
//! one for private channels.

use guildhall_shared::{
    Id, Permissions, Timestamp,
    error_code::ErrorCode,
    id::marker::{self, Guild, User},
    model::{Channel, ChannelKind, ChannelSettings, Member, Thread, ThreadMetadata},
    permissions::Overwrite,
};
use guildhall_store::ids_from_db;
use sqlx::{PgConnection, PgExecutor, types::Json};
use time::OffsetDateTime;

use super::{ChannelAccess, GuildAccess, Place, PrivateAccess, Recipient, RoleInfo, ThreadAccess};
use crate::error::Result;

/// A member's guild, and the channel or thread that was asked for with its parent.
pub(super) struct AccessRow {
    guild_id: i64,
    owner_id: i64,
    state_seq: i64,
    lacks_factor: bool,
    verification_level: i32,
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

/// Of a guild, or of the guild of a channel; `None` if there is none.
pub(super) async fn read(
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
                  coalesce((g.settings ->> 'verification_level')::int, 0)
                    as "verification_level!",
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
           -- Threads of a deleted channel wait to be collected.
           where g.guild_id = coalesce($2, (
             select o.guild_id from channel o where o.channel_id = $3
               and (o.kind not in (10, 11, 12)
                    or exists (select from channel q where q.channel_id = o.parent_id))))"#,
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
pub(super) enum Found {
    /// It named no channel.
    Guild(GuildAccess),
    Place(Place),
}

impl AccessRow {
    /// Errors: 50001 for who is no member.
    pub(super) fn decode(self, user: Id<User>) -> Result<Found> {
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
            verification_level: self.verification_level as u8,
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

/// A DM or group DM; `None` if there is none or the user is not in it.
pub(super) async fn private(
    db: &mut PgConnection,
    user: Id<User>,
    channel: Id<marker::Channel>,
) -> Result<Option<PrivateAccess>> {
    let rows = sqlx::query!(
        "select c.kind, c.name, c.icon, c.owner_id, r.user_id, r.closed, a.bot, h.state_seq
         from channel c
         join private_recipient r on r.channel_id = c.channel_id
         join account a on a.user_id = r.user_id
         join realm_head h on h.realm_id = r.user_id
         where c.channel_id = $1 and c.guild_id is null
         order by r.user_id",
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
        recipients,
    }))
}
