//! Announcement channels: following them, and publishing their messages to followers.
//!
//! Publishing marks the message and leaves a `crosspost_job`; the copies are made afterwards,
//! each in a transaction of its own, by whoever holds the job (the request's process, or
//! housekeeping if that one died). `crosspost` says which followers have their copy. An edit or
//! delete of the message queues it again, and its copies become as it is.

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    id::marker::{self, Channel},
    model::{AuditAction, ChannelKind, Message, MessageFlags, MessageKind, MessageReference},
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{FOLLOWER, Row, Webhook, audited, insert, require_kind, tell};
use crate::{
    access,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::{Error, Result},
    extract::{Form, Json, Path},
    form::FormErrors,
    routes::messages::{self, Persona},
    rows::Rows,
};

/// Followers that one statement reads.
const BATCH: i64 = 100;
/// Jobs of one round of housekeeping.
const JOBS_MAX: i64 = 50;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(follow_channel))
        .routes(routes!(crosspost_message))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
struct FollowChannel {
    /// Where the messages shall go.
    #[schema(required)]
    webhook_channel_id: Option<Id<Channel>>,
}

impl Form for FollowChannel {
    fn check(&self, form: &mut FormErrors) {
        form.required("webhook_channel_id", &self.webhook_channel_id);
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct ChannelFollower {
    channel_id: Id<Channel>,
    webhook_id: Id<marker::Webhook>,
}

/// Lets an announcement channel's messages come to another channel. Errors: 10003, 30007,
/// 50001, 50013, 50024.
#[utoipa::path(
    post,
    path = "/channels/{channel_id}/followers",
    tag = "Webhooks",
    responses((status = 200, body = ChannelFollower))
)]
async fn follow_channel(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    reason: Reason,
    Json(body): Json<FollowChannel>,
) -> Result<Json<ChannelFollower>> {
    let target_id = body.webhook_channel_id.ok_or(ErrorCode::UnknownChannel)?;
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_WEBHOOKS;
    let target = access::channel_for_change(&mut tx, &user, target_id, needed).await?;
    let source = access::channel(&mut tx, &user, channel_id, Permissions::VIEW_CHANNEL).await?;
    require_kind(FOLLOWER, target.channel.kind)?;
    if source.channel.kind != ChannelKind::ANNOUNCEMENT || source.channel.id == target_id {
        return Err(ErrorCode::InvalidChannelType.into());
    }
    let guild_name = sqlx::query_scalar!(
        "select name from guild where guild_id = $1",
        source.guild.id.to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    let name: String = format!("{guild_name} #{}", source.channel.name)
        .chars()
        .take(80)
        .collect();
    let webhook = Webhook {
        id: app.snowflakes.next()?,
        kind: FOLLOWER,
        guild: target.guild.id,
        channel: target_id,
        creator: Some(user.id),
        name,
        avatar: None,
        token: None,
        application: None,
        source_guild: Some(source.guild.id),
        source_channel: Some(channel_id),
    };
    insert(&mut tx, &webhook).await?;
    let mut events = vec![tell(&mut tx, webhook.guild, target_id).await?];
    let audience = access::Place::Channel(target.clone()).audience();
    let kind = MessageKind::CHANNEL_FOLLOW_ADD;
    let mut notice = messages::draft(&app, target_id, user.user().clone(), kind)?;
    notice.content = webhook.name.clone();
    notice.webhook_id = Some(webhook.id);
    notice.message_reference = Some(MessageReference {
        kind: 0,
        message_id: None,
        channel_id,
        guild_id: Some(source.guild.id),
    });
    let member = Some(&target.guild.member);
    events.extend(messages::post_in(&mut tx, &audience, member, &notice).await?);
    let entry = Entry::new(webhook.guild, user.id, AuditAction::WEBHOOK_CREATE, &reason)
        .target(webhook.id)
        .created(&audited(&webhook))?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(ChannelFollower {
        channel_id,
        webhook_id: webhook.id,
    }))
}

