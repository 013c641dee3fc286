//! Mentions that count: of people who exist and roles that the author may call.

use guildhall_shared::{
    Id, Permissions,
    id::marker::Role,
    model::{Message, MessageReference, User},
};
use guildhall_store::ids_to_db;
use sqlx::PgExecutor;

use super::{content::Mentions, load};
use crate::{access::Place, error::Result};

/// The message that a new one answers.
#[derive(Default)]
pub(super) struct Answered {
    pub(super) reference: Option<MessageReference>,
    pub(super) message: Option<Option<Message>>,
}

/// Mentions that exist and that the author may make.
pub(super) struct Mentioned {
    pub(super) users: Vec<User>,
    pub(super) roles: Vec<Id<Role>>,
    pub(super) everyone: bool,
}

pub(super) async fn resolve_mentions(
    db: impl PgExecutor<'_>,
    place: &Place,
    held: Permissions,
    wanted: &Mentions,
    answered: &Answered,
) -> Result<Mentioned> {
    let may_mention_all = held.contains(Permissions::MENTION_EVERYONE);
    let roles: Vec<Id<Role>> = match place.guild() {
        Some(guild) => {
            let everyone_role: Id<Role> = guild.id.cast();
            let may_call = |role: Id<Role>| {
                let known = guild.role(role).filter(|_| role != everyone_role);
                known.is_some_and(|role| role.mentionable || may_mention_all)
            };
            let wanted = wanted.roles.iter().copied();
            wanted.filter(|&role| may_call(role)).collect()
        }
        None => Vec::new(),
    };
    let mut users = Vec::new();
    if !wanted.users.is_empty() {
        let found = load::users(db, &ids_to_db(&wanted.users)).await?;
        users.extend(
            wanted
                .users
                .iter()
                .filter_map(|user| found.get(user).cloned()),
        );
    }
    if let Some(Some(message)) = &answered.message
        && wanted.replied_user
        && users.iter().all(|user| user.id != message.author.id)
    {
        users.push(message.author.clone());
    }
    Ok(Mentioned {
        users,
        roles,
        everyone: wanted.everyone && may_mention_all,
    })
}
