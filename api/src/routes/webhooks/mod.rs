//! Webhooks: making, changing and removing them, by their id or by their token.
//! Spec: objects.md › Webhook; limits-and-errors › Field limits.
//!
//! Whoever has the token may write: it is shown only to those who hold MANAGE_WEBHOOKS, and
//! an application's webhooks show it only to the application's bot.

mod execute;
mod followers;
mod github;
mod messages;
mod slack;
mod stored;

use std::collections::BTreeSet;

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Channel, Guild},
    model::{AuditAction, ChannelKind, present},
};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::stored::{Row, Viewer, bodies, body, by_id};
pub(crate) use self::{
    followers::{deliver_crossposts, deliver_soon, queue_copies},
    stored::{Webhook, WebhookBody, by_token, without_tokens},
};
use crate::{
    access::{self, ChannelAccess},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    media::{ImageOf, store_image},
    routes::messages::check_webhook_name,
    text::{clean, random_code},
};

/// Of one channel.
const PER_CHANNEL_MAX: i64 = 15;
/// Of one guild.
const PER_GUILD_MAX: i64 = 1000;
const TOKEN_LENGTH: usize = 68;

const INCOMING: i16 = 1;
const FOLLOWER: i16 = 2;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_channel_webhooks, create_webhook))
        .routes(routes!(get_guild_webhooks))
        .routes(routes!(get_webhook, update_webhook, delete_webhook))
        .merge(execute::router())
        .merge(messages::router())
        .merge(followers::router())
}

/// Every webhook of a channel. Errors: 10003, 50001, 50013.
#[utoipa::path(
    get,
    path = "/channels/{channel_id}/webhooks",
    tag = "Webhooks",
    responses((status = 200, body = Vec<WebhookBody>))
)]
async fn list_channel_webhooks(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
) -> Result<Json<Vec<WebhookBody>>> {
    let mut db = app.db.acquire().await?;
    access::channel(&mut db, &user, channel_id, Permissions::MANAGE_WEBHOOKS).await?;
    let rows = sqlx::query_as!(
        Row,
        "select webhook_id, kind, guild_id, channel_id, creator_id, name, avatar, token,
                application_id, source_guild_id, source_channel_id
         from webhook where channel_id = $1 order by webhook_id",
        channel_id.to_db(),
    )
    .fetch_all(&mut *db)
    .await?;
    let webhooks = rows.into_iter().map(Webhook::from).collect();
    bodies(&app, &mut db, Viewer::Member(user.id), webhooks)
        .await
        .map(Json)
}

