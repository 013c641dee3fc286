//! Friends, requests, blocks (calls of user clients; no official page).
//! Shapes: objects.md › Relationship.
//!
//! Each side has a row of its own; both are changed under the locks of both realms' heads.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker,
    model::{Relationship, RelationshipKind, User},
};
use guildhall_store::{personal, user::UserRow};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access,
    account::State as AccountState,
    app::App,
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    text::clean,
};

const FRIENDS_MAX: i64 = 1000;
const BLOCKED_MAX: i64 = 5000;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(relationships_list, relationships_request))
        .routes(routes!(
            relationships_put,
            relationships_update,
            relationships_delete
        ))
        .routes(routes!(user_mutual_friends))
}

/// Whether two are friends.
pub(crate) async fn are_friends(
    db: &mut PgConnection,
    one: Id<marker::User>,
    other: Id<marker::User>,
) -> Result<bool> {
    Ok(kind(db, one, other).await? == Some(RelationshipKind::Friend))
}

/// How the first stands to the second.
pub(crate) async fn kind(
    db: &mut PgConnection,
    user: Id<marker::User>,
    other: Id<marker::User>,
) -> Result<Option<RelationshipKind>> {
    let kind = sqlx::query_scalar!(
        "select kind from relationship where user_id = $1 and other_id = $2",
        user.to_db(),
        other.to_db(),
    )
    .fetch_optional(db)
    .await?;
    Ok(kind.and_then(|kind| RelationshipKind::try_from(kind as u8).ok()))
}

/// The caller's relationships, by id. Errors: 401, 20001.
#[utoipa::path(
    get,
    path = "/users/@me/relationships",
    tag = "Relationships",
    responses((status = 200, body = [Relationship]))
)]
async fn relationships_list(
    State(app): State<App>,
    caller: CurrentUser,
) -> Result<Json<Vec<Relationship>>> {
    caller.require_human()?;
    Ok(Json(personal::relationships(&app.db, caller.id).await?))
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct RequestFriend {
    #[schema(required, min_length = 2, max_length = 32)]
    username: Option<String>,
    /// Of older names, `"0"` or absent otherwise.
    discriminator: Option<serde_json::Value>,
}

impl Form for RequestFriend {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = form.required("username", &self.username) {
            form.length("username", name, 1..=32);
        }
    }
}

/// Asks somebody, found by their name, to be friends; accepts if they have asked before.
///
/// Errors: 401, 20001, 30002, 50035, 80000 to 80004, 80007.
#[utoipa::path(
    post,
    path = "/users/@me/relationships",
    tag = "Relationships",
    responses((status = 204, description = "Both are told"))
)]
async fn relationships_request(
    State(app): State<App>,
    caller: CurrentUser,
    Json(body): Json<RequestFriend>,
) -> Result<StatusCode> {
    caller.require_human()?;
    let discriminator = match &body.discriminator {
        Some(serde_json::Value::String(text)) => clean(text),
        Some(serde_json::Value::Number(number)) => format!("{number:0>4}"),
        _ => String::new(),
    };
    let is_plain = matches!(discriminator.as_str(), "" | "0" | "0000");
    let username = clean(body.username.as_deref().unwrap_or_default());
    let other = sqlx::query_scalar!(
        "select user_id from account
         where lower(username) = lower($1) and state in (0, 1) and ($2 or discriminator = $3)",
        username,
        is_plain,
        discriminator,
    )
    .fetch_optional(&app.db)
    .await?
    .ok_or(ErrorCode::NoSuchUsername)?;
    befriend(&app, &caller, Id::from_db(other)).await
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct PutRelationship {
    /// 2 blocks; absent or 1 asks, or accepts.
    #[serde(rename = "type")]
    kind: Option<u8>,
}

impl Form for PutRelationship {
    fn check(&self, form: &mut FormErrors) {
        if self.kind.is_some_and(|kind| !matches!(kind, 1 | 2)) {
            form.add("type", Fault::Choices("1, 2"));
        }
    }
}

/// Asks somebody to be friends, accepts, or blocks. A block ends friendship and requests.
///
/// Errors: 401, 10013, 20001, 30002, 50035, 80000 to 80003, 80007.
#[utoipa::path(
    put,
    path = "/users/@me/relationships/{user_id}",
    tag = "Relationships",
    responses((status = 204, description = "Both are told; of a block only its maker"))
)]
async fn relationships_put(
    State(app): State<App>,
    caller: CurrentUser,
    Path(user_id): Path<Id<marker::User>>,
    Json(body): Json<PutRelationship>,
) -> Result<StatusCode> {
    caller.require_human()?;
    if body.kind == Some(2) {
        block(&app, &caller, user_id).await
    } else {
        befriend(&app, &caller, user_id).await
    }
}

