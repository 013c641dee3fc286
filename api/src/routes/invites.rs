//! Invites: made, shown, taken, revoked. Spec: objects.md › Invite.

use axum::{Router, extract::State, routing::get};
use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::{Envelope, Scope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild, User},
    model::{
        AuditAction, ChannelKind, GuildSettings, Invite, InviteChannel, InviteGuild, InviteMetadata,
    },
    shard::realm,
};
use guildhall_store::account::UserRow;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json as Jsonb};
use time::{Duration, OffsetDateTime};

use super::members;
use crate::{
    access,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path, Query},
    form::FormErrors,
};

const INVITES_MAX: i64 = 1000;
const CODE_LENGTH: usize = 8;
/// Seconds: a day.
const MAX_AGE_DEFAULT: u32 = 86_400;

pub(crate) fn router() -> Router<App> {
    let one = get(invite_resolve)
        .post(invite_accept)
        .delete(invite_revoke);
    Router::new()
        .route(
            "/channels/{channel_id}/invites",
            get(list_channel_invites).post(create_channel_invite),
        )
        .route("/guilds/{guild_id}/invites", get(list_guild_invites))
        .route("/invites/{code}", one)
}

/// A stored invite with all that its reply shows.
struct Row {
    code: String,
    max_age: i32,
    max_uses: i32,
    uses: i32,
    temporary: bool,
    created_at: OffsetDateTime,
    expires_at: Option<OffsetDateTime>,
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
    fn into_invite(self) -> Invite {
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
        Invite {
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
            approximate_member_count: Some(self.member_count as u64),
            approximate_presence_count: Some(0),
            metadata: Some(InviteMetadata {
                uses: self.uses as u32,
                max_uses: self.max_uses as u32,
                max_age: self.max_age as u32,
                temporary: self.temporary,
                created_at: Timestamp(self.created_at),
            }),
        }
    }
}

/// Invites that can be used, by code, channel or guild: whichever is given.
async fn read(
    db: &mut PgConnection,
    code: Option<&str>,
    channel: Option<Id<Channel>>,
    guild: Option<Id<Guild>>,
) -> Result<Vec<Invite>> {
    let rows = sqlx::query_as!(
        Row,
        r#"select i.code, i.max_age, i.max_uses, i.uses, i.temporary, i.created_at, i.expires_at,
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
           where ($1::text is null or i.code = $1)
             and ($2::bigint is null or i.channel_id = $2)
             and ($3::bigint is null or i.guild_id = $3)
             and (i.expires_at is null or i.expires_at > now())
             and (i.max_uses = 0 or i.uses < i.max_uses)
           order by i.created_at"#,
        code,
        channel.map(Id::to_db),
        guild.map(Id::to_db),
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Row::into_invite).collect())
}

/// Errors: 10006, also for one that has expired or is used up.
async fn by_code(db: &mut PgConnection, code: &str) -> Result<Invite> {
    let found = read(db, Some(code), None, None).await?;
    Ok(found.into_iter().next().ok_or(ErrorCode::UnknownInvite)?)
}

fn without_counts(mut invite: Invite) -> Invite {
    invite.approximate_member_count = None;
    invite.approximate_presence_count = None;
    invite
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct CreateInvite {
    max_age: Option<u32>,
    max_uses: Option<u32>,
    temporary: Option<bool>,
    unique: Option<bool>,
}

impl Form for CreateInvite {
    fn check(&self, form: &mut FormErrors) {
        if let Some(seconds) = self.max_age {
            form.range("max_age", i64::from(seconds), 0..=604_800);
        }
        if let Some(uses) = self.max_uses {
            form.range("max_uses", i64::from(uses), 0..=100);
        }
    }
}

/// Body of INVITE_CREATE.
#[derive(Serialize)]
struct InviteCreate<'a> {
    channel_id: Id<Channel>,
    guild_id: Id<Guild>,
    code: &'a str,
    inviter: &'a guildhall_shared::model::User,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    max_age: u32,
    max_uses: u32,
    temporary: bool,
    uses: u32,
}

