//! What this instance allows: who may register, make guilds, make bots.

use guildhall_shared::{Id, envelope::Envelope, error_code::ErrorCode, id::marker};
use sqlx::{PgConnection, PgExecutor};

use super::invites;
use crate::{
    app::App,
    auth::CurrentUser,
    config::{MayCreate, Registration},
    error::{Error, Result},
    form::{Fault, FormErrors},
};

/// Whether this process's setting and the operators allow new accounts at all.
pub(crate) async fn registration_is_open(app: &App, db: impl PgExecutor<'_>) -> Result<bool> {
    if app.config.policies.registration == Registration::Closed {
        return Ok(false);
    }
    let value = sqlx::query_scalar!("select value from cluster_setting where key = 'registration'")
        .fetch_optional(db)
        .await?;
    Ok(value.as_deref() != Some("closed"))
}

/// Errors: 50035 REGISTRATION_CLOSED; on `invite`, BASE_TYPE_REQUIRED where one is needed.
/// Whether the invite is good is seen by [`join_by_invite`].
pub(crate) async fn require_registration(app: &App, invite: Option<&str>) -> Result<()> {
    if !registration_is_open(app, &app.db).await? {
        return Err(FormErrors::one(
            "",
            Fault::Other(
                "REGISTRATION_CLOSED",
                "Registration is closed on this server.".into(),
            ),
        ));
    }
    if app.config.policies.registration == Registration::Invite && invite.is_none() {
        return Err(FormErrors::one("invite", Fault::Required));
    }
    Ok(())
}

/// Makes a new account a member by an invite; what is to be published after the commit.
///
/// Errors: 10006, 40007.
pub(crate) async fn join_by_invite(
    app: &App,
    db: &mut PgConnection,
    user: Id<marker::User>,
    code: &str,
) -> Result<Vec<Envelope>> {
    let account = guildhall_store::account::by_id(&mut *db, user)
        .await?
        .ok_or(ErrorCode::UnknownUser)?;
    let (_, events) = invites::accept(app, db, &account.user.user, code).await?;
    Ok(events)
}

/// An invite that cannot be used, where it is a field of a form.
pub(crate) fn bad_invite() -> Error {
    let fault = Fault::Other("INVITE_INVALID", "Invite is invalid or has expired.".into());
    FormErrors::one("invite", fault)
}

/// Errors: 40002 for who has no verified address, 50013 where nobody may.
pub(crate) fn require_guild_creation(app: &App, caller: &CurrentUser) -> Result<()> {
    require(app.config.policies.guild_creation, caller)
}

/// Errors: as [`require_guild_creation`].
pub(crate) fn require_bot_creation(app: &App, caller: &CurrentUser) -> Result<()> {
    require(app.config.policies.bot_creation, caller)
}

fn require(policy: MayCreate, caller: &CurrentUser) -> Result<()> {
    match policy {
        MayCreate::Everyone => Ok(()),
        MayCreate::Verified if caller.account.user.verified => Ok(()),
        MayCreate::Verified => Err(ErrorCode::VerificationNeeded.into()),
        MayCreate::Nobody => Err(ErrorCode::MissingPermissions.into()),
    }
}
