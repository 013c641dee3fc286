//! DMs and group DMs. Spec: permissions.md › DMs and group DMs.
//!
//! A private channel is a row of `channel` without a guild; who is in it is in
//! `private_recipient`. Its events go to each participant's own realm. A DM that somebody does
//! not list (`closed`) opens for them with the next message. Whoever changes who is in a
//! channel holds its row and the heads of all concerned (`access::place_for_change`).

use std::collections::BTreeSet;

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use guildhall_shared::{
    Id,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::EventKind,
    id::marker::{self, Realm},
    model::{ChannelKind, Message, MessageKind, PrivateChannel, User},
};
use guildhall_store::private;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgTransaction};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{channels::ChannelFields, messages};
use crate::{
    access::{self, Audience, Place, PrivateAccess},
    app::App,
    auth::CurrentUser,
    collect,
    error::{Error, Result},
    events,
    extract::{Form, Json, Path, null_is_default},
    form::{Fault, FormErrors},
    media::{ImageOf, store_optional_image},
};

/// People in a group DM.
const RECIPIENTS_MAX: usize = 10;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(user_dm_list, create_dm))
        .routes(routes!(user_dm_get))
        .routes(routes!(add_group_dm_user, delete_group_dm_user))
}

/// A private channel as one of its participants sees it. Errors: 10003.
pub(crate) async fn load(
    db: &mut PgConnection,
    id: Id<marker::Channel>,
    viewer: Id<marker::User>,
) -> Result<PrivateChannel> {
    let found = private::by_ids(db, viewer, &[id]).await?;
    Ok(found.into_iter().next().ok_or(ErrorCode::UnknownChannel)?)
}

/// Numbers an event about the channel for one participant. Bots learn of private channels by
/// their messages.
async fn tell_one(
    db: &mut PgConnection,
    kind: EventKind,
    id: Id<marker::Channel>,
    user: Id<marker::User>,
) -> Result<Option<Envelope>> {
    let is_bot = sqlx::query_scalar!("select bot from account where user_id = $1", user.to_db())
        .fetch_one(&mut *db)
        .await?;
    if is_bot {
        return Ok(None);
    }
    let channel = load(db, id, user).await?;
    let vis = Visibility::users(vec![user]);
    events::append(db, user, kind, vis, &channel, None)
        .await
        .map(Some)
}

/// The private channels that the caller lists, newest first. Errors: 20001.
#[utoipa::path(
    get,
    path = "/users/@me/channels",
    tag = "Direct messages",
    responses((status = 200, body = Vec<PrivateChannel>))
)]
async fn user_dm_list(
    State(app): State<App>,
    user: CurrentUser,
) -> Result<Json<Vec<PrivateChannel>>> {
    user.require_human()?;
    let mut db = app.db.acquire().await?;
    let open = private::open_ids(&mut *db, user.id).await?;
    Ok(Json(private::by_ids(&mut db, user.id, &open).await?))
}

/// The caller's DM with somebody. Errors: 10003, 20001.
#[utoipa::path(
    get,
    path = "/users/@me/dms/{user_id}",
    tag = "Direct messages",
    responses((status = 200, body = PrivateChannel))
)]
async fn user_dm_get(
    State(app): State<App>,
    user: CurrentUser,
    Path(user_id): Path<Id<marker::User>>,
) -> Result<Json<PrivateChannel>> {
    user.require_human()?;
    let mut db = app.db.acquire().await?;
    let id = pair(&mut db, user.id, user_id)
        .await?
        .ok_or(ErrorCode::UnknownChannel)?;
    Ok(Json(load(&mut db, id, user.id).await?))
}

/// The DM of two users.
async fn pair(
    db: &mut PgConnection,
    a: Id<marker::User>,
    b: Id<marker::User>,
) -> Result<Option<Id<marker::Channel>>> {
    let id = sqlx::query_scalar!(
        "select channel_id from private_pair where low_id = $1 and high_id = $2",
        a.min(b).to_db(),
        a.max(b).to_db(),
    )
    .fetch_optional(db)
    .await?;
    Ok(id.map(Id::from_db))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = CreatePrivateChannelRequest)]
struct CreateDm {
    recipient_id: Option<Id<marker::User>>,
    /// One makes a DM, more a group DM with the caller's friends.
    #[serde(default, deserialize_with = "null_is_default")]
    recipients: Vec<Id<marker::User>>,
}

