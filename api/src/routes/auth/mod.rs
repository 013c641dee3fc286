//! Registering, logging in and out, sessions, mailed tickets (calls of user clients; no
//! official page).

mod login;
mod mails;
mod register;
mod sessions;
pub(super) mod tries;

use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::mails::{
    PasswordReset, REGENERATE_NONCE, VIEW_NONCE, forgotten_turns, hand_over_reset,
    mail_verification,
};
use crate::app::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(register::auth_register))
        .routes(routes!(login::auth_login))
        .routes(routes!(login::auth_logout))
        .routes(routes!(login::auth_mfa_totp))
        .routes(routes!(login::auth_mfa_backup))
        .routes(routes!(sessions::auth_sessions_list))
        .routes(routes!(sessions::auth_sessions_revoke))
        .routes(routes!(mails::auth_verify_email))
        .routes(routes!(mails::auth_verify_resend))
        .routes(routes!(mails::auth_forgot))
        .routes(routes!(mails::auth_reset))
        .routes(routes!(mails::auth_view_backup_codes_challenge))
}