/// One side of a relationship that changes.
struct Change {
    user: Id<marker::User>,
    other: Id<marker::User>,
    to: Option<RelationshipKind>,
}

async fn befriend(app: &App, caller: &CurrentUser, other: Id<marker::User>) -> Result<StatusCode> {
    use RelationshipKind::{Blocked, Friend, Incoming, Outgoing};
    let me = caller.id;
    if other == me {
        return Err(ErrorCode::FriendRequestToSelf.into());
    }
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [me.cast(), other.cast()]).await?;
    if read_other(&mut tx, other).await?.bot {
        return Err(ErrorCode::BotsHaveNoFriends.into());
    }
    let (mine, theirs) = (
        kind(&mut tx, me, other).await?,
        kind(&mut tx, other, me).await?,
    );
    if theirs == Some(Blocked) {
        return Err(ErrorCode::FriendRequestBlocked.into());
    }
    let changes = match mine {
        Some(Friend) => return Err(ErrorCode::AlreadyFriends.into()),
        Some(Outgoing) => return Ok(StatusCode::NO_CONTENT),
        Some(Incoming) => {
            // Who asked has counted the friend since.
            require_room(&mut tx, me).await?;
            [(me, other, Friend), (other, me, Friend)]
        }
        Some(Blocked) | None => {
            require_room(&mut tx, me).await?;
            require_welcome(&mut tx, me, other).await?;
            [(me, other, Outgoing), (other, me, Incoming)]
        }
    };
    let changes = changes.map(|(user, other, to)| Change {
        user,
        other,
        to: Some(to),
    });
    apply(app, tx, changes).await
}

async fn block(app: &App, caller: &CurrentUser, other: Id<marker::User>) -> Result<StatusCode> {
    use RelationshipKind::Blocked;
    let me = caller.id;
    if other == me {
        return Err(FormErrors::one("user_id", Fault::NotMatching));
    }
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [me.cast(), other.cast()]).await?;
    read_other(&mut tx, other).await?;
    if kind(&mut tx, me, other).await? == Some(Blocked) {
        return Ok(StatusCode::NO_CONTENT);
    }
    if count(&mut tx, me, Blocked).await? >= BLOCKED_MAX {
        return Err(ErrorCode::BadRequest.into());
    }
    let theirs = kind(&mut tx, other, me).await?;
    let mut changes = vec![Change {
        user: me,
        other,
        to: Some(Blocked),
    }];
    if theirs.is_some_and(|kind| kind != Blocked) {
        changes.push(Change {
            user: other,
            other: me,
            to: None,
        });
    }
    apply(app, tx, changes).await
}

/// Writes the changes, numbers their events in ascending order of realms, commits, publishes.
async fn apply(
    app: &App,
    mut tx: sqlx::Transaction<'_, sqlx::Postgres>,
    changes: impl IntoIterator<Item = Change>,
) -> Result<StatusCode> {
    let mut changes: Vec<Change> = changes.into_iter().collect();
    changes.sort_by_key(|change| change.user);
    let mut events = Vec::new();
    for change in &changes {
        events.extend(write(&mut tx, change).await?);
    }
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Serialize)]
struct Added<'a> {
    #[serde(flatten)]
    relationship: &'a Relationship,
    should_notify: bool,
}

