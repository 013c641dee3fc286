//! Who is calling, once `auth` has found out.

use std::sync::Arc;

use guildhall_shared::{Id, error_code::ErrorCode, id::marker, model::User, token::TokenHash};
use guildhall_store::account::Account;
use sqlx::PgConnection;

use crate::{error::Result, oauth};

/// The account that makes the request. Errors: 401.
#[derive(Debug, Clone)]
pub(crate) struct CurrentUser {
    pub(crate) id: Id<marker::User>,
    pub(crate) bot: bool,
    /// At most a second old, see `token_cache`.
    pub(crate) account: Arc<Account>,
    /// The token it came with.
    pub(crate) token: TokenHash,
    /// What an OAuth2 access token allows; `None` with a token of the account itself.
    pub(crate) access: Option<Arc<oauth::Access>>,
}

impl CurrentUser {
    /// As everyone sees it.
    pub(crate) fn user(&self) -> &User {
        &self.account.user.user
    }

    /// For changes that waited for a password to be checked: by now the token they came with may
    /// be void. The account's realm is locked.
    ///
    /// Errors: 401.
    pub(crate) async fn require_session(&self, db: &mut PgConnection) -> Result<()> {
        let is_open = sqlx::query_scalar!(
            r#"select exists (select from auth_token where token_hash = $1) as "open!""#,
            self.token.0.as_slice(),
        )
        .fetch_one(db)
        .await?;
        if is_open {
            Ok(())
        } else {
            Err(ErrorCode::Unauthorized.into())
        }
    }

    /// Errors: 20001 for bots.
    pub(crate) fn require_human(&self) -> Result<()> {
        if self.bot {
            return Err(ErrorCode::BotsCannotUse.into());
        }
        Ok(())
    }

    /// Errors: 20002 for humans.
    pub(crate) fn require_bot(&self) -> Result<()> {
        if self.bot {
            Ok(())
        } else {
            Err(ErrorCode::OnlyBotsCanUse.into())
        }
    }
}
