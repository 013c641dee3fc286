//! Users. Spec: Resources › User.

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions, Timestamp,
    error_code::ErrorCode,
    id::marker,
    model::{self, GuildSettings, User, silenced_until},
    permissions::{self, MemberAccess},
};
use guildhall_store::{account as accounts, user::UserRow};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json as Jsonb};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    account::{
        check_bot_name, check_email, check_password, check_username, parse_date,
        taken_name_or_email,
    },
    app::App,
    auth::{self, CurrentUser},
    error::Result,
    extract::{Form, Json, Path, Query, from_zero},
    form::{Fault, FormErrors},
    media::{ImageOf, check_image, store_optional_image},
    online,
    routes::{
        account_work,
        auth::{
            mail_verification,
            tries::{self, Network},
        },
    },
    second_factor::{self, Shown},
    sessions::{self, Client},
    text::clean,
    tickets,
};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get_my_user, update_my_user))
        .routes(routes!(list_my_guilds))
        .routes(routes!(get_user))
}

/// [Get Current User](https://docs.discord.com/developers/resources/user#get-current-user)
#[utoipa::path(
    get,
    path = "/users/@me",
    tag = "Users",
    responses((status = 200, body = model::CurrentUser))
)]
async fn get_my_user(caller: CurrentUser) -> Json<model::CurrentUser> {
    Json(caller.account.user.clone())
}

/// Errors: 10013. [Get User](https://docs.discord.com/developers/resources/user#get-user)
#[utoipa::path(
    get,
    path = "/users/{user_id}",
    tag = "Users",
    responses((status = 200, body = User))
)]
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
#[derive(Deserialize, Default, ToSchema)]
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
    #[serde(deserialize_with = "model::present")]
    bio: Option<Option<String>>,
    #[serde(deserialize_with = "model::present")]
    pronouns: Option<Option<String>>,
    email: Option<String>,
    date_of_birth: Option<String>,
    /// Needed for a new username, e-mail or password.
    password: Option<String>,
    new_password: Option<String>,
    /// Of the second factor, if there is one: for a new e-mail or password.
    code: Option<String>,
}

impl Form for UpdateMyUser {
    fn check(&self, form: &mut FormErrors) {
        if let Some(Some(name)) = &self.global_name {
            form.length("global_name", name, 1..=32);
        }
        for (path, image) in [("avatar", &self.avatar), ("banner", &self.banner)] {
            check_image(form, path, image.as_ref().and_then(Option::as_deref));
        }
        if let Some(Some(color)) = self.accent_color {
            form.range("accent_color", color.into(), 0..=0xFF_FFFF);
        }
        if let Some(Some(bio)) = &self.bio {
            form.length("bio", bio, 0..=190);
        }
        if let Some(Some(pronouns)) = &self.pronouns {
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

#[derive(Serialize, ToSchema)]
struct UpdatedUser {
    #[serde(flatten)]
    user: model::CurrentUser,
    /// After a change of password: the one token that still works.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// Text of an account as it is stored: none is empty.
pub(super) fn cleared(text: &Option<String>) -> String {
    text.as_deref().map(clean).unwrap_or_default()
}

/// Changes the caller's account. A new password revokes every older token; a new address is
/// to be verified.
///
/// Errors: 50035, 60003, 60008. [Modify Current User](https://docs.discord.com/developers/resources/user#modify-current-user)
#[utoipa::path(
    patch,
    path = "/users/@me",
    tag = "Users",
    responses((status = 200, body = UpdatedUser))
)]
async fn update_my_user(
    State(app): State<App>,
    caller: CurrentUser,
    client: Client,
    network: Network,
    shown: Shown,
    Json(body): Json<UpdateMyUser>,
) -> Result<Json<UpdatedUser>> {
    let email = new_email(&caller, &body);
    check_update(&app, &caller, shown, &body, email).await?;
    let new_hash = match body.new_password.clone().filter(|_| !caller.bot) {
        Some(password) => Some(app.passwords.hash(password).await?),
        None => None,
    };
    let of = ImageOf::UserAvatar(caller.id);
    let avatar = store_optional_image(&app.media, of, "avatar", &body.avatar).await?;
    let of = ImageOf::UserBanner(caller.id);
    let banner = store_optional_image(&app.media, of, "banner", &body.banner).await?;
    let mut tx = app.db.begin().await?;
    let change = account_work::lock_for_change(&mut tx, caller.id).await?;
    if email.is_some() || new_hash.is_some() {
        caller.require_session(&mut tx).await?;
    }
    sqlx::query!(
        "update account set
           username = coalesce($2, username),
           global_name = case when $3 then $4 else global_name end,
           avatar = case when $5 then $14 else avatar end,
           banner = case when $6 then $15 else banner end,
           accent_color = case when $7 then $8 else accent_color end,
           bio = coalesce($9, bio),
           pronouns = coalesce($10, pronouns),
           email = coalesce($11, email),
           verified = verified and $11::text is null,
           date_of_birth = coalesce($12, date_of_birth),
           password_hash = coalesce($13, password_hash)
         where user_id = $1",
        caller.id.to_db(),
        body.username.as_deref().map(clean),
        body.global_name.is_some(),
        body.global_name
            .as_ref()
            .and_then(|name| name.as_deref().map(clean))
            .filter(|name| !name.is_empty()),
        body.avatar.is_some(),
        body.banner.is_some(),
        body.accent_color.is_some(),
        body.accent_color.flatten().map(|color| color as i32),
        body.bio.as_ref().map(cleared),
        body.pronouns.as_ref().map(cleared),
        email,
        body.date_of_birth.as_deref().and_then(parse_date),
        new_hash,
        avatar.flatten(),
        banner.flatten(),
    )
    .execute(&mut *tx)
    .await
    .map_err(taken_name_or_email)?;
    let mut events = account_work::append_changes(&app, &mut tx, caller.id, &change).await?;
    if email.is_some() || new_hash.is_some() {
        tickets::void_all(&mut tx, caller.id).await?;
    }
    let token = match new_hash {
        Some(_) => {
            let (token, told) = sessions::renew(&mut tx, caller.id, &client).await?;
            events.extend(told);
            Some(token.reveal().to_owned())
        }
        None => None,
    };
    let mail = match email {
        Some(email) => mail_verification(&app, &mut tx, caller.id, email).await?,
        None => None,
    };
    let updated = accounts::by_id(&mut *tx, caller.id)
        .await?
        .ok_or(ErrorCode::Unauthorized)?;
    tx.commit().await?;
    app.tokens.forget(caller.id);
    app.publisher.publish(events);
    account_work::tell_later(&app, &change);
    if token.is_some() {
        tries::forget(&app, caller.id).await;
        tries::remember(&app, caller.id, network).await;
    }
    if let Some(mail) = mail {
        app.mailer.send(mail);
    }
    Ok(Json(UpdatedUser {
        user: updated.user,
        token,
    }))
}

/// The address, if it is another one than before.
fn new_email<'a>(caller: &CurrentUser, body: &'a UpdateMyUser) -> Option<&'a str> {
    let email = body.email.as_deref()?.trim();
    let is_same = caller.account.user.email.as_deref() == Some(email);
    (!caller.bot && !is_same).then_some(email)
}

