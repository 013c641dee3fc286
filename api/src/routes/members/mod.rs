//! Members: read, searched, changed, added, removed. Spec: objects.md › Member;
//! permissions.md › Hierarchy.

mod membership;
pub(crate) mod temporary;
mod update;

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{Guild, User},
    model::Member,
};
use guildhall_store::{guild::MemberRow, ids_to_db};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::{
    membership::{
        NewMember, admit, check_guild_count, forget_timeouts, greet, join, join_as, remove,
        require_not_banned, tell_user,
    },
    update::{audit_roles, new_roles, rename},
};
use crate::{
    access, account,
    app::App,
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path, Query},
    form::FormErrors,
    text::clean,
};

/// Flag of an application that may list members (approved, or by its own setting).
const APPLICATION_GUILD_MEMBERS: u64 = 0b11 << 14;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_guild_members))
        .routes(routes!(search_guild_members))
        .routes(routes!(update::update_my_guild_member))
        .routes(routes!(update::update_my_nick))
        .routes(routes!(
            get_guild_member,
            update::update_guild_member,
            membership::delete_guild_member
        ))
        .routes(routes!(get_my_guild_member))
        .routes(routes!(membership::leave_guild))
}

/// Body of GUILD_MEMBER_ADD and GUILD_MEMBER_UPDATE.
#[derive(Serialize)]
struct MemberEvent<'a> {
    guild_id: Id<Guild>,
    #[serde(flatten)]
    member: &'a Member,
}

fn visibility() -> Visibility {
    Visibility::realm(Intents::GUILD_MEMBERS)
}

#[derive(Debug, Deserialize, Default, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct ListMembers {
    /// 1 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
    /// The last user of the page before.
    after: Option<u64>,
}

impl Form for ListMembers {
    fn check(&self, form: &mut FormErrors) {
        if let Some(limit) = self.limit {
            form.range("limit", limit, 1..=1000);
        }
    }
}

/// By user id, for bots whose application has the GUILD_MEMBERS intent.
///
/// Errors: 10004, 20002, 50001, 50035.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/members",
    tag = "Members",
    params(ListMembers),
    responses((status = 200, body = Vec<Member>))
)]
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

#[derive(Debug, Deserialize, Default, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct SearchMembers {
    /// How the username, display name or nick begins, in any case.
    #[param(required, min_length = 1, max_length = 100)]
    query: Option<String>,
    /// 1 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

impl Form for SearchMembers {
    fn check(&self, form: &mut FormErrors) {
        if let Some(query) = form.required("query", &self.query) {
            form.length("query", query, 1..=100);
        }
        if let Some(limit) = self.limit {
            form.range("limit", limit, 1..=1000);
        }
    }
}

/// Members whose name begins so. Errors: 10004, 50001, 50035.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/members/search",
    tag = "Members",
    params(SearchMembers),
    responses((status = 200, body = Vec<Member>))
)]
async fn search_guild_members(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    Query(query): Query<SearchMembers>,
) -> Result<Json<Vec<Member>>> {
    let mut db = app.db.acquire().await?;
    access::guild(&mut *db, &user, guild_id, Permissions::empty()).await?;
    let prefix = clean(query.query.as_deref().unwrap_or_default());
    let found = search(&mut db, guild_id, &prefix, query.limit.unwrap_or(1)).await?;
    Ok(Json(found))
}

