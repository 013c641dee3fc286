//! Who is in a thread.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::Envelope,
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild, User},
    model::{ChannelKind, Member, MessageKind, Thread, ThreadMember, present},
    permissions::{self, ChannelClass},
};
use guildhall_store::thread::{self, Whose};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgConnection, types::Json as Jsonb};
use utoipa::{IntoParams, ToSchema};

use super::{MEMBERS_MAX, archive, audience_of, load, only, tell_members};
use crate::{
    access::{self, Place, ThreadAccess},
    app::App,
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path, Query, from_zero},
    form::FormErrors,
    routes::messages,
};

/// Notification settings: everything, mentions only, nothing.
const FLAGS_SETTABLE: i32 = 0b1110;

/// Puts a member of the guild into a thread; false if they were in it. Numbers nothing.
pub(super) async fn insert(
    db: &mut PgConnection,
    thread: Id<Channel>,
    guild: Id<Guild>,
    user: Id<User>,
) -> Result<bool> {
    let done = sqlx::query!(
        "insert into thread_member (thread_id, user_id, guild_id) values ($1, $2, $3)
         on conflict do nothing",
        thread.to_db(),
        user.to_db(),
        guild.to_db(),
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Somebody's membership of a thread.
pub(super) async fn of(
    db: &mut PgConnection,
    thread: Id<Channel>,
    user: Id<User>,
) -> Result<Option<ThreadMember>> {
    let found = thread::members(db, &[thread], Whose::Own(user)).await?;
    Ok(found.into_iter().next().map(public))
}

/// Without what is nobody else's business.
fn public(member: ThreadMember) -> ThreadMember {
    ThreadMember {
        muted: None,
        mute_config: None,
        ..member
    }
}

async fn count(db: &mut PgConnection, thread: Id<Channel>) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from thread_member where thread_id = $1"#,
        thread.to_db(),
    )
    .fetch_one(db)
    .await?;
    Ok(count)
}

/// Lets a member of the guild into a thread, with all events that tells; none if they are in
/// it. The guild's head is locked.
///
/// Errors: 30033.
async fn admit(
    db: &mut PgConnection,
    id: Id<Channel>,
    guild: Id<Guild>,
    user: Id<User>,
    member: &Member,
) -> Result<Vec<Envelope>> {
    if !insert(db, id, guild, user).await? {
        return Ok(Vec::new());
    }
    // The newcomer is among them, and not stored if there is no room.
    if count(db, id).await? > MEMBERS_MAX {
        return Err(ErrorCode::MaximumThreadMembers.into());
    }
    let thread = load(db, id).await?;
    let of_thread = of(db, id, user).await?;
    let joined = Thread {
        member: of_thread.clone(),
        ..thread.clone()
    };
    let kind = EventKind::ThreadCreate;
    let mut told = vec![events::append(db, guild, kind, only(user), &joined, None).await?];
    let added = of_thread.map(|of_thread| (of_thread, member.clone()));
    told.extend(tell_members(db, &thread, user, added).await?);
    Ok(told)
}

/// Before somebody writes in a thread: it is not archived, and the author is in it, as far as
/// there is room. True if something had to change: what is known of the place is out of date.
///
/// Errors: 10003, 50001, 50013, 60003, 160005, 160006, 160007.
pub(crate) async fn make_ready(
    app: &App,
    user: &CurrentUser,
    access: &ThreadAccess,
) -> Result<bool> {
    if access.joined && !access.thread.thread_metadata.archived {
        return Ok(false);
    }
    let id = access.thread.id;
    let mut tx = app.db.begin().await?;
    let needed = Permissions::SEND_MESSAGES_IN_THREADS;
    let place = access::place_for_change(&mut tx, user, id, needed).await?;
    let Place::Thread(now) = &place else {
        return Ok(false);
    };
    let mut told = Vec::new();
    if now.thread.thread_metadata.archived {
        // Somebody may have locked it since it was looked at.
        place.require_unlocked()?;
        told.extend(archive::revive(&mut tx, id).await?);
    }
    if !now.joined && count(&mut tx, id).await? < MEMBERS_MAX {
        let member = Member {
            user: Some(user.user().clone()),
            ..now.guild.member.clone()
        };
        told.extend(admit(&mut tx, id, now.guild.id, user.id, &member).await?);
    }
    tx.commit().await?;
    let changed = !told.is_empty();
    app.publisher.publish(told);
    Ok(changed)
}

