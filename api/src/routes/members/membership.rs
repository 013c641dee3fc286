//! How memberships begin and end: whoever joins, leaves, is kicked, banned or pruned, does
//! so through [`join`] and [`remove`].

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::EventKind,
    id::marker::{Guild, Role, User},
    model::{self, AuditAction, Member},
    shard::realm,
};
use guildhall_store::{ids_to_db, voice::change as voice};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};

use super::{MemberEvent, find, visibility};
use crate::{
    access, account,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    automod::{Named, judge_name},
    error::Result,
    events,
    extract::Path,
    integration,
    routes::{automod, incidents, messages, roles, scheduled_events},
    telemetry,
};

/// Guilds a person can be in; bots: no limit.
pub(crate) const GUILDS_MAX: i64 = 100;
/// Ended timeouts of one round of housekeeping.
const FORGET_BATCH: i64 = 1000;
/// System channel flag: say nothing about joins.
const SUPPRESS_JOIN_NOTIFICATIONS: u32 = 1;

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

/// How a membership starts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NewMember<'a> {
    pub(crate) nick: Option<&'a str>,
    pub(crate) roles: &'a [Id<Role>],
    pub(crate) mute: bool,
    pub(crate) deaf: bool,
    pub(crate) flags: u64,
}

/// [`join_as`] with nothing but roles.
pub(crate) async fn join(
    app: &App,
    db: &mut PgConnection,
    guild: Id<Guild>,
    user: &model::User,
    roles: &[Id<Role>],
) -> Result<Vec<Envelope>> {
    let start = NewMember {
        roles,
        ..NewMember::default()
    };
    join_as(app, db, guild, user, start).await
}

/// Makes a user a member: the row, the count, GUILD_MEMBER_ADD, the news to the user's own
/// realm, and the join message where the guild wants one.
///
/// The heads of guild and user must be locked (see [`access::lock_realms`]). Publish what
/// it returns after the commit.
///
/// Errors: 10006 while the guild lets nobody in, 10013 for who has deleted their account, 30001
/// for people in too many guilds, 40007 for who is banned. A member already: none.
pub(crate) async fn join_as(
    app: &App,
    db: &mut PgConnection,
    guild: Id<Guild>,
    user: &model::User,
    start: NewMember<'_>,
) -> Result<Vec<Envelope>> {
    let Some((member, mut events)) = admit(app, db, guild, user, start).await? else {
        return Ok(Vec::new());
    };
    events.extend(greet(app, db, guild, &member).await?);
    Ok(events)
}

/// [`join_as`] without the join message, for who says more in between ([`greet`]). `None` for
/// who is a member already.
pub(crate) async fn admit(
    app: &App,
    db: &mut PgConnection,
    guild: Id<Guild>,
    user: &model::User,
    start: NewMember<'_>,
) -> Result<Option<(Member, Vec<Envelope>)>> {
    require_not_banned(db, guild, user.id).await?;
    if !user.bot {
        account::require_not_deleted(db, user.id).await?;
        check_guild_count(db, user.id).await?;
        let settings = settings(db, guild).await?;
        incidents::check_joins(&settings)?;
    }
    let named = Named {
        user,
        nick: start.nick,
        roles: start.roles,
    };
    let verdict = judge_name(db, guild, named).await?;
    let joined = sqlx::query!(
        // Who left in a timeout goes on with it.
        "with back as (
           delete from silenced_leaver where guild_id = $1 and user_id = $2 returning until)
         insert into member (guild_id, user_id, nick, roles, mute, deaf, flags,
                             communication_disabled_until)
         values ($1, $2, $3, $4, $5, $6, $7, (select until from back where until > now()))
         on conflict do nothing",
        guild.to_db(),
        user.id.to_db(),
        start.nick,
        &ids_to_db(start.roles),
        start.mute,
        start.deaf,
        verdict.flags(start.flags) as i64,
    )
    .execute(&mut *db)
    .await?;
    if joined.rows_affected() == 0 {
        return Ok(None);
    }
    sqlx::query!(
        "update guild set member_count = member_count + 1 where guild_id = $1",
        guild.to_db(),
    )
    .execute(&mut *db)
    .await?;
    let member = find(db, guild, user.id).await?;
    let body = MemberEvent {
        guild_id: guild,
        member: &member,
    };
    let kind = EventKind::GuildMemberAdd;
    let mut envelopes = vec![events::append(db, guild, kind, visibility(), &body, None).await?];
    envelopes.push(tell_user(db, guild, user.id, EventKind::UserJoinedGuild).await?);
    envelopes.extend(automod::act_on_name(app, db, guild, named, &verdict).await?);
    Ok(Some((member, envelopes)))
}

/// Errors: 40007.
pub(crate) async fn require_not_banned(
    db: &mut PgConnection,
    guild: Id<Guild>,
    user: Id<User>,
) -> Result<()> {
    let banned = sqlx::query_scalar!(
        "select 1 as one from ban where guild_id = $1 and user_id = $2",
        guild.to_db(),
        user.to_db(),
    );
    match banned.fetch_optional(db).await? {
        Some(_) => Err(ErrorCode::BannedFromGuild.into()),
        None => Ok(()),
    }
}

/// The join message, where the guild wants one.
pub(crate) async fn greet(
    app: &App,
    db: &mut PgConnection,
    guild: Id<Guild>,
    member: &Member,
) -> Result<Option<Envelope>> {
    let settings = settings(db, guild).await?;
    match settings.system_channel_id {
        Some(channel) if settings.system_channel_flags & SUPPRESS_JOIN_NOTIFICATIONS == 0 => {
            messages::create_join_message(app, db, guild, channel, member).await
        }
        _ => Ok(None),
    }
}

