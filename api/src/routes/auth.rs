//! Registering, logging in and out (calls of user clients; no official page).

use axum::{Router, extract::State, http::StatusCode, response::Response, routing::post};
use guildhall_shared::{
    Id,
    envelope::Visibility,
    gateway::{EventKind, Intents},
    id::marker,
};
use serde::Deserialize;
use serde_json::json;
use sqlx::PgConnection;
use time::{Date, macros::format_description};

use crate::{
    access,
    app::App,
    auth::{self, CurrentUser},
    error::{Error, Result, json_response},
    events,
    extract::{Form, Json},
    form::{Fault, FormErrors},
    routes::meta,
};

pub(crate) fn router() -> Router<App> {
    Router::new()
        .route("/auth/register", post(register))
        .route("/auth/login", post(login))
        .route("/auth/logout", post(logout))
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Register {
    username: Option<String>,
    global_name: Option<String>,
    /// Optional: a server without mail has no use for it beyond logging in by it.
    email: Option<String>,
    password: Option<String>,
    /// `YYYY-MM-DD`.
    date_of_birth: Option<String>,
}

impl Form for Register {
    fn check(&self, form: &mut FormErrors) {
        if let Some(username) = form.required("username", &self.username) {
            check_username(form, "username", username);
        }
        if let Some(name) = &self.global_name {
            form.length("global_name", name, 1..=32);
        }
        if let Some(email) = &self.email {
            check_email(form, "email", email);
        }
        if let Some(password) = form.required("password", &self.password) {
            check_password(form, "password", password);
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

/// Makes an account and logs it in. Errors: 50035 on each field, and when registration is closed.
async fn register(State(app): State<App>, Json(body): Json<Register>) -> Result<Response> {
    if !meta::registration_is_open(&app, &app.db).await? {
        return Err(FormErrors::one(
            "",
            Fault::Other(
                "REGISTRATION_CLOSED",
                "Registration is closed on this server.".into(),
            ),
        ));
    }
    // Checked by the form.
    let (username, password) = (
        body.username.unwrap_or_default(),
        body.password.unwrap_or_default(),
    );
    // Before the costly hash; the unique index decides in the end.
    let mut form = FormErrors::new();
    if name_is_taken(&app, &username).await? {
        form.add("username", USERNAME_TAKEN);
    }
    form.finish()?;
    let password_hash = app.passwords.hash(password).await?;
    let id: Id<marker::User> = app.snowflakes.next()?;

    let mut tx = app.db.begin().await?;
    sqlx::query!(
        "insert into account (user_id, username, global_name, email, password_hash, date_of_birth)
         values ($1, $2, $3, $4, $5, $6)",
        id.to_db(),
        username,
        body.global_name.as_deref().map(str::trim),
        body.email.as_deref().map(str::trim),
        password_hash,
        body.date_of_birth.as_deref().and_then(parse_date),
    )
    .execute(&mut *tx)
    .await
    .map_err(taken_name_or_email)?;
    events::create_realm(&mut tx, id, app.shards()).await?;
    let token = auth::issue_token(&mut tx, id).await?;
    tx.commit().await?;
    Ok(json_response(
        StatusCode::CREATED,
        &json!({ "token": token.reveal(), "user_id": id }),
    ))
}

const USERNAME_TAKEN: Fault = Fault::Other(
    "USERNAME_ALREADY_TAKEN",
    std::borrow::Cow::Borrowed(
        "Username is unavailable. Try adding numbers, letters, underscores _ , or periods.",
    ),
);

async fn name_is_taken(app: &App, username: &str) -> Result<bool> {
    let taken = sqlx::query_scalar!(
        r#"select exists (select from account where lower(username) = lower($1)) as "taken!""#,
        username,
    )
    .fetch_one(&app.db)
    .await?;
    Ok(taken)
}

/// The form error behind a broken unique index of `account`.
pub(crate) fn taken_name_or_email(error: sqlx::Error) -> Error {
    let constraint = error
        .as_database_error()
        .and_then(|error| error.constraint());
    match constraint {
        Some("account_username_key") => FormErrors::one("username", USERNAME_TAKEN),
        Some("account_email_key") => {
            let fault = Fault::Other(
                "EMAIL_ALREADY_REGISTERED",
                "Email is already registered.".into(),
            );
            FormErrors::one("email", fault)
        }
        _ => error.into(),
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Login {
    /// Name or e-mail.
    login: Option<String>,
    password: Option<String>,
}

impl Form for Login {
    fn check(&self, form: &mut FormErrors) {
        for (path, value) in [("login", &self.login), ("password", &self.password)] {
            if let Some(text) = form.required(path, value) {
                form.length(path, text, 1..=254);
            }
        }
    }
}

/// Errors: 50035 INVALID_LOGIN on both fields, whichever is wrong.
async fn login(State(app): State<App>, Json(body): Json<Login>) -> Result<Response> {
    let (login, password) = (
        body.login.unwrap_or_default(),
        body.password.unwrap_or_default(),
    );
    let account = sqlx::query!(
        "select user_id, password_hash, locale from account
         where not bot and (lower(username) = lower($1) or lower(email) = lower($1))
         order by lower(username) = lower($1) desc limit 1",
        login.trim(),
    )
    .fetch_optional(&app.db)
    .await?;
    let stored = account
        .as_ref()
        .and_then(|account| account.password_hash.clone());
    let is_right = app.passwords.verify(password, stored).await?;
    let Some(account) = account.filter(|_| is_right) else {
        let mut form = FormErrors::new();
        for path in ["login", "password"] {
            form.add(
                path,
                Fault::Other("INVALID_LOGIN", "Login or password is invalid.".into()),
            );
        }
        return Err(Error::Form(form));
    };
    let id: Id<marker::User> = Id::from_db(account.user_id);
    let token = auth::issue_token(&mut *app.db.acquire().await?, id).await?;
    let body = json!({
        "token": token.reveal(),
        "user_id": id,
        "user_settings": { "locale": account.locale, "theme": "dark" },
    });
    Ok(json_response(StatusCode::OK, &body))
}

/// Revokes the token it comes with; gateway sessions of that token close. Errors: 401, 20001.
async fn logout(State(app): State<App>, caller: CurrentUser) -> Result<StatusCode> {
    caller.require_human()?;
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [caller.id.cast()]).await?;
    sqlx::query!(
        "delete from auth_token where token_hash = $1",
        caller.token.0.as_slice()
    )
    .execute(&mut *tx)
    .await?;
    let event = append_revocation(&mut tx, caller.id, &[caller.token.0.to_vec()]).await?;
    tx.commit().await?;
    app.tokens.forget(caller.id);
    app.publisher.publish([event]);
    Ok(StatusCode::NO_CONTENT)
}

/// Numbers the event that closes the gateway sessions of these tokens (by SHA-256).
pub(crate) async fn append_revocation(
    db: &mut PgConnection,
    user: Id<marker::User>,
    hashes: &[Vec<u8>],
) -> Result<guildhall_shared::envelope::Envelope> {
    let hashes: Vec<String> = hashes.iter().map(hex::encode).collect();
    let vis = Visibility::realm(Intents::empty());
    let body = json!({ "tokens": hashes });
    events::append(db, user, EventKind::TokensRevoked, vis, &body, None).await
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

fn check_reserved(form: &mut FormErrors, path: &str, name: &str) {
    if ["everyone", "here", "discord", "system"]
        .iter()
        .any(|word| name.eq_ignore_ascii_case(word))
    {
        let message = format!("Username cannot be \"{}\"", name.to_ascii_lowercase());
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
            "ä1",
            "a@b",
            "",
            &"a".repeat(33),
        ] {
            assert!(!is_good(|form| check_username(form, "u", bad)), "{bad}");
        }
        assert!(is_good(|form| check_bot_name(form, "u", "Ping Bot")));
        assert!(!is_good(|form| check_bot_name(form, "u", "@Ping")));
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
