//! Webhooks as they are stored, and as they are shown.

use guildhall_shared::{
    Id,
    error_code::ErrorCode,
    id::marker::{self, Application, Channel, Guild},
    model::User,
};
use guildhall_store::{ids_to_db, user::UserRow};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{PgConnection, PgExecutor};
use utoipa::ToSchema;

use crate::{
    app::App,
    error::{Error, Result},
    extract::Json,
};

/// A row of `webhook`.
#[derive(Debug, Clone)]
pub(crate) struct Webhook {
    pub(crate) id: Id<marker::Webhook>,
    pub(super) kind: i16,
    pub(crate) guild: Id<Guild>,
    pub(crate) channel: Id<Channel>,
    pub(super) creator: Option<Id<marker::User>>,
    pub(crate) name: String,
    pub(crate) avatar: Option<String>,
    /// Incoming webhooks have one.
    pub(super) token: Option<String>,
    pub(crate) application: Option<Id<Application>>,
    pub(super) source_guild: Option<Id<Guild>>,
    pub(super) source_channel: Option<Id<Channel>>,
}

pub(super) struct Row {
    pub(super) webhook_id: i64,
    pub(super) kind: i16,
    pub(super) guild_id: i64,
    pub(super) channel_id: i64,
    pub(super) creator_id: Option<i64>,
    pub(super) name: String,
    pub(super) avatar: Option<String>,
    pub(super) token: Option<String>,
    pub(super) application_id: Option<i64>,
    pub(super) source_guild_id: Option<i64>,
    pub(super) source_channel_id: Option<i64>,
}

impl From<Row> for Webhook {
    fn from(row: Row) -> Self {
        Self {
            id: Id::from_db(row.webhook_id),
            kind: row.kind,
            guild: Id::from_db(row.guild_id),
            channel: Id::from_db(row.channel_id),
            creator: row.creator_id.map(Id::from_db),
            name: row.name,
            avatar: row.avatar,
            token: row.token,
            application: row.application_id.map(Id::from_db),
            source_guild: row.source_guild_id.map(Id::from_db),
            source_channel: row.source_channel_id.map(Id::from_db),
        }
    }
}

/// A webhook as it goes out.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Webhook)]
pub(crate) struct WebhookBody {
    id: Id<marker::Webhook>,
    /// 1 incoming, 2 channel follower.
    #[serde(rename = "type")]
    kind: i16,
    guild_id: Id<Guild>,
    channel_id: Id<Channel>,
    /// Who made it; not for those who come with the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User>,
    name: String,
    avatar: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    application_id: Option<Id<Application>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// Followers: `{id, name, icon}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_guild: Option<Value>,
    /// Followers: `{id, name}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_channel: Option<Value>,
}

/// Who looks at webhooks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Viewer {
    /// Somebody who holds MANAGE_WEBHOOKS.
    Member(Id<marker::User>),
    /// Whoever has the token.
    Token,
    /// Somebody who reads of them: no token is shown.
    Reader,
}

pub(super) async fn by_id(
    db: impl PgExecutor<'_>,
    id: Id<marker::Webhook>,
) -> Result<Option<Webhook>> {
    let row = sqlx::query_as!(
        Row,
        "select webhook_id, kind, guild_id, channel_id, creator_id, name, avatar, token,
                application_id, source_guild_id, source_channel_id
         from webhook where webhook_id = $1",
        id.to_db(),
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(Webhook::from))
}

/// The webhook that a token is of. Errors: 10015, 50027.
pub(crate) async fn by_token(
    db: impl PgExecutor<'_>,
    id: Id<marker::Webhook>,
    token: &str,
) -> Result<Webhook> {
    let webhook = by_id(db, id).await?;
    let webhook = webhook.ok_or(Error::WrongToken(ErrorCode::UnknownWebhook))?;
    match &webhook.token {
        Some(own) if is_same(own, token) => Ok(webhook),
        Some(_) | None => Err(ErrorCode::InvalidWebhookToken.into()),
    }
}

/// Compares secrets in a time that does not tell how much of them is equal.
fn is_same(one: &str, other: &str) -> bool {
    one.len() == other.len()
        && one
            .bytes()
            .zip(other.bytes())
            .fold(0, |differs, (a, b)| differs | (a ^ b))
            == 0
}

