//! What a guild asks of people before they write in it: its verification level.
//! Spec: objects.md › Guild, limits-and-errors › 50009.

use guildhall_shared::{Timestamp, error_code::ErrorCode, model::Member};
use time::Duration;

use super::GuildAccess;
use crate::{caller::CurrentUser, error::Result, mail::Mailer};

/// From level 2 on an account is older than this.
const ACCOUNT_AGE: Duration = Duration::minutes(5);
/// From level 3 on somebody has been a member for longer than this.
const MEMBERSHIP: Duration = Duration::minutes(10);

/// What levels look at.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// The address is verified, or cannot be.
    address: bool,
    account_age: Duration,
    membership: Duration,
}

impl Known {
    /// Each level asks for what those below it do, too. Level 4 is a telephone on top of that; this
    /// server knows none, so it is level 3.
    fn suffices(self, level: u8) -> bool {
        (level < 1 || self.address)
            && (level < 2 || self.account_age > ACCOUNT_AGE)
            && (level < 3 || self.membership > MEMBERSHIP)
    }
}

impl GuildAccess {
    /// For who writes. Passes bots, the owner, who holds a role, whom a moderator has let off, and
    /// who has what the level asks for: an address only where mails leave, since without them
    /// nobody could verify one.
    ///
    /// Errors: 50009.
    pub(crate) fn require_verified(&self, mailer: &Mailer, user: &CurrentUser) -> Result<()> {
        let level = self.verification_level;
        let is_let_off = self.member.flags & Member::BYPASSES_VERIFICATION != 0;
        if level == 0 || user.bot || is_let_off || self.is_owner() || !self.member.roles.is_empty()
        {
            return Ok(());
        }
        let now = Timestamp::now().0;
        let known = Known {
            address: user.account.user.verified || !mailer.is_on(),
            account_age: now - Timestamp::from_unix_ms(user.id.created_ms()).0,
            membership: now - self.member.joined_at.0,
        };
        match known.suffices(level) {
            true => Ok(()),
            false => Err(ErrorCode::VerificationLevelTooHigh.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The highest level that is passed.
    fn passed(address: bool, account_minutes: i64, member_minutes: i64) -> u8 {
        let known = Known {
            address,
            account_age: Duration::minutes(account_minutes),
            membership: Duration::minutes(member_minutes),
        };
        (0..=4).rev().find(|&level| known.suffices(level)).unwrap()
    }

    #[test]
    fn each_level_asks_for_what_those_below_it_do() {
        assert_eq!(passed(false, 60, 60), 0);
        assert_eq!(passed(true, 5, 60), 1);
        assert_eq!(passed(true, 6, 10), 2);
        assert_eq!(passed(true, 60, 11), 4);
    }
}