impl Form for CreateDm {
    fn check(&self, form: &mut FormErrors) {
        if self.recipient_id.is_none() && self.recipients.is_empty() {
            form.add("recipient_id", Fault::Required);
        }
        let others: BTreeSet<_> = self.recipient_id.iter().chain(&self.recipients).collect();
        if others.len() >= RECIPIENTS_MAX {
            let (min, max) = (1, RECIPIENTS_MAX - 1);
            form.add("recipients", Fault::BadLength { min, max });
        }
    }
}

/// The DM with somebody, made if there is none, or a new group DM.
///
/// Errors: 10013, 20001 for a bot's group DM, 50007, 50033, 50035.
#[utoipa::path(
    post,
    path = "/users/@me/channels",
    tag = "Direct messages",
    responses((status = 200, body = PrivateChannel))
)]
async fn create_dm(
    State(app): State<App>,
    user: CurrentUser,
    Json(body): Json<CreateDm>,
) -> Result<Json<PrivateChannel>> {
    let others: BTreeSet<Id<marker::User>> = body
        .recipient_id
        .into_iter()
        .chain(body.recipients)
        .collect();
    if others.contains(&user.id) {
        return Err(ErrorCode::InvalidRecipients.into());
    }
    let mut tx = app.db.begin().await?;
    let realms = others.iter().copied().chain([user.id]);
    access::lock_realms(&mut tx, realms.map(Id::cast::<Realm>)).await?;
    let accounts = sqlx::query!(
        "select user_id, bot from account where user_id = any($1)",
        &others.iter().map(|id| id.to_db()).collect::<Vec<_>>(),
    )
    .fetch_all(&mut *tx)
    .await?;
    if accounts.len() != others.len() {
        return Err(ErrorCode::UnknownUser.into());
    }
    let mut told = Vec::new();
    let id = match others.iter().copied().collect::<Vec<_>>().as_slice() {
        &[other] => {
            if user.bot && accounts.iter().any(|account| account.bot) {
                return Err(ErrorCode::CannotSendToUser.into());
            }
            match pair(&mut tx, user.id, other).await? {
                Some(id) => id,
                None => insert_dm(&app, &mut tx, user.id, other).await?,
            }
        }
        _ => {
            user.require_human()?;
            if accounts.iter().any(|account| account.bot) {
                return Err(ErrorCode::InvalidRecipients.into());
            }
            for &other in &others {
                require_friends(&mut tx, user.id, other).await?;
            }
            let id = insert_group(&app, &mut tx, user.id, &others).await?;
            for &other in &others {
                told.push((other, id));
            }
            id
        }
    };
    // Opened anew, or new: its events ascend by realm.
    let opened = sqlx::query!(
        "update private_recipient set closed = false
         where channel_id = $1 and user_id = $2 and closed",
        id.to_db(),
        user.id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    if opened.rows_affected() > 0 {
        told.push((user.id, id));
    }
    told.sort_unstable();
    let mut events = Vec::new();
    for (user, id) in told {
        events.extend(tell_one(&mut tx, EventKind::ChannelCreate, id, user).await?);
    }
    let channel = load(&mut tx, id, user.id).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(channel))
}

/// A DM that neither lists yet.
async fn insert_dm(
    app: &App,
    db: &mut PgConnection,
    a: Id<marker::User>,
    b: Id<marker::User>,
) -> Result<Id<marker::Channel>> {
    let id: Id<marker::Channel> = app.snowflakes.next()?;
    sqlx::query!(
        "insert into channel (channel_id, kind) values ($1, $2)",
        id.to_db(),
        i16::from(ChannelKind::DM.0),
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "insert into private_recipient (channel_id, user_id, closed)
         values ($1, $2, true), ($1, $3, true)",
        id.to_db(),
        a.to_db(),
        b.to_db(),
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "insert into private_pair (low_id, high_id, channel_id) values ($1, $2, $3)",
        a.min(b).to_db(),
        a.max(b).to_db(),
        id.to_db(),
    )
    .execute(db)
    .await?;
    Ok(id)
}

