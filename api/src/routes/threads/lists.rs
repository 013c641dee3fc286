//! Lists of threads: active ones of a guild, archived ones of a channel.

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions, Timestamp,
    error_code::ErrorCode,
    id::marker::{Channel, Guild},
    model::{ChannelKind, Thread, ThreadMember},
    permissions::{self, ThreadDoor},
};
use guildhall_store::{
    ids_from_db,
    thread::{self, Whose},
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};

use crate::{
    access::{self, ChannelAccess, GuildAccess},
    app::App,
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path, Query},
    form::FormErrors,
};

const ARCHIVED_DEFAULT: i64 = 50;

/// Threads with the caller's memberships of them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Threads {
    pub(super) threads: Vec<Thread>,
    pub(super) members: Vec<ThreadMember>,
    pub(super) has_more: bool,
}

/// These threads as the caller sees them, in the order of `ids`.
pub(super) async fn shown(
    db: &mut PgConnection,
    user: &CurrentUser,
    ids: &[Id<Channel>],
) -> Result<(Vec<Thread>, Vec<ThreadMember>)> {
    let mut threads = thread::by_ids(&mut *db, ids).await?;
    let members: Vec<ThreadMember> = thread::members(db, ids, Whose::Own(user.id))
        .await?
        .into_iter()
        .map(|member| ThreadMember {
            muted: None,
            mute_config: None,
            ..member
        })
        .collect();
    thread::attach(&mut threads, &members);
    Ok((threads, members))
}

/// Those the caller sees. Errors: 10004, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/threads/active",
    tag = "Threads",
    responses((status = 200, body = Threads))
)]
pub(super) async fn get_active_guild_threads(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<Threads>> {
    let mut db = app.db.acquire().await?;
    let access = access::guild(&mut *db, &user, guild_id, Permissions::empty()).await?;
    let channels = guildhall_store::guild::channels(&mut *db, guild_id).await?;
    let active = thread::active_ids(&mut *db, guild_id).await?;
    let (mut threads, mut members) = shown(&mut db, &user, &active).await?;
    threads.retain(|thread| {
        let parent = channels
            .iter()
            .find(|channel| channel.id == thread.parent_id);
        parent.is_some_and(|parent| sees(&access, &parent.permission_overwrites, thread))
    });
    members.retain(|member| threads.iter().any(|thread| member.id == Some(thread.id)));
    Ok(Json(Threads {
        threads,
        members,
        has_more: false,
    }))
}

/// Whether the caller sees a thread that was read with their membership.
fn sees(access: &GuildAccess, parent: &[permissions::Overwrite], thread: &Thread) -> bool {
    let door = match (thread.kind, &thread.member) {
        (ChannelKind::PRIVATE_THREAD, Some(_)) => ThreadDoor::Inside,
        (ChannelKind::PRIVATE_THREAD, None) => ThreadDoor::Outside,
        _ => ThreadDoor::Open,
    };
    access
        .in_thread(parent, door)
        .contains(Permissions::VIEW_CHANNEL)
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct Archived {
    /// Archived before this time.
    before: Option<Timestamp>,
    /// 2 to 100; 50 if not given.
    limit: Option<i64>,
}

/// Which threads are listed. `invitable` is not null of private ones alone.
#[derive(Debug, Clone, Copy)]
enum Door {
    Open,
    Private,
}

impl Archived {
    fn limit(&self) -> i64 {
        self.limit.unwrap_or(ARCHIVED_DEFAULT)
    }
}

impl Form for Archived {
    fn check(&self, form: &mut FormErrors) {
        if let Some(limit) = self.limit {
            form.range("limit", limit, 2..=100);
        }
    }
}

/// The channel whose threads are asked for. Errors: 10003, 50001, 50013, 50024.
pub(super) async fn parent(
    db: &mut PgConnection,
    user: &CurrentUser,
    channel: Id<Channel>,
    needed: Permissions,
) -> Result<ChannelAccess> {
    let access = access::channel(db, user, channel, needed).await?;
    if !access.channel.kind.holds_threads() {
        return Err(ErrorCode::InvalidChannelType.into());
    }
    Ok(access)
}

/// Ids of archived threads, newest archive time first: one more than a page holds.
///
/// The door is named in the text of each query: only then is there an index for it.
async fn archived(
    db: &mut PgConnection,
    channel: Id<Channel>,
    query: &Archived,
    door: Door,
) -> Result<Vec<i64>> {
    let (channel, before) = (channel.to_db(), query.before.map(|before| before.0));
    let count = query.limit() + 1;
    let ids = match door {
        Door::Open => {
            sqlx::query_scalar!(
                "select thread_id from thread
                 where parent_id = $1 and archived and invitable is null
                   and archive_at < coalesce($2, 'infinity'::timestamptz)
                 order by archive_at desc, thread_id desc limit $3",
                channel,
                before,
                count,
            )
            .fetch_all(db)
            .await?
        }
        Door::Private => {
            sqlx::query_scalar!(
                "select thread_id from thread
                 where parent_id = $1 and archived and invitable is not null
                   and archive_at < coalesce($2, 'infinity'::timestamptz)
                 order by archive_at desc, thread_id desc limit $3",
                channel,
                before,
                count,
            )
            .fetch_all(db)
            .await?
        }
    };
    Ok(ids)
}

/// A page from one id more than it holds.
async fn page(
    db: &mut PgConnection,
    user: &CurrentUser,
    mut ids: Vec<i64>,
    limit: i64,
) -> Result<Json<Threads>> {
    let limit = limit as usize;
    let has_more = ids.len() > limit;
    ids.truncate(limit);
    let (threads, members) = shown(db, user, &ids_from_db(ids)).await?;
    Ok(Json(Threads {
        threads,
        members,
        has_more,
    }))
}

/// Errors: 10003, 50001, 50013, 50024.
#[utoipa::path(
    get,
    path = "/channels/{channel_id}/threads/archived/public",
    tag = "Threads",
    params(Archived),
    responses((status = 200, body = Threads))
)]
pub(super) async fn list_public_archived_threads(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    Query(query): Query<Archived>,
) -> Result<Json<Threads>> {
    let mut db = app.db.acquire().await?;
    let needed = Permissions::READ_MESSAGE_HISTORY;
    parent(&mut db, &user, channel_id, needed).await?;
    let ids = archived(&mut db, channel_id, &query, Door::Open).await?;
    page(&mut db, &user, ids, query.limit()).await
}

