//! Reactions. Spec: objects.md › Reaction; limits-and-errors › Field limits.
//!
//! `reaction` has a row per user and emoji, `reaction_count` what a list of messages shows.
//! Both change together under the guild's head lock.

use std::collections::BTreeMap;

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild, Message, User},
    model::{self, Member, PartialEmoji, Reaction, ReactionCounts, RelationshipKind},
};
use guildhall_store::user::UserRow;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgExecutor};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::{self, Place},
    app::App,
    auth::CurrentUser,
    emoji::{ReactionEmoji, custom_emoji},
    error::Result,
    extract::{Form, Json, Path, Query, from_zero},
    form::{Fault, FormErrors},
    routes::relationships,
};

/// Lets events of reactions through.
const INTENTS: Intents = Intents::GUILD_MESSAGE_REACTIONS;
/// Different emojis on one message.
const EMOJIS_MAX: i64 = 20;

/// Channel, message, emoji, user.
type OfUser = (Id<Channel>, Id<Message>, String, Id<User>);
/// Channel, message, emoji, type of the reaction, user.
type TypedOfUser = (Id<Channel>, Id<Message>, String, String, Id<User>);

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(delete_all_message_reactions))
        .routes(routes!(
            list_message_reactions_by_emoji,
            delete_all_message_reactions_by_emoji
        ))
        .routes(routes!(add_my_message_reaction, delete_my_message_reaction))
        .routes(routes!(delete_user_message_reaction))
        .routes(routes!(reaction_delete_typed))
        .routes(routes!(reaction_delete_typed_user))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct AddQuery {
    /// 0 normal, 1 burst.
    #[serde(rename = "type")]
    #[param(maximum = 1)]
    kind: Option<u8>,
}

impl Form for AddQuery {
    fn check(&self, form: &mut FormErrors) {
        check_kind("type", self.kind, form);
    }
}

fn check_kind(path: &str, kind: Option<u8>, form: &mut FormErrors) {
    if kind.is_some_and(|kind| kind > 1) {
        form.add(path, Fault::Choices("(0, 1)"));
    }
}

#[derive(Serialize)]
struct ReactionEvent {
    user_id: Id<User>,
    channel_id: Id<Channel>,
    message_id: Id<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guild_id: Option<Id<Guild>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<Member>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_author_id: Option<Id<User>>,
    emoji: PartialEmoji,
    burst: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    burst_colors: Option<Vec<String>>,
    #[serde(rename = "type")]
    kind: u8,
}

