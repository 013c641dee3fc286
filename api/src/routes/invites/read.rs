//! Invites as they are stored, vanity codes among them.

use guildhall_shared::{
    Id, Permissions, Timestamp,
    error_code::ErrorCode,
    id::marker::{Channel, Guild},
    model::{
        ChannelKind, GuildSettings, Invite, InviteChannel, InviteGuild, InviteMetadata, InviteRole,
    },
    permissions::Overwrite,
};
use guildhall_store::user::UserRow;
use sqlx::{PgConnection, types::Json as Jsonb};
use time::OffsetDateTime;

use crate::{access, error::Result};

/// A stored invite with all that its reply shows.
struct Row {
    code: String,
    max_age: i32,
    max_uses: i32,
    uses: i32,
    temporary: bool,
    created_at: OffsetDateTime,
    expires_at: Option<OffsetDateTime>,
    target_type: Option<i16>,
    target_user: Option<serde_json::Value>,
    target_application: Option<serde_json::Value>,
    roles: serde_json::Value,
    guild_id: i64,
    guild_name: String,
    guild_icon: Option<String>,
    guild_description: Option<String>,
    member_count: i32,
    settings: Jsonb<GuildSettings>,
    channel_id: i64,
    channel_kind: i16,
    channel_name: Option<String>,
    inviter: Option<i64>,
    username: Option<String>,
    discriminator: Option<String>,
    global_name: Option<String>,
    avatar: Option<String>,
    banner: Option<String>,
    accent_color: Option<i32>,
    bot: Option<bool>,
    public_flags: Option<i64>,
}

impl Row {
    fn into_invite(self) -> Result<Invite> {
        let inviter = || {
            Some(UserRow {
                user_id: self.inviter?,
                username: self.username?,
                discriminator: self.discriminator?,
                global_name: self.global_name,
                avatar: self.avatar,
                banner: self.banner,
                accent_color: self.accent_color,
                bot: self.bot?,
                public_flags: self.public_flags?,
            })
        };
        let settings = self.settings.0;
        let guild_id = Id::from_db(self.guild_id);
        let roles: Vec<InviteRole> = serde_json::from_value(self.roles)?;
        Ok(Invite {
            kind: 0,
            code: self.code,
            inviter: inviter().map(Into::into),
            expires_at: self.expires_at.map(Timestamp),
            guild_id,
            guild: InviteGuild {
                id: guild_id,
                name: self.guild_name,
                splash: settings.splash,
                banner: settings.banner,
                description: self.guild_description,
                icon: self.guild_icon,
                features: settings.features,
                verification_level: settings.verification_level,
                vanity_url_code: settings.vanity_url_code,
                nsfw_level: settings.nsfw_level,
                nsfw: settings.nsfw,
                premium_subscription_count: settings.premium_subscription_count,
                premium_tier: settings.premium_tier,
            },
            channel: InviteChannel {
                id: Id::from_db(self.channel_id),
                kind: ChannelKind(self.channel_kind as u8),
                name: self.channel_name.unwrap_or_default(),
            },
            target_type: self.target_type.map(|kind| kind as u8),
            target_user: self.target_user.map(serde_json::from_value).transpose()?,
            target_application: self.target_application,
            guild_scheduled_event: None,
            roles,
            approximate_member_count: Some(self.member_count as u64),
            approximate_presence_count: None,
            metadata: Some(InviteMetadata {
                uses: self.uses as u32,
                max_uses: self.max_uses as u32,
                max_age: self.max_age as u32,
                temporary: self.temporary,
                created_at: Timestamp(self.created_at),
            }),
            is_vanity: false,
        })
    }
}

/// Which invites [`read`] reads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of<'a> {
    Code(&'a str),
    Channel(Id<Channel>),
    Guild(Id<Guild>),
}

