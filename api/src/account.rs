//! Accounts: what state they are in, and which names, passwords and addresses they may have.
//!
//! Never checks who may change one: the routes do.

use std::collections::BTreeSet;

use guildhall_shared::{
    Id,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker,
};
use guildhall_store::account;
use sqlx::PgConnection;
use time::{Date, macros::format_description};

use crate::{
    error::{Error, Result},
    events,
    form::{Fault, FormErrors},
};

/// Of a commoner name nobody is listed, see [`named`].
const NAMED_MAX: i64 = 1000;

/// Whether an account may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Active = 0,
    /// By its owner; logging in wakes it.
    Disabled = 1,
    /// By an operator.
    Locked = 2,
    /// Its row stays as the author of what it wrote.
    Deleted = 3,
}

impl State {
    /// An unknown number of a later version counts as locked.
    pub(crate) const fn from_db(state: i16) -> Self {
        match state {
            0 => Self::Active,
            1 => Self::Disabled,
            3 => Self::Deleted,
            _ => Self::Locked,
        }
    }
}

/// `None`: there is no such account.
pub(crate) async fn state(db: &mut PgConnection, user: Id<marker::User>) -> Result<Option<State>> {
    let state = sqlx::query_scalar!("select state from account where user_id = $1", user.to_db(),)
        .fetch_optional(db)
        .await?;
    Ok(state.map(State::from_db))
}

/// Before somebody joins or owns a guild: they may have deleted their account since they were
/// looked at. Its realm's head is locked.
///
/// Errors: 10013.
pub(crate) async fn require_not_deleted(
    db: &mut PgConnection,
    user: Id<marker::User>,
) -> Result<()> {
    match state(db, user).await? {
        None | Some(State::Deleted) => Err(ErrorCode::UnknownUser.into()),
        Some(State::Active | State::Disabled | State::Locked) => Ok(()),
    }
}

/// Accounts whose username or display name begins so, in any case; `None`: they are too many to be
/// gone through.
pub(crate) async fn named(db: &mut PgConnection, beginning: &str) -> Result<Option<BTreeSet<i64>>> {
    // Each name by its index.
    let found = sqlx::query!(
        r#"select array(
                    select user_id from account where begins(username, $1) limit $2)
                    as "by_username!",
                  array(
                    select user_id from account
                    where global_name is not null and begins(global_name, $1) limit $2)
                    as "by_global_name!""#,
        beginning,
        NAMED_MAX,
    )
    .fetch_one(db)
    .await?;
    let lists = [found.by_username, found.by_global_name];
    if lists.iter().any(|ids| ids.len() as i64 == NAMED_MAX) {
        return Ok(None);
    }
    Ok(Some(lists.into_iter().flatten().collect()))
}

/// Wakes an account its owner had disabled.
pub(crate) async fn wake(db: &mut PgConnection, user: Id<marker::User>) -> Result<()> {
    sqlx::query!(
        "update account set state = 0 where user_id = $1 and state = 1",
        user.to_db(),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Numbers USER_UPDATE for the user's own sessions. Their realm's head is locked.
pub(crate) async fn append_update(
    db: &mut PgConnection,
    user: Id<marker::User>,
) -> Result<Envelope> {
    let account = account::by_id(&mut *db, user)
        .await?
        .ok_or(ErrorCode::UnknownUser)?;
    let vis = Visibility::realm(Intents::empty());
    events::append(db, user, EventKind::UserUpdate, vis, &account.user, None).await
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

pub(crate) const USERNAME_TAKEN: Fault = Fault::Other(
    "USERNAME_ALREADY_TAKEN",
    std::borrow::Cow::Borrowed(
        "Username is unavailable. Try adding numbers, letters, underscores _ , or periods.",
    ),
);

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