/// Webhooks as `viewer` sees them: two queries, however many they are.
pub(super) async fn bodies(
    app: &App,
    db: &mut PgConnection,
    viewer: Viewer,
    webhooks: Vec<Webhook>,
) -> Result<Vec<WebhookBody>> {
    let creators: Vec<i64> = webhooks
        .iter()
        .filter_map(|webhook| webhook.creator.map(Id::to_db))
        .collect();
    let creators = match viewer {
        Viewer::Token => Vec::new(),
        Viewer::Member(_) | Viewer::Reader => {
            sqlx::query_as!(
                UserRow,
                "select a.user_id, a.username, a.discriminator, a.global_name, a.avatar, a.banner,
                        a.accent_color, a.bot, a.public_flags
                 from account a where a.user_id = any($1)",
                &creators,
            )
            .fetch_all(&mut *db)
            .await?
        }
    };
    let creators: Vec<User> = creators.into_iter().map(User::from).collect();
    let sources: Vec<i64> = webhooks
        .iter()
        .filter_map(|webhook| webhook.source_channel.map(Id::to_db))
        .collect();
    let sources = match sources.as_slice() {
        [] => Vec::new(),
        channels => {
            sqlx::query!(
                r#"select c.channel_id, c.name as "name?", g.guild_id, g.name as guild, g.icon
                   from channel c join guild g using (guild_id) where c.channel_id = any($1)"#,
                channels,
            )
            .fetch_all(&mut *db)
            .await?
        }
    };
    let bodies = webhooks.into_iter().map(|webhook| {
        let source = webhook.source_channel.and_then(|channel| {
            sources
                .iter()
                .find(|source| source.channel_id == channel.to_db())
        });
        let token = webhook.token.filter(|_| match viewer {
            Viewer::Token => true,
            Viewer::Reader => false,
            Viewer::Member(user) => webhook
                .application
                .is_none_or(|application| application.get() == user.get()),
        });
        WebhookBody {
            id: webhook.id,
            kind: webhook.kind,
            guild_id: webhook.guild,
            channel_id: webhook.channel,
            user: webhook
                .creator
                .and_then(|id| creators.iter().find(|user| user.id == id).cloned()),
            name: webhook.name,
            avatar: webhook.avatar,
            url: token.as_ref().map(|token| {
                let base = app.config.public_url.trim_end_matches('/');
                format!("{base}/api/webhooks/{}/{token}", webhook.id)
            }),
            token,
            application_id: webhook.application,
            source_guild: source.map(|source| {
                let id: Id<Guild> = Id::from_db(source.guild_id);
                json!({ "id": id, "name": source.guild, "icon": source.icon })
            }),
            source_channel: source.map(|source| {
                let id: Id<Channel> = Id::from_db(source.channel_id);
                json!({ "id": id, "name": source.name })
            }),
        }
    });
    Ok(bodies.collect())
}

/// Those of these that a guild has, by id, for somebody who need not hold MANAGE_WEBHOOKS.
pub(crate) async fn without_tokens(
    app: &App,
    db: &mut PgConnection,
    guild: Id<Guild>,
    ids: &[Id<marker::Webhook>],
) -> Result<Vec<WebhookBody>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_as!(
        Row,
        "select webhook_id, kind, guild_id, channel_id, creator_id, name, avatar, token,
                application_id, source_guild_id, source_channel_id
         from webhook where webhook_id = any($1) and guild_id = $2 order by webhook_id",
        &ids_to_db(ids),
        guild.to_db(),
    )
    .fetch_all(&mut *db)
    .await?;
    let webhooks = rows.into_iter().map(Webhook::from).collect();
    bodies(app, db, Viewer::Reader, webhooks).await
}

pub(super) async fn body(
    app: &App,
    db: &mut PgConnection,
    viewer: Viewer,
    webhook: Webhook,
) -> Result<Json<WebhookBody>> {
    let body = bodies(app, db, viewer, vec![webhook]).await?.pop();
    Ok(Json(body.ok_or(ErrorCode::UnknownWebhook)?))
}
