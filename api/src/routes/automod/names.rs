//! Names that members are shown under: rules about profiles quarantine who bears a forbidden one.
//!
//! A name is judged when somebody joins, when a nick changes, whoever changes it, and when an
//! account is called otherwise, in each guild where it has no nick: a better one ends the quarantine.

use guildhall_shared::{
    Id,
    envelope::Envelope,
    id::marker::{Guild, Role},
    model::{Member, User},
};
use sqlx::PgConnection;

use super::{
    act::Deed,
    matcher::Found,
    rule::{BLOCK_INTERACTION, ON_MEMBER, Rule},
};
use crate::{app::App, error::Result};

/// A member as the rules see one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) user: &'a User,
    pub(crate) nick: Option<&'a str>,
    pub(crate) roles: &'a [Id<Role>],
}

impl<'a> Named<'a> {
    fn shown(self) -> &'a str {
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
        let mut actions = self.0.iter().flat_map(|(rule, _)| &rule.actions);
        match actions.any(|action| action.kind == BLOCK_INTERACTION) {
            true => flags | Member::QUARANTINED,
            false => flags & !Member::QUARANTINED,
        }
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
    let rules = super::rules(db, guild).await?.into_iter();
    let hits = rules
        .filter(|rule| rule.enabled && rule.event_type == ON_MEMBER && !is_exempt(rule))
        .filter_map(|rule| {
            let found = rule.trigger_metadata.words().find(named.shown())?;
            Some((rule, found))
        });
    Ok(NameVerdict(hits.collect()))
}

/// Does what the rules say about a name, flags apart: alerts, events, entries of the audit log.
/// The guild's head is locked; publish what it returns after the commit.
pub(crate) async fn act_on_name(
    app: &App,
    db: &mut PgConnection,
    guild: Id<Guild>,
    named: Named<'_>,
    verdict: &NameVerdict,
) -> Result<Vec<Envelope>> {
    let mut deed = Deed {
        app,
        user: named.user,
        guild,
        channel: None,
        text: named.shown(),
        message: None,
        events: Vec::new(),
    };
    for (rule, found) in &verdict.0 {
        for action in &rule.actions {
            deed.act(db, rule, found, action).await?;
        }
    }
    Ok(deed.events)
}