/// Every webhook of a guild; without its token where the caller may not manage those of its channel.
///
/// Errors: 10004, 50001, 50013.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/webhooks",
    tag = "Webhooks",
    responses((status = 200, body = Vec<WebhookBody>))
)]
async fn get_guild_webhooks(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<Vec<WebhookBody>>> {
    let mut db = app.db.acquire().await?;
    let needed = Permissions::MANAGE_WEBHOOKS;
    let access = access::guild(&mut *db, &user, guild_id, needed).await?;
    let rows = sqlx::query_as!(
        Row,
        "select webhook_id, kind, guild_id, channel_id, creator_id, name, avatar, token,
                application_id, source_guild_id, source_channel_id
         from webhook where guild_id = $1 order by webhook_id",
        guild_id.to_db(),
    )
    .fetch_all(&mut *db)
    .await?;
    let channels = guildhall_store::guild::channels(&mut *db, guild_id).await?;
    let managed = channels.iter().filter(|channel| {
        let held = access.in_channel(channel.kind, &channel.permission_overwrites);
        held.contains(Permissions::VIEW_CHANNEL | needed)
    });
    let managed: BTreeSet<Id<Channel>> = managed.map(|channel| channel.id).collect();
    let shown = rows.into_iter().map(Webhook::from).map(|webhook| Webhook {
        token: webhook.token.filter(|_| managed.contains(&webhook.channel)),
        ..webhook
    });
    let webhooks = shown.collect();
    bodies(&app, &mut db, Viewer::Member(user.id), webhooks)
        .await
        .map(Json)
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
struct CreateWebhook {
    /// 1 to 80 characters.
    #[schema(required)]
    name: Option<String>,
    /// A data URI.
    avatar: Option<String>,
}

impl Form for CreateWebhook {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = form.required("name", &self.name) {
            check_name(name, form);
        }
    }
}

fn check_name(name: &str, form: &mut FormErrors) {
    form.length("name", name, 1..=80);
    check_webhook_name("name", name, form);
}

/// Makes an incoming webhook. Errors: 10003, 30007, 50001, 50013, 50024, 50035.
#[utoipa::path(
    post,
    path = "/channels/{channel_id}/webhooks",
    tag = "Webhooks",
    responses((status = 200, body = WebhookBody))
)]
async fn create_webhook(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    reason: Reason,
    Json(new): Json<CreateWebhook>,
) -> Result<Json<WebhookBody>> {
    let needed = Permissions::MANAGE_WEBHOOKS;
    let mut db = app.db.acquire().await?;
    access::channel(&mut db, &user, channel_id, needed).await?;
    drop(db);
    let id: Id<marker::Webhook> = app.snowflakes.next()?;
    let avatar = store_avatar(&app, id, new.avatar.as_deref()).await?;
    let mut tx = app.db.begin().await?;
    let access = access::channel_for_change(&mut tx, &user, channel_id, needed).await?;
    require_kind(INCOMING, access.channel.kind)?;
    let webhook = Webhook {
        id,
        kind: INCOMING,
        guild: access.guild.id,
        channel: channel_id,
        creator: Some(user.id),
        name: clean(new.name.as_deref().unwrap_or_default()),
        avatar,
        token: Some(random_code(TOKEN_LENGTH)),
        application: user.account.application.map(|(application, _)| application),
        source_guild: None,
        source_channel: None,
    };
    insert(&mut tx, &webhook).await?;
    let mut events = vec![tell(&mut tx, webhook.guild, channel_id).await?];
    let entry = Entry::new(webhook.guild, user.id, AuditAction::WEBHOOK_CREATE, &reason)
        .target(id)
        .created(&audited(&webhook))?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    let body = body(&app, &mut tx, Viewer::Member(user.id), webhook).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(body)
}

/// Where a webhook may be. What a follower brings begins no posts.
///
/// Errors: 50024 for channels without messages of their own.
fn require_kind(webhook: i16, channel: ChannelKind) -> Result<()> {
    let fits_all = channel.has_messages() && !channel.is_thread();
    if fits_all || channel.is_forum() && webhook == INCOMING {
        Ok(())
    } else {
        Err(ErrorCode::InvalidChannelType.into())
    }
}

async fn store_avatar(
    app: &App,
    id: Id<marker::Webhook>,
    avatar: Option<&str>,
) -> Result<Option<String>> {
    let of = ImageOf::WebhookAvatar(id.cast());
    match avatar {
        Some(avatar) => store_image(&app.media, of, "avatar", avatar)
            .await
            .map(Some),
        None => Ok(None),
    }
}

