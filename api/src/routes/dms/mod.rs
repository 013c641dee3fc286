//! DMs and group DMs. Spec: permissions.md › DMs and group DMs.
//!
//! A private channel is a row of `channel` without a guild; who is in it is in
//! `private_recipient`. Its events go to each participant's own realm. A DM that somebody does
//! not list (`closed`) opens for them with the next message. Whoever changes who is in a
//! channel holds its row and the heads of all concerned (`access::place_for_change`).

mod recipients;

use std::collections::BTreeSet;

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::EventKind,
    id::marker::{self, Realm},
    model::{ChannelKind, MessageKind, PrivateChannel, RelationshipKind},
};
use guildhall_store::{ids_from_db, private};
use serde::Deserialize;
use sqlx::{PgConnection, PgTransaction};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::recipients::{add, leave_group, lock_with};
use super::{channels::fields::ChannelFields, messages, relationships};
use crate::{
    access::{self, Audience, Place, PrivateAccess},
    app::App,
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path, null_is_default},
    form::{Fault, FormErrors},
    media::{ImageOf, store_optional_image},
    text::clean,
};

/// People in a group DM.
const RECIPIENTS_MAX: usize = 10;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(user_dm_list, create_dm))
        .routes(routes!(user_dm_get))
        .merge(recipients::router())
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
    /// One makes a DM, more a group DM with the caller's friends; the caller may be among these.
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
    let mut others: BTreeSet<Id<marker::User>> = body
        .recipient_id
        .into_iter()
        .chain(body.recipients)
        .collect();
    // So clients ask for a group with one friend.
    let names_self = others.remove(&user.id);
    if others.is_empty() && names_self {
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
        &[other] if !names_self => {
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
    match relationships::are_friends(db, a, b).await? {
        true => Ok(()),
        false => Err(ErrorCode::InvalidRecipients.into()),
    }
}

/// Whether what somebody brings about may appear in a private channel: in a DM the other one can be
/// written to, as [`make_ready`] says.
pub(crate) async fn may_write(db: &mut PgConnection, access: &PrivateAccess) -> Result<bool> {
    Ok(what_forbids(db, access).await?.is_none())
}

/// Errors: 50007 and 50278, as [`make_ready`], but for bots.
pub(crate) async fn require_let(db: &mut PgConnection, access: &PrivateAccess) -> Result<()> {
    match what_forbids(db, access).await? {
        Some(code) => Err(code.into()),
        None => Ok(()),
    }
}

async fn what_forbids(db: &mut PgConnection, access: &PrivateAccess) -> Result<Option<ErrorCode>> {
    let Some(other) = access.other() else {
        return Ok(None);
    };
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
        access.user.to_db(),
        other.user.to_db(),
        i16::from(u8::from(RelationshipKind::Blocked)),
        i16::from(u8::from(RelationshipKind::Friend)),
    )
    .fetch_one(&mut *db)
    .await?;
    if row.blocked {
        return Ok(Some(ErrorCode::CannotSendToUser));
    }
    if row.friends || row.share {
        return Ok(None);
    }
    // On its own: every message of a direct message is asked the other things.
    let meet = sqlx::query_scalar!(
        r#"select exists(select from member a join member b using (guild_id)
                         join guild using (guild_id)
                         where a.user_id = $1 and b.user_id = $2) as "meet!""#,
        access.user.to_db(),
        other.user.to_db(),
    )
    .fetch_one(db)
    .await?;
    Ok(Some(match meet {
        true => ErrorCode::CannotSendToUser,
        false => ErrorCode::NoMutualGuilds,
    }))
}

/// Before somebody writes in a private channel: everyone lists it again, and in a DM the other
/// one can be written to. True if something had to change: what is known of the place is out
/// of date.
///
/// Errors: 50007 if one of the two blocks the other, if both are bots, or if they are no friends
/// and share no guild that lets them: its direct messages are not paused (incident actions), and
/// the one written to does not restrict it in their settings. 50278 if they share none at all.
pub(crate) async fn make_ready(
    app: &App,
    user: &CurrentUser,
    access: &PrivateAccess,
) -> Result<bool> {
    let mut db = app.db.acquire().await?;
    if user.bot && access.other().is_some_and(|other| other.bot) {
        return Err(ErrorCode::CannotSendToUser.into());
    }
    require_let(&mut db, access).await?;
    drop(db);
    if access.recipients.iter().all(|one| !one.closed) {
        return Ok(false);
    }
    let mut tx = app.db.begin().await?;
    let place =
        access::place_for_change(&mut tx, user, access.id, Permissions::VIEW_CHANNEL).await?;
    let told = open(&mut tx, place.id()).await?;
    tx.commit().await?;
    app.publisher.publish(told);
    Ok(true)
}

/// Before a message comes into a place that is a private channel: everyone lists it again. The place
/// is locked, and who may write there is looked at.
pub(crate) async fn open_for_all(db: &mut PgConnection, place: &Audience) -> Result<Vec<Envelope>> {
    match place.guild {
        Some(_) => Ok(Vec::new()),
        None => open(db, place.channel).await,
    }
}

/// Everyone lists a private channel, which is locked; tells those who did not.
async fn open(db: &mut PgConnection, id: Id<marker::Channel>) -> Result<Vec<Envelope>> {
    let opened = sqlx::query_scalar!(
        "update private_recipient set closed = false where channel_id = $1 and closed
         returning user_id",
        id.to_db(),
    )
    .fetch_all(&mut *db)
    .await?;
    let mut opened: Vec<Id<marker::User>> = ids_from_db(opened);
    opened.sort_unstable();
    let mut told = Vec::new();
    for one in opened {
        told.extend(tell_one(db, EventKind::ChannelCreate, id, one).await?);
    }
    Ok(told)
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
    let needed = Permissions::VIEW_CHANNEL;
    let place = access::place(&mut db, user, id, needed).await?;
    drop(db);
    if !matches!(&place, Place::Private(access) if access.kind == ChannelKind::GROUP_DM) {
        return Ok(None);
    }
    store_optional_image(&app.media, ImageOf::GroupIcon(id), "icon", &body.icon).await
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
        Some(name) => name.as_deref().map(clean).filter(|name| !name.is_empty()),
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
            recipients::remove(app, &mut tx, user.user(), &access, user.user().clone()).await?
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
