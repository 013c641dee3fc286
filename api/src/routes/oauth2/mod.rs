//! OAuth2: what users allow applications, and adding these to guilds.
//! Spec: Topics › OAuth2; the consent page's calls are of user clients.

mod authorize;
mod grants;
mod guild;
mod install;
mod join;
mod token;

use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::{install::is_installed, token::forget_expired};
use crate::app::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(
            authorize::oauth_authorize_preview,
            authorize::oauth_authorize
        ))
        .routes(routes!(token::oauth_token))
        .routes(routes!(token::oauth_token_revoke))
        .routes(routes!(grants::get_my_oauth2_authorization))
        .routes(routes!(grants::oauth_grants))
        .routes(routes!(grants::oauth_grant_delete))
        .routes(routes!(join::add_guild_member))
}
