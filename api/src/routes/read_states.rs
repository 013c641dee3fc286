//! What people have read: acknowledgements, told to all of their sessions. Not for bots.
//! Spec: objects.md › Read state.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::{Envelope, Visibility},
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild, Message, User},
    model::ChannelSettings,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{PgConnection, types::Json as Jsonb};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access,
    app::App,
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path, null_is_default},
    form::{Fault, FormErrors},
};

/// Acknowledgements of one request.
const BULK_MAX: usize = 100;
const MENTIONS_MAX: i64 = 100_000;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(message_ack))
        .routes(routes!(message_ack_delete))
        .routes(routes!(pins_ack))
        .routes(routes!(guild_ack))
        .routes(routes!(ack_bulk))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
struct Ack {
    /// Marks as unread from here on: the read state may go back.
    #[serde(deserialize_with = "null_is_default")]
    manual: bool,
    /// Of a manual one.
    mention_count: Option<i64>,
    /// Days since 2015-01-01.
    last_viewed: Option<i32>,
}

impl Form for Ack {
    fn check(&self, form: &mut FormErrors) {
        if let Some(count) = self.mention_count {
            form.range("mention_count", count, 0..=MENTIONS_MAX);
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct AckToken {
    token: Option<String>,
}

#[derive(Serialize)]
struct MessageAck {
    channel_id: Id<Channel>,
    message_id: Id<Message>,
    /// Milliseconds since the Unix epoch.
    version: i64,
    ack_type: u8,
    manual: bool,
    mention_count: i64,
    last_viewed: Option<i32>,
    flags: Option<u32>,
}

/// The caller has read the channel up to this message. Errors: 10003, 20001, 50001, 50035.
#[utoipa::path(
    post,
    path = "/channels/{channel_id}/messages/{message_id}/ack",
    tag = "Read states",
    responses((status = 200, body = AckToken))
)]
async fn message_ack(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id)): Path<(Id<Channel>, Id<Message>)>,
    Json(ack): Json<Ack>,
) -> Result<Json<AckToken>> {
    user.require_human()?;
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [user.id.cast()]).await?;
    access::place(&mut tx, &user, channel_id, Permissions::VIEW_CHANNEL).await?;
    let event = acknowledge(&mut tx, user.id, channel_id, message_id, &ack).await?;
    tx.commit().await?;
    app.publisher.publish(event);
    Ok(Json(AckToken { token: None }))
}

/// Stores an acknowledgement and numbers its event; none if it says nothing new. The user's realm
/// is locked before: acknowledgements of one person do not wait for each other in a circle.
///
/// What came after the message is counted by who reads it (`guildhall_store::read_state`), but
/// for a manual one with a count of its own: that is the count of all there is now.
async fn acknowledge(
    db: &mut PgConnection,
    user: Id<User>,
    channel: Id<Channel>,
    message: Id<Message>,
    ack: &Ack,
) -> Result<Option<Envelope>> {
    let given = ack.mention_count.filter(|_| ack.manual);
    let mentions = given.unwrap_or(0);
    let stored = sqlx::query!(
        "insert into read_state as s (user_id, channel_id, last_message_id, mention_count,
                                      counted_to, last_viewed)
         select $1, $2, $3, $4,
                case when $7 then coalesce((select max(message_id) from message
                                            where channel_id = $2), 0) else 0 end, $5
         on conflict (user_id, channel_id) do update
         set last_message_id = excluded.last_message_id, mention_count = excluded.mention_count,
             counted_to = excluded.counted_to, last_viewed = coalesce(excluded.last_viewed, s.last_viewed)
         where $6 or s.last_message_id < excluded.last_message_id
         returning last_viewed",
        user.to_db(),
        channel.to_db(),
        message.to_db(),
        mentions as i32,
        ack.last_viewed,
        ack.manual,
        given.is_some(),
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some(stored) = stored else {
        return Ok(None);
    };
    let body = MessageAck {
        channel_id: channel,
        message_id: message,
        version: version(),
        ack_type: 0,
        manual: ack.manual,
        mention_count: mentions,
        last_viewed: stored.last_viewed,
        flags: None,
    };
    tell(db, user, EventKind::MessageAck, &body).await.map(Some)
}

/// Numbers an event for the user's own sessions.
async fn tell(
    db: &mut PgConnection,
    user: Id<User>,
    kind: EventKind,
    body: &impl Serialize,
) -> Result<Envelope> {
    let vis = Visibility::realm(Intents::empty());
    events::append(db, user, kind, vis, body, None).await
}