/// Invites that can be used.
pub(super) async fn read(db: &mut PgConnection, of: Of<'_>) -> Result<Vec<Invite>> {
    // A statement for each index: a plan that is kept for all values has no use for one whose
    // column may be anything.
    macro_rules! select {
        ($place:literal, $value:expr) => {
            sqlx::query_as!(
                Row,
                r#"select i.code, i.max_age, i.max_uses, i.uses, i.temporary, i.created_at,
                  i.expires_at, i.target_type,
                  (select jsonb_build_object(
                     'id', t.user_id::text, 'username', t.username,
                     'discriminator', t.discriminator, 'global_name', t.global_name,
                     'avatar', t.avatar, 'bot', t.bot, 'public_flags', t.public_flags,
                     'flags', t.public_flags, 'banner', t.banner, 'accent_color', t.accent_color)
                   from account t where t.user_id = i.target_user_id) as target_user,
                  (select jsonb_build_object(
                     'id', p.application_id::text, 'name', p.name, 'icon', p.icon,
                     'description', p.description, 'summary', '', 'type', null,
                     'verify_key', p.verify_key,
                     'flags', p.flags, 'flags_new', p.flags::text, 'bot_public', p.bot_public)
                   from application p where p.application_id = i.target_application_id)
                    as target_application,
                  (select coalesce(jsonb_agg(jsonb_build_object(
                     'id', r.role_id::text, 'name', r.name, 'position', r.position,
                     'color', r.color) order by r.position desc, r.role_id), '[]')
                   from role r where r.guild_id = i.guild_id and r.role_id = any(i.role_ids))
                    as "roles!",
                  i.guild_id, g.name as guild_name, g.icon as guild_icon,
                  g.description as guild_description, g.member_count,
                  g.settings as "settings: Jsonb<GuildSettings>",
                  c.channel_id, c.kind as channel_kind, c.name as channel_name,
                  a.user_id as "inviter?", a.username as "username?",
                  a.discriminator as "discriminator?", a.global_name, a.avatar, a.banner,
                  a.accent_color, a.bot as "bot?", a.public_flags as "public_flags?"
           from invite i
           join guild g using (guild_id)
           join channel c using (channel_id)
           left join account a on a.user_id = i.inviter_id
           where "#
                    + $place
                    + " and (i.expires_at is null or i.expires_at > now())
             and (i.max_uses = 0 or i.uses < i.max_uses)
           order by i.created_at",
                $value,
            )
            .fetch_all(db)
            .await?
        };
    }
    let rows = match of {
        Of::Code(code) => select!("i.code = $1", code),
        Of::Channel(channel) => select!("i.channel_id = $1", channel.to_db()),
        Of::Guild(guild) => select!("i.guild_id = $1", guild.to_db()),
    };
    rows.into_iter().map(Row::into_invite).collect()
}

/// Errors: 10006, also for one that has expired or is used up.
pub(super) async fn by_code(db: &mut PgConnection, code: &str) -> Result<Invite> {
    let found = read(&mut *db, Of::Code(code)).await?;
    match found.into_iter().next() {
        Some(invite) => Ok(invite),
        None => vanity(db, code).await,
    }
}

/// A vanity code as an invite, which leads to [`entrance`].
///
/// Errors: 10006.
async fn vanity(db: &mut PgConnection, code: &str) -> Result<Invite> {
    let row = sqlx::query!(
        r#"select v.code, g.guild_id, g.name, g.icon, g.description, g.member_count,
                  g.settings as "settings: Jsonb<GuildSettings>"
           from vanity_url v join guild g using (guild_id)
           where lower(v.code) = lower($1)"#,
        code,
    )
    .fetch_optional(&mut *db)
    .await?
    .ok_or(ErrorCode::UnknownInvite)?;
    let settings = row.settings.0;
    let guild_id = Id::from_db(row.guild_id);
    let channel = entrance(db, guild_id).await?;
    Ok(Invite {
        kind: 0,
        code: row.code,
        inviter: None,
        expires_at: None,
        guild_id,
        guild: InviteGuild {
            id: guild_id,
            name: row.name,
            splash: settings.splash,
            banner: settings.banner,
            description: row.description,
            icon: row.icon,
            features: settings.features,
            verification_level: settings.verification_level,
            vanity_url_code: settings.vanity_url_code,
            nsfw_level: settings.nsfw_level,
            nsfw: settings.nsfw,
            premium_subscription_count: settings.premium_subscription_count,
            premium_tier: settings.premium_tier,
        },
        channel: channel.ok_or(ErrorCode::UnknownInvite)?,
        target_type: None,
        target_user: None,
        target_application: None,
        guild_scheduled_event: None,
        roles: Vec::new(),
        approximate_member_count: Some(row.member_count as u64),
        approximate_presence_count: None,
        metadata: None,
        is_vanity: true,
    })
}

/// Where a guild's vanity code leads: to its rules, its system channel or its first channel, first of
/// those that everybody sees. Of another one the name stays out, as anybody may read the invite.
async fn entrance(db: &mut PgConnection, guild: Id<Guild>) -> Result<Option<InviteChannel>> {
    let rows = sqlx::query!(
        r#"select c.channel_id, c.kind, coalesce(c.name, '') as "name!",
                  c.overwrites as "overwrites: Jsonb<Vec<Overwrite>>",
                  r.permissions as everyone
           from guild g
           join role r on r.guild_id = g.guild_id and r.role_id = g.guild_id
           join channel c on c.guild_id = g.guild_id
           where g.guild_id = $1 and c.kind in (0, 2, 5, 13, 15, 16)
           order by c.channel_id::text is distinct from g.settings ->> 'rules_channel_id',
                    c.channel_id::text is distinct from g.settings ->> 'system_channel_id',
                    c.kind, c.position, c.channel_id"#,
        guild.to_db(),
    )
    .fetch_all(db)
    .await?;
    let mut hidden = None;
    for row in rows {
        let kind = ChannelKind(row.kind as u8);
        let base = Permissions::from_bits_truncate(row.everyone as u64);
        let held = access::of_everyone(guild, base, kind, &row.overwrites.0);
        let id = Id::from_db(row.channel_id);
        if held.contains(Permissions::VIEW_CHANNEL) {
            let name = row.name;
            return Ok(Some(InviteChannel { id, kind, name }));
        }
        let name = String::new();
        hidden.get_or_insert(InviteChannel { id, kind, name });
    }
    Ok(hidden)
}
