//! Mentions that count: of people who exist and roles that the author may call.

use guildhall_shared::{
    Id, Permissions,
    id::marker::{Guild, Role},
    model::User,
};
use guildhall_store::{ids_from_db, ids_to_db};
use sqlx::PgExecutor;

use super::{content::Mentions, load};
use crate::{access::Place, error::Result};

/// Mentions that exist and that the author may make.
pub(super) struct Mentioned {
    pub(super) users: Vec<User>,
    pub(super) roles: Vec<Id<Role>>,
    pub(super) everyone: bool,
}

/// Whose message it is, for the mentions it may make.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mentioner<'a> {
    /// Of the caller at a place: roles that are mentionable, everything with MENTION_EVERYONE.
    Caller(&'a Place),
    /// Of the application that answers an interaction, where its bot is: as of a caller.
    Bot(&'a Place),
    /// Of a webhook: whatever the request allows. `None` in private channels.
    Anybody(Option<Id<Guild>>),
    /// Of an application whose bot is not there: users alone.
    Guest,
}

/// Of [`Mentioner::Anybody`] the roles are known to exist ([`known_roles`]).
pub(super) async fn resolve_mentions(
    db: impl PgExecutor<'_>,
    mentioner: Mentioner<'_>,
    wanted: &Mentions,
    replied_to: Option<&User>,
) -> Result<Mentioned> {
    let (roles, everyone) = match mentioner {
        Mentioner::Caller(place) | Mentioner::Bot(place) => {
            let may_mention_all = place.permissions().contains(Permissions::MENTION_EVERYONE);
            let known = |role: Id<Role>| {
                let guild = place.guild()?;
                let everyone: Id<Role> = guild.id.cast();
                guild.role(role).filter(|_| role != everyone)
            };
            let may_call =
                |role| known(role).is_some_and(|role| role.mentionable || may_mention_all);
            let roles = wanted.roles.iter().copied();
            let roles: Vec<Id<Role>> = roles.filter(|&role| may_call(role)).collect();
            (roles, wanted.everyone && may_mention_all)
        }
        Mentioner::Anybody(_) => (wanted.roles.clone(), wanted.everyone),
        Mentioner::Guest => (Vec::new(), false),
    };
    let mut users = Vec::new();
    if !wanted.users.is_empty() {
        let found = Box::pin(load::users(db, &ids_to_db(&wanted.users))).await?;
        users.extend(
            wanted
                .users
                .iter()
                .filter_map(|user| found.get(user).cloned()),
        );
    }
    if let Some(author) = replied_to
        && wanted.replied_user
        && users.iter().all(|user| user.id != author.id)
    {
        users.push(author.clone());
    }
    Ok(Mentioned {
        users,
        roles,
        everyone,
    })
}

/// Those of the roles that are in the guild and not @everyone.
pub(super) async fn known_roles(
    db: impl PgExecutor<'_>,
    guild: Id<Guild>,
    roles: &[Id<Role>],
) -> Result<Vec<Id<Role>>> {
    let known = sqlx::query_scalar!(
        "select role_id from role
         where guild_id = $1 and role_id = any($2) and role_id <> $1",
        guild.to_db(),
        &ids_to_db(roles),
    )
    .fetch_all(db)
    .await?;
    Ok(ids_from_db(known))
}