/// Unless `unique`, one of the caller's with the same settings is given again.
///
/// Errors: 10003, 30016, 50001, 50013, 50035.
async fn create_channel_invite(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    reason: Reason,
    Json(body): Json<CreateInvite>,
) -> Result<Json<Invite>> {
    let max_age = body.max_age.unwrap_or(MAX_AGE_DEFAULT);
    let max_uses = body.max_uses.unwrap_or_default();
    let temporary = body.temporary.unwrap_or_default();
    let mut tx = app.db.begin().await?;
    let needed = Permissions::CREATE_INSTANT_INVITE;
    let access = access::channel_for_change(&mut tx, &user, channel_id, needed).await?;
    let guild_id = access.guild.id;
    if !body.unique.unwrap_or_default() {
        let same = read(&mut tx, None, Some(channel_id), None).await?;
        let same = same.into_iter().find(|invite| {
            let own = invite
                .inviter
                .as_ref()
                .is_some_and(|inviter| inviter.id == user.id);
            own && invite.metadata.as_ref().is_some_and(|metadata| {
                metadata.max_age == max_age
                    && metadata.max_uses == max_uses
                    && metadata.temporary == temporary
            })
        });
        if let Some(same) = same {
            return Ok(Json(without_counts(same)));
        }
    }
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from invite where guild_id = $1"#,
        guild_id.to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    if count >= INVITES_MAX {
        return Err(ErrorCode::MaximumInvites.into());
    }
    let code = random_code();
    let created_at = OffsetDateTime::now_utc();
    let expires_at = (max_age > 0).then(|| created_at + Duration::seconds(i64::from(max_age)));
    sqlx::query!(
        "insert into invite (code, guild_id, channel_id, inviter_id, max_age, max_uses, temporary,
                             created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        code,
        guild_id.to_db(),
        channel_id.to_db(),
        user.id.to_db(),
        max_age as i32,
        max_uses as i32,
        temporary,
        created_at,
        expires_at,
    )
    .execute(&mut *tx)
    .await?;
    let invite = by_code(&mut tx, &code).await?;
    let event = InviteCreate {
        channel_id,
        guild_id,
        code: &code,
        inviter: user.user(),
        created_at: Timestamp(created_at),
        expires_at: invite.expires_at,
        max_age,
        max_uses,
        temporary,
        uses: 0,
    };
    let kind = EventKind::InviteCreate;
    let vis = visibility(channel_id);
    let mut events = vec![events::append(&mut tx, guild_id, kind, vis, &event, None).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::INVITE_CREATE, &reason)
        .created(&audited(&invite))?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(without_counts(invite)))
}

/// An invite as the audit log tells of it.
fn audited(invite: &Invite) -> serde_json::Value {
    let metadata = invite.metadata.as_ref();
    serde_json::json!({
        "code": invite.code,
        "channel_id": invite.channel.id,
        "inviter_id": inviter(invite),
        "max_age": metadata.map(|metadata| metadata.max_age),
        "max_uses": metadata.map(|metadata| metadata.max_uses),
        "temporary": metadata.map(|metadata| metadata.temporary),
        "uses": metadata.map(|metadata| metadata.uses),
    })
}

fn visibility(channel: Id<Channel>) -> Visibility {
    let scope = Scope::Permissions {
        any_of: Permissions::MANAGE_CHANNELS,
        channel: Some(channel),
    };
    Visibility::of(scope, Intents::GUILD_INVITES)
}

/// 47 bits: not to be guessed, and one of two invites in a million billion the same.
fn random_code() -> String {
    const LETTERS: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let mut rng = rand::rng();
    let letter = |_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]);
    (0..CODE_LENGTH).map(letter).collect()
}

/// Errors: 10003, 50001, 50013.
async fn list_channel_invites(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
) -> Result<Json<Vec<Invite>>> {
    let mut db = app.db.acquire().await?;
    let needed = Permissions::MANAGE_CHANNELS;
    access::channel(&mut db, &user, channel_id, needed).await?;
    let invites = read(&mut db, None, Some(channel_id), None).await?;
    Ok(Json(invites.into_iter().map(without_counts).collect()))
}

