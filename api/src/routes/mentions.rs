//! Recent mentions of the caller by name. Spec: endpoints › user_mentions. Not for bots.
//!
//! Mentions of roles and of everyone are not listed: `roles` and `everyone` are accepted.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::Visibility,
    gateway::{EventKind, Intents},
    id::marker::{self, Channel, Guild},
    model::Message,
};
use serde::Deserialize;
use serde_json::json;
use sqlx::PgPool;
use time::Duration;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access,
    app::App,
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path, Query},
    form::FormErrors,
    routes::messages,
    snowflakes::first_id_at,
};

/// Mentions are listed this long.
const KEEP: Duration = Duration::days(7);
/// Mentions forgotten by one statement.
const FORGET_BATCH: i64 = 5000;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(user_mentions))
        .routes(routes!(user_mention_delete))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct MentionsQuery {
    before: Option<Id<marker::Message>>,
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    guild_id: Option<Id<Guild>>,
    #[serde(rename = "roles")]
    _roles: Option<bool>,
    #[serde(rename = "everyone")]
    _everyone: Option<bool>,
}

impl Form for MentionsQuery {
    fn check(&self, form: &mut FormErrors) {
        if let Some(limit) = self.limit {
            form.range("limit", limit, 1..=100);
        }
    }
}

/// Newest first; what the caller cannot read any more is passed over. Errors: 20001, 50035.
#[utoipa::path(
    get,
    path = "/users/@me/mentions",
    tag = "Read states",
    params(MentionsQuery),
    responses((status = 200, body = Vec<Message>))
)]
async fn user_mentions(
    State(app): State<App>,
    user: CurrentUser,
    Query(query): Query<MentionsQuery>,
) -> Result<Json<Vec<Message>>> {
    user.require_human()?;
    let mut db = app.db.acquire().await?;
    let rows = sqlx::query!(
        "select u.channel_id, u.message_id
         from user_mention u join channel c using (channel_id)
         where u.user_id = $1 and u.message_id < $2 and not u.dismissed and ($3::bigint is null or c.guild_id = $3)
         order by u.message_id desc limit $4",
        user.id.to_db(),
        query.before.map_or(i64::MAX, Id::to_db),
        query.guild_id.map(Id::to_db),
        query.limit.unwrap_or(25),
    )
    .fetch_all(&mut *db)
    .await?;
    let mut channels: Vec<(Id<Channel>, bool)> = Vec::new();
    let mut places = Vec::new();
    for row in rows {
        let channel: Id<Channel> = Id::from_db(row.channel_id);
        let known = channels.iter().find(|(known, _)| *known == channel);
        let readable = match known {
            Some(&(_, readable)) => readable,
            None => {
                let needed = Permissions::VIEW_CHANNEL | Permissions::READ_MESSAGE_HISTORY;
                let place = access::place(&mut db, &user, channel, needed).await;
                channels.push((channel, place.is_ok()));
                place.is_ok()
            }
        };
        if readable {
            places.push((channel, Id::from_db(row.message_id)));
        }
    }
    let messages = messages::load::messages_at(&app.media, &mut db, user.id, &places).await?;
    Ok(Json(messages))
}

/// Takes a message off the list. Errors: 20001.
#[utoipa::path(
    delete,
    path = "/users/@me/mentions/{message_id}",
    tag = "Read states",
    responses((status = 204, description = "It is not listed any more"))
)]
async fn user_mention_delete(
    State(app): State<App>,
    user: CurrentUser,
    Path(message_id): Path<Id<marker::Message>>,
) -> Result<StatusCode> {
    user.require_human()?;
    let mut tx = app.db.begin().await?;
    let dismissed = sqlx::query!(
        "update user_mention set dismissed = true
         where user_id = $1 and message_id = $2 and not dismissed",
        user.id.to_db(),
        message_id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    if dismissed.rows_affected() == 0 {
        return Ok(StatusCode::NO_CONTENT);
    }
    let vis = Visibility::realm(Intents::empty());
    let kind = EventKind::RecentMentionDelete;
    let body = json!({ "message_id": message_id });
    let event = events::append(&mut tx, user.id, kind, vis, &body, None).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets mentions past their time, the oldest first, a bounded number at once. Those that
/// a person has not read yet stay in the count of their read state.
pub(crate) async fn forget_old(db: &PgPool) -> Result<()> {
    let oldest = first_id_at(Timestamp::now().0 - KEEP);
    sqlx::query!(
        "with old as materialized (
           select user_id, message_id from user_mention
           where message_id < $1 order by message_id limit $2
         ), gone as (
           delete from user_mention u using old
           where u.user_id = old.user_id and u.message_id = old.message_id
           returning u.user_id, u.message_id, u.channel_id
         ), unread as (
           select g.user_id, g.channel_id, count(*)::int as count, max(g.message_id) as newest
           from gone g
           join account a on a.user_id = g.user_id and not a.bot and a.state <> 3
           -- Calls of everyone are counted without these rows.
           join message m on m.channel_id = g.channel_id and m.message_id = g.message_id
                         and m.author_id <> g.user_id and not m.mention_everyone
           left join read_state s on s.user_id = g.user_id and s.channel_id = g.channel_id
           where g.message_id > coalesce(greatest(s.last_message_id, s.counted_to, s.named_to), 0)
           group by g.user_id, g.channel_id
         )
         insert into read_state as s (user_id, channel_id, mention_count, named_to)
         select user_id, channel_id, count, newest from unread
         -- By the same order as everybody who writes several.
         order by user_id, channel_id
         on conflict (user_id, channel_id) do update
         set mention_count = s.mention_count + excluded.mention_count,
             named_to = greatest(s.named_to, excluded.named_to)",
        oldest,
        FORGET_BATCH,
    )
    .execute(db)
    .await?;
    Ok(())
}
