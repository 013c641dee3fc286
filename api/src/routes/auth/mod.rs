//! Registering, logging in and out, sessions, mailed tickets (calls of user clients; no
//! official page).

mod login;
mod mails;
mod register;
mod sessions;
mod tries;

use guildhall_shared::{Id, id::marker};
use sqlx::PgConnection;
use time::{Date, macros::format_description};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    form::{Fault, FormErrors},
};

pub(crate) use self::{
    mails::{
        PasswordReset, REGENERATE_NONCE, VIEW_NONCE, forgotten_turns, hand_over_reset,
        mail_verification,
    },
    register::taken_name_or_email,
};
pub(crate) use crate::sessions::append_revocation;

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

/// The language and colours a client starts with.
pub(crate) async fn first_settings(
    db: &mut PgConnection,
    user: Id<marker::User>,
) -> crate::error::Result<login::FirstSettings> {
    let row = sqlx::query!(
        r#"select a.locale, s.settings ->> 'theme' as theme
           from account a left join user_settings s using (user_id) where a.user_id = $1"#,
        user.to_db(),
    )
    .fetch_one(db)
    .await?;
    Ok(login::FirstSettings {
        locale: row.locale,
        theme: row.theme.unwrap_or_else(|| "dark".to_owned()),
    })
}

/// 2 to 32 of `a-z0-9_.`, no two dots in a row, not a word that mentions or impersonates.
pub(crate) fn check_username(form: &mut FormErrors, path: &str, name: &str) {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
    if name.trim().is_empty() {
        form.add(path, Fault::Required);
    } else if !(2..=32).contains(&name.chars().count()) {
        form.add(path, Fault::BadLength { min: 2, max: 32 });
    } else if !name.chars().all(allowed) || name.contains("..") {
        form.add(path, Fault::NotMatching);
    } else {
        check_reserved(form, path, name);
    }
}

/// Names of bots keep spaces and capitals, but not what mentions are made of.
pub(crate) fn check_bot_name(form: &mut FormErrors, path: &str, name: &str) {
    form.length(path, name, 2..=32);
    if name.contains(['@', '#', ':', '\0']) || name.contains("```") {
        form.add(path, Fault::NotMatching);
    }
    check_reserved(form, path, name.trim());
}

/// What the names of deleted accounts begin with. Nobody else's does: each is free when it is
/// needed.
pub(crate) const DELETED_USER: &str = "deleted_user_";
pub(crate) const DELETED_BOT: &str = "deleted_bot_";

fn check_reserved(form: &mut FormErrors, path: &str, name: &str) {
    let name = name.to_ascii_lowercase();
    let is_word = ["everyone", "here", "discord", "system"].contains(&&*name);
    if is_word || name.starts_with(DELETED_USER) || name.starts_with(DELETED_BOT) {
        let message = format!("Username cannot be \"{name}\"");
        form.add(
            path,
            Fault::Other("USERNAME_INVALID_CONTAINS", message.into()),
        );
    }
}

/// 8 to 72 characters as given: spaces count.
pub(crate) fn check_password(form: &mut FormErrors, path: &str, password: &str) {
    if !(8..=72).contains(&password.chars().count()) {
        form.add(path, Fault::BadLength { min: 8, max: 72 });
    }
}

pub(crate) fn check_email(form: &mut FormErrors, path: &str, email: &str) {
    let email = email.trim();
    let is_plausible = email.split_once('@').is_some_and(|(local, domain)| {
        (1..=64).contains(&local.len())
            && domain.split('.').count() >= 2
            && domain.split('.').all(|label| !label.is_empty())
            && !domain.contains('@')
    });
    if !is_plausible
        || email.len() > 254
        || email.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        form.add(
            path,
            Fault::Other(
                "EMAIL_TYPE_INVALID_EMAIL",
                "Not a well formed email address.".into(),
            ),
        );
    }
}

pub(crate) fn parse_date(text: &str) -> Option<Date> {
    Date::parse(text, format_description!("[year]-[month]-[day]")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_good(check: impl Fn(&mut FormErrors)) -> bool {
        let mut form = FormErrors::new();
        check(&mut form);
        form.is_empty()
    }

    #[test]
    fn names_follow_the_unique_name_rules() {
        for good in ["ab", "alice_1.x", &"a".repeat(32)] {
            assert!(is_good(|form| check_username(form, "u", good)), "{good}");
        }
        for bad in [
            "a",
            "Alice",
            "a..b",
            "a b",
            "everyone",
            "here",
            "deleted_user_1f",
            "deleted_bot_17",
            "ä1",
            "a@b",
            "",
            &"a".repeat(33),
        ] {
            assert!(!is_good(|form| check_username(form, "u", bad)), "{bad}");
        }
        assert!(is_good(|form| check_bot_name(form, "u", "Ping Bot")));
        assert!(!is_good(|form| check_bot_name(form, "u", "@Ping")));
        assert!(!is_good(|form| check_bot_name(form, "u", "Deleted_User_1")));
    }

    #[test]
    fn mail_addresses_need_a_name_and_a_domain() {
        assert!(is_good(|form| check_email(
            form,
            "e",
            "a.b+c@mail.example.org"
        )));
        for bad in [
            "", "a", "@b.c", "a@b", "a@b..c", "a b@c.d", "a@b@c.d", "a@.c",
        ] {
            assert!(!is_good(|form| check_email(form, "e", bad)), "{bad}");
        }
    }
}