fn version() -> i64 {
    (Timestamp::now().0.unix_timestamp_nanos() / 1_000_000) as i64
}

/// Forgets what the caller has read in the channel. Errors: 20001.
#[utoipa::path(
    delete,
    path = "/channels/{channel_id}/messages/ack",
    tag = "Read states",
    responses((status = 204, description = "The read state is gone"))
)]
async fn message_ack_delete(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
) -> Result<StatusCode> {
    user.require_human()?;
    sqlx::query!(
        "delete from read_state where user_id = $1 and channel_id = $2",
        user.id.to_db(),
        channel_id.to_db(),
    )
    .execute(&app.db)
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The caller has seen the channel's pins. Errors: 10003, 20001, 50001.
#[utoipa::path(
    post,
    path = "/channels/{channel_id}/pins/ack",
    tag = "Read states",
    responses((status = 204, description = "The pins are seen"))
)]
async fn pins_ack(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
) -> Result<StatusCode> {
    user.require_human()?;
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [user.id.cast()]).await?;
    access::place(&mut tx, &user, channel_id, Permissions::VIEW_CHANNEL).await?;
    let settings = sqlx::query_scalar!(
        r#"select settings as "settings: Jsonb<ChannelSettings>" from channel where channel_id = $1"#,
        channel_id.to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    let seen = settings.0.last_pin_timestamp.flatten();
    let seen = seen.unwrap_or_else(Timestamp::now);
    sqlx::query!(
        "insert into read_state (user_id, channel_id, last_pin_at) values ($1, $2, $3)
         on conflict (user_id, channel_id) do update set last_pin_at = excluded.last_pin_at",
        user.id.to_db(),
        channel_id.to_db(),
        seen.0,
    )
    .execute(&mut *tx)
    .await?;
    let body = json!({ "channel_id": channel_id, "timestamp": seen, "version": version() });
    let event = tell(&mut tx, user.id, EventKind::ChannelPinsAck, &body).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    Ok(StatusCode::NO_CONTENT)
}

/// The caller has read everything in a guild. Errors: 10004, 20001, 50001.
#[utoipa::path(
    post,
    path = "/guilds/{guild_id}/ack",
    tag = "Read states",
    responses((status = 204, description = "Everything is read"))
)]
async fn guild_ack(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<StatusCode> {
    user.require_human()?;
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [user.id.cast()]).await?;
    let guild = access::guild(&mut *tx, &user, guild_id, Permissions::empty()).await?;
    let channels = guildhall_store::guild::channels(&mut *tx, guild_id).await?;
    let mut events = Vec::new();
    for channel in channels {
        let held = guild.in_channel(channel.kind, &channel.permission_overwrites);
        let newest = channel.last_message_id.flatten();
        if let Some(newest) = newest.filter(|_| held.contains(Permissions::VIEW_CHANNEL)) {
            let ack = Ack::default();
            events.extend(acknowledge(&mut tx, user.id, channel.id, newest, &ack).await?);
        }
    }
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
struct AckBulk {
    /// 100 at most.
    #[serde(deserialize_with = "null_is_default")]
    read_states: Vec<BulkEntry>,
}

#[derive(Debug, Deserialize, Serialize, ToSchema)]
struct BulkEntry {
    channel_id: Id<Channel>,
    message_id: Id<Message>,
    /// 0: of a channel. Others are passed over.
    #[serde(default, deserialize_with = "null_is_default")]
    read_state_type: u8,
}

impl Form for AckBulk {
    fn check(&self, form: &mut FormErrors) {
        if self.read_states.len() > BULK_MAX {
            let max = BULK_MAX;
            form.add("read_states", Fault::BadLength { min: 0, max });
        }
    }
}

/// Many acknowledgements at once; channels that the caller cannot see are passed over.
/// Errors: 20001, 50035.
#[utoipa::path(
    post,
    path = "/read-states/ack-bulk",
    tag = "Read states",
    responses((status = 204, description = "They are read"))
)]
async fn ack_bulk(
    State(app): State<App>,
    user: CurrentUser,
    Json(body): Json<AckBulk>,
) -> Result<StatusCode> {
    user.require_human()?;
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [user.id.cast()]).await?;
    let mut events = Vec::new();
    for entry in body.read_states {
        let channel = entry.channel_id;
        let seen = access::place(&mut tx, &user, channel, Permissions::VIEW_CHANNEL).await;
        if entry.read_state_type != 0 || seen.is_err() {
            continue;
        }
        let ack = Ack::default();
        let event = acknowledge(&mut tx, user.id, channel, entry.message_id, &ack).await?;
        events.extend(event);
    }
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}