/// Adds the caller's reaction; one that is there already changes nothing.
///
/// Errors: 10003, 10008, 10014, 30010, 50001, 50013, 50083, 90001.
#[utoipa::path(
    put,
    path = "/channels/{channel_id}/messages/{message_id}/reactions/{emoji_name}/@me",
    tag = "Reactions",
    params(AddQuery),
    responses((status = 204, description = "The reaction is there"))
)]
async fn add_my_message_reaction(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id, emoji)): Path<(Id<Channel>, Id<Message>, String)>,
    Query(query): Query<AddQuery>,
) -> Result<StatusCode> {
    let emoji = ReactionEmoji::parse(&emoji)?;
    let burst = query.kind == Some(1);
    let mut tx = app.db.begin().await?;
    let needed = Permissions::VIEW_CHANNEL | Permissions::READ_MESSAGE_HISTORY;
    let place = access::place_for_change(&mut tx, &user, channel_id, needed).await?;
    place.require_unarchived()?;
    let author = message_author(&mut *tx, channel_id, message_id).await?;
    check_not_blocked(&mut tx, author, user.id).await?;
    let key = emoji.key();
    let shown = match shown(&mut *tx, channel_id, message_id, &key).await? {
        Some(shown) => shown,
        None => {
            place.require(Permissions::ADD_REACTIONS)?;
            let shown = new_emoji(&mut tx, user.id, &place, &emoji).await?;
            check_count(&mut *tx, channel_id, message_id).await?;
            shown
        }
    };
    let added = sqlx::query!(
        "insert into reaction (channel_id, message_id, emoji, burst, user_id)
         values ($1, $2, $3, $4, $5) on conflict do nothing",
        channel_id.to_db(),
        message_id.to_db(),
        key,
        burst,
        user.id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    if added.rows_affected() == 0 {
        return Ok(StatusCode::NO_CONTENT);
    }
    sqlx::query!(
        "insert into reaction_count as c (channel_id, message_id, emoji, emoji_id, emoji_name,
                                          animated, normal, burst)
         values ($1, $2, $3, $4, $5, $6, 1 - $7::int, $7)
         on conflict (channel_id, message_id, emoji)
         do update set normal = c.normal + excluded.normal, burst = c.burst + excluded.burst",
        channel_id.to_db(),
        message_id.to_db(),
        key,
        shown.id.map(Id::to_db),
        shown.name,
        shown.animated,
        i32::from(burst),
    )
    .execute(&mut *tx)
    .await?;
    let (audience, guild_id) = (place.audience(), place.guild_id());
    let body = ReactionEvent {
        user_id: user.id,
        channel_id,
        message_id,
        guild_id,
        member: place.member().map(|member| Member {
            user: Some(user.user().clone()),
            ..member.clone()
        }),
        message_author_id: Some(author),
        emoji: shown,
        burst,
        burst_colors: burst.then(Vec::new),
        kind: u8::from(burst),
    };
    let kind = EventKind::MessageReactionAdd;
    let events = audience.tell(&mut tx, kind, INTENTS, &body).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

/// The author of a message. Errors: 10008.
async fn message_author(
    db: impl PgExecutor<'_>,
    channel: Id<Channel>,
    message: Id<Message>,
) -> Result<Id<User>> {
    let author = sqlx::query_scalar!(
        "select author_id from message where channel_id = $1 and message_id = $2",
        channel.to_db(),
        message.to_db(),
    )
    .fetch_optional(db)
    .await?
    .ok_or(ErrorCode::UnknownMessage)?;
    Ok(Id::from_db(author))
}

/// Errors: 90001 if the message's author has blocked the user.
async fn check_not_blocked(db: &mut PgConnection, author: Id<User>, user: Id<User>) -> Result<()> {
    match relationships::kind(db, author, user).await? {
        Some(RelationshipKind::Blocked) => Err(ErrorCode::ReactionBlocked.into()),
        _ => Ok(()),
    }
}

/// An emoji that is on the message already, as it is shown there.
async fn shown(
    db: impl PgExecutor<'_>,
    channel: Id<Channel>,
    message: Id<Message>,
    key: &str,
) -> Result<Option<PartialEmoji>> {
    let row = sqlx::query!(
        "select emoji_id, emoji_name, animated from reaction_count
         where channel_id = $1 and message_id = $2 and emoji = $3",
        channel.to_db(),
        message.to_db(),
        key,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| PartialEmoji {
        id: row.emoji_id.map(Id::from_db),
        name: row.emoji_name,
        animated: row.animated,
    }))
}

/// An emoji that nobody has used on the message yet. Errors: 10014, 50013.
async fn new_emoji(
    db: &mut PgConnection,
    user: Id<User>,
    place: &Place,
    emoji: &ReactionEmoji,
) -> Result<PartialEmoji> {
    match emoji {
        ReactionEmoji::Unicode(text) => Ok(PartialEmoji {
            id: None,
            name: Some(text.clone()),
            animated: false,
        }),
        ReactionEmoji::Custom(id) => {
            let found = custom_emoji(db, user, *id)
                .await?
                .ok_or(ErrorCode::InvalidEmoji)?;
            if place.guild().is_some() && found.guild != place.guild_id() {
                place.require(Permissions::USE_EXTERNAL_EMOJIS)?;
            }
            Ok(found.emoji)
        }
    }
}

/// Errors: 30010.
async fn check_count(
    db: impl PgExecutor<'_>,
    channel: Id<Channel>,
    message: Id<Message>,
) -> Result<()> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from reaction_count
           where channel_id = $1 and message_id = $2"#,
        channel.to_db(),
        message.to_db(),
    )
    .fetch_one(db)
    .await?;
    if count >= EMOJIS_MAX {
        return Err(ErrorCode::MaximumReactions.into());
    }
    Ok(())
}