/// The caller at a thread that is to change. Errors: 10003, 50001, 50013, 50024, 50083.
async fn open_thread(
    db: &mut PgConnection,
    user: &CurrentUser,
    id: Id<Channel>,
) -> Result<ThreadAccess> {
    let needed = Permissions::VIEW_CHANNEL;
    let place = access::place_for_change(db, user, id, needed).await?;
    place.require_unarchived()?;
    match place {
        Place::Thread(access) => Ok(*access),
        Place::Channel(_) | Place::Private(_) => Err(ErrorCode::InvalidChannelType.into()),
    }
}

/// Errors: 10003, 30033, 50001, 50024, 50083.
#[utoipa::path(
    put,
    path = "/channels/{channel_id}/thread-members/@me",
    tag = "Threads",
    responses((status = 204, description = "The caller is in it"))
)]
pub(super) async fn join_thread(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let access = open_thread(&mut tx, &user, channel_id).await?;
    let mut told = Vec::new();
    if !access.joined {
        let member = Member {
            user: Some(user.user().clone()),
            ..access.guild.member.clone()
        };
        told = admit(&mut tx, channel_id, access.guild.id, user.id, &member).await?;
    }
    tx.commit().await?;
    app.publisher.publish(told);
    Ok(StatusCode::NO_CONTENT)
}

/// Errors: 10003, 50001, 50024, 50083.
#[utoipa::path(
    delete,
    path = "/channels/{channel_id}/thread-members/@me",
    tag = "Threads",
    responses((status = 204, description = "The caller is not in it"))
)]
pub(super) async fn leave_thread(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    open_thread(&mut tx, &user, channel_id).await?;
    let told = remove(&mut tx, channel_id, user.id).await?;
    tx.commit().await?;
    app.publisher.publish(told.unwrap_or_default());
    Ok(StatusCode::NO_CONTENT)
}

/// Takes somebody out; `None` if they were not in it.
async fn remove(
    db: &mut PgConnection,
    thread: Id<Channel>,
    user: Id<User>,
) -> Result<Option<Vec<Envelope>>> {
    let done = sqlx::query!(
        "delete from thread_member where thread_id = $1 and user_id = $2",
        thread.to_db(),
        user.to_db(),
    )
    .execute(&mut *db)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(None);
    }
    let thread = load(db, thread).await?;
    tell_members(db, &thread, user, None).await.map(Some)
}

/// By who may write there. Errors: 10003, 10007, 30033 above 1000 members, 50001, 50013, 50024,
/// 50083, 160005.
#[utoipa::path(
    put,
    path = "/channels/{channel_id}/thread-members/{user_id}",
    tag = "Threads",
    responses((status = 204, description = "The user is in it"))
)]
pub(super) async fn add_thread_member(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, user_id)): Path<(Id<Channel>, Id<User>)>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let access = open_thread(&mut tx, &user, channel_id).await?;
    access.require(Permissions::SEND_MESSAGES_IN_THREADS)?;
    access.require_unlocked()?;
    let thread = &access.thread;
    let may_invite = thread.kind != ChannelKind::PRIVATE_THREAD
        || thread.thread_metadata.invitable.unwrap_or(true)
        || thread.owner_id == user.id;
    if !may_invite {
        access.require(Permissions::MANAGE_THREADS)?;
    }
    let guild = access.guild.id;
    let member = guildhall_store::guild::member(&mut *tx, guild, user_id)
        .await?
        .ok_or(ErrorCode::UnknownMember)?;
    let held = permissions::in_channel(
        access.guild.base_of_member(user_id, &member),
        guild,
        access.guild.access_of(user_id, &member),
        &access.parent.permission_overwrites,
        ChannelClass::Thread,
        Timestamp::now(),
    );
    if !held.contains(Permissions::VIEW_CHANNEL) {
        return Err(ErrorCode::MissingAccess.into());
    }
    let mut told = admit(&mut tx, channel_id, guild, user_id, &member).await?;
    if !told.is_empty() && user_id != user.id {
        let kind = MessageKind::RECIPIENT_ADD;
        told.extend(notice(&app, &mut tx, &user, &access, kind, &member).await?);
    }
    tx.commit().await?;
    app.publisher.publish(told);
    Ok(StatusCode::NO_CONTENT)
}