async fn write(db: &mut PgConnection, change: &Change) -> Result<Option<Envelope>> {
    let (user, other) = (change.user, change.other);
    let vis = Visibility::realm(Intents::empty());
    let Some(to) = change.to else {
        let was = sqlx::query_scalar!(
            "delete from relationship where user_id = $1 and other_id = $2 returning kind",
            user.to_db(),
            other.to_db(),
        )
        .fetch_optional(&mut *db)
        .await?;
        let Some(was) = was else { return Ok(None) };
        let body = json!({ "id": other, "type": was, "nickname": null });
        let event = events::append(db, user, EventKind::RelationshipRemove, vis, &body, None);
        return event.await.map(Some);
    };
    sqlx::query!(
        "insert into relationship (user_id, other_id, kind) values ($1, $2, $3)
         on conflict (user_id, other_id)
         do update set kind = excluded.kind, since = now(), nickname = null",
        user.to_db(),
        other.to_db(),
        i16::from(u8::from(to)),
    )
    .execute(&mut *db)
    .await?;
    let relationship = personal::relationship(&mut *db, user, other)
        .await?
        .ok_or(ErrorCode::UnknownUser)?;
    let body = Added {
        relationship: &relationship,
        should_notify: to == RelationshipKind::Incoming,
    };
    let event = events::append(db, user, EventKind::RelationshipAdd, vis, &body, None);
    event.await.map(Some)
}

/// Errors: 10013, also for who deleted their account.
async fn read_other(db: &mut PgConnection, other: Id<marker::User>) -> Result<User> {
    if crate::account::state(&mut *db, other).await? == Some(AccountState::Deleted) {
        return Err(ErrorCode::UnknownUser.into());
    }
    let account = guildhall_store::account::by_id(db, other).await?;
    Ok(account.ok_or(ErrorCode::UnknownUser)?.user.user)
}

async fn count(
    db: &mut PgConnection,
    user: Id<marker::User>,
    kind: RelationshipKind,
) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from relationship where user_id = $1 and kind = $2"#,
        user.to_db(),
        i16::from(u8::from(kind)),
    )
    .fetch_one(db)
    .await?;
    Ok(count)
}

/// Friends, and requests that may make more. Errors: 30002.
async fn require_room(db: &mut PgConnection, user: Id<marker::User>) -> Result<()> {
    let friends = count(&mut *db, user, RelationshipKind::Friend).await?;
    let asked = count(db, user, RelationshipKind::Outgoing).await?;
    if friends + asked >= FRIENDS_MAX {
        return Err(ErrorCode::MaximumFriends.into());
    }
    Ok(())
}

/// Whether `other` takes requests from `user`: by their settings, and while not too many
/// wait for them. Errors: 80000.
async fn require_welcome(
    db: &mut PgConnection,
    user: Id<marker::User>,
    other: Id<marker::User>,
) -> Result<()> {
    let refused = || Err(ErrorCode::FriendRequestsDisabled.into());
    if count(&mut *db, other, RelationshipKind::Incoming).await? >= FRIENDS_MAX {
        return refused();
    }
    let flags = personal::settings(&mut *db, other)
        .await?
        .friend_source_flags;
    let flags = flags.unwrap_or_default();
    if flags.all {
        return Ok(());
    }
    let shared = sqlx::query!(
        r#"select exists (
             select from member m join member o using (guild_id) join guild using (guild_id)
             where m.user_id = $1 and o.user_id = $2) as "guild!",
           exists (
             select from relationship m join relationship o using (other_id)
             where m.user_id = $1 and o.user_id = $2 and m.kind = 1 and o.kind = 1) as "friend!""#,
        user.to_db(),
        other.to_db(),
    )
    .fetch_one(db)
    .await?;
    if (flags.mutual_guilds && shared.guild) || (flags.mutual_friends && shared.friend) {
        return Ok(());
    }
    refused()
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct UpdateRelationship {
    #[serde(deserialize_with = "guildhall_shared::model::present")]
    #[schema(max_length = 32)]
    nickname: Option<Option<String>>,
}

impl Form for UpdateRelationship {
    fn check(&self, form: &mut FormErrors) {
        if let Some(Some(name)) = &self.nickname {
            form.length("nickname", name, 0..=32);
        }
    }
}

