//! Profiles: what people show of themselves to those who know them (calls of user clients;
//! no official page).

use axum::extract::State;
use guildhall_shared::{
    Id,
    error_code::ErrorCode,
    id::marker,
    model::{Member, RelationshipKind, User, present},
};
use guildhall_store::{account as accounts, guild};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{account_work, relationships, users};
use crate::{
    access,
    app::App,
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path, Query},
    form::FormErrors,
};

/// Guilds in common that are listed.
const MUTUAL_GUILDS_MAX: i64 = 200;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(user_profile))
        .routes(routes!(user_profile_update))
}

#[derive(Deserialize, Default, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct ProfileQuery {
    /// Absent counts as true.
    with_mutual_guilds: Option<bool>,
    with_mutual_friends: bool,
    with_mutual_friends_count: bool,
    /// Shows who they are in this guild.
    #[param(value_type = Option<String>)]
    guild_id: Option<Id<marker::Guild>>,
}

impl Form for ProfileQuery {}

#[derive(Serialize, ToSchema)]
struct Profile {
    user: ProfileUser,
    user_profile: UserProfile,
    badges: [u8; 0],
    guild_badges: [u8; 0],
    connected_accounts: [u8; 0],
    premium_type: u8,
    premium_since: Option<String>,
    premium_guild_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mutual_guilds: Option<Vec<MutualGuild>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mutual_friends: Option<Vec<User>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mutual_friends_count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guild_member: Option<Member>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guild_member_profile: Option<MemberProfile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<ProfileApplication>,
}

#[derive(Serialize, ToSchema)]
struct ProfileUser {
    #[serde(flatten)]
    user: User,
    bio: String,
}

/// What they say about themselves.
#[derive(Serialize, ToSchema)]
struct UserProfile {
    bio: String,
    pronouns: String,
    accent_color: Option<u32>,
    banner: Option<String>,
    theme_colors: Option<[u32; 2]>,
}

#[derive(Serialize, ToSchema)]
struct MutualGuild {
    id: Id<marker::Guild>,
    nick: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct MemberProfile {
    guild_id: Id<marker::Guild>,
    bio: String,
    pronouns: String,
    banner: Option<String>,
    accent_color: Option<u32>,
}

#[derive(Serialize, ToSchema)]
struct ProfileApplication {
    id: Id<marker::Application>,
    verified: bool,
    flags: u64,
}

/// The profile of somebody the caller knows: themselves, a friend, who has asked to be one,
/// a member of a guild of theirs, a bot.
///
/// Errors: 401, 10004, 10013, 50001 for a stranger's.
#[utoipa::path(
    get,
    path = "/users/{user_id}/profile",
    tag = "Users",
    params(ProfileQuery),
    responses((status = 200, body = Profile))
)]
async fn user_profile(
    State(app): State<App>,
    caller: CurrentUser,
    Path(user_id): Path<Id<marker::User>>,
    Query(query): Query<ProfileQuery>,
) -> Result<Json<Profile>> {
    let mut db = app.db.acquire().await?;
    let of = accounts::by_id(&mut *db, user_id)
        .await?
        .ok_or(ErrorCode::UnknownUser)?;
    let mutual_guilds = mutual_guilds(&mut db, caller.id, user_id).await?;
    let is_known = user_id == caller.id
        || of.user.user.bot
        || !mutual_guilds.is_empty()
        || is_related(&mut db, caller.id, user_id).await?;
    if !is_known {
        return Err(ErrorCode::MissingAccess.into());
    }
    let wants_friends = query.with_mutual_friends || query.with_mutual_friends_count;
    let friends = if wants_friends && !caller.bot {
        relationships::mutual_friends(&mut db, caller.id, user_id).await?
    } else {
        Vec::new()
    };
    let member = match query.guild_id {
        Some(id) => {
            let needed = guildhall_shared::Permissions::empty();
            access::guild(&mut *db, &caller, id, needed).await?;
            guild::member(&mut *db, id, user_id).await?
        }
        None => None,
    };
    let guild_member_profile = member
        .as_ref()
        .and(query.guild_id)
        .map(|guild_id| MemberProfile {
            guild_id,
            bio: String::new(),
            pronouns: String::new(),
            banner: None,
            accent_color: None,
        });
    let user = of.user;
    Ok(Json(Profile {
        user_profile: own(&user),
        user: ProfileUser {
            bio: user.bio,
            user: user.user,
        },
        badges: [],
        guild_badges: [],
        connected_accounts: [],
        premium_type: 0,
        premium_since: None,
        premium_guild_since: None,
        mutual_guilds: (query.with_mutual_guilds != Some(false)).then_some(mutual_guilds),
        mutual_friends_count: query.with_mutual_friends_count.then_some(friends.len()),
        mutual_friends: query.with_mutual_friends.then_some(friends),
        guild_member: member,
        guild_member_profile,
        application: of.application.map(|(id, flags)| ProfileApplication {
            id,
            verified: false,
            flags,
        }),
    }))
}