/// A group DM that all but its owner list.
async fn insert_group(
    app: &App,
    db: &mut PgConnection,
    owner: Id<marker::User>,
    others: &BTreeSet<Id<marker::User>>,
) -> Result<Id<marker::Channel>> {
    let id: Id<marker::Channel> = app.snowflakes.next()?;
    sqlx::query!(
        "insert into channel (channel_id, kind, owner_id) values ($1, $2, $3)",
        id.to_db(),
        i16::from(ChannelKind::GROUP_DM.0),
        owner.to_db(),
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "insert into private_recipient (channel_id, user_id, closed)
         select $1, u.id, u.id = $2 from unnest($3::bigint[]) as u (id)",
        id.to_db(),
        owner.to_db(),
        &others
            .iter()
            .chain([&owner])
            .map(|id| id.to_db())
            .collect::<Vec<_>>(),
    )
    .execute(db)
    .await?;
    Ok(id)
}

/// Errors: 50033 unless the two are friends.
async fn require_friends(
    db: &mut PgConnection,
    a: Id<marker::User>,
    b: Id<marker::User>,
) -> Result<()> {
    const FRIEND: i16 = 1;
    let kind = sqlx::query_scalar!(
        "select kind from relationship where user_id = $1 and other_id = $2",
        a.to_db(),
        b.to_db(),
    )
    .fetch_optional(db)
    .await?;
    if kind == Some(FRIEND) {
        Ok(())
    } else {
        Err(ErrorCode::InvalidRecipients.into())
    }
}

/// Before somebody writes in a private channel: everyone lists it again, and in a DM the other
/// one can be written to. True if something had to change: what is known of the place is out
/// of date.
///
/// Errors: 50007 if one of the two blocks the other, if both are bots, or if they are no friends
/// and share no guild that lets them: its direct messages are not paused (incident actions), and
/// the one written to does not restrict it in their settings.
pub(crate) async fn make_ready(
    app: &App,
    user: &CurrentUser,
    access: &PrivateAccess,
) -> Result<bool> {
    let mut db = app.db.acquire().await?;
    if let Some(other) = access.other() {
        const FRIEND: i16 = 1;
        const BLOCKED: i16 = 2;
        let row = sqlx::query!(
            r#"select exists(select from relationship r where r.kind = $3
                        and ((r.user_id, r.other_id) = ($1, $2)
                             or (r.user_id, r.other_id) = ($2, $1))) as "blocked!",
                      exists(select from relationship r where r.kind = $4
                        and (r.user_id, r.other_id) = ($1, $2)) as "friends!",
                      exists(select from member a join member b using (guild_id)
                        join guild g using (guild_id)
                        left join user_settings s on s.user_id = $2
                        where a.user_id = $1 and b.user_id = $2
                          and not coalesce(s.settings -> 'restricted_guilds' ? guild_id::text, false)
                          and coalesce((g.settings #>> '{incidents_data,dms_disabled_until}')
                                         ::timestamptz, '-infinity') <= now()) as "share!""#,
            user.id.to_db(),
            other.user.to_db(),
            BLOCKED,
            FRIEND,
        )
        .fetch_one(&mut *db)
        .await?;
        if row.blocked || !(row.friends || row.share) || (user.bot && other.bot) {
            return Err(ErrorCode::CannotSendToUser.into());
        }
    }
    drop(db);
    if access.recipients.iter().all(|one| !one.closed) {
        return Ok(false);
    }
    let mut tx = app.db.begin().await?;
    let place = access::place_for_change(
        &mut tx,
        user,
        access.id,
        guildhall_shared::Permissions::VIEW_CHANNEL,
    )
    .await?;
    let opened = sqlx::query_scalar!(
        "update private_recipient set closed = false where channel_id = $1 and closed
         returning user_id",
        access.id.to_db(),
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut opened: Vec<Id<marker::User>> = guildhall_store::ids_from_db(opened);
    opened.sort_unstable();
    let mut told = Vec::new();
    for one in opened {
        told.extend(tell_one(&mut tx, EventKind::ChannelCreate, place.id(), one).await?);
    }
    tx.commit().await?;
    app.publisher.publish(told);
    Ok(true)
}

/// Keeps the new picture of a group DM that the caller is in: `None` if there is to be no other.
/// Before the transaction, as it takes time. Errors: 50035 and those of the channel.
pub(crate) async fn store_icon(
    app: &App,
    user: &CurrentUser,
    id: Id<marker::Channel>,
    body: &ChannelFields,
) -> Result<Option<Option<String>>> {
    if body.icon.is_none() {
        return Ok(None);
    }
    let mut db = app.db.acquire().await?;
    let needed = guildhall_shared::Permissions::VIEW_CHANNEL;
    let place = access::place(&mut db, user, id, needed).await?;
    drop(db);
    if !matches!(&place, Place::Private(access) if access.kind == ChannelKind::GROUP_DM) {
        return Ok(None);
    }
    store_optional_image(app, ImageOf::GroupIcon(id), "icon", &body.icon).await
}

/// Name and picture of a group DM, by anybody in it. A DM of two has neither.
///
/// Errors: 50024.
pub(crate) async fn update(
    app: &App,
    mut tx: PgTransaction<'_>,
    user: &CurrentUser,
    access: PrivateAccess,
    body: &ChannelFields,
    icon: Option<Option<String>>,
) -> Result<PrivateChannel> {
    if access.kind != ChannelKind::GROUP_DM {
        return Err(ErrorCode::InvalidChannelType.into());
    }
    let name = match &body.name {
        Some(name) => name
            .as_deref()
            .map(super::clean)
            .filter(|name| !name.is_empty()),
        None => access.name.clone(),
    };
    let icon = icon.unwrap_or_else(|| access.icon.clone());
    let mut notices = Vec::new();
    if name != access.name {
        let content = name.clone().unwrap_or_default();
        notices.push((MessageKind::CHANNEL_NAME_CHANGE, content));
    }
    if icon != access.icon {
        notices.push((MessageKind::CHANNEL_ICON_CHANGE, String::new()));
    }
    if notices.is_empty() {
        return load(&mut tx, access.id, user.id).await;
    }
    sqlx::query!(
        "update channel set name = $2, icon = $3 where channel_id = $1",
        access.id.to_db(),
        name,
        icon,
    )
    .execute(&mut *tx)
    .await?;
    let mut told = Vec::new();
    for one in access.participants() {
        told.extend(tell_one(&mut tx, EventKind::ChannelUpdate, access.id, one).await?);
    }
    for (kind, content) in notices {
        let mut notice = messages::draft(app, access.id, user.user().clone(), kind)?;
        notice.content = content;
        told.extend(messages::post_in(&mut tx, &access.audience(), None, &notice).await?);
    }
    let channel = load(&mut tx, access.id, user.id).await?;
    tx.commit().await?;
    app.publisher.publish(told);
    Ok(channel)
}

/// The caller does not list a DM any more, or leaves a group DM.
pub(crate) async fn close(
    app: &App,
    mut tx: PgTransaction<'_>,
    user: &CurrentUser,
    access: PrivateAccess,
) -> Result<PrivateChannel> {
    let channel = load(&mut tx, access.id, user.id).await?;
    let told = match access.kind {
        ChannelKind::GROUP_DM => {
            remove(app, &mut tx, user.user(), &access, user.user().clone()).await?
        }
        _ => {
            sqlx::query!(
                "update private_recipient set closed = true
                 where channel_id = $1 and user_id = $2",
                access.id.to_db(),
                user.id.to_db(),
            )
            .execute(&mut *tx)
            .await?;
            let deleted = EventKind::ChannelDelete;
            tell_one(&mut tx, deleted, access.id, user.id)
                .await?
                .into_iter()
                .collect()
        }
    };
    tx.commit().await?;
    app.publisher.publish(told);
    Ok(channel)
}

#[derive(Serialize)]
struct RecipientChange<'a> {
    channel_id: Id<marker::Channel>,
    user: &'a User,
    #[serde(skip_serializing_if = "Option::is_none")]
    nick: Option<&'a str>,
}

