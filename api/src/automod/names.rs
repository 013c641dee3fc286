//! Names that members are shown under: rules about profiles quarantine who bears a forbidden one.
//!
//! A name is judged when somebody joins, when a nick changes, whoever changes it, and when an
//! account is called otherwise, in each guild where it has no nick: a better one ends the quarantine.

use guildhall_shared::{
    Id,
    id::marker::{Guild, Role},
    model::{Member, User},
};
use sqlx::PgConnection;

use super::{
    matcher::Found,
    rule::{self, Action, BLOCK_INTERACTION, ON_MEMBER, Rule},
};
use crate::error::Result;

/// A member as the rules see one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) user: &'a User,
    pub(crate) nick: Option<&'a str>,
    pub(crate) roles: &'a [Id<Role>],
}

impl<'a> Named<'a> {
    pub(crate) fn shown(self) -> &'a str {
        let named = self.nick.or(self.user.global_name.as_deref());
        named.unwrap_or(&self.user.username)
    }
}

/// What rules found in a name; empty: nothing.
#[derive(Debug, Default)]
pub(crate) struct NameVerdict(Vec<(Rule, Found)>);

impl NameVerdict {
    pub(crate) fn is_clean(&self) -> bool {
        self.0.is_empty()
    }

    /// A member's flags after this.
    pub(crate) fn flags(&self, flags: u64) -> u64 {
        let mut actions = self.actions();
        match actions.any(|(_, _, action)| action.kind == BLOCK_INTERACTION) {
            true => flags | Member::QUARANTINED,
            false => flags & !Member::QUARANTINED,
        }
    }

    pub(crate) fn actions(&self) -> impl Iterator<Item = (&Rule, &Found, &Action)> {
        self.0
            .iter()
            .flat_map(|(rule, found)| rule.actions.iter().map(move |act| (rule, found, act)))
    }
}

/// Asks the guild's rules about a name. Who manages the guild is the caller's to leave out.
pub(crate) async fn judge_name(
    db: &mut PgConnection,
    guild: Id<Guild>,
    named: Named<'_>,
) -> Result<NameVerdict> {
    if named.user.bot {
        return Ok(NameVerdict::default());
    }
    let is_exempt = |rule: &Rule| {
        let mut exempt = rule.exempt_roles.iter();
        exempt.any(|role| *role == guild.cast() || named.roles.contains(role))
    };
    let rules = rule::rules(db, guild).await?.into_iter();
    let hits = rules
        .filter(|rule| rule.enabled && rule.event_type == ON_MEMBER && !is_exempt(rule))
        .filter_map(|rule| {
            let found = rule.trigger_metadata.words().find(named.shown())?;
            Some((rule, found))
        });
    Ok(NameVerdict(hits.collect()))
}
