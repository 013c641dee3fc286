//! Users. Spec: Resources › User.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{delete, get},
};
use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker,
    model::{self, GuildSettings, User},
    permissions::{self, MemberAccess},
};
use guildhall_store::{
    account::{self, UserRow},
    guild,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgConnection, types::Json as Jsonb};

use crate::{
    access,
    app::App,
    auth::{self, CurrentUser},
    error::Result,
    events,
    extract::{Form, Json, Path, Query},
    form::{Fault, FormErrors},
    routes::{
        auth::{
            append_revocation, check_bot_name, check_email, check_password, check_username,
            parse_date, taken_name_or_email,
        },
        oauth2,
    },
};

pub(crate) fn router() -> Router<App> {
    Router::new()
        .route("/users/@me", get(get_my_user).patch(update_my_user))
        .route("/users/@me/guilds", get(list_my_guilds))
        .route("/users/@me/guilds/{guild_id}", delete(leave_guild))
        .route("/users/{user_id}", get(get_user))
}

/// [Get Current User](https://docs.discord.com/developers/resources/user#get-current-user)
async fn get_my_user(caller: CurrentUser) -> Json<model::CurrentUser> {
    Json(caller.account.user.clone())
}

/// Errors: 10013. [Get User](https://docs.discord.com/developers/resources/user#get-user)
async fn get_user(
    State(app): State<App>,
    _caller: CurrentUser,
    Path(user_id): Path<Id<marker::User>>,
) -> Result<Json<User>> {
    let row = sqlx::query_as!(
        UserRow,
        "select user_id, username, discriminator, global_name, avatar, banner, accent_color, bot,
                public_flags
         from account where user_id = $1",
        user_id.to_db(),
    )
    .fetch_optional(&app.db)
    .await?
    .ok_or(ErrorCode::UnknownUser)?;
    Ok(Json(row.into()))
}

/// Absent: unchanged; null: cleared, where that means something.
#[derive(Deserialize, Default)]
#[serde(default)]
struct UpdateMyUser {
    username: Option<String>,
    #[serde(deserialize_with = "model::present")]
    global_name: Option<Option<String>>,
    #[serde(deserialize_with = "model::present")]
    avatar: Option<Option<String>>,
    #[serde(deserialize_with = "model::present")]
    banner: Option<Option<String>>,
    #[serde(deserialize_with = "model::present")]
    accent_color: Option<Option<u32>>,
    bio: Option<String>,
    pronouns: Option<String>,
    email: Option<String>,
    date_of_birth: Option<String>,
    /// Needed for a new username, e-mail or password.
    password: Option<String>,
    new_password: Option<String>,
}

impl Form for UpdateMyUser {
    fn check(&self, form: &mut FormErrors) {
        if let Some(Some(name)) = &self.global_name {
            form.length("global_name", name, 1..=32);
        }
        for (path, image) in [("avatar", &self.avatar), ("banner", &self.banner)] {
            if let Some(Some(_)) = image {
                form.add(
                    path,
                    Fault::Other(
                        "IMAGE_INVALID",
                        "This server does not take images yet.".into(),
                    ),
                );
            }
        }
        if let Some(Some(color)) = self.accent_color {
            form.range("accent_color", color.into(), 0..=0xFF_FFFF);
        }
        if let Some(bio) = &self.bio {
            form.length("bio", bio, 0..=190);
        }
        if let Some(pronouns) = &self.pronouns {
            form.length("pronouns", pronouns, 0..=40);
        }
        if let Some(email) = &self.email {
            check_email(form, "email", email);
        }
        if let Some(password) = &self.new_password {
            check_password(form, "new_password", password);
        }
        if let Some(date) = &self.date_of_birth
            && parse_date(date).is_none()
        {
            form.add(
                "date_of_birth",
                Fault::NotTimestamp(date.chars().take(40).collect()),
            );
        }
    }
}