/// Takes somebody out of a group DM; the last one takes the channel along.
async fn remove(
    app: &App,
    db: &mut PgConnection,
    by: &User,
    access: &PrivateAccess,
    target: User,
) -> Result<Vec<Envelope>> {
    let mut told = Vec::new();
    // By the old state, so that who leaves is told what it was.
    let gone = tell_one(&mut *db, EventKind::ChannelDelete, access.id, target.id).await?;
    sqlx::query!(
        "delete from private_recipient where channel_id = $1 and user_id = $2",
        access.id.to_db(),
        target.id.to_db(),
    )
    .execute(&mut *db)
    .await?;
    told.extend(gone);
    let rest: Vec<_> = access
        .participants()
        .filter(|&user| user != target.id)
        .collect();
    let Some(&heir) = rest.first() else {
        collect::delete_channel(db, access.id).await?;
        return Ok(told);
    };
    if access.owner == Some(target.id) {
        sqlx::query!(
            "update channel set owner_id = $2 where channel_id = $1",
            access.id.to_db(),
            heir.to_db(),
        )
        .execute(&mut *db)
        .await?;
        for &one in &rest {
            told.extend(tell_one(&mut *db, EventKind::ChannelUpdate, access.id, one).await?);
        }
    }
    let audience = Audience::of_private(access.id, access.kind, rest);
    let body = RecipientChange {
        channel_id: access.id,
        user: &target,
        nick: None,
    };
    let vis = Visibility::realm(guildhall_shared::gateway::Intents::empty());
    let kind = EventKind::ChannelRecipientRemove;
    told.extend(audience.append(db, kind, vis, &body, None).await?);
    let kind = MessageKind::RECIPIENT_REMOVE;
    let notice = Message {
        mentions: vec![target],
        ..messages::draft(app, access.id, by.clone(), kind)?
    };
    told.extend(messages::post_in(db, &audience, None, &notice).await?);
    Ok(told)
}