/// Takes the caller's reaction back. Errors: 10003, 10008, 10014, 50001.
#[utoipa::path(
    delete,
    path = "/channels/{channel_id}/messages/{message_id}/reactions/{emoji_name}/@me",
    tag = "Reactions",
    responses((status = 204, description = "The reaction is gone"))
)]
async fn delete_my_message_reaction(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id, emoji)): Path<(Id<Channel>, Id<Message>, String)>,
) -> Result<StatusCode> {
    let of = user.id;
    remove(&app, &user, channel_id, message_id, &emoji, of, None).await
}

/// Takes somebody's reaction away. Errors: 10003, 10008, 10014, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/channels/{channel_id}/messages/{message_id}/reactions/{emoji_name}/{user_id}",
    tag = "Reactions",
    responses((status = 204, description = "The reaction is gone"))
)]
async fn delete_user_message_reaction(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id, emoji, of)): Path<OfUser>,
) -> Result<StatusCode> {
    remove(&app, &user, channel_id, message_id, &emoji, of, None).await
}

/// [`delete_my_message_reaction`] of one type, as user clients ask. Errors: the same, 50035.
#[utoipa::path(
    delete,
    path = "/channels/{channel_id}/messages/{message_id}/reactions/{emoji_name}/{reaction_type}/@me",
    tag = "Reactions",
    responses((status = 204, description = "The reaction is gone"))
)]
async fn reaction_delete_typed(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id, emoji, kind)): Path<(Id<Channel>, Id<Message>, String, String)>,
) -> Result<StatusCode> {
    let (of, kind) = (user.id, parse_kind(&kind)?);
    remove(&app, &user, channel_id, message_id, &emoji, of, Some(kind)).await
}

/// [`delete_user_message_reaction`] of one type. Errors: the same, 50035.
#[utoipa::path(
    delete,
    path = "/channels/{channel_id}/messages/{message_id}/reactions/{emoji_name}/{reaction_type}/{user_id}",
    tag = "Reactions",
    responses((status = 204, description = "The reaction is gone"))
)]
async fn reaction_delete_typed_user(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id, emoji, kind, of)): Path<TypedOfUser>,
) -> Result<StatusCode> {
    let kind = parse_kind(&kind)?;
    remove(&app, &user, channel_id, message_id, &emoji, of, Some(kind)).await
}

/// Whether a path says burst.
fn parse_kind(text: &str) -> Result<bool> {
    match text {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(FormErrors::one("reaction_type", Fault::Choices("(0, 1)"))),
    }
}

/// Removes reactions of `of` with an emoji: those of one type, or of both.
async fn remove(
    app: &App,
    user: &CurrentUser,
    channel_id: Id<Channel>,
    message_id: Id<Message>,
    emoji: &str,
    of: Id<User>,
    burst: Option<bool>,
) -> Result<StatusCode> {
    let key = ReactionEmoji::parse(emoji)?.key();
    let mut tx = app.db.begin().await?;
    let needed = match of == user.id {
        true => Permissions::VIEW_CHANNEL,
        false => Permissions::MANAGE_MESSAGES,
    };
    let place = access::place_for_change(&mut tx, user, channel_id, needed).await?;
    place.require_unarchived()?;
    message_author(&mut *tx, channel_id, message_id).await?;
    let removed = sqlx::query_scalar!(
        "delete from reaction
         where channel_id = $1 and message_id = $2 and emoji = $3 and user_id = $4
           and burst = any($5) returning burst",
        channel_id.to_db(),
        message_id.to_db(),
        key,
        of.to_db(),
        &match burst {
            Some(burst) => vec![burst],
            None => vec![false, true],
        },
    )
    .fetch_all(&mut *tx)
    .await?;
    let Some(emoji) = shown(&mut *tx, channel_id, message_id, &key)
        .await?
        .filter(|_| !removed.is_empty())
    else {
        return Ok(StatusCode::NO_CONTENT);
    };
    let bursts = removed.iter().filter(|&&burst| burst).count();
    sqlx::query!(
        "with counted as (
           update reaction_count set normal = normal - $4, burst = burst - $5
           where channel_id = $1 and message_id = $2 and emoji = $3 and normal + burst > $4::int + $5::int
           returning 1
         )
         delete from reaction_count
         where channel_id = $1 and message_id = $2 and emoji = $3
           and not exists (select from counted)",
        channel_id.to_db(),
        message_id.to_db(),
        key,
        (removed.len() - bursts) as i32,
        bursts as i32,
    )
    .execute(&mut *tx)
    .await?;
    let (audience, guild_id) = (place.audience(), place.guild_id());
    let mut events = Vec::new();
    for burst in removed {
        let body = ReactionEvent {
            user_id: of,
            channel_id,
            message_id,
            guild_id,
            member: None,
            message_author_id: None,
            emoji: emoji.clone(),
            burst,
            burst_colors: None,
            kind: u8::from(burst),
        };
        let kind = EventKind::MessageReactionRemove;
        events.extend(audience.tell(&mut tx, kind, INTENTS, &body).await?);
    }
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Serialize)]
struct ReactionsCleared {
    channel_id: Id<Channel>,
    message_id: Id<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guild_id: Option<Id<Guild>>,
    #[serde(flatten)]
    of: Option<OneEmoji>,
}

