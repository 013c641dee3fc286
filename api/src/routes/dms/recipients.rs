//! Who comes into a group DM, and who goes.

use std::collections::BTreeSet;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Realm},
    model::{ChannelKind, Message, MessageKind, PrivateChannel, User},
};
use guildhall_store::ids_from_db;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{RECIPIENTS_MAX, insert_group, load, require_friends, tell_one};
use crate::{
    access::{self, Audience, Place, PrivateAccess},
    app::App,
    auth::CurrentUser,
    collect,
    error::{Error, Result},
    extract::{Form, Json, Path},
    form::FormErrors,
    routes::messages,
    text::clean,
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(add_group_dm_user, delete_group_dm_user))
}

#[derive(Serialize)]
struct RecipientChange<'a> {
    channel_id: Id<marker::Channel>,
    user: &'a User,
    #[serde(skip_serializing_if = "Option::is_none")]
    nick: Option<&'a str>,
}

/// Takes somebody out of a group DM; the last one takes the channel along.
pub(super) async fn remove(
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
    // Or they would come back by what they made themselves.
    sqlx::query!(
        "delete from group_invite where channel_id = $1 and inviter_id = $2",
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
    let vis = Visibility::realm(Intents::empty());
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
) -> Result<Response> {
    user.require_human()?;
    let mut tx = app.db.begin().await?;
    // Everyone concerned, the new one too, before anything is read.
    lock_with(&mut tx, channel_id, user_id).await?;
    let needed = Permissions::VIEW_CHANNEL;
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
    let nick = body.nick.as_deref().map(clean);
    let (inside, nick): (Vec<_>, _) = (access.participants().collect(), nick.as_deref());
    let by = user.user();
    let told = add(&app, &mut tx, by, channel_id, &inside, &target, nick).await?;
    tx.commit().await?;
    app.publisher.publish(told);
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Takes somebody into a group DM with those `inside`; they and the group are locked, see
/// [`lock_with`]. Publish what it returns after the commit.
///
/// Errors: 30004.
pub(crate) async fn add(
    app: &App,
    db: &mut PgConnection,
    by: &User,
    group: Id<marker::Channel>,
    inside: &[Id<marker::User>],
    target: &User,
    nick: Option<&str>,
) -> Result<Vec<Envelope>> {
    if inside.len() >= RECIPIENTS_MAX {
        return Err(ErrorCode::MaximumRecipients.into());
    }
    sqlx::query!(
        "insert into private_recipient (channel_id, user_id, nick) values ($1, $2, $3)",
        group.to_db(),
        target.id.to_db(),
        nick,
    )
    .execute(&mut *db)
    .await?;
    // What was said before is not new to who comes now.
    sqlx::query!(
        "insert into read_state as s (user_id, channel_id, last_message_id)
         select $2, $1, coalesce(max(message_id), 0) from message where channel_id = $1
         on conflict (user_id, channel_id) do update
         set last_message_id = greatest(s.last_message_id, excluded.last_message_id),
             mention_count = 0, counted_to = 0",
        group.to_db(),
        target.id.to_db(),
    )
    .execute(&mut *db)
    .await?;
    let added = RecipientChange {
        channel_id: group,
        user: target,
        nick,
    };
    let those_inside = inside.iter().copied();
    let audience = Audience::of_private(group, ChannelKind::GROUP_DM, those_inside.clone());
    let vis = Visibility::realm(Intents::empty());
    let kind = EventKind::ChannelRecipientAdd;
    let mut told = audience.append(&mut *db, kind, vis, &added, None).await?;
    told.extend(tell_one(&mut *db, EventKind::ChannelCreate, group, target.id).await?);
    let kind = MessageKind::RECIPIENT_ADD;
    let notice = Message {
        mentions: vec![target.clone()],
        ..messages::draft(app, group, by.clone(), kind)?
    };
    let everyone = those_inside.chain([target.id]);
    let audience = Audience::of_private(group, ChannelKind::GROUP_DM, everyone);
    told.extend(messages::post_in(db, &audience, None, &notice).await?);
    Ok(told)
}

/// Locks a private channel and the heads of its participants and of one more user, ascending.
pub(crate) async fn lock_with(
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
    let participants = ids_from_db::<Realm>(participants);
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
    let needed = Permissions::VIEW_CHANNEL;
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
