//! Making an account.

use axum::{extract::State, http::StatusCode, response::Response};
use guildhall_shared::{Id, error_code::ErrorCode, id::marker};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    mails::mail_verification,
    tries::{self, Network},
};
use crate::{
    account::{
        USERNAME_TAKEN, check_email, check_password, check_username, parse_date,
        taken_name_or_email,
    },
    app::App,
    error::{Error, Result, json_response},
    events,
    extract::{Form, Json},
    form::{Fault, FormErrors},
    routes::policies,
    sessions::{self, Client},
    text::clean,
};

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct Register {
    #[schema(required, min_length = 2, max_length = 32)]
    username: Option<String>,
    #[schema(min_length = 1, max_length = 32)]
    global_name: Option<String>,
    /// Optional: an instance without mail has no use for it beyond logging in by it.
    #[schema(max_length = 254)]
    email: Option<String>,
    #[schema(required, min_length = 8, max_length = 72)]
    password: Option<String>,
    /// `YYYY-MM-DD`.
    date_of_birth: Option<String>,
    /// Code of an invite, which is accepted at once.
    #[schema(max_length = 64)]
    invite: Option<String>,
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
        if let Some(code) = &self.invite {
            form.length("invite", code, 1..=64);
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct Registered<'a> {
    token: &'a str,
    user_id: Id<marker::User>,
}

/// Makes an account and logs it in. Where registration needs an invite, one that cannot be
/// used makes no account.
///
/// Errors: 50035 on each field, and when registration is closed; 429.
#[utoipa::path(
    post,
    path = "/auth/register",
    tag = "Accounts",
    security(()),
    responses((status = 201, body = Registered))
)]
pub(super) async fn auth_register(
    State(app): State<App>,
    client: Client,
    network: Network,
    Json(body): Json<Register>,
) -> Result<Response> {
    policies::require_registration(&app, body.invite.as_deref()).await?;
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
    let email = body.email.as_deref().map(str::trim);

    let mut tx = app.db.begin().await?;
    sqlx::query!(
        "insert into account (user_id, username, global_name, email, password_hash, date_of_birth)
         values ($1, $2, $3, $4, $5, $6)",
        id.to_db(),
        username,
        body.global_name
            .as_deref()
            .map(clean)
            .filter(|name| !name.is_empty()),
        email,
        password_hash,
        body.date_of_birth.as_deref().and_then(parse_date),
    )
    .execute(&mut *tx)
    .await
    .map_err(taken_name_or_email)?;
    events::create_realm(&mut tx, id, app.shards()).await?;
    let (token, _) = sessions::open(&mut tx, id, &client).await?;
    let mail = match email {
        Some(email) => mail_verification(&app, &mut tx, id, email).await?,
        None => None,
    };
    let joined = match &body.invite {
        Some(code) => policies::join_by_invite(&app, &mut tx, id, code).await,
        None => Ok(Vec::new()),
    };
    let joined = joined.map_err(|error| match error {
        Error::Code(ErrorCode::UnknownInvite) => policies::bad_invite(),
        other => other,
    })?;
    tx.commit().await?;
    app.publisher.publish(joined);
    if let Some(mail) = mail {
        app.mailer.send(mail);
    }
    tries::remember(&app, id, network).await;
    let body = Registered {
        token: token.reveal(),
        user_id: id,
    };
    Ok(json_response(StatusCode::CREATED, &body))
}

async fn name_is_taken(app: &App, username: &str) -> Result<bool> {
    let taken = sqlx::query_scalar!(
        r#"select exists (select from account where lower(username) = lower($1)) as "taken!""#,
        username,
    )
    .fetch_one(&app.db)
    .await?;
    Ok(taken)
}
