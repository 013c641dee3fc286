//! Tickets: secrets that open one thing once, within their time. Spec: endpoints › /auth.
//!
//! Only hashes are stored. Never decides what a ticket opens: its callers do.

use std::time::Duration;

use guildhall_shared::{Id, id::marker};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use crate::error::Result;

/// What a ticket is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The second half of a login, after the password.
    Login = 1,
    /// A sensitive call of somebody who is logged in.
    Action = 2,
    /// Mailed: the address is theirs.
    VerifyEmail = 3,
    /// Mailed, or handed over by an operator: they may choose a new password.
    ResetPassword = 4,
    /// Mailed: they may see their backup codes.
    ViewBackupCodes = 5,
}

impl Purpose {
    /// How long it is good.
    pub(crate) const fn lifetime(self) -> Duration {
        match self {
            Self::Login | Self::Action => Duration::from_secs(5 * 60),
            Self::ViewBackupCodes => Duration::from_secs(30 * 60),
            Self::ResetPassword => Duration::from_secs(60 * 60),
            Self::VerifyEmail => Duration::from_secs(24 * 60 * 60),
        }
    }

    /// Tickets of one account that may be open at once; the oldest go.
    const fn open_max(self) -> i64 {
        match self {
            Self::Login | Self::Action => 10,
            Self::VerifyEmail | Self::ResetPassword | Self::ViewBackupCodes => 1,
        }
    }
}

/// Wrong codes after which a ticket is void.
const ATTEMPTS_MAX: i16 = 5;

/// A ticket that was shown and is good.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) user: Id<marker::User>,
    /// The address it was mailed to; none if nobody mailed it.
    pub(crate) email: Option<String>,
}

/// A new ticket: 64 hex digits. Older ones of its purpose become void beyond a few.
pub(crate) async fn issue(
    db: &mut PgConnection,
    user: Id<marker::User>,
    purpose: Purpose,
    email: Option<&str>,
) -> Result<String> {
    let ticket = hex::encode(rand::random::<[u8; 32]>());
    sqlx::query!(
        "delete from account_ticket where ticket_hash in (
           select ticket_hash from account_ticket where user_id = $1 and purpose = $2
           order by created_at desc offset $3)",
        user.to_db(),
        purpose as i16,
        purpose.open_max() - 1,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "insert into account_ticket (ticket_hash, user_id, purpose, email, expires_at)
         values ($1, $2, $3, $4, now() + $5::float8 * interval '1 second')",
        hash(&ticket),
        user.to_db(),
        purpose as i16,
        email,
        purpose.lifetime().as_secs_f64(),
    )
    .execute(db)
    .await?;
    Ok(ticket)
}

/// Takes a ticket away; `None` if it is unknown, used, too old or for something else.
///
/// Who changes the account by it, in the same transaction, has locked the head of its realm
/// before, as [`void_all`]'s callers do ([`holder`] says whose): nobody waits in a circle.
pub(crate) async fn redeem(
    db: &mut PgConnection,
    ticket: &str,
    purpose: Purpose,
) -> Result<Option<Ticket>> {
    let row = sqlx::query!(
        "delete from account_ticket
         where ticket_hash = $1 and purpose = $2 and expires_at > now()
         returning user_id, email",
        hash(ticket),
        purpose as i16,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Ticket {
        user: Id::from_db(row.user_id),
        email: row.email,
    }))
}

/// Counts one try with a ticket that stays; `None` as in [`redeem`], or after too many.
/// Commit it whatever becomes of the try.
pub(crate) async fn attempt(
    db: &mut PgConnection,
    ticket: &str,
    purpose: Purpose,
) -> Result<Option<Ticket>> {
    let row = sqlx::query!(
        "update account_ticket set attempts = attempts + 1
         where ticket_hash = $1 and purpose = $2 and expires_at > now() and attempts < $3
         returning user_id, email",
        hash(ticket),
        purpose as i16,
        ATTEMPTS_MAX,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Ticket {
        user: Id::from_db(row.user_id),
        email: row.email,
    }))
}

/// Whose a ticket is, without using it; `None` as in [`redeem`].
pub(crate) async fn holder(
    db: &mut PgConnection,
    ticket: &str,
    purpose: Purpose,
) -> Result<Option<Id<marker::User>>> {
    let user = sqlx::query_scalar!(
        "select user_id from account_ticket
         where ticket_hash = $1 and purpose = $2 and expires_at > now()",
        hash(ticket),
        purpose as i16,
    )
    .fetch_optional(db)
    .await?;
    Ok(user.map(Id::from_db))
}

/// Voids all tickets of an account: its password or its factors changed.
pub(crate) async fn void_all(db: &mut PgConnection, user: Id<marker::User>) -> Result<()> {
    sqlx::query!(
        "delete from account_ticket where user_id = $1",
        user.to_db()
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes some that are too old; housekeeping calls again.
pub(crate) async fn forget_expired(db: &mut PgConnection, rows_max: i64) -> Result<()> {
    sqlx::query!(
        "delete from account_ticket where ticket_hash in (
           select ticket_hash from account_ticket where expires_at < now() limit $1)",
        rows_max,
    )
    .execute(db)
    .await?;
    Ok(())
}

fn hash(ticket: &str) -> Vec<u8> {
    Sha256::digest(ticket.as_bytes()).to_vec()
}