/// Of MESSAGE_REACTION_REMOVE_EMOJI alone.
#[derive(Serialize)]
struct OneEmoji {
    emoji: PartialEmoji,
    /// Both sorts are cleared. Some libraries do not read the event without these two.
    burst: bool,
    #[serde(rename = "type")]
    kind: u8,
}

/// Removes every reaction of a message. Errors: 10003, 10008, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/channels/{channel_id}/messages/{message_id}/reactions",
    tag = "Reactions",
    responses((status = 204, description = "The reactions are gone"))
)]
async fn delete_all_message_reactions(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id)): Path<(Id<Channel>, Id<Message>)>,
) -> Result<StatusCode> {
    clear(&app, &user, channel_id, message_id, None).await
}

/// Removes every reaction with one emoji. Errors: 10003, 10008, 10014, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/channels/{channel_id}/messages/{message_id}/reactions/{emoji_name}",
    tag = "Reactions",
    responses((status = 204, description = "The reactions are gone"))
)]
async fn delete_all_message_reactions_by_emoji(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id, emoji)): Path<(Id<Channel>, Id<Message>, String)>,
) -> Result<StatusCode> {
    let emoji = ReactionEmoji::parse(&emoji)?;
    clear(&app, &user, channel_id, message_id, Some(emoji)).await
}

async fn clear(
    app: &App,
    user: &CurrentUser,
    channel_id: Id<Channel>,
    message_id: Id<Message>,
    emoji: Option<ReactionEmoji>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_MESSAGES;
    let place = access::place_for_change(&mut tx, user, channel_id, needed).await?;
    place.require_unarchived()?;
    message_author(&mut *tx, channel_id, message_id).await?;
    let key = emoji.as_ref().map(ReactionEmoji::key);
    let emoji = match &key {
        Some(key) => shown(&mut *tx, channel_id, message_id, key).await?,
        None => None,
    };
    // A plan that is kept for all values has no use for the index if the emoji may be any.
    macro_rules! delete {
        ($of:literal) => {
            sqlx::query!(
                "with counted as (
                   delete from reaction_count
                   where channel_id = $1 and message_id = $2 and "
                    + $of
                    + " returning 1
                 ), gone as (
                   delete from reaction where channel_id = $1 and message_id = $2 and "
                    + $of
                    + ")
                 select from counted limit 1",
                channel_id.to_db(),
                message_id.to_db(),
                key,
            )
            .fetch_optional(&mut *tx)
            .await?
            .is_some()
        };
    }
    let were_there = match key {
        Some(_) => delete!("emoji = $3"),
        None => delete!("$3::text is null"),
    };
    if !were_there {
        tx.commit().await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let (audience, guild_id) = (place.audience(), place.guild_id());
    let kind = match key {
        Some(_) => EventKind::MessageReactionRemoveEmoji,
        None => EventKind::MessageReactionRemoveAll,
    };
    let body = ReactionsCleared {
        channel_id,
        message_id,
        guild_id,
        of: emoji.map(|emoji| OneEmoji {
            emoji,
            burst: false,
            kind: 0,
        }),
    };
    let events = audience.tell(&mut tx, kind, INTENTS, &body).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct ListQuery {
    #[serde(default, deserialize_with = "from_zero")]
    after: Option<Id<User>>,
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// 0 normal, 1 burst.
    #[serde(rename = "type")]
    #[param(maximum = 1)]
    kind: Option<u8>,
}

impl Form for ListQuery {
    fn check(&self, form: &mut FormErrors) {
        if let Some(limit) = self.limit {
            form.range("limit", limit, 1..=100);
        }
        check_kind("type", self.kind, form);
    }
}

/// Who reacted, by ascending id. Errors: 10003, 10008, 10014, 50001, 50013, 50035.
#[utoipa::path(
    get,
    path = "/channels/{channel_id}/messages/{message_id}/reactions/{emoji_name}",
    tag = "Reactions",
    params(ListQuery),
    responses((status = 200, body = Vec<model::User>))
)]
async fn list_message_reactions_by_emoji(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id, emoji)): Path<(Id<Channel>, Id<Message>, String)>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Vec<model::User>>> {
    let key = ReactionEmoji::parse(&emoji)?.key();
    let mut db = app.db.acquire().await?;
    let needed = Permissions::VIEW_CHANNEL | Permissions::READ_MESSAGE_HISTORY;
    access::place(&mut db, &user, channel_id, needed).await?;
    message_author(&mut *db, channel_id, message_id).await?;
    let rows = sqlx::query_as!(
        UserRow,
        "select a.user_id, a.username, a.discriminator, a.global_name, a.avatar, a.banner,
                a.accent_color, a.bot, a.public_flags
         from reaction r join account a using (user_id)
         where r.channel_id = $1 and r.message_id = $2 and r.emoji = $3 and r.burst = $4
           and r.user_id > $5
         order by r.user_id limit $6",
        channel_id.to_db(),
        message_id.to_db(),
        key,
        query.kind == Some(1),
        query.after.map_or(0, Id::to_db),
        query.limit.unwrap_or(25),
    )
    .fetch_all(&mut *db)
    .await?;
    Ok(Json(rows.into_iter().map(model::User::from).collect()))
}

