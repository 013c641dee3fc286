//! Applications that users install for themselves, not into a guild; and where one may be
//! installed.

use guildhall_shared::{
    Id,
    id::marker::{self, User},
    model::Application,
};
use sqlx::{PgConnection, PgExecutor};

use crate::{
    app::App,
    error::Result,
    form::{Fault, FormErrors},
};

/// What an application of a user may be given, besides what it may do for them.
pub(super) const SCOPE: &str = "applications.commands";

/// Where an application is installed.
#[derive(Clone, Copy)]
pub(super) enum Install {
    Guild,
    User,
}

/// Errors: 50035 for an application that says where it may be installed, and this is not there.
pub(super) fn check_allowed(application: &Application, install: Install) -> Result<()> {
    // Keys of `integration_types_config`.
    let (key, message) = match install {
        Install::Guild => ("0", "This application cannot be added to guilds"),
        Install::User => ("1", "This application cannot be installed by users"),
    };
    let config = application.settings.integration_types_config.as_ref();
    if config.is_none_or(|config| config.contains_key(key)) {
        return Ok(());
    }
    let fault = Fault::Other("INSTALL_TYPE_NOT_SUPPORTED", message.into());
    Err(FormErrors::one("integration_type", fault))
}

/// The application's commands come with the user from now on.
pub(super) async fn install(
    app: &App,
    db: &mut PgConnection,
    user: Id<User>,
    application: Id<marker::Application>,
) -> Result<()> {
    let id: Id<marker::Any> = app.snowflakes.next()?;
    sqlx::query!(
        "insert into oauth2_grant (grant_id, user_id, application_id, scopes, installed)
         values ($1, $2, $3, array[$4::text], true)
         on conflict (user_id, application_id) do update set installed = true, scopes = array(
           select distinct unnest(oauth2_grant.scopes || excluded.scopes))",
        id.to_db(),
        user.to_db(),
        application.to_db(),
        SCOPE,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Whether a user has installed an application.
pub(crate) async fn is_installed(
    db: impl PgExecutor<'_>,
    user: Id<User>,
    application: Id<marker::Application>,
) -> Result<bool> {
    let is_installed = sqlx::query_scalar!(
        r#"select exists (select from oauth2_grant
                          where user_id = $1 and application_id = $2 and installed) as "is!""#,
        user.to_db(),
        application.to_db(),
    )
    .fetch_one(db)
    .await?;
    Ok(is_installed)
}