/// Errors: 10003, 50001, 50013, 50024.
#[utoipa::path(
    get,
    path = "/channels/{channel_id}/threads/archived/private",
    tag = "Threads",
    params(Archived),
    responses((status = 200, body = Threads))
)]
pub(super) async fn list_private_archived_threads(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    Query(query): Query<Archived>,
) -> Result<Json<Threads>> {
    let mut db = app.db.acquire().await?;
    let needed = Permissions::READ_MESSAGE_HISTORY | Permissions::MANAGE_THREADS;
    parent(&mut db, &user, channel_id, needed).await?;
    let ids = archived(&mut db, channel_id, &query, Door::Private).await?;
    page(&mut db, &user, ids, query.limit()).await
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct MyArchived {
    /// Threads with smaller ids.
    before: Option<Id<Channel>>,
    /// 2 to 100; 50 if not given.
    limit: Option<i64>,
}

impl Form for MyArchived {
    fn check(&self, form: &mut FormErrors) {
        if let Some(limit) = self.limit {
            form.range("limit", limit, 2..=100);
        }
    }
}

/// Private ones that the caller is in, newest first. Errors: 10003, 50001, 50013, 50024.
#[utoipa::path(
    get,
    path = "/channels/{channel_id}/users/@me/threads/archived/private",
    tag = "Threads",
    params(MyArchived),
    responses((status = 200, body = Threads))
)]
pub(super) async fn list_my_private_archived_threads(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    Query(query): Query<MyArchived>,
) -> Result<Json<Threads>> {
    let mut db = app.db.acquire().await?;
    let needed = Permissions::READ_MESSAGE_HISTORY;
    parent(&mut db, &user, channel_id, needed).await?;
    let limit = query.limit.unwrap_or(ARCHIVED_DEFAULT);
    let ids = sqlx::query_scalar!(
        "select t.thread_id
         from thread_member m
         join thread t on t.thread_id = m.thread_id
         where m.user_id = $1 and m.thread_id < $3 and t.thread_id < $3 and t.parent_id = $2
           and t.archived and t.invitable is not null
         order by m.thread_id desc limit $4",
        user.id.to_db(),
        channel_id.to_db(),
        query.before.map_or(i64::MAX, Id::to_db),
        limit + 1,
    )
    .fetch_all(&mut *db)
    .await?;
    page(&mut db, &user, ids, limit).await
}
