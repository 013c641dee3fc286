//! Guilds with their roles, channels and members.

use guildhall_shared::{
    Permissions, Timestamp,
    id::{Id, marker},
    model::{
        Channel, ChannelKind, ChannelSettings, Guild, GuildSettings, Member, Role, RoleColors,
        RoleTags, ScheduledEvent, StageInstance, Thread, ThreadMember, User, VoiceState,
    },
    permissions::Overwrite,
    shard::{Position, realm},
};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor, PgPool, types::Json};
use time::OffsetDateTime;

use crate::{
    Result, expressions,
    scheduled_events::{self, Which},
    thread, user_of, voice,
};

/// A whole guild at one position: events after it are changes to this.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub position: Position,
    pub guild: Guild,
    pub channels: Vec<Channel>,
    /// Those that are not archived.
    pub threads: Vec<Thread>,
    /// Of these threads.
    pub thread_members: Vec<ThreadMember>,
    /// Ascending by user id.
    pub members: Vec<Member>,
    pub member_count: u64,
    /// In the order of joining.
    pub voice_states: Vec<VoiceState>,
    pub stages: Vec<StageInstance>,
    /// Scheduled or active ones.
    pub events: Vec<ScheduledEvent>,
    pub sounds: Vec<Value>,
}

/// Columns of `role` that make a [`Role`].
#[derive(Debug)]
pub struct RoleRow {
    pub role_id: i64,
    pub name: String,
    pub color: i32,
    pub secondary_color: Option<i32>,
    pub tertiary_color: Option<i32>,
    pub hoist: bool,
    pub position: i32,
    pub permissions: i64,
    pub managed: bool,
    pub mentionable: bool,
    pub bot_id: Option<i64>,
    pub icon: Option<String>,
    pub unicode_emoji: Option<String>,
}

impl From<RoleRow> for Role {
    fn from(row: RoleRow) -> Self {
        Self {
            id: Id::from_db(row.role_id),
            name: row.name,
            color: row.color as u32,
            colors: RoleColors {
                primary_color: row.color as u32,
                secondary_color: row.secondary_color.map(|color| color as u32),
                tertiary_color: row.tertiary_color.map(|color| color as u32),
            },
            hoist: row.hoist,
            icon: row.icon,
            unicode_emoji: row.unicode_emoji,
            position: row.position,
            permissions: Permissions::from_bits_truncate(row.permissions as u64),
            managed: row.managed,
            mentionable: row.mentionable,
            tags: row.bot_id.map(|bot| RoleTags {
                bot_id: Some(Id::from_db(bot)),
            }),
            flags: 0,
        }
    }
}

/// Columns of `channel`, and its newest message, that make a [`Channel`].
#[derive(Debug)]
pub struct ChannelRow {
    pub channel_id: i64,
    pub guild_id: i64,
    pub kind: i16,
    pub name: String,
    pub position: i32,
    pub parent_id: Option<i64>,
    pub overwrites: Json<Vec<Overwrite>>,
    pub settings: Json<ChannelSettings>,
    pub last_message_id: Option<i64>,
}

impl From<ChannelRow> for Channel {
    fn from(row: ChannelRow) -> Self {
        let kind = ChannelKind(row.kind as u8);
        Self {
            id: Id::from_db(row.channel_id),
            kind,
            guild_id: Id::from_db(row.guild_id),
            name: row.name,
            position: row.position,
            parent_id: row.parent_id.map(Id::from_db),
            permission_overwrites: row.overwrites.0,
            last_message_id: (kind.has_messages() || kind.is_forum())
                .then(|| row.last_message_id.map(Id::from_db)),
            settings: row.settings.0,
        }
    }
}

/// Members in one portion.
const MEMBERS_PER_READ: i64 = 2000;

/// Columns of `member` and its `account` that make a [`Member`] with its user.
#[derive(Debug)]
pub struct MemberRow {
    pub nick: Option<String>,
    pub roles: Vec<i64>,
    pub joined_at: OffsetDateTime,
    pub communication_disabled_until: Option<OffsetDateTime>,
    pub deaf: bool,
    pub mute: bool,
    pub pending: bool,
    pub flags: i64,
    pub member_avatar: Option<String>,
    pub member_banner: Option<String>,
    pub user_id: i64,
    pub username: String,
    pub discriminator: String,
    pub global_name: Option<String>,
    pub avatar: Option<String>,
    pub banner: Option<String>,
    pub accent_color: Option<i32>,
    pub bot: bool,
    pub public_flags: i64,
}

impl From<MemberRow> for Member {
    fn from(row: MemberRow) -> Self {
        let user: User = user_of!(row);
        Self {
            user: Some(user),
            nick: row.nick,
            avatar: row.member_avatar,
            banner: row.member_banner,
            roles: crate::ids_from_db(row.roles),
            joined_at: Timestamp(row.joined_at),
            premium_since: None,
            deaf: row.deaf,
            mute: row.mute,
            flags: row.flags as u64,
            pending: row.pending,
            communication_disabled_until: row.communication_disabled_until.map(Timestamp),
            avatar_decoration_data: None,
            collectibles: None,
        }
    }
}