/// Takes a deleted account out of one of its group DMs; false if it is in none.
pub(crate) async fn leave_group(app: &App, user: Id<marker::User>) -> Result<bool> {
    let group = sqlx::query_scalar!(
        "select r.channel_id from private_recipient r join channel c using (channel_id)
         where r.user_id = $1 and c.kind = $2 limit 1",
        user.to_db(),
        i16::from(ChannelKind::GROUP_DM.0),
    )
    .fetch_optional(&app.db)
    .await?;
    let Some(group) = group else { return Ok(false) };
    let group: Id<marker::Channel> = Id::from_db(group);
    let mut tx = app.db.begin().await?;
    lock_with(&mut tx, group, user).await?;
    let access = match access::place_unchecked(&mut tx, user, group).await {
        Ok(Place::Private(access)) => access,
        // They were taken out meanwhile.
        Ok(_) | Err(Error::Code(ErrorCode::UnknownChannel)) => return Ok(true),
        Err(error) => return Err(error),
    };
    let target = messages::load::users(&mut *tx, &[user.to_db()])
        .await?
        .remove(&user)
        .ok_or(ErrorCode::UnknownUser)?;
    let told = remove(app, &mut tx, &target.clone(), &access, target).await?;
    tx.commit().await?;
    app.publisher.publish(told);
    Ok(true)
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = AddRecipientRequest)]
struct AddRecipient {
    /// For apps of the documented form, which this server does not have.
    #[expect(dead_code, reason = "read so that the document names it")]
    access_token: Option<String>,
    nick: Option<String>,
}

impl Form for AddRecipient {
    fn check(&self, form: &mut FormErrors) {
        if let Some(nick) = &self.nick {
            form.length("nick", nick, 0..=32);
        }
    }
}