/// What the body alone does not tell: names by kind of account, password, second factor.
async fn check_update(
    app: &App,
    caller: &CurrentUser,
    shown: Shown,
    body: &UpdateMyUser,
    email: Option<&str>,
) -> Result<()> {
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
    form.finish()?;
    let is_sensitive = email.is_some() || body.new_password.is_some();
    if caller.bot || !(is_sensitive || body.username.as_ref().is_some_and(is_renamed)) {
        return Ok(());
    }
    auth::check_password_of(app, caller.id, body.password.as_deref()).await?;
    if is_sensitive {
        second_factor::require(app, caller, shown, body.code.as_deref()).await?;
    }
    Ok(())
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListMyGuilds {
    #[param(value_type = Option<String>)]
    before: Option<Id<marker::Guild>>,
    #[param(value_type = Option<String>)]
    #[serde(default, deserialize_with = "from_zero")]
    after: Option<Id<marker::Guild>>,
    /// 200 by default.
    #[param(minimum = 1, maximum = 200)]
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
#[derive(Serialize, ToSchema)]
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
    approximate_presence_count: Option<u64>,
}

/// The caller's guilds by id. `before` returns the ones next to it, still ascending.
/// [Get Current User Guilds](https://docs.discord.com/developers/resources/user#get-current-user-guilds)
#[utoipa::path(
    get,
    path = "/users/@me/guilds",
    tag = "Users",
    params(ListMyGuilds),
    responses((status = 200, body = [MyGuild]))
)]
async fn list_my_guilds(
    State(app): State<App>,
    caller: CurrentUser,
    Query(query): Query<ListMyGuilds>,
) -> Result<Json<Vec<MyGuild>>> {
    let limit = query.limit.unwrap_or(200);
    let mut guilds = my_guilds(&mut *app.db.acquire().await?, caller.id, &query, limit).await?;
    if query.with_counts == Some(true) {
        let ids: Vec<_> = guilds.iter().map(|guild| guild.id).collect();
        let online = online::counts(&app, &ids).await;
        for (guild, online) in guilds.iter_mut().zip(online) {
            guild.approximate_presence_count = Some(online);
        }
    } else {
        for guild in &mut guilds {
            guild.approximate_member_count = None;
        }
    }
    Ok(Json(guilds))
}

struct MyGuildRow {
    guild_id: i64,
    name: String,
    icon: Option<String>,
    owner_id: i64,
    member_count: i32,
    settings: Jsonb<GuildSettings>,
    communication_disabled_until: Option<OffsetDateTime>,
    flags: i64,
    /// Of @everyone and the member's roles.
    granted: Option<i64>,
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
    macro_rules! page {
        ($order:literal) => {
            sqlx::query_as!(
                MyGuildRow,
                r#"select g.guild_id, g.name, g.icon, g.owner_id, g.member_count,
                          g.settings as "settings: Jsonb<GuildSettings>",
                          m.communication_disabled_until, m.flags,
                          (select bit_or(r.permissions) from role r
                           where r.guild_id = g.guild_id
                             and (r.role_id = g.guild_id or r.role_id = any (m.roles))) as granted
                   from member m join guild g using (guild_id)
                   where m.user_id = $1 and m.guild_id > $2 and m.guild_id < $3
                   order by m.guild_id "#
                    + $order
                    + " limit $4",
                user.to_db(),
                query.after.map_or(0, Id::to_db),
                query.before.map_or(i64::MAX, Id::to_db),
                limit,
            )
            .fetch_all(&mut *db)
            .await?
        };
    }
    let rows = if is_backwards {
        page!("desc")
    } else {
        page!("asc")
    };
    let now = Timestamp::now();
    let mut guilds: Vec<MyGuild> = rows
        .into_iter()
        .map(|row| {
            let id: Id<marker::Guild> = Id::from_db(row.guild_id);
            let timeout = row.communication_disabled_until.map(Timestamp);
            let access = MemberAccess {
                user,
                is_owner: row.owner_id == user.to_db(),
                roles: &[],
                communication_disabled_until: silenced_until(row.flags as u64, timeout),
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
                approximate_presence_count: None,
            }
        })
        .collect();
    if is_backwards {
        guilds.reverse();
    }
    Ok(guilds)
}