async fn settings(db: &mut PgConnection, guild: Id<Guild>) -> Result<model::GuildSettings> {
    let settings = sqlx::query_scalar!(
        r#"select settings as "settings: sqlx::types::Json<model::GuildSettings>"
           from guild where guild_id = $1"#,
        guild.to_db(),
    )
    .fetch_optional(db)
    .await?;
    Ok(settings.ok_or(ErrorCode::UnknownGuild)?.0)
}

/// Errors: 30001.
pub(crate) async fn check_guild_count(db: &mut PgConnection, user: Id<User>) -> Result<()> {
    let count = sqlx::query_scalar!(
        // Members of a deleted guild stay until they are collected.
        r#"select count(*) as "count!" from member join guild using (guild_id)
           where user_id = $1"#,
        user.to_db(),
    )
    .fetch_one(db)
    .await?;
    if count >= GUILDS_MAX {
        return Err(ErrorCode::MaximumGuilds.into());
    }
    Ok(())
}

/// Ends a membership: kicked, banned, pruned or left. A bot's own role and its integration
/// go with it, as does what events they are interested in; a timeout stays, for when they come
/// back.
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
    // Told while they still are a member.
    let mut envelopes = voice::disconnect(db, guild, user.id, None, telemetry::trace()).await?;
    let removed = sqlx::query!(
        "with gone as (
           delete from member where guild_id = $1 and user_id = $2
           returning guild_id, user_id, communication_disabled_until as until
         ), silenced as (
           insert into silenced_leaver (guild_id, user_id, until)
           select guild_id, user_id, until from gone where until > now()
           on conflict (guild_id, user_id) do update set until = excluded.until
         )
         update guild set member_count = member_count - 1
         where guild_id = $1 and exists (select from gone)",
        guild.to_db(),
        user.id.to_db(),
    )
    .execute(&mut *db)
    .await?;
    if removed.rows_affected() == 0 {
        return Ok(envelopes);
    }
    scheduled_events::forget_user(db, guild, user.id).await?;
    let mut vis = visibility();
    vis.except.push(user.id);
    let body = MemberRemove {
        guild_id: guild,
        user,
    };
    let kind = EventKind::GuildMemberRemove;
    envelopes.push(events::append(db, guild, kind, vis, &body, None).await?);
    if user.bot {
        envelopes.extend(remove_bot(db, guild, user).await?);
    }
    envelopes.push(tell_user(db, guild, user.id, EventKind::UserLeftGuild).await?);
    Ok(envelopes)
}

/// Forgets timeouts that have ended without whom they were for, a bounded number at once.
pub(crate) async fn forget_timeouts(db: &PgPool) -> Result<()> {
    sqlx::query!(
        "delete from silenced_leaver where ctid in (
           select ctid from silenced_leaver where until < now() order by until limit $1)",
        FORGET_BATCH,
    )
    .execute(db)
    .await?;
    Ok(())
}

async fn remove_bot(
    db: &mut PgConnection,
    guild: Id<Guild>,
    bot: &model::User,
) -> Result<Vec<Envelope>> {
    let managed = sqlx::query_scalar!(
        "select role_id from role where guild_id = $1 and bot_id = $2",
        guild.to_db(),
        bot.id.to_db(),
    )
    .fetch_all(&mut *db)
    .await?;
    let mut envelopes = Vec::new();
    for role in managed.into_iter().map(Id::from_db) {
        envelopes.extend(roles::delete(db, guild, role).await?);
    }
    envelopes.extend(integration::remove(db, guild, bot.id).await?);
    Ok(envelopes)
}

/// Numbers [`EventKind::UserJoinedGuild`] or its opposite in the user's own realm.
pub(crate) async fn tell_user(
    db: &mut PgConnection,
    guild: Id<Guild>,
    user: Id<User>,
    kind: EventKind,
) -> Result<Envelope> {
    let vis = Visibility::users(vec![user]);
    let body = GuildId { guild_id: guild };
    events::append(db, user, kind, vis, &body, None).await
}

/// Kicks. Nobody stands above themselves: leaving has an endpoint of its own.
///
/// Errors: 10004, 10007, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/guilds/{guild_id}/members/{user_id}",
    tag = "Members",
    responses((status = 204, description = "No longer a member"))
)]
pub(super) async fn delete_guild_member(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, user_id)): Path<(Id<Guild>, Id<User>)>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [realm(guild_id), realm(user_id)]).await?;
    let access = access::guild(&mut *tx, &user, guild_id, Permissions::KICK_MEMBERS).await?;
    let member = find(&mut tx, guild_id, user_id).await?;
    access.require_above(access.rank_of(user_id, &member.roles))?;
    let mut events = remove(&mut tx, guild_id, &member).await?;
    let entry = Entry::new(guild_id, user.id, AuditAction::MEMBER_KICK, &reason).target(user_id);
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

/// Errors: 10004, 50055 for the owner.
#[utoipa::path(
    delete,
    path = "/users/@me/guilds/{guild_id}",
    tag = "Members",
    responses((status = 204, description = "Left"))
)]
pub(super) async fn leave_guild(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [realm(guild_id), realm(user.id)]).await?;
    let owner = sqlx::query_scalar!(
        "select g.owner_id from guild g join member m using (guild_id)
         where g.guild_id = $1 and m.user_id = $2",
        guild_id.to_db(),
        user.id.to_db(),
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(ErrorCode::UnknownGuild)?;
    if owner == user.id.to_db() {
        return Err(ErrorCode::InvalidGuild.into());
    }
    let member = find(&mut tx, guild_id, user.id).await?;
    let events = remove(&mut tx, guild_id, &member).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}