/// The server says in the thread that the caller added or removed somebody.
async fn notice(
    app: &App,
    db: &mut PgConnection,
    user: &CurrentUser,
    access: &ThreadAccess,
    kind: MessageKind,
    target: &Member,
) -> Result<Vec<Envelope>> {
    let author = user.user().clone();
    let mut notice = messages::draft(app, access.thread.id, author, kind)?;
    notice.mentions.extend(target.user.clone());
    let audience = audience_of(db, &access.thread).await?;
    messages::post_in(db, &audience, Some(&access.guild.member), &notice).await
}

/// With MANAGE_THREADS, or as the owner of a private thread.
///
/// Errors: 10003, 10007, 50001, 50013, 50024, 50083.
#[utoipa::path(
    delete,
    path = "/channels/{channel_id}/thread-members/{user_id}",
    tag = "Threads",
    responses((status = 204, description = "The user is not in it"))
)]
pub(super) async fn delete_thread_member(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, user_id)): Path<(Id<Channel>, Id<User>)>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let access = open_thread(&mut tx, &user, channel_id).await?;
    let is_host =
        access.thread.kind == ChannelKind::PRIVATE_THREAD && access.thread.owner_id == user.id;
    if !is_host || access.guild.is_silenced() {
        access.require(Permissions::MANAGE_THREADS)?;
    }
    let member = guildhall_store::guild::member(&mut *tx, access.guild.id, user_id).await?;
    let mut told = remove(&mut tx, channel_id, user_id)
        .await?
        .ok_or(ErrorCode::UnknownMember)?;
    if let Some(member) = member.filter(|_| user_id != user.id) {
        let kind = MessageKind::RECIPIENT_REMOVE;
        told.extend(notice(&app, &mut tx, &user, &access, kind, &member).await?);
    }
    tx.commit().await?;
    app.publisher.publish(told);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct ListMembers {
    with_member: Option<bool>,
    #[serde(default, deserialize_with = "from_zero")]
    after: Option<Id<User>>,
    /// 1 to 100; only with `with_member`.
    limit: Option<i64>,
}

impl Form for ListMembers {
    fn check(&self, form: &mut FormErrors) {
        if let Some(limit) = self.limit {
            form.range("limit", limit, 1..=100);
        }
    }
}

/// By user id; all of them, or with `with_member` a page. Bots need GUILD_MEMBERS.
///
/// Errors: 10003, 50001, 50024.
#[utoipa::path(
    get,
    path = "/channels/{channel_id}/thread-members",
    tag = "Threads",
    params(ListMembers),
    responses((status = 200, body = Vec<ThreadMember>))
)]
pub(super) async fn list_thread_members(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    Query(query): Query<ListMembers>,
) -> Result<Json<Vec<ThreadMember>>> {
    let mut db = app.db.acquire().await?;
    let guild = seen_thread(&mut db, &user, channel_id).await?.guild.id;
    if let Some((_, flags)) = user.account.application
        && !Intents::allowed_by_application(flags).contains(Intents::GUILD_MEMBERS)
    {
        return Err(ErrorCode::MissingAccess.into());
    }
    let with_member = query.with_member.unwrap_or_default();
    let (after, limit) = match with_member {
        true => (query.after.map_or(0, Id::to_db), query.limit.unwrap_or(100)),
        false => (0, MEMBERS_MAX),
    };
    let rows = sqlx::query!(
        "select user_id, joined_at, flags from thread_member
         where thread_id = $1 and user_id > $2 order by user_id limit $3",
        channel_id.to_db(),
        after,
        limit,
    )
    .fetch_all(&mut *db)
    .await?;
    let mut members = Vec::with_capacity(rows.len());
    for row in rows {
        let user = Id::from_db(row.user_id);
        let member = match with_member {
            true => guildhall_store::guild::member(&mut *db, guild, user).await?,
            false => None,
        };
        members.push(ThreadMember {
            id: Some(channel_id),
            user_id: Some(user),
            join_timestamp: Timestamp(row.joined_at),
            flags: row.flags as u64,
            muted: None,
            mute_config: None,
            member,
        });
    }
    Ok(Json(members))
}