/// Each name by its own index.
async fn search(
    db: &mut PgConnection,
    guild: Id<Guild>,
    prefix: &str,
    limit: i64,
) -> Result<Vec<Member>> {
    let named = account::named(&mut *db, prefix).await?;
    let named: Option<Vec<i64>> = named.map(|ids| ids.into_iter().collect());
    // Users are looked up one by one: among many members a plan that is kept for all values looks
    // for them in all of the guild's. Of a common name some are soon found in these.
    macro_rules! search {
        ($named:literal) => {
            sqlx::query_as!(
                MemberRow,
                r#"with found as (
                     (select m.user_id from member m
                      where m.guild_id = $1 and m.nick is not null and begins(m.nick, $2)
                      limit $3)
                     union
                     ("#
                    + $named
                    + r#" limit $3)
                   )
                   select m.nick, m.roles, m.joined_at, m.communication_disabled_until, m.deaf,
                          m.mute, m.pending, m.flags, m.avatar as member_avatar,
                          m.banner as member_banner, a.user_id, a.username, a.discriminator,
                          a.global_name, a.avatar, a.banner, a.accent_color, a.bot, a.public_flags
                   from found f
                   join member m on m.guild_id = $1 and m.user_id = f.user_id
                   join account a on a.user_id = f.user_id
                   order by m.user_id limit $3"#,
                guild.to_db(),
                prefix,
                limit,
                named.as_deref(),
            )
            .fetch_all(db)
            .await?
        };
    }
    let rows = match named {
        Some(_) => search!(
            "select w.user_id from unnest($4::bigint[]) w (user_id) cross join lateral (
               select from member
               where guild_id = $1 and member.user_id = w.user_id offset 0) m"
        ),
        None => search!(
            "select m.user_id from member m join account a on a.user_id = m.user_id
             where m.guild_id = $1 and $4::bigint[] is null
               and (begins(a.username, $2) or begins(a.global_name, $2))"
        ),
    };
    Ok(rows.into_iter().map(Member::from).collect())
}

/// Errors: 10004, 10007, 10013 where there is no such account, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/members/{user_id}",
    tag = "Members",
    responses((status = 200, body = Member))
)]
async fn get_guild_member(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, user_id)): Path<(Id<Guild>, Id<User>)>,
) -> Result<Json<Member>> {
    access::guild(&app.db, &user, guild_id, Permissions::empty()).await?;
    let mut db = app.db.acquire().await?;
    let member = guildhall_store::guild::member(&mut *db, guild_id, user_id).await?;
    if let Some(member) = member {
        return Ok(Json(member));
    }
    let account = guildhall_store::account::by_id(&mut *db, user_id).await?;
    Err(match account {
        Some(_) => ErrorCode::UnknownMember.into(),
        None => ErrorCode::UnknownUser.into(),
    })
}

/// Errors: 10007.
pub(crate) async fn find(
    db: &mut PgConnection,
    guild: Id<Guild>,
    user: Id<User>,
) -> Result<Member> {
    let member = guildhall_store::guild::member(db, guild, user).await?;
    Ok(member.ok_or(ErrorCode::UnknownMember)?)
}

/// The caller's own membership, and what it allows.
#[derive(Serialize, ToSchema)]
struct MyMember {
    #[serde(flatten)]
    member: Member,
    /// At guild level.
    permissions: Permissions,
}

/// Errors: 10004 also for who is no member.
#[utoipa::path(
    get,
    path = "/users/@me/guilds/{guild_id}/member",
    tag = "Members",
    responses((status = 200, body = MyMember))
)]
async fn get_my_guild_member(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<MyMember>> {
    let mut db = app.db.acquire().await?;
    let access = access::guild(&mut *db, &user, guild_id, Permissions::empty())
        .await
        .map_err(|_| ErrorCode::UnknownGuild)?;
    Ok(Json(MyMember {
        permissions: access.base(),
        member: find(&mut db, guild_id, user.id).await?,
    }))
}

/// Stores a changed member and numbers its GUILD_MEMBER_UPDATE, which the member gets
/// whatever their intents. The guild's head is locked.
pub(crate) async fn store(
    db: &mut PgConnection,
    guild: Id<Guild>,
    user: Id<User>,
    member: &Member,
) -> Result<Envelope> {
    sqlx::query!(
        "update member set nick = $3, roles = $4, communication_disabled_until = $5, mute = $6,
                           deaf = $7, flags = $8, avatar = $9, banner = $10
         where guild_id = $1 and user_id = $2",
        guild.to_db(),
        user.to_db(),
        member.nick,
        &ids_to_db(&member.roles),
        member.communication_disabled_until.map(|until| until.0),
        member.mute,
        member.deaf,
        member.flags as i64,
        member.avatar,
        member.banner,
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