/// A friend joins a group DM; from a DM of two friends, a new group with all three is made (201).
///
/// Errors: 10003, 10013, 20001, 30004, 50024, 50033.
#[utoipa::path(
    put,
    path = "/channels/{channel_id}/recipients/{user_id}",
    tag = "Direct messages",
    responses(
        (status = 201, body = PrivateChannel, description = "A new group DM"),
        (status = 204, description = "The user is in it")
    )
)]
async fn add_group_dm_user(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, user_id)): Path<(Id<marker::Channel>, Id<marker::User>)>,
    Json(body): Json<AddRecipient>,
) -> Result<axum::response::Response> {
    user.require_human()?;
    let mut tx = app.db.begin().await?;
    // Everyone concerned, the new one too, before anything is read.
    lock_with(&mut tx, channel_id, user_id).await?;
    let needed = guildhall_shared::Permissions::VIEW_CHANNEL;
    let place = access::place(&mut tx, &user, channel_id, needed).await?;
    let Place::Private(access) = place else {
        return Err(ErrorCode::InvalidChannelType.into());
    };
    let target = messages::load::users(&mut *tx, &[user_id.to_db()])
        .await?
        .remove(&user_id)
        .ok_or(ErrorCode::UnknownUser)?;
    if access.participants().any(|one| one == user_id) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    if target.bot {
        return Err(ErrorCode::InvalidRecipients.into());
    }
    require_friends(&mut tx, user.id, user_id).await?;
    if access.kind == ChannelKind::DM {
        let mut others: BTreeSet<_> = access.participants().collect();
        others.remove(&user.id);
        // As in any new group: whoever blocks the caller is not pulled in, nor is a bot.
        for &other in &others {
            require_friends(&mut tx, user.id, other).await?;
        }
        others.insert(user_id);
        let id = insert_group(&app, &mut tx, user.id, &others).await?;
        sqlx::query!(
            "update private_recipient set closed = false where channel_id = $1",
            id.to_db(),
        )
        .execute(&mut *tx)
        .await?;
        let mut told = Vec::new();
        others.insert(user.id);
        for one in others {
            told.extend(tell_one(&mut tx, EventKind::ChannelCreate, id, one).await?);
        }
        let channel = load(&mut tx, id, user.id).await?;
        tx.commit().await?;
        app.publisher.publish(told);
        return Ok((StatusCode::CREATED, Json(channel)).into_response());
    }
    if access.recipients.len() >= RECIPIENTS_MAX {
        return Err(ErrorCode::MaximumRecipients.into());
    }
    let nick = body.nick.as_deref().map(super::clean);
    sqlx::query!(
        "insert into private_recipient (channel_id, user_id, nick) values ($1, $2, $3)",
        channel_id.to_db(),
        user_id.to_db(),
        nick,
    )
    .execute(&mut *tx)
    .await?;
    // What was said before is not new to who comes now.
    sqlx::query!(
        "insert into read_state as s (user_id, channel_id, last_message_id)
         select $2, $1, coalesce(max(message_id), 0) from message where channel_id = $1
         on conflict (user_id, channel_id) do update
         set last_message_id = greatest(s.last_message_id, excluded.last_message_id),
             mention_count = 0, counted_to = 0",
        channel_id.to_db(),
        user_id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    let added = RecipientChange {
        channel_id,
        user: &target,
        nick: nick.as_deref(),
    };
    let vis = Visibility::realm(guildhall_shared::gateway::Intents::empty());
    let kind = EventKind::ChannelRecipientAdd;
    let mut told = access
        .audience()
        .append(&mut tx, kind, vis, &added, None)
        .await?;
    told.extend(tell_one(&mut tx, EventKind::ChannelCreate, channel_id, user_id).await?);
    let kind = MessageKind::RECIPIENT_ADD;
    let notice = Message {
        mentions: vec![target.clone()],
        ..messages::draft(&app, channel_id, user.user().clone(), kind)?
    };
    let everyone = access.participants().chain([user_id]);
    let audience = Audience::of_private(channel_id, access.kind, everyone);
    told.extend(messages::post_in(&mut tx, &audience, None, &notice).await?);
    tx.commit().await?;
    app.publisher.publish(told);
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Locks a private channel and the heads of its participants and of one more user, ascending.
async fn lock_with(
    db: &mut PgConnection,
    channel: Id<marker::Channel>,
    user: Id<marker::User>,
) -> Result<()> {
    sqlx::query!(
        "select channel_id from channel where channel_id = $1 and guild_id is null for update",
        channel.to_db(),
    )
    .fetch_optional(&mut *db)
    .await?;
    let participants = sqlx::query_scalar!(
        "select user_id from private_recipient where channel_id = $1",
        channel.to_db(),
    )
    .fetch_all(&mut *db)
    .await?;
    let participants = guildhall_store::ids_from_db::<Realm>(participants);
    access::lock_realms(db, participants.into_iter().chain([user.cast()])).await
}

/// Oneself, or anybody by the group's owner. Errors: 10003, 10013, 50013, 50024.
#[utoipa::path(
    delete,
    path = "/channels/{channel_id}/recipients/{user_id}",
    tag = "Direct messages",
    responses((status = 204, description = "The user is not in it"))
)]
async fn delete_group_dm_user(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, user_id)): Path<(Id<marker::Channel>, Id<marker::User>)>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = guildhall_shared::Permissions::VIEW_CHANNEL;
    let place = access::place_for_change(&mut tx, &user, channel_id, needed).await?;
    let Place::Private(access) = place else {
        return Err(ErrorCode::InvalidChannelType.into());
    };
    if access.kind != ChannelKind::GROUP_DM {
        return Err(ErrorCode::InvalidChannelType.into());
    }
    if user_id != user.id && access.owner != Some(user.id) {
        return Err(ErrorCode::MissingPermissions.into());
    }
    if access.participants().all(|one| one != user_id) {
        return Err(ErrorCode::UnknownUser.into());
    }
    let target = messages::load::users(&mut *tx, &[user_id.to_db()])
        .await?
        .remove(&user_id)
        .ok_or(ErrorCode::UnknownUser)?;
    let told = remove(&app, &mut tx, user.user(), &access, target).await?;
    tx.commit().await?;
    app.publisher.publish(told);
    Ok(StatusCode::NO_CONTENT)
}
