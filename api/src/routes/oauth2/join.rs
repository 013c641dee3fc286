//! A bot brings a user into a guild, with an access token that allows it.

use axum::{extract::State, http::StatusCode, response::Response};
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    id::marker::{Guild, Role, User},
    model::Member,
};
use guildhall_store::account;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    access,
    app::App,
    auth::CurrentUser,
    error::{Result, json_response},
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    oauth,
    routes::members::{self, NewMember},
    text::clean,
};

const ROLES_MAX: usize = 350;

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct AddMember {
    /// Of the user, for the bot's application, with the scope `guilds.join`.
    #[schema(required)]
    access_token: Option<String>,
    #[schema(max_length = 32)]
    nick: Option<String>,
    #[schema(value_type = Option<Vec<Id<Role>>>)]
    roles: Option<Vec<Option<Id<Role>>>>,
    mute: Option<bool>,
    deaf: Option<bool>,
}

impl Form for AddMember {
    fn check(&self, form: &mut FormErrors) {
        form.required("access_token", &self.access_token);
        if let Some(nick) = &self.nick {
            form.length("nick", nick, 0..=32);
        }
        if self
            .roles
            .as_ref()
            .is_some_and(|roles| roles.len() > ROLES_MAX)
        {
            let (min, max) = (0, ROLES_MAX);
            form.add("roles", Fault::BadLength { min, max });
        }
    }
}

impl AddMember {
    /// What the bot must be allowed to do.
    fn needed(&self) -> Permissions {
        let fields = [
            (self.nick.is_some(), Permissions::MANAGE_NICKNAMES),
            (
                self.roles.as_ref().is_some_and(|r| !r.is_empty()),
                Permissions::MANAGE_ROLES,
            ),
            (self.mute == Some(true), Permissions::MUTE_MEMBERS),
            (self.deaf == Some(true), Permissions::DEAFEN_MEMBERS),
        ];
        let needed = fields.into_iter().filter(|(given, _)| *given);
        needed.fold(Permissions::CREATE_INSTANT_INVITE, |all, (_, one)| {
            all | one
        })
    }
}

/// 201 with the new member; 204 for one who is there already.
///
/// Errors: 10004, 20002, 30001, 40007, 50001, 50013, 50025, 50035.
/// [Add Guild Member](https://docs.discord.com/developers/resources/guild#add-guild-member)
#[utoipa::path(
    put,
    path = "/guilds/{guild_id}/members/{user_id}",
    tag = "Members",
    responses((status = 201, body = Member), (status = 204, description = "Was there already"))
)]
pub(super) async fn add_guild_member(
    State(app): State<App>,
    caller: CurrentUser,
    Path((guild_id, user_id)): Path<(Id<Guild>, Id<User>)>,
    Json(body): Json<AddMember>,
) -> Result<Response> {
    caller.require_bot()?;
    let needed = body.needed();
    // Before anything is said of the token: the bot must be there and may bring people.
    access::guild(&app.db, &caller, guild_id, needed).await?;
    let token = body.access_token.unwrap_or_default();
    let allowed = oauth::find(&app.db, &token).await?;
    let (owner, access) = allowed.ok_or(ErrorCode::InvalidOAuth2Token)?;
    if owner != user_id || access.application != caller.id.cast() || !access.has("guilds.join") {
        return Err(ErrorCode::InvalidOAuth2Token.into());
    }
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [guild_id.cast(), user_id.cast()]).await?;
    let granter = access::guild(&mut *tx, &caller, guild_id, needed).await?;
    // The account may have been locked or deleted since.
    let allowed = oauth::find(&mut *tx, &token).await?;
    allowed.ok_or(ErrorCode::InvalidOAuth2Token)?;
    if guildhall_store::guild::member(&mut *tx, guild_id, user_id)
        .await?
        .is_some()
    {
        return Ok(json_response_empty());
    }
    let roles = members::new_roles(&granter, &[], body.roles.unwrap_or_default())?;
    let user = account::by_id(&mut *tx, user_id)
        .await?
        .ok_or(ErrorCode::UnknownUser)?;
    let nick = body.nick.as_deref().map(clean).unwrap_or_default();
    let start = NewMember {
        nick: Some(&*nick).filter(|nick| !nick.is_empty()),
        mute: body.mute.unwrap_or_default(),
        deaf: body.deaf.unwrap_or_default(),
        roles: &roles,
        ..NewMember::default()
    };
    let events = members::join_as(&app, &mut tx, guild_id, &user.user.user, start).await?;
    let member = guildhall_store::guild::member(&mut *tx, guild_id, user_id)
        .await?
        .ok_or(ErrorCode::UnknownMember)?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(json_response(StatusCode::CREATED, &member))
}

fn json_response_empty() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