/// Names a friend, for the caller alone. Errors: 401, 20001, 50035, 80006.
#[utoipa::path(
    patch,
    path = "/users/@me/relationships/{user_id}",
    tag = "Relationships",
    responses((status = 204, description = "The caller's sessions are told"))
)]
async fn relationships_update(
    State(app): State<App>,
    caller: CurrentUser,
    Path(user_id): Path<Id<marker::User>>,
    Json(body): Json<UpdateRelationship>,
) -> Result<StatusCode> {
    caller.require_human()?;
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [caller.id.cast()]).await?;
    if !are_friends(&mut tx, caller.id, user_id).await? {
        return Err(ErrorCode::NotFriends.into());
    }
    let Some(nickname) = body.nickname else {
        return Ok(StatusCode::NO_CONTENT);
    };
    let nickname = nickname.map(|name| clean(&name));
    let nickname = nickname.filter(|name| !name.is_empty());
    sqlx::query!(
        "update relationship set nickname = $3 where user_id = $1 and other_id = $2",
        caller.id.to_db(),
        user_id.to_db(),
        nickname,
    )
    .execute(&mut *tx)
    .await?;
    let kind = RelationshipKind::Friend;
    let body = json!({ "id": user_id, "type": kind, "nickname": nickname });
    let vis = Visibility::realm(Intents::empty());
    let event = EventKind::RelationshipUpdate;
    let event = events::append(&mut tx, caller.id, event, vis, &body, None).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    Ok(StatusCode::NO_CONTENT)
}

/// Ends a friendship, takes back or declines a request, lifts a block.
///
/// Errors: 401, 10013 where there is nothing to end, 20001.
#[utoipa::path(
    delete,
    path = "/users/@me/relationships/{user_id}",
    tag = "Relationships",
    responses((status = 204, description = "Both are told; of a lifted block only its maker"))
)]
async fn relationships_delete(
    State(app): State<App>,
    caller: CurrentUser,
    Path(user_id): Path<Id<marker::User>>,
) -> Result<StatusCode> {
    caller.require_human()?;
    let me = caller.id;
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [me.cast(), user_id.cast()]).await?;
    let mine = kind(&mut tx, me, user_id)
        .await?
        .ok_or(ErrorCode::UnknownUser)?;
    let mut changes = vec![Change {
        user: me,
        other: user_id,
        to: None,
    }];
    if mine != RelationshipKind::Blocked {
        changes.push(Change {
            user: user_id,
            other: me,
            to: None,
        });
    }
    apply(&app, tx, changes).await
}

/// Friends the caller and somebody else have in common, by id. Errors: 401, 10013, 20001.
#[utoipa::path(
    get,
    path = "/users/{user_id}/relationships",
    tag = "Relationships",
    responses((status = 200, body = [User]))
)]
async fn user_mutual_friends(
    State(app): State<App>,
    caller: CurrentUser,
    Path(user_id): Path<Id<marker::User>>,
) -> Result<Json<Vec<User>>> {
    caller.require_human()?;
    let mut db = app.db.acquire().await?;
    read_other(&mut db, user_id).await?;
    Ok(Json(mutual_friends(&mut db, caller.id, user_id).await?))
}

/// By id; at most as many as somebody can have.
pub(crate) async fn mutual_friends(
    db: &mut PgConnection,
    one: Id<marker::User>,
    other: Id<marker::User>,
) -> Result<Vec<User>> {
    let rows = sqlx::query_as!(
        UserRow,
        "select a.user_id, a.username, a.discriminator, a.global_name, a.avatar, a.banner,
                a.accent_color, a.bot, a.public_flags
         from relationship m
         join relationship o on o.other_id = m.other_id and o.user_id = $2 and o.kind = 1
         join account a on a.user_id = m.other_id
         where m.user_id = $1 and m.kind = 1 order by a.user_id",
        one.to_db(),
        other.to_db(),
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// Takes away relationships of a deleted account, some at a time; false when none are left.
/// The others are told.
pub(crate) async fn erase_some(app: &App, user: Id<marker::User>, at_once: i64) -> Result<bool> {
    let others = sqlx::query_scalar!(
        r#"select other_id as "other!" from relationship where user_id = $1
           union select user_id from relationship where other_id = $1 limit $2"#,
        user.to_db(),
        at_once,
    )
    .fetch_all(&app.db)
    .await?;
    if others.is_empty() {
        return Ok(false);
    }
    let mut others: Vec<Id<marker::User>> = others.into_iter().map(Id::from_db).collect();
    others.sort_unstable();
    let mut tx = app.db.begin().await?;
    let realms = others.iter().map(|other| other.cast()).chain([user.cast()]);
    access::lock_realms(&mut tx, realms).await?;
    let mut events = Vec::new();
    for &other in &others {
        let change = Change {
            user: other,
            other: user,
            to: None,
        };
        events.extend(write(&mut tx, &change).await?);
    }
    sqlx::query!(
        "delete from relationship where user_id = $1 and other_id = any ($2)",
        user.to_db(),
        &guildhall_store::ids_to_db(&others),
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(true)
}
