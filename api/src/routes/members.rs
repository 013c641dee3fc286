//! Members: read, changed, added, removed. Spec: objects.md › Member; permissions.md › Hierarchy.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, patch},
};
use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild, Role, User},
    model::{self, AuditAction, Member, present},
    shard::realm,
};
use guildhall_store::ids_to_db;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use time::Duration;

use super::{messages, oauth2, roles};
use crate::{
    access::{self, GuildAccess},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path, Query},
    form::{Fault, FormErrors},
};

/// Longest timeout.
const TIMEOUT_MAX: Duration = Duration::days(28);
const ROLES_MAX: usize = 350;
/// Guilds a person can be in; bots: no limit.
pub(crate) const GUILDS_MAX: i64 = 100;
/// Flag of an application that may list members (approved, or by its own setting).
const APPLICATION_GUILD_MEMBERS: u64 = 0b11 << 14;
/// System channel flag: say nothing about joins.
const SUPPRESS_JOIN_NOTIFICATIONS: u32 = 1;

pub(crate) fn router() -> Router<App> {
    let one = get(get_guild_member)
        .patch(update_guild_member)
        .delete(delete_guild_member);
    Router::new()
        .route("/guilds/{guild_id}/members", get(list_guild_members))
        .route(
            "/guilds/{guild_id}/members/@me",
            patch(update_my_guild_member),
        )
        .route("/guilds/{guild_id}/members/{user_id}", one)
}

/// Body of GUILD_MEMBER_ADD and GUILD_MEMBER_UPDATE.
#[derive(Serialize)]
struct MemberEvent<'a> {
    guild_id: Id<Guild>,
    #[serde(flatten)]
    member: &'a Member,
}

#[derive(Serialize)]
struct MemberRemove<'a> {
    guild_id: Id<Guild>,
    user: &'a model::User,
}

/// Body of the events that tell a user's own realm.
#[derive(Serialize)]
struct GuildId {
    guild_id: Id<Guild>,
}

