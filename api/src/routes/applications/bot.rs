//! An application's bot user and its secrets: tokens of the bot, the OAuth2 client secret.

use axum::extract::State;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use guildhall_shared::{
    Id,
    error_code::ErrorCode,
    id::marker,
    model::{User, present},
};
use guildhall_store::account;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::{find, lock_own_bot, lock_own_bot_by_session};
use crate::{
    account::{check_bot_name, taken_name_or_email},
    app::App,
    auth::{self, CurrentUser},
    error::Result,
    extract::{Form, Json, Path},
    form::FormErrors,
    media::{ImageOf, check_image, store_optional_image},
    routes::account_work,
    second_factor::SecondFactor,
    sessions::append_revocation,
    text::clean,
};

/// A secret, shown this once.
#[derive(Serialize, ToSchema)]
pub(super) struct NewToken {
    token: String,
}

/// A secret, shown this once.
#[derive(Serialize, ToSchema)]
pub(super) struct NewSecret {
    secret: String,
}

/// The bot's first token. Errors: 10002, 20012; 400 once there is one (reset it instead).
#[utoipa::path(
    post,
    path = "/applications/{application_id}/bot",
    tag = "Applications",
    responses((status = 200, body = NewToken))
)]
pub(super) async fn application_bot_create(
    State(app): State<App>,
    caller: CurrentUser,
    Path(application_id): Path<Id<marker::Application>>,
) -> Result<Json<NewToken>> {
    let mut tx = app.db.begin().await?;
    let bot = lock_own_bot_by_session(&mut tx, &caller, application_id).await?;
    let has_token = sqlx::query_scalar!(
        r#"select exists (select from auth_token where user_id = $1) as "has!""#,
        bot.to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    if has_token {
        return Err(ErrorCode::BadRequest.into());
    }
    let token = auth::issue_token(&mut tx, bot).await?;
    tx.commit().await?;
    let token = token.reveal().to_owned();
    Ok(Json(NewToken { token }))
}

/// A new token; the old ones die and their gateway sessions close. Errors: 10002, 20012, 60003.
#[utoipa::path(
    post,
    path = "/applications/{application_id}/bot/reset",
    tag = "Applications",
    responses((status = 200, body = NewToken))
)]
pub(super) async fn application_bot_reset(
    State(app): State<App>,
    caller: CurrentUser,
    _shown: SecondFactor,
    Path(application_id): Path<Id<marker::Application>>,
) -> Result<Json<NewToken>> {
    let mut tx = app.db.begin().await?;
    let bot = lock_own_bot_by_session(&mut tx, &caller, application_id).await?;
    let revoked = sqlx::query_scalar!(
        "delete from auth_token where user_id = $1 returning token_hash",
        bot.to_db(),
    )
    .fetch_all(&mut *tx)
    .await?;
    let token = auth::issue_token(&mut tx, bot).await?;
    let event = append_revocation(&mut tx, bot, &revoked).await?;
    tx.commit().await?;
    app.tokens.forget(bot);
    app.publisher.publish([event]);
    let token = token.reveal().to_owned();
    Ok(Json(NewToken { token }))
}

/// Absent: unchanged; null: cleared.
#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct UpdateBot {
    #[schema(min_length = 2, max_length = 32)]
    username: Option<String>,
    #[serde(deserialize_with = "present")]
    avatar: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    banner: Option<Option<String>>,
}

impl Form for UpdateBot {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = &self.username {
            check_bot_name(form, "username", name);
        }
        for (path, image) in [("avatar", &self.avatar), ("banner", &self.banner)] {
            check_image(form, path, image.as_ref().and_then(Option::as_deref));
        }
    }
}

/// Name and pictures of an application's bot. Errors: 10002, 20012, 50035.
#[utoipa::path(
    patch,
    path = "/applications/{application_id}/bot",
    tag = "Applications",
    responses((status = 200, body = User))
)]
pub(super) async fn application_bot_update(
    State(app): State<App>,
    caller: CurrentUser,
    Path(application_id): Path<Id<marker::Application>>,
    Json(body): Json<UpdateBot>,
) -> Result<Json<User>> {
    // Before pictures are kept, and again with its row locked.
    let bot = find(&app.db, &app.config.cluster_key, application_id).await?;
    if bot.owner.id != caller.id {
        return Err(ErrorCode::NotAuthorizedOnApplication.into());
    }
    let bot = bot.bot.id;
    let of = ImageOf::UserAvatar(bot);
    let avatar = store_optional_image(&app.media, of, "avatar", &body.avatar).await?;
    let of = ImageOf::UserBanner(bot);
    let banner = store_optional_image(&app.media, of, "banner", &body.banner).await?;
    let mut tx = app.db.begin().await?;
    lock_own_bot(&mut tx, &caller, application_id).await?;
    let change = account_work::lock_for_change(&mut tx, bot).await?;
    sqlx::query!(
        "update account set
           username = coalesce($2, username),
           avatar = case when $3 then $4 else avatar end,
           banner = case when $5 then $6 else banner end
         where user_id = $1",
        bot.to_db(),
        body.username.as_deref().map(clean),
        avatar.is_some(),
        avatar.flatten(),
        banner.is_some(),
        banner.flatten(),
    )
    .execute(&mut *tx)
    .await
    .map_err(taken_name_or_email)?;
    let updated = account::by_id(&mut *tx, bot)
        .await?
        .ok_or(ErrorCode::UnknownApplication)?;
    let events = account_work::append_changes(&app, &mut tx, bot, &change).await?;
    tx.commit().await?;
    app.tokens.forget(bot);
    app.publisher.publish(events);
    account_work::tell_later(&app, &change);
    Ok(Json(updated.user.user))
}

/// A new client secret; the old one dies. Errors: 10002, 20012, 60003.
#[utoipa::path(
    post,
    path = "/applications/{application_id}/reset",
    tag = "Applications",
    responses((status = 200, body = NewSecret))
)]
pub(super) async fn application_secret_reset(
    State(app): State<App>,
    caller: CurrentUser,
    _shown: SecondFactor,
    Path(application_id): Path<Id<marker::Application>>,
) -> Result<Json<NewSecret>> {
    let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>());
    let hash = Sha256::digest(secret.as_bytes());
    let mut tx = app.db.begin().await?;
    lock_own_bot_by_session(&mut tx, &caller, application_id).await?;
    sqlx::query!(
        "update application set secret_hash = $2 where application_id = $1",
        application_id.to_db(),
        hash.as_slice(),
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Json(NewSecret { secret }))
}