/// The guild at one moment; `None` if there is none.
///
/// One REPEATABLE READ transaction, so that the position fits the rest exactly.
pub async fn snapshot(db: &PgPool, guild: Id<marker::Guild>) -> Result<Option<Snapshot>> {
    let mut tx = db.begin_with(crate::SNAPSHOT).await?;
    let Some((found, member_count)) = by_id(&mut tx, guild).await? else {
        return Ok(None);
    };
    let head = sqlx::query!(
        "select era, seq from realm_head where realm_id = $1",
        realm(guild).to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    let channels = channels(&mut *tx, guild).await?;
    let active = thread::active_ids(&mut *tx, guild).await?;
    let threads = thread::by_ids(&mut *tx, &active).await?;
    let thread_members = thread::members(&mut *tx, &active, thread::Whose::Everybodys).await?;
    let members = all_members(&mut tx, guild).await?;
    let voice_states = voice::states(&mut *tx, guild, None, None).await?;
    let sounds = values(expressions::guild_sounds(&mut *tx, guild).await?);
    let stages = voice::stages(&mut *tx, guild, None).await?;
    let events = scheduled_events::scheduled_events(&mut tx, guild, Which::Open, false).await?;
    tx.commit().await?;
    Ok(Some(Snapshot {
        position: Position {
            era: head.era as u32,
            seq: head.seq as u64,
        },
        guild: found,
        channels,
        threads,
        thread_members,
        members,
        member_count,
        voice_states,
        stages,
        events,
        sounds,
    }))
}

/// A guild with its roles, and how many members it has.
pub async fn by_id(
    db: &mut PgConnection,
    guild: Id<marker::Guild>,
) -> Result<Option<(Guild, u64)>> {
    let row = sqlx::query!(
        r#"select name, owner_id, icon, description, member_count,
                  settings as "settings: Json<GuildSettings>"
           from guild where guild_id = $1"#,
        guild.to_db(),
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let found = Guild {
        id: guild,
        name: row.name,
        icon: row.icon,
        description: row.description,
        owner_id: Id::from_db(row.owner_id),
        settings: row.settings.0,
        roles: roles(&mut *db, guild).await?,
        emojis: values(expressions::guild_emojis(&mut *db, guild).await?),
        stickers: values(expressions::guild_stickers(&mut *db, guild).await?),
    };
    Ok(Some((found, row.member_count as u64)))
}

/// Wire objects as JSON values.
fn values<T: serde::Serialize>(objects: Vec<T>) -> Vec<Value> {
    let values = objects.iter().map(serde_json::to_value);
    values
        .map(|value| value.expect("wire objects have keys of text and finite numbers"))
        .collect()
}

/// A guild's roles, lowest first; @everyone among them.
pub async fn roles(db: impl PgExecutor<'_>, guild: Id<marker::Guild>) -> Result<Vec<Role>> {
    let rows = sqlx::query_as!(
        RoleRow,
        "select role_id, name, color, secondary_color, tertiary_color, hoist, position, permissions,
                managed, mentionable, bot_id, icon, unicode_emoji
         from role where guild_id = $1 order by position, role_id",
        guild.to_db(),
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Role::from).collect())
}

/// A guild's channels without its threads, by position, each with its newest message's id: of a
/// forum it is that of its newest post.
pub async fn channels(db: impl PgExecutor<'_>, guild: Id<marker::Guild>) -> Result<Vec<Channel>> {
    let rows = sqlx::query_as!(
        ChannelRow,
        r#"select c.channel_id, c.guild_id as "guild_id!", c.kind, coalesce(c.name, '') as "name!",
                  c.position, c.parent_id, c.overwrites as "overwrites: Json<Vec<Overwrite>>",
                  c.settings as "settings: Json<ChannelSettings>",
                  case when c.kind in (15, 16) then
                    (select max(t.thread_id) from thread t where t.parent_id = c.channel_id)
                  else
                    (select m.message_id from message m where m.channel_id = c.channel_id
                     order by m.message_id desc limit 1)
                  end as last_message_id
           from channel c where c.guild_id = $1 and c.kind not in (10, 11, 12)
           order by c.position, c.channel_id"#,
        guild.to_db(),
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Channel::from).collect())
}

/// All members, read in portions: whoever reads with others on one thread lets them in between.
async fn all_members(db: &mut PgConnection, guild: Id<marker::Guild>) -> Result<Vec<Member>> {
    let mut all: Vec<Member> = Vec::new();
    loop {
        let after = all.last().and_then(|member| Some(member.user.as_ref()?.id));
        let portion = members(&mut *db, guild, after, MEMBERS_PER_READ).await?;
        let is_last = (portion.len() as i64) < MEMBERS_PER_READ;
        all.extend(portion);
        if is_last {
            return Ok(all);
        }
    }
}

/// A guild's members after a user id, ascending.
pub async fn members(
    db: impl PgExecutor<'_>,
    guild: Id<marker::Guild>,
    after: Option<Id<marker::User>>,
    limit: i64,
) -> Result<Vec<Member>> {
    let rows = sqlx::query_as!(
        MemberRow,
        "select m.nick, m.roles, m.joined_at, m.communication_disabled_until, m.deaf, m.mute,
                m.pending, m.flags, m.avatar as member_avatar, m.banner as member_banner, a.user_id, a.username, a.discriminator, a.global_name,
                a.avatar, a.banner, a.accent_color, a.bot, a.public_flags
         from member m join account a using (user_id)
         where m.guild_id = $1 and m.user_id > $2 and a.user_id > $2
         order by m.user_id limit $3",
        guild.to_db(),
        after.map_or(0, Id::to_db),
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Member::from).collect())
}

/// One member of a guild.
pub async fn member(
    db: impl PgExecutor<'_>,
    guild: Id<marker::Guild>,
    user: Id<marker::User>,
) -> Result<Option<Member>> {
    let row = sqlx::query_as!(
        MemberRow,
        "select m.nick, m.roles, m.joined_at, m.communication_disabled_until, m.deaf, m.mute,
                m.pending, m.flags, m.avatar as member_avatar, m.banner as member_banner, a.user_id, a.username, a.discriminator, a.global_name,
                a.avatar, a.banner, a.accent_color, a.bot, a.public_flags
         from member m join account a using (user_id)
         where m.guild_id = $1 and m.user_id = $2",
        guild.to_db(),
        user.to_db(),
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(Member::from))
}