/// Their uses are shown with MANAGE_GUILD; VIEW_AUDIT_LOG shows the rest.
///
/// Errors: 10004, 50001, 50013.
async fn list_guild_invites(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<Vec<Invite>>> {
    let mut db = app.db.acquire().await?;
    let access = access::guild(&mut *db, &user, guild_id, Permissions::empty()).await?;
    let held = access.base();
    if !held.contains(Permissions::MANAGE_GUILD) {
        access::require(held, Permissions::VIEW_AUDIT_LOG)?;
    }
    let mut invites = read(&mut db, None, None, Some(guild_id)).await?;
    if !held.contains(Permissions::MANAGE_GUILD) {
        for invite in &mut invites {
            invite.metadata = None;
        }
    }
    Ok(Json(invites.into_iter().map(without_counts).collect()))
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct WithCounts {
    with_counts: bool,
}

impl Form for WithCounts {}

/// For everyone, also without a token. Errors: 10006.
async fn invite_resolve(
    State(app): State<App>,
    Path(code): Path<String>,
    Query(query): Query<WithCounts>,
) -> Result<Json<Invite>> {
    let mut db = app.db.acquire().await?;
    let mut invite = by_code(&mut db, &super::clean(&code)).await?;
    invite.metadata = None;
    if !query.with_counts {
        invite = without_counts(invite);
    }
    Ok(Json(invite))
}

#[derive(Serialize)]
pub(crate) struct Accepted {
    #[serde(flatten)]
    invite: Invite,
    new_member: bool,
}

/// Errors: 10006, 20001, 30001, 40007.
async fn invite_accept(
    State(app): State<App>,
    user: CurrentUser,
    Path(code): Path<String>,
) -> Result<Json<Accepted>> {
    user.require_human()?;
    let mut tx = app.db.begin().await?;
    let (accepted, events) = accept(&app, &mut tx, user.user(), &code).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(accepted))
}

/// Makes somebody a member by an invite; the events are to be published after the commit.
///
/// Errors: 10006, 30001, 40007.
pub(crate) async fn accept(
    app: &App,
    db: &mut PgConnection,
    user: &guildhall_shared::model::User,
    code: &str,
) -> Result<(Accepted, Vec<Envelope>)> {
    let code = super::clean(code);
    let guild_id = by_code(&mut *db, &code).await?.guild_id;
    access::lock_realms(&mut *db, [realm(guild_id), realm(user.id)]).await?;
    // Again, now that nobody else can use it up.
    let mut invite = by_code(&mut *db, &code).await?;
    invite.metadata = None;
    let already = guildhall_store::guild::member(&mut *db, guild_id, user.id).await?;
    if already.is_some() {
        let new_member = false;
        return Ok((Accepted { invite, new_member }, Vec::new()));
    }
    let mut events = members::join(app, &mut *db, guild_id, user, &[]).await?;
    let used_up = sqlx::query_scalar!(
        r#"update invite set uses = uses + 1 where code = $1
           returning (max_uses > 0 and uses >= max_uses) as "used_up!""#,
        code,
    )
    .fetch_one(&mut *db)
    .await?;
    if used_up {
        events.push(delete(db, &invite).await?);
    }
    let new_member = true;
    Ok((Accepted { invite, new_member }, events))
}

#[derive(Serialize)]
struct InviteDelete<'a> {
    channel_id: Id<Channel>,
    guild_id: Id<Guild>,
    code: &'a str,
}

/// Removes an invite and numbers its INVITE_DELETE. The guild's head is locked.
async fn delete(db: &mut PgConnection, invite: &Invite) -> Result<Envelope> {
    sqlx::query!("delete from invite where code = $1", invite.code)
        .execute(&mut *db)
        .await?;
    let body = InviteDelete {
        channel_id: invite.channel.id,
        guild_id: invite.guild_id,
        code: &invite.code,
    };
    let (kind, vis) = (EventKind::InviteDelete, visibility(invite.channel.id));
    events::append(db, invite.guild_id, kind, vis, &body, None).await
}

/// For who made it, who manages its channel, and who manages its guild.
///
/// Errors: 10006, 50001, 50013.
async fn invite_revoke(
    State(app): State<App>,
    user: CurrentUser,
    Path(code): Path<String>,
    reason: Reason,
) -> Result<Json<Invite>> {
    let code = super::clean(&code);
    let mut tx = app.db.begin().await?;
    let guild_id = by_code(&mut tx, &code).await?.guild_id;
    access::lock_realms(&mut tx, [realm(guild_id)]).await?;
    let mut invite = by_code(&mut tx, &code).await?;
    if inviter(&invite) != Some(user.id) {
        let needed = Permissions::empty();
        let access = access::channel(&mut tx, &user, invite.channel.id, needed).await?;
        if !access.guild.base().contains(Permissions::MANAGE_GUILD) {
            access.require(Permissions::MANAGE_CHANNELS)?;
        }
    }
    let mut events = vec![delete(&mut tx, &invite).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::INVITE_DELETE, &reason)
        .deleted(&audited(&invite))?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    invite.metadata = None;
    Ok(Json(without_counts(invite)))
}

fn inviter(invite: &Invite) -> Option<Id<User>> {
    invite.inviter.as_ref().map(|user| user.id)
}