/// Stores a new webhook; the guild's head is locked. Errors: 30007, 30058.
async fn insert(db: &mut PgConnection, webhook: &Webhook) -> Result<()> {
    let counts = sqlx::query!(
        r#"select count(*) as "of_guild!", count(*) filter (where channel_id = $2) as "of_channel!"
           from webhook where guild_id = $1"#,
        webhook.guild.to_db(),
        webhook.channel.to_db(),
    )
    .fetch_one(&mut *db)
    .await?;
    if counts.of_channel >= PER_CHANNEL_MAX {
        return Err(ErrorCode::MaximumWebhooks.into());
    }
    if counts.of_guild >= PER_GUILD_MAX {
        return Err(ErrorCode::MaximumGuildWebhooks.into());
    }
    sqlx::query!(
        "insert into webhook (webhook_id, kind, guild_id, channel_id, creator_id, name, avatar,
                              token, application_id, source_guild_id, source_channel_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        webhook.id.to_db(),
        webhook.kind,
        webhook.guild.to_db(),
        webhook.channel.to_db(),
        webhook.creator.map(Id::to_db),
        webhook.name,
        webhook.avatar,
        webhook.token,
        webhook.application.map(Id::to_db),
        webhook.source_guild.map(Id::to_db),
        webhook.source_channel.map(Id::to_db),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// What the audit log tells of a webhook.
fn audited(webhook: &Webhook) -> Value {
    json!({
        "type": webhook.kind,
        "name": webhook.name,
        "channel_id": webhook.channel,
        "avatar_hash": webhook.avatar,
        "application_id": webhook.application,
    })
}

/// Numbers a WEBHOOKS_UPDATE for the whole guild.
async fn tell(db: &mut PgConnection, guild: Id<Guild>, channel: Id<Channel>) -> Result<Envelope> {
    let vis = Visibility::realm(Intents::GUILD_WEBHOOKS);
    let body = json!({ "guild_id": guild, "channel_id": channel });
    events::append(db, guild, EventKind::WebhooksUpdate, vis, &body, None).await
}

/// The webhook for who may manage it. Errors: 10015, 50001, 50013.
async fn managed(
    db: &mut PgConnection,
    user: &CurrentUser,
    id: Id<marker::Webhook>,
) -> Result<Webhook> {
    let webhook = by_id(&mut *db, id)
        .await?
        .ok_or(ErrorCode::UnknownWebhook)?;
    access::channel(db, user, webhook.channel, Permissions::MANAGE_WEBHOOKS).await?;
    Ok(webhook)
}

/// [`managed`] for who changes it: the guild's head is locked. Errors: the same.
async fn managed_for_change(
    db: &mut PgConnection,
    user: &CurrentUser,
    id: Id<marker::Webhook>,
) -> Result<(Webhook, ChannelAccess)> {
    let channel = by_id(&mut *db, id)
        .await?
        .ok_or(ErrorCode::UnknownWebhook)?;
    access::lock_realms(db, [channel.guild.cast()]).await?;
    let webhook = by_id(&mut *db, id)
        .await?
        .ok_or(ErrorCode::UnknownWebhook)?;
    let needed = Permissions::MANAGE_WEBHOOKS;
    let access = access::channel(db, user, webhook.channel, needed).await?;
    Ok((webhook, access))
}

/// A webhook of one's own application, or with MANAGE_WEBHOOKS any. Errors: 10015, 50001, 50013.
#[utoipa::path(
    get,
    path = "/webhooks/{webhook_id}",
    tag = "Webhooks",
    responses((status = 200, body = WebhookBody))
)]
async fn get_webhook(
    State(app): State<App>,
    user: CurrentUser,
    Path(webhook_id): Path<Id<marker::Webhook>>,
) -> Result<Json<WebhookBody>> {
    let mut db = app.db.acquire().await?;
    let webhook = by_id(&mut *db, webhook_id)
        .await?
        .ok_or(ErrorCode::UnknownWebhook)?;
    let own = user.account.application.map(|(application, _)| application);
    if own.is_none() || webhook.application != own {
        managed(&mut db, &user, webhook_id).await?;
    }
    body(&app, &mut db, Viewer::Member(user.id), webhook).await
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
struct UpdateWebhook {
    /// 1 to 80 characters.
    name: Option<String>,
    /// A data URI; null removes it.
    #[serde(deserialize_with = "present")]
    avatar: Option<Option<String>>,
    /// Another channel of the guild; not for those who come with the token.
    channel_id: Option<Id<Channel>>,
}

impl Form for UpdateWebhook {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = &self.name {
            check_name(name, form);
        }
    }
}