fn visibility() -> Visibility {
    Visibility::realm(Intents::GUILD_MEMBERS)
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct ListMembers {
    limit: Option<i64>,
    after: Option<u64>,
}

impl Form for ListMembers {
    fn check(&self, form: &mut FormErrors) {
        if let Some(limit) = self.limit {
            form.range("limit", limit, 1..=1000);
        }
    }
}

/// For bots whose application has the GUILD_MEMBERS intent. Errors: 10004, 20002, 50001.
async fn list_guild_members(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    Query(query): Query<ListMembers>,
) -> Result<Json<Vec<Member>>> {
    user.require_bot()?;
    access::guild(&app.db, &user, guild_id, Permissions::empty()).await?;
    let flags = user.account.application.map_or(0, |(_, flags)| flags);
    if flags & APPLICATION_GUILD_MEMBERS == 0 {
        return Err(ErrorCode::MissingAccess.into());
    }
    let after = match query.after {
        // Ids that do not fit are after everyone.
        Some(after) => match Id::new(after) {
            None if after > 0 => return Ok(Json(Vec::new())),
            after => after,
        },
        None => None,
    };
    let limit = query.limit.unwrap_or(1);
    let members = guildhall_store::guild::members(&app.db, guild_id, after, limit).await?;
    Ok(Json(members))
}

/// Errors: 10004, 10007, 50001.
async fn get_guild_member(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, user_id)): Path<(Id<Guild>, Id<User>)>,
) -> Result<Json<Member>> {
    access::guild(&app.db, &user, guild_id, Permissions::empty()).await?;
    let member = guildhall_store::guild::member(&app.db, guild_id, user_id).await?;
    Ok(Json(member.ok_or(ErrorCode::UnknownMember)?))
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct UpdateMember {
    #[serde(deserialize_with = "present")]
    nick: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    roles: Option<Option<Vec<Option<Id<Role>>>>>,
    #[serde(deserialize_with = "present")]
    communication_disabled_until: Option<Option<Timestamp>>,
    mute: Option<bool>,
    deaf: Option<bool>,
    #[serde(deserialize_with = "present")]
    channel_id: Option<Option<Id<Channel>>>,
}

impl Form for UpdateMember {
    fn check(&self, form: &mut FormErrors) {
        if let Some(Some(nick)) = &self.nick {
            form.length("nick", nick, 0..=32);
        }
        if let Some(Some(roles)) = &self.roles
            && roles.len() > ROLES_MAX
        {
            form.add(
                "roles",
                Fault::BadLength {
                    min: 0,
                    max: ROLES_MAX,
                },
            );
        }
        if let Some(Some(until)) = self.communication_disabled_until
            && until.0 > Timestamp::now().0 + TIMEOUT_MAX
        {
            let message = "Timeouts last 28 days at most.";
            let fault = Fault::Other("DATE_TIME_TYPE_TOO_LATE", message.into());
            form.add("communication_disabled_until", fault);
        }
    }
}

/// Each field needs its own permission, and the target below the caller.
///
/// Errors: 10004, 10007, 10011, 40032, 50001, 50013, 50028, 50035.
async fn update_guild_member(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, user_id)): Path<(Id<Guild>, Id<User>)>,
    reason: Reason,
    Json(body): Json<UpdateMember>,
) -> Result<Json<Member>> {
    let mut tx = app.db.begin().await?;
    let access = access::guild_for_change(&mut tx, &user, guild_id, Permissions::empty()).await?;
    let before = guildhall_store::guild::member(&mut *tx, guild_id, user_id)
        .await?
        .ok_or(ErrorCode::UnknownMember)?;
    let mut member = before.clone();
    if let Some(nick) = body.nick {
        if user_id == user.id {
            access.require(Permissions::CHANGE_NICKNAME)?;
        } else {
            access.require(Permissions::MANAGE_NICKNAMES)?;
            access.require_above(access.rank_of(user_id, &before.roles))?;
        }
        member.nick = clean_nick(nick);
    }
    if let Some(roles) = body.roles {
        access.require(Permissions::MANAGE_ROLES)?;
        member.roles = new_roles(&access, &before.roles, roles.unwrap_or_default())?;
    }
    if let Some(until) = body.communication_disabled_until {
        access.require(Permissions::MODERATE_MEMBERS)?;
        let held = access.base_of_member(user_id, &before);
        if held.contains(Permissions::ADMINISTRATOR) {
            return Err(ErrorCode::MissingPermissions.into());
        }
        access.require_above(access.rank_of(user_id, &before.roles))?;
        member.communication_disabled_until = until;
    }
    // Nobody is in voice: there is none yet.
    for (wanted, needed) in [
        (body.mute.is_some(), Permissions::MUTE_MEMBERS),
        (body.deaf.is_some(), Permissions::DEAFEN_MEMBERS),
        (body.channel_id.is_some(), Permissions::MOVE_MEMBERS),
    ] {
        if wanted {
            access.require(needed)?;
            return Err(ErrorCode::TargetNotInVoice.into());
        }
    }
    if member == before {
        return Ok(Json(member));
    }
    let mut events = vec![store(&mut tx, guild_id, user_id, &member).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::MEMBER_UPDATE, &reason)
        .target(user_id)
        .changed(&before, &member)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    events.extend(audit_roles(&app, &mut tx, &access, &before, &member, &reason).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(member))
}

/// The entry for roles that a member was given or lost, if any.
pub(super) async fn audit_roles(
    app: &App,
    db: &mut PgConnection,
    access: &GuildAccess,
    before: &Member,
    after: &Member,
    reason: &Reason,
) -> Result<Option<Envelope>> {
    let only_in = |one: &Member, other: &Member| -> Vec<Id<Role>> {
        let roles = one.roles.iter().copied();
        roles.filter(|role| !other.roles.contains(role)).collect()
    };
    let (given, taken) = (only_in(after, before), only_in(before, after));
    if given.is_empty() && taken.is_empty() {
        return Ok(None);
    }
    let action = AuditAction::MEMBER_ROLE_UPDATE;
    let mut entry = Entry::new(access.id, access.user, action, reason);
    if let Some(user) = &after.user {
        entry = entry.target(user.id);
    }
    for (key, roles) in [("$add", given), ("$remove", taken)] {
        if roles.is_empty() {
            continue;
        }
        let named = sqlx::query!(
            "select role_id, name from role where guild_id = $1 and role_id = any($2)",
            access.id.to_db(),
            &ids_to_db(&roles),
        )
        .fetch_all(&mut *db)
        .await?;
        let named = named.into_iter().map(|role| {
            let id: Id<Role> = Id::from_db(role.role_id);
            json!({ "id": id, "name": role.name })
        });
        entry = entry.change(key, None, Some(named.collect()));
    }
    audit::append(app, db, entry).await
}

fn clean_nick(nick: Option<String>) -> Option<String> {
    nick.map(|nick| super::clean(&nick))
        .filter(|nick| !nick.is_empty())
}