#[derive(Serialize)]
struct UpdatedUser {
    #[serde(flatten)]
    user: model::CurrentUser,
    /// After a change of password: the one token that still works.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// Changes the caller's account. A new password revokes every older token.
///
/// Errors: 50035. [Modify Current User](https://docs.discord.com/developers/resources/user#modify-current-user)
async fn update_my_user(
    State(app): State<App>,
    caller: CurrentUser,
    Json(body): Json<UpdateMyUser>,
) -> Result<Json<UpdatedUser>> {
    check_update(&app, &caller, &body).await?;
    let new_hash = match body.new_password.clone().filter(|_| !caller.bot) {
        Some(password) => Some(app.passwords.hash(password).await?),
        None => None,
    };
    let mut tx = app.db.begin().await?;
    let mut guilds = account::guild_ids(&mut *tx, caller.id).await?;
    guilds.truncate(GUILDS_TOLD_MAX);
    let realms = guilds
        .iter()
        .map(|guild| guild.cast())
        .chain([caller.id.cast()]);
    access::lock_realms(&mut tx, realms).await?;
    sqlx::query!(
        "update account set
           username = coalesce($2, username),
           global_name = case when $3 then $4 else global_name end,
           avatar = case when $5 then null else avatar end,
           banner = case when $6 then null else banner end,
           accent_color = case when $7 then $8 else accent_color end,
           bio = coalesce($9, bio),
           pronouns = coalesce($10, pronouns),
           email = coalesce($11, email),
           date_of_birth = coalesce($12, date_of_birth),
           password_hash = coalesce($13, password_hash)
         where user_id = $1",
        caller.id.to_db(),
        body.username.as_deref().map(str::trim),
        body.global_name.is_some(),
        body.global_name
            .as_ref()
            .and_then(|name| name.as_deref()?.trim().into()),
        body.avatar.is_some(),
        body.banner.is_some(),
        body.accent_color.is_some(),
        body.accent_color.flatten().map(|color| color as i32),
        body.bio,
        body.pronouns,
        body.email.as_deref().map(str::trim).filter(|_| !caller.bot),
        body.date_of_birth.as_deref().and_then(parse_date),
        new_hash,
    )
    .execute(&mut *tx)
    .await
    .map_err(taken_name_or_email)?;
    // Read back by the caller's own token, which is still there.
    let updated = account::by_token(&mut *tx, caller.token)
        .await?
        .ok_or(ErrorCode::Unauthorized)?;
    let (token, revoked) = match new_hash {
        Some(_) => {
            let revoked = sqlx::query_scalar!(
                "delete from auth_token where user_id = $1 returning token_hash",
                caller.id.to_db(),
            )
            .fetch_all(&mut *tx)
            .await?;
            (Some(auth::issue_token(&mut tx, caller.id).await?), revoked)
        }
        None => (None, Vec::new()),
    };
    let events = append_update(&mut tx, &updated.user, &guilds, &revoked).await?;
    tx.commit().await?;
    app.tokens.forget(caller.id);
    app.publisher.publish(events);
    Ok(Json(UpdatedUser {
        user: updated.user,
        token: token.map(|token| token.reveal().to_owned()),
    }))
}

/// What the body alone does not tell: names by kind of account, and the password.
async fn check_update(app: &App, caller: &CurrentUser, body: &UpdateMyUser) -> Result<()> {
    let mut form = FormErrors::new();
    // Libraries send the whole form: an unchanged name is no change.
    let is_renamed = |name: &String| name.trim() != caller.user().username;
    if let Some(name) = body.username.as_ref().filter(|name| is_renamed(name)) {
        if caller.bot {
            check_bot_name(&mut form, "username", name);
        } else {
            check_username(&mut form, "username", name);
        }
    }
    let is_guarded = body.username.as_ref().is_some_and(is_renamed)
        || body.email.is_some()
        || body.new_password.is_some();
    form.finish()?;
    if caller.bot || !is_guarded {
        return Ok(());
    }
    let stored = sqlx::query_scalar!(
        "select password_hash from account where user_id = $1",
        caller.id.to_db(),
    )
    .fetch_one(&app.db)
    .await?;
    let password = body
        .password
        .clone()
        .ok_or_else(|| FormErrors::one("password", Fault::Required))?;
    if app.passwords.verify(password, stored).await? {
        Ok(())
    } else {
        let fault = Fault::Other("PASSWORD_DOES_NOT_MATCH", "Password does not match.".into());
        Err(FormErrors::one("password", fault))
    }
}

/// Guilds that are told of a changed user; a bot in more of them is renamed there when
/// their members are read anew.
pub(crate) const GUILDS_TOLD_MAX: usize = 200;

/// Numbers USER_UPDATE (and revoked tokens) for the user and GUILD_MEMBER_UPDATE for their
/// guilds, whose heads are locked.
pub(crate) async fn append_update(
    db: &mut PgConnection,
    user: &model::CurrentUser,
    guilds: &[Id<marker::Guild>],
    revoked: &[Vec<u8>],
) -> Result<Vec<Envelope>> {
    let id = user.user.id;
    let vis = Visibility::realm(Intents::empty());
    let mut events = vec![events::append(db, id, EventKind::UserUpdate, vis, user, None).await?];
    if !revoked.is_empty() {
        events.push(append_revocation(db, id, revoked).await?);
    }
    for &guild in guilds {
        events.extend(append_member_update(db, guild, id).await?);
    }
    Ok(events)
}

async fn append_member_update(
    db: &mut PgConnection,
    guild_id: Id<marker::Guild>,
    user: Id<marker::User>,
) -> Result<Option<Envelope>> {
    let Some(member) = guild::member(&mut *db, guild_id, user).await? else {
        return Ok(None);
    };
    let mut vis = Visibility::realm(Intents::GUILD_MEMBERS);
    vis.regardless.push(user);
    let body = with_guild_id(&member, guild_id)?;
    events::append(db, guild_id, EventKind::GuildMemberUpdate, vis, &body, None)
        .await
        .map(Some)
}

/// An object as events carry it: with `guild_id`.
pub(crate) fn with_guild_id(object: &impl Serialize, guild: Id<marker::Guild>) -> Result<Value> {
    let mut value = serde_json::to_value(object)?;
    value["guild_id"] = json!(guild);
    Ok(value)
}

#[derive(Deserialize)]
struct ListMyGuilds {
    before: Option<Id<marker::Guild>>,
    after: Option<Id<marker::Guild>>,
    limit: Option<i64>,
    with_counts: Option<bool>,
}

impl Form for ListMyGuilds {
    fn check(&self, form: &mut FormErrors) {
        if let Some(limit) = self.limit {
            form.range("limit", limit, 1..=200);
        }
    }
}

/// A guild as its member's list shows it.
#[derive(Serialize)]
pub(crate) struct MyGuild {
    pub(crate) id: Id<marker::Guild>,
    pub(crate) name: String,
    pub(crate) icon: Option<String>,
    banner: Option<String>,
    owner: bool,
    pub(crate) permissions: Permissions,
    features: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approximate_member_count: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approximate_presence_count: Option<i32>,
}

/// The caller's guilds by id. `before` returns the ones next to it, still ascending.
/// [Get Current User Guilds](https://docs.discord.com/developers/resources/user#get-current-user-guilds)
async fn list_my_guilds(
    State(app): State<App>,
    caller: CurrentUser,
    Query(query): Query<ListMyGuilds>,
) -> Result<Json<Vec<MyGuild>>> {
    let limit = query.limit.unwrap_or(200);
    let mut guilds = my_guilds(&mut *app.db.acquire().await?, caller.id, &query, limit).await?;
    if query.with_counts != Some(true) {
        for guild in &mut guilds {
            guild.approximate_member_count = None;
            guild.approximate_presence_count = None;
        }
    }
    Ok(Json(guilds))
}

/// Every guild of a user, ascending.
pub(crate) async fn all_guilds(
    db: &mut PgConnection,
    user: Id<marker::User>,
) -> Result<Vec<MyGuild>> {
    let everything = ListMyGuilds {
        before: None,
        after: None,
        limit: None,
        with_counts: None,
    };
    my_guilds(db, user, &everything, i64::MAX).await
}

async fn my_guilds(
    db: &mut PgConnection,
    user: Id<marker::User>,
    query: &ListMyGuilds,
    limit: i64,
) -> Result<Vec<MyGuild>> {
    let is_backwards = query.before.is_some() && query.after.is_none();
    let rows = sqlx::query!(
        r#"select g.guild_id, g.name, g.icon, g.owner_id, g.member_count,
                  g.settings as "settings: Jsonb<GuildSettings>",
                  m.communication_disabled_until,
                  (select bit_or(r.permissions) from role r
                   where r.guild_id = g.guild_id
                     and (r.role_id = g.guild_id or r.role_id = any (m.roles))) as granted
           from member m join guild g using (guild_id)
           where m.user_id = $1 and g.guild_id > $2 and g.guild_id < $3
           order by case when $4 then -g.guild_id else g.guild_id end
           limit $5"#,
        user.to_db(),
        query.after.map_or(0, Id::to_db),
        query.before.map_or(i64::MAX, Id::to_db),
        is_backwards,
        limit,
    )
    .fetch_all(db)
    .await?;
    let now = Timestamp::now();
    let mut guilds: Vec<MyGuild> = rows
        .into_iter()
        .map(|row| {
            let id: Id<marker::Guild> = Id::from_db(row.guild_id);
            let access = MemberAccess {
                user,
                is_owner: row.owner_id == user.to_db(),
                roles: &[],
                communication_disabled_until: row.communication_disabled_until.map(Timestamp),
            };
            // All roles of the member are in `granted`: handed over as @everyone's.
            let granted = Permissions::from_bits_truncate(row.granted.unwrap_or(0) as u64);
            MyGuild {
                id,
                name: row.name,
                icon: row.icon,
                banner: row.settings.0.banner,
                owner: access.is_owner,
                permissions: permissions::base(id, access, |_| Some(granted), now),
                features: row.settings.0.features,
                approximate_member_count: Some(row.member_count),
                // Presences are the gateways' knowledge; at least the asker is there.
                approximate_presence_count: Some(1),
            }
        })
        .collect();
    if is_backwards {
        guilds.reverse();
    }
    Ok(guilds)
}

/// Errors: 10004, 50055 for the owner.
/// [Leave Guild](https://docs.discord.com/developers/resources/user#leave-guild)
async fn leave_guild(
    State(app): State<App>,
    caller: CurrentUser,
    Path(guild_id): Path<Id<marker::Guild>>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [guild_id.cast(), caller.id.cast()]).await?;
    let owner = sqlx::query_scalar!(
        "select g.owner_id from guild g join member m using (guild_id)
         where g.guild_id = $1 and m.user_id = $2",
        guild_id.to_db(),
        caller.id.to_db(),
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(ErrorCode::UnknownGuild)?;
    if owner == caller.id.to_db() {
        return Err(ErrorCode::InvalidGuild.into());
    }
    remove_member(&mut tx, guild_id, caller.id).await?;
    let events = append_leave(&mut tx, guild_id, caller.user()).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

/// Takes the member row; the guild's head is locked.
async fn remove_member(
    db: &mut PgConnection,
    guild: Id<marker::Guild>,
    user: Id<marker::User>,
) -> Result<()> {
    sqlx::query!(
        "delete from member where guild_id = $1 and user_id = $2",
        guild.to_db(),
        user.to_db(),
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "update guild set member_count = member_count - 1 where guild_id = $1",
        guild.to_db(),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Numbers what follows from a deleted member row, in the guild and for the user, whose
/// heads are locked; a bot's managed role goes with it.
pub(crate) async fn append_leave(
    db: &mut PgConnection,
    guild: Id<marker::Guild>,
    user: &User,
) -> Result<Vec<Envelope>> {
    let managed = if user.bot {
        sqlx::query_scalar!(
            "delete from role where guild_id = $1 and bot_id = $2 returning role_id",
            guild.to_db(),
            user.id.to_db(),
        )
        .fetch_all(&mut *db)
        .await?
    } else {
        Vec::new()
    };
    let body = json!({ "guild_id": guild, "user": user });
    let mut changes = vec![(EventKind::GuildMemberRemove, Intents::GUILD_MEMBERS, body)];
    for role in managed {
        let role: Id<marker::Role> = Id::from_db(role);
        let body = json!({ "guild_id": guild, "role_id": role });
        changes.push((EventKind::GuildRoleDelete, Intents::GUILDS, body));
    }
    let mut events = Vec::new();
    for (kind, intents, body) in changes {
        let vis = Visibility::realm(intents);
        events.push(events::append(db, guild, kind, vis, &body, None).await?);
    }
    if user.bot {
        events.extend(oauth2::remove_integration(db, guild, user.id).await?);
    }
    events.push(append_left(db, guild, user.id).await?);
    Ok(events)
}

async fn append_left(
    db: &mut PgConnection,
    guild: Id<marker::Guild>,
    user: Id<marker::User>,
) -> Result<Envelope> {
    let vis = Visibility::realm(Intents::empty());
    let body = json!({ "guild_id": guild });
    events::append(db, user, EventKind::UserLeftGuild, vis, &body, None).await
}