/// The reactions of messages as `viewer` sees them, by channel and message.
pub(crate) async fn of_messages(
    db: impl PgExecutor<'_>,
    viewer: Id<User>,
    messages: &[(i64, i64)],
) -> Result<BTreeMap<(i64, i64), Vec<Reaction>>> {
    let (channels, ids): (Vec<i64>, Vec<i64>) = messages.iter().copied().unzip();
    let rows = sqlx::query!(
        r#"select c.channel_id, c.message_id, c.emoji_id, c.emoji_name, c.animated, c.normal,
                  c.burst, n.user_id is not null as "me!", b.user_id is not null as "me_burst!"
           from unnest($1::bigint[], $2::bigint[]) as wanted (channel_id, message_id)
           join reaction_count c using (channel_id, message_id)
           left join reaction n on n.channel_id = c.channel_id and n.message_id = c.message_id
             and n.emoji = c.emoji and not n.burst and n.user_id = $3
           left join reaction b on b.channel_id = c.channel_id and b.message_id = c.message_id
             and b.emoji = c.emoji and b.burst and b.user_id = $3
           order by c.message_id, c.first_at, c.emoji"#,
        &channels,
        &ids,
        viewer.to_db(),
    )
    .fetch_all(db)
    .await?;
    let mut found: BTreeMap<(i64, i64), Vec<Reaction>> = BTreeMap::new();
    for row in rows {
        let counts = ReactionCounts {
            burst: row.burst as u32,
            normal: row.normal as u32,
        };
        let reaction = Reaction {
            emoji: PartialEmoji {
                id: row.emoji_id.map(Id::from_db),
                name: row.emoji_name,
                animated: row.animated,
            },
            count: counts.burst + counts.normal,
            count_details: counts,
            me: row.me,
            me_burst: row.me_burst,
            burst_colors: Vec::new(),
        };
        let of_message = found.entry((row.channel_id, row.message_id)).or_default();
        of_message.push(reaction);
    }
    Ok(found)
}

/// Reactions as they go to everybody.
pub(crate) fn as_nobody(reactions: &[Reaction]) -> Vec<Reaction> {
    let reactions = reactions.iter().cloned().map(|reaction| Reaction {
        me: false,
        me_burst: false,
        ..reaction
    });
    reactions.collect()
}