fn own(user: &guildhall_shared::model::CurrentUser) -> UserProfile {
    UserProfile {
        bio: user.bio.clone(),
        pronouns: user.pronouns.clone(),
        accent_color: user.user.accent_color,
        banner: user.user.banner.clone(),
        theme_colors: None,
    }
}

/// A friend, or somebody who has asked.
async fn is_related(
    db: &mut PgConnection,
    caller: Id<marker::User>,
    other: Id<marker::User>,
) -> Result<bool> {
    let kind = relationships::kind(db, caller, other).await?;
    Ok(matches!(
        kind,
        Some(RelationshipKind::Friend | RelationshipKind::Incoming)
    ))
}

/// By id, with the other one's nick.
async fn mutual_guilds(
    db: &mut PgConnection,
    caller: Id<marker::User>,
    other: Id<marker::User>,
) -> Result<Vec<MutualGuild>> {
    let rows = sqlx::query!(
        // Members of a deleted guild stay until they are collected.
        "select o.guild_id, o.nick from member m join member o using (guild_id)
         join guild using (guild_id)
         where m.user_id = $1 and o.user_id = $2 order by o.guild_id limit $3",
        caller.to_db(),
        other.to_db(),
        MUTUAL_GUILDS_MAX,
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| MutualGuild {
            id: Id::from_db(row.guild_id),
            nick: row.nick,
        })
        .collect())
}

/// Absent: unchanged; null: cleared.
#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct UpdateProfile {
    #[serde(deserialize_with = "present")]
    #[schema(max_length = 190)]
    bio: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    #[schema(max_length = 40)]
    pronouns: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    #[schema(maximum = 16777215)]
    accent_color: Option<Option<u32>>,
}

impl Form for UpdateProfile {
    fn check(&self, form: &mut FormErrors) {
        if let Some(Some(bio)) = &self.bio {
            form.length("bio", bio, 0..=190);
        }
        if let Some(Some(pronouns)) = &self.pronouns {
            form.length("pronouns", pronouns, 0..=40);
        }
        if let Some(Some(color)) = self.accent_color {
            form.range("accent_color", color.into(), 0..=0xFF_FFFF);
        }
    }
}

/// Changes what the caller says about themselves. Errors: 401, 20001, 50035.
#[utoipa::path(
    patch,
    path = "/users/@me/profile",
    tag = "Users",
    responses((status = 200, body = UserProfile))
)]
async fn user_profile_update(
    State(app): State<App>,
    caller: CurrentUser,
    Json(body): Json<UpdateProfile>,
) -> Result<Json<UserProfile>> {
    caller.require_human()?;
    let mut tx = app.db.begin().await?;
    let change = account_work::lock_for_change(&mut tx, caller.id).await?;
    sqlx::query!(
        "update account set
           bio = coalesce($2, bio),
           pronouns = coalesce($3, pronouns),
           accent_color = case when $4 then $5 else accent_color end
         where user_id = $1",
        caller.id.to_db(),
        body.bio.as_ref().map(users::cleared),
        body.pronouns.as_ref().map(users::cleared),
        body.accent_color.is_some(),
        body.accent_color.flatten().map(|color| color as i32),
    )
    .execute(&mut *tx)
    .await?;
    let events = account_work::append_changes(&app, &mut tx, caller.id, &change).await?;
    let updated = accounts::by_id(&mut *tx, caller.id)
        .await?
        .ok_or(ErrorCode::UnknownUser)?;
    tx.commit().await?;
    app.tokens.forget(caller.id);
    app.publisher.publish(events);
    account_work::tell_later(&app, &change);
    Ok(Json(own(&updated.user)))
}