/// Publishes a message of an announcement channel to its followers: one's own, or with
/// MANAGE_MESSAGES anybody's.
///
/// Errors: 10003, 10008, 40033, 50001, 50013, 50024, 50068.
#[utoipa::path(
    post,
    path = "/channels/{channel_id}/messages/{message_id}/crosspost",
    tag = "Messages",
    responses((status = 200, body = Message))
)]
async fn crosspost_message(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id)): Path<(Id<Channel>, Id<marker::Message>)>,
) -> Result<Json<Message>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::SEND_MESSAGES;
    let access = access::channel_for_change(&mut tx, &user, channel_id, needed).await?;
    if access.channel.kind != ChannelKind::ANNOUNCEMENT {
        return Err(ErrorCode::InvalidChannelType.into());
    }
    let mut message = messages::load::message(&app.media, &mut tx, user.id, channel_id, message_id)
        .await?
        .ok_or(ErrorCode::UnknownMessage)?;
    if message.author.id != user.id {
        access.require(Permissions::MANAGE_MESSAGES)?;
    }
    if !message.kind.is_written() || message.poll.is_some() {
        return Err(ErrorCode::InvalidMessageType.into());
    }
    if message.flags & (MessageFlags::CROSSPOSTED | MessageFlags::IS_CROSSPOST) != 0 {
        return Err(ErrorCode::AlreadyCrossposted.into());
    }
    message.flags |= MessageFlags::CROSSPOSTED;
    messages::store_changes(&mut tx, &message).await?;
    queue_copies(&mut tx, channel_id, message_id).await?;
    let guild = access.guild.id;
    let author = messages::author_member(&mut tx, guild, &message).await?;
    let audience = access::Place::Channel(access).audience();
    let events =
        messages::announce_update_in(&mut tx, &audience, author.as_ref(), &message).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    deliver_soon(&app, channel_id, message_id);
    Ok(Json(messages::shown_to(&user, Some(guild), message)))
}