/// Errors: 10003, 50001, 50024.
async fn seen_thread(
    db: &mut PgConnection,
    user: &CurrentUser,
    id: Id<Channel>,
) -> Result<ThreadAccess> {
    match access::place(db, user, id, Permissions::VIEW_CHANNEL).await? {
        Place::Thread(access) => Ok(*access),
        Place::Channel(_) | Place::Private(_) => Err(ErrorCode::InvalidChannelType.into()),
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct GetMember {
    with_member: Option<bool>,
}

impl Form for GetMember {}

/// Errors: 10003, 10007, 50001, 50024.
#[utoipa::path(
    get,
    path = "/channels/{channel_id}/thread-members/{user_id}",
    tag = "Threads",
    params(GetMember),
    responses((status = 200, body = ThreadMember))
)]
pub(super) async fn get_thread_member(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, user_id)): Path<(Id<Channel>, Id<User>)>,
    Query(query): Query<GetMember>,
) -> Result<Json<ThreadMember>> {
    let mut db = app.db.acquire().await?;
    let guild = seen_thread(&mut db, &user, channel_id).await?.guild.id;
    let mut member = of(&mut db, channel_id, user_id)
        .await?
        .ok_or(ErrorCode::UnknownMember)?;
    if query.with_member.unwrap_or_default() {
        member.member = guildhall_store::guild::member(&mut *db, guild, user_id).await?;
    }
    Ok(Json(member))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(super) struct ThreadMemberSettings {
    flags: Option<i32>,
    muted: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    mute_config: Option<Option<MuteConfig>>,
}

/// Until when somebody does not want to hear of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct MuteConfig {
    #[serde(default)]
    end_time: Option<Timestamp>,
    /// Seconds; -1: until it is ended.
    #[serde(default)]
    selected_time_window: Option<i64>,
}

impl Form for ThreadMemberSettings {
    fn check(&self, form: &mut FormErrors) {
        if let Some(flags) = self.flags {
            form.range("flags", i64::from(flags), 0..=i64::from(i32::MAX));
        }
    }
}

/// One's own notification settings of a thread one is in. Errors: 10003, 10007, 50001, 50024.
#[utoipa::path(
    patch,
    path = "/channels/{channel_id}/thread-members/@me/settings",
    tag = "Threads",
    responses((status = 200, body = ThreadMember))
)]
pub(super) async fn thread_member_settings(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    Json(body): Json<ThreadMemberSettings>,
) -> Result<Json<ThreadMember>> {
    user.require_human()?;
    let mut tx = app.db.begin().await?;
    let needed = Permissions::VIEW_CHANNEL;
    let place = access::place_for_change(&mut tx, &user, channel_id, needed).await?;
    let Place::Thread(access) = place else {
        return Err(ErrorCode::InvalidChannelType.into());
    };
    let mute: Option<Option<Value>> = body.mute_config.map(|mute| mute.map(|mute| json!(mute)));
    sqlx::query!(
        "update thread_member
         set flags = (flags & ~$3::int) | (coalesce($4, flags) & $3), muted = coalesce($5, muted),
             mute_config = case when $6 then $7 else mute_config end
         where thread_id = $1 and user_id = $2",
        channel_id.to_db(),
        user.id.to_db(),
        FLAGS_SETTABLE,
        body.flags,
        body.muted,
        mute.is_some(),
        mute.flatten().map(Jsonb) as Option<Jsonb<Value>>,
    )
    .execute(&mut *tx)
    .await?;
    let member = thread::members(&mut *tx, &[channel_id], Whose::Own(user.id))
        .await?
        .pop()
        .ok_or(ErrorCode::UnknownMember)?;
    let guild = access.guild.id;
    let body = archive::MemberUpdate {
        member: &member,
        guild_id: guild,
    };
    let kind = EventKind::ThreadMemberUpdate;
    let event = events::append(&mut tx, guild, kind, only(user.id), &body, None).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    Ok(Json(member))
}