/// The roles a member is to have, of which every changed one is the caller's to give or take.
fn new_roles(
    access: &GuildAccess,
    before: &[Id<Role>],
    wanted: Vec<Option<Id<Role>>>,
) -> Result<Vec<Id<Role>>> {
    let mut form = FormErrors::new();
    let mut after: Vec<Id<Role>> = Vec::new();
    for (index, role) in wanted.into_iter().enumerate() {
        let Some(role) = role else { continue };
        if access.role(role).is_none() {
            roles::unknown_role(index, &mut form);
        }
        if !after.contains(&role) {
            after.push(role);
        }
    }
    form.finish()?;
    let given = after.iter().filter(|role| !before.contains(role));
    let taken = before.iter().filter(|role| !after.contains(role));
    for &role in given.chain(taken) {
        roles::assignable(access, role)?;
    }
    Ok(after)
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct UpdateMyMember {
    #[serde(deserialize_with = "present")]
    nick: Option<Option<String>>,
}

impl Form for UpdateMyMember {
    fn check(&self, form: &mut FormErrors) {
        if let Some(Some(nick)) = &self.nick {
            form.length("nick", nick, 0..=32);
        }
    }
}

/// Errors: 10004, 50001, 50013, 50035.
async fn update_my_guild_member(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(body): Json<UpdateMyMember>,
) -> Result<Json<Member>> {
    let mut tx = app.db.begin().await?;
    let access = access::guild_for_change(&mut tx, &user, guild_id, Permissions::empty()).await?;
    let mut member = Member {
        user: Some(user.user().clone()),
        ..access.member.clone()
    };
    let Some(nick) = body.nick else {
        return Ok(Json(member));
    };
    access.require(Permissions::CHANGE_NICKNAME)?;
    let before = member.clone();
    member.nick = clean_nick(nick);
    let mut events = vec![store(&mut tx, guild_id, user.id, &member).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::MEMBER_UPDATE, &reason)
        .target(user.id)
        .changed(&before, &member)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(member))
}

/// Kicks. Errors: 10004, 10007, 50001, 50013.
async fn delete_guild_member(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, user_id)): Path<(Id<Guild>, Id<User>)>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [realm(guild_id), realm(user_id)]).await?;
    let access = access::guild(&mut *tx, &user, guild_id, Permissions::KICK_MEMBERS).await?;
    let member = guildhall_store::guild::member(&mut *tx, guild_id, user_id)
        .await?
        .ok_or(ErrorCode::UnknownMember)?;
    // Nobody stands above themselves: leaving has an endpoint of its own.
    access.require_above(access.rank_of(user_id, &member.roles))?;
    let mut events = remove(&mut tx, guild_id, &member).await?;
    let entry = Entry::new(guild_id, user.id, AuditAction::MEMBER_KICK, &reason).target(user_id);
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

/// Stores a changed member and numbers its GUILD_MEMBER_UPDATE, which the member gets
/// whatever their intents. The guild's head is locked.
pub(super) async fn store(
    db: &mut PgConnection,
    guild: Id<Guild>,
    user: Id<User>,
    member: &Member,
) -> Result<Envelope> {
    sqlx::query!(
        "update member set nick = $3, roles = $4, communication_disabled_until = $5
         where guild_id = $1 and user_id = $2",
        guild.to_db(),
        user.to_db(),
        member.nick,
        &ids_to_db(&member.roles),
        member.communication_disabled_until.map(|until| until.0),
    )
    .execute(&mut *db)
    .await?;
    let mut vis = visibility();
    vis.regardless.push(user);
    let body = MemberEvent {
        guild_id: guild,
        member,
    };
    events::append(db, guild, EventKind::GuildMemberUpdate, vis, &body, None).await
}