/// From the commit on, somebody sees to it that all copies of a published message exist and
/// say what it says.
pub(crate) async fn queue_copies(
    db: &mut PgConnection,
    channel: Id<Channel>,
    id: Id<marker::Message>,
) -> Result<()> {
    sqlx::query!(
        "insert into crosspost_job (channel_id, message_id) values ($1, $2)
         on conflict (channel_id, message_id) do update set at = now()",
        channel.to_db(),
        id.to_db(),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// After the commit of [`queue_copies`]: does it now, rather than in housekeeping's time.
pub(crate) fn deliver_soon(app: &App, channel: Id<Channel>, id: Id<marker::Message>) {
    let worker = app.clone();
    app.work.spawn(async move {
        if let Err(error) = deliver(&worker, channel, id).await {
            tracing::warn!(?error, "a message has not reached all followers yet");
        }
    });
}

/// Makes the copies that are still missing. For housekeeping.
pub(crate) async fn deliver_crossposts(app: &App) -> Result<()> {
    let jobs = sqlx::query!(
        "select channel_id, message_id from crosspost_job
         where at < now() - interval '30 seconds' order by at limit $1",
        JOBS_MAX,
    )
    .fetch_all(&app.db)
    .await?;
    let mut rows = Rows::default();
    for job in jobs {
        let (channel, id) = (Id::from_db(job.channel_id), Id::from_db(job.message_id));
        rows.done(deliver(app, channel, id).await)?;
    }
    Ok(())
}

/// Gives every follower of the channel a copy of the message, unless it has one; those there
/// are become as the message is now.
async fn deliver(app: &App, channel: Id<Channel>, id: Id<marker::Message>) -> Result<()> {
    let queued = sqlx::query_scalar!(
        "select at from crosspost_job where channel_id = $1 and message_id = $2",
        channel.to_db(),
        id.to_db(),
    )
    .fetch_optional(&app.db)
    .await?;
    let Some(queued) = queued else {
        return Ok(());
    };
    follow_source(app, channel, id).await?;
    make_missing(app, channel, id).await?;
    // A change made meanwhile has queued it again.
    sqlx::query!(
        "delete from crosspost_job where channel_id = $1 and message_id = $2 and at = $3",
        channel.to_db(),
        id.to_db(),
        queued,
    )
    .execute(&app.db)
    .await?;
    Ok(())
}

async fn make_missing(app: &App, channel: Id<Channel>, id: Id<marker::Message>) -> Result<()> {
    let mut after = 0;
    loop {
        let rows = sqlx::query_as!(
            Row,
            "select webhook_id, kind, guild_id, channel_id, creator_id, name, avatar, token,
                    application_id, source_guild_id, source_channel_id
             from webhook w
             where source_channel_id = $1 and webhook_id > $2 and not exists (
               select from crosspost c where c.source_id = $3 and c.channel_id = w.channel_id)
               and exists (select from message where channel_id = $1 and message_id = $3)
             order by webhook_id limit $4",
            channel.to_db(),
            after,
            id.to_db(),
            BATCH,
        )
        .fetch_all(&app.db)
        .await?;
        let Some(last) = rows.last() else {
            return Ok(());
        };
        after = last.webhook_id;
        for webhook in rows.into_iter().map(Webhook::from) {
            match copy(app, channel, id, &webhook).await {
                // The channel was deleted meanwhile.
                Ok(()) | Err(Error::Code(ErrorCode::UnknownChannel)) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Makes the copies there are as their source is.
async fn follow_source(app: &App, channel: Id<Channel>, id: Id<marker::Message>) -> Result<()> {
    let mut after = 0;
    loop {
        let copies = sqlx::query!(
            "select channel_id, message_id from crosspost
             where source_id = $1 and channel_id > $2 order by channel_id limit $3",
            id.to_db(),
            after,
            BATCH,
        )
        .fetch_all(&app.db)
        .await?;
        let Some(last) = copies.last() else {
            return Ok(());
        };
        after = last.channel_id;
        for copy in copies {
            let copy = (Id::from_db(copy.channel_id), Id::from_db(copy.message_id));
            match change_copy(app, (channel, id), copy).await {
                Ok(()) | Err(Error::Code(ErrorCode::UnknownChannel)) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A message and the channel it is in.
type At = (Id<Channel>, Id<marker::Message>);

async fn change_copy(app: &App, source: At, (channel, id): At) -> Result<()> {
    let mut tx = app.db.begin().await?;
    let audience = access::audience_for_change(&mut tx, channel).await?;
    // Nobody's: whose reactions they are is not asked.
    let viewer = source.1.cast();
    let Some(before) = messages::load::message(&app.media, &mut tx, viewer, channel, id).await?
    else {
        return Ok(());
    };
    let source = messages::load::message(&app.media, &mut tx, viewer, source.0, source.1).await?;
    let after = match source {
        Some(source) => as_source(before.clone(), source),
        None => without_source(before.clone()),
    };
    if after == before {
        return Ok(());
    }
    messages::store_changes(&mut tx, &after).await?;
    let events = messages::announce_update_in(&mut tx, &audience, None, &after).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(())
}

/// What a copy has of its source.
fn as_source(copy: Message, source: Message) -> Message {
    let kept = MessageFlags::SUPPRESS_EMBEDS
        | MessageFlags::IS_VOICE_MESSAGE
        | MessageFlags::IS_COMPONENTS_V2;
    Message {
        content: source.content,
        edited_timestamp: source.edited_timestamp,
        embeds: source.embeds,
        components: source.components,
        attachments: source.attachments,
        embedded_files: source.embedded_files,
        sticker_items: source.sticker_items,
        message_snapshots: source.message_snapshots,
        flags: source.flags & kept | MessageFlags::IS_CROSSPOST,
        ..copy
    }
}

/// What is left of a copy when its source is gone.
fn without_source(copy: Message) -> Message {
    Message {
        content: "[Original Message Deleted]".to_owned(),
        embeds: Vec::new(),
        components: Vec::new(),
        attachments: Vec::new(),
        embedded_files: Vec::new(),
        sticker_items: Vec::new(),
        message_snapshots: Vec::new(),
        flags: MessageFlags::IS_CROSSPOST | MessageFlags::SOURCE_MESSAGE_DELETED,
        ..copy
    }
}

async fn copy(
    app: &App,
    channel: Id<Channel>,
    id: Id<marker::Message>,
    webhook: &Webhook,
) -> Result<()> {
    let mut tx = app.db.begin().await?;
    let audience = access::audience_for_change(&mut tx, webhook.channel).await?;
    let source =
        messages::load::message(&app.media, &mut tx, webhook.id.cast(), channel, id).await?;
    // Deleted meanwhile.
    let Some(source) = source else {
        return Ok(());
    };
    let persona = Persona::new(webhook.name.clone(), webhook.avatar.clone());
    let author = persona.user(webhook.id);
    let draft = messages::draft(app, webhook.channel, author, MessageKind::DEFAULT)?;
    let message = Message {
        webhook_id: Some(webhook.id),
        message_reference: Some(MessageReference {
            kind: 0,
            message_id: Some(id),
            channel_id: channel,
            guild_id: webhook.source_guild,
        }),
        ..as_source(draft, source)
    };
    let made = sqlx::query!(
        "insert into crosspost (source_id, channel_id, message_id) values ($1, $2, $3)
         on conflict do nothing",
        id.to_db(),
        webhook.channel.to_db(),
        message.id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    if made.rows_affected() == 0 {
        return Ok(());
    }
    let events = messages::post_in(&mut tx, &audience, None, &message).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(())
}