/// Errors: 10003, 10015, 30007, 50001, 50013, 50024, 50035.
#[utoipa::path(
    patch,
    path = "/webhooks/{webhook_id}",
    tag = "Webhooks",
    responses((status = 200, body = WebhookBody))
)]
async fn update_webhook(
    State(app): State<App>,
    user: CurrentUser,
    Path(webhook_id): Path<Id<marker::Webhook>>,
    reason: Reason,
    Json(change): Json<UpdateWebhook>,
) -> Result<Json<WebhookBody>> {
    let mut db = app.db.acquire().await?;
    managed(&mut db, &user, webhook_id).await?;
    drop(db);
    let avatar = changed_avatar(&app, webhook_id, &change).await?;
    let mut tx = app.db.begin().await?;
    let (before, _) = managed_for_change(&mut tx, &user, webhook_id).await?;
    let mut webhook = before.clone();
    if let Some(channel) = change
        .channel_id
        .filter(|&channel| channel != before.channel)
    {
        let needed = Permissions::MANAGE_WEBHOOKS;
        let target = access::channel(&mut tx, &user, channel, needed).await?;
        if target.guild.id != before.guild {
            let fault = Fault::Other("CHANNEL_INVALID", "Not a channel of this guild.".into());
            return Err(FormErrors::one("channel_id", fault));
        }
        require_kind(before.kind, target.channel.kind)?;
        webhook.channel = channel;
    }
    apply(&mut webhook, &change, avatar);
    let events = update(&app, &mut tx, &before, &webhook, user.id, &reason).await?;
    let body = body(&app, &mut tx, Viewer::Member(user.id), webhook).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(body)
}

async fn changed_avatar(
    app: &App,
    id: Id<marker::Webhook>,
    change: &UpdateWebhook,
) -> Result<Option<Option<String>>> {
    match &change.avatar {
        None => Ok(None),
        Some(avatar) => store_avatar(app, id, avatar.as_deref()).await.map(Some),
    }
}

fn apply(webhook: &mut Webhook, change: &UpdateWebhook, avatar: Option<Option<String>>) {
    if let Some(name) = &change.name {
        webhook.name = clean(name);
    }
    if let Some(avatar) = avatar {
        webhook.avatar = avatar;
    }
}

/// Stores a changed webhook and numbers its events. Who comes with its token acts as the webhook
/// itself. Errors: 30007.
async fn update(
    app: &App,
    db: &mut PgConnection,
    before: &Webhook,
    after: &Webhook,
    actor: Id<marker::User>,
    reason: &Reason,
) -> Result<Vec<Envelope>> {
    if before.channel != after.channel {
        let count = sqlx::query_scalar!(
            r#"select count(*) as "count!" from webhook where channel_id = $1"#,
            after.channel.to_db(),
        )
        .fetch_one(&mut *db)
        .await?;
        if count >= PER_CHANNEL_MAX {
            return Err(ErrorCode::MaximumWebhooks.into());
        }
    }
    sqlx::query!(
        "update webhook set name = $2, avatar = $3, channel_id = $4 where webhook_id = $1",
        after.id.to_db(),
        after.name,
        after.avatar,
        after.channel.to_db(),
    )
    .execute(&mut *db)
    .await?;
    let mut events = vec![tell(&mut *db, after.guild, after.channel).await?];
    if before.channel != after.channel {
        events.push(tell(&mut *db, before.guild, before.channel).await?);
    }
    let entry = Entry::new(after.guild, actor, AuditAction::WEBHOOK_UPDATE, reason)
        .target(after.id)
        .changed(&audited(before), &audited(after))?;
    events.extend(audit::append(app, db, entry).await?);
    Ok(events)
}

/// Errors: 10015, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/webhooks/{webhook_id}",
    tag = "Webhooks",
    responses((status = 204, description = "It is gone"))
)]
async fn delete_webhook(
    State(app): State<App>,
    user: CurrentUser,
    Path(webhook_id): Path<Id<marker::Webhook>>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let (webhook, _) = managed_for_change(&mut tx, &user, webhook_id).await?;
    let events = delete(&app, &mut tx, &webhook, user.id, &reason).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a webhook and numbers its events; `actor` as in [`update`].
async fn delete(
    app: &App,
    db: &mut PgConnection,
    webhook: &Webhook,
    actor: Id<marker::User>,
    reason: &Reason,
) -> Result<Vec<Envelope>> {
    sqlx::query!(
        "delete from webhook where webhook_id = $1",
        webhook.id.to_db()
    )
    .execute(&mut *db)
    .await?;
    let mut events = vec![tell(&mut *db, webhook.guild, webhook.channel).await?];
    let entry = Entry::new(webhook.guild, actor, AuditAction::WEBHOOK_DELETE, reason)
        .target(webhook.id)
        .deleted(&audited(webhook))?;
    events.extend(audit::append(app, db, entry).await?);
    Ok(events)
}