/// Makes a user a member: the row, the count, GUILD_MEMBER_ADD, the news to the user's own
/// realm, and the join message where the guild wants one.
///
/// The heads of guild and user must be locked (see [`access::lock_realms`]). Publish what
/// it returns after the commit.
///
/// Errors: 30001 for people in too many guilds, 40007 for who is banned. A member already: none.
pub(crate) async fn join(
    app: &App,
    db: &mut PgConnection,
    guild: Id<Guild>,
    user: &model::User,
    roles: &[Id<Role>],
) -> Result<Vec<Envelope>> {
    let banned = sqlx::query_scalar!(
        "select 1 as one from ban where guild_id = $1 and user_id = $2",
        guild.to_db(),
        user.id.to_db(),
    );
    if banned.fetch_optional(&mut *db).await?.is_some() {
        return Err(ErrorCode::BannedFromGuild.into());
    }
    if !user.bot {
        check_guild_count(db, user.id).await?;
    }
    let joined = sqlx::query!(
        "insert into member (guild_id, user_id, roles) values ($1, $2, $3)
         on conflict do nothing",
        guild.to_db(),
        user.id.to_db(),
        &ids_to_db(roles),
    )
    .execute(&mut *db)
    .await?;
    if joined.rows_affected() == 0 {
        return Ok(Vec::new());
    }
    let settings = sqlx::query_scalar!(
        r#"update guild set member_count = member_count + 1 where guild_id = $1
           returning settings as "settings: sqlx::types::Json<model::GuildSettings>""#,
        guild.to_db(),
    )
    .fetch_one(&mut *db)
    .await?
    .0;
    let member = guildhall_store::guild::member(&mut *db, guild, user.id)
        .await?
        .ok_or(ErrorCode::UnknownMember)?;
    let body = MemberEvent {
        guild_id: guild,
        member: &member,
    };
    let kind = EventKind::GuildMemberAdd;
    let mut envelopes = vec![events::append(db, guild, kind, visibility(), &body, None).await?];
    envelopes.push(tell_user(db, guild, user.id, EventKind::UserJoinedGuild).await?);
    if let Some(channel) = settings.system_channel_id
        && settings.system_channel_flags & SUPPRESS_JOIN_NOTIFICATIONS == 0
    {
        envelopes.extend(messages::create_join_message(app, db, guild, channel, &member).await?);
    }
    Ok(envelopes)
}

/// Errors: 30001.
pub(super) async fn check_guild_count(db: &mut PgConnection, user: Id<User>) -> Result<()> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from member where user_id = $1"#,
        user.to_db(),
    )
    .fetch_one(db)
    .await?;
    if count >= GUILDS_MAX {
        return Err(ErrorCode::MaximumGuilds.into());
    }
    Ok(())
}

/// Ends a membership: kicked, banned or left. A bot's own role goes with it.
///
/// The heads of guild and user must be locked. Publish what it returns after the commit.
pub(crate) async fn remove(
    db: &mut PgConnection,
    guild: Id<Guild>,
    member: &Member,
) -> Result<Vec<Envelope>> {
    let Some(user) = &member.user else {
        return Ok(Vec::new());
    };
    let removed = sqlx::query!(
        "delete from member where guild_id = $1 and user_id = $2",
        guild.to_db(),
        user.id.to_db(),
    )
    .execute(&mut *db)
    .await?;
    if removed.rows_affected() == 0 {
        return Ok(Vec::new());
    }
    sqlx::query!(
        "update guild set member_count = member_count - 1 where guild_id = $1",
        guild.to_db(),
    )
    .execute(&mut *db)
    .await?;
    let mut vis = visibility();
    vis.except.push(user.id);
    let body = MemberRemove {
        guild_id: guild,
        user,
    };
    let kind = EventKind::GuildMemberRemove;
    let mut envelopes = vec![events::append(db, guild, kind, vis, &body, None).await?];
    if user.bot {
        let managed = sqlx::query_scalar!(
            "select role_id from role where guild_id = $1 and bot_id = $2",
            guild.to_db(),
            user.id.to_db(),
        )
        .fetch_all(&mut *db)
        .await?;
        for role_id in managed.into_iter().map(Id::from_db) {
            roles::delete(db, guild, role_id).await?;
            let body = roles::RoleDelete {
                guild_id: guild,
                role_id,
            };
            let (kind, vis) = (EventKind::GuildRoleDelete, roles::visibility());
            envelopes.push(events::append(db, guild, kind, vis, &body, None).await?);
        }
    }
    if user.bot {
        envelopes.extend(oauth2::remove_integration(db, guild, user.id).await?);
    }
    envelopes.push(tell_user(db, guild, user.id, EventKind::UserLeftGuild).await?);
    Ok(envelopes)
}

/// Numbers [`EventKind::UserJoinedGuild`] or its opposite in the user's own realm.
pub(super) async fn tell_user(
    db: &mut PgConnection,
    guild: Id<Guild>,
    user: Id<User>,
    kind: EventKind,
) -> Result<Envelope> {
    let vis = Visibility::users(vec![user]);
    let body = GuildId { guild_id: guild };
    events::append(db, user, kind, vis, &body, None).await
}
