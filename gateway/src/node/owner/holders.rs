//! Who of a guild's listeners may hold a permission: to moderate threads (they see private ones that
//! they are not in), to see the audit log. Mostly few among very many, and some events are for
//! nobody else.
//!
//! Pure. Names more rather than fewer: whoever is named is asked for their permissions all the same.

use std::collections::BTreeSet;

use guildhall_shared::{
    Id, Permissions,
    gateway::EventKind,
    id::marker::{Role, User},
    permissions::OverwriteKind,
};
use rustc_hash::FxHashSet;

use super::guild::GuildState;

#[derive(Debug)]
pub(crate) struct Holders {
    /// Of any of these.
    any_of: Permissions,
    /// By their own permissions, or those that a channel gives them.
    roles: FxHashSet<Id<Role>>,
    /// The guild's owner, and whom a channel gives them.
    singled_out: FxHashSet<Id<User>>,
    /// Everybody may.
    everybody: bool,
    /// None if everybody may.
    users: BTreeSet<Id<User>>,
}

impl Holders {
    /// Those among the listeners.
    pub(crate) fn new(
        guild: &GuildState,
        any_of: Permissions,
        listening: impl Iterator<Item = Id<User>>,
    ) -> Self {
        let granting = any_of | Permissions::ADMINISTRATOR;
        let roles = guild.guild.roles.iter();
        let roles = roles.filter(|role| role.permissions.intersects(granting));
        let mut roles: FxHashSet<Id<Role>> = roles.map(|role| role.id).collect();
        let mut singled_out = FxHashSet::default();
        singled_out.insert(guild.guild.owner_id);
        let channels = guild.channels.values();
        for overwrite in channels.flat_map(|channel| &channel.permission_overwrites) {
            if overwrite.allow.intersects(any_of) {
                match overwrite.kind {
                    OverwriteKind::Role => roles.insert(overwrite.id.cast()),
                    OverwriteKind::Member => singled_out.insert(overwrite.id.cast()),
                };
            }
        }
        let mut holders = Self {
            any_of,
            everybody: roles.contains(&guild.guild.id.cast()),
            roles,
            singled_out,
            users: BTreeSet::new(),
        };
        if !holders.everybody {
            listening.for_each(|user| holders.add(guild, user));
        }
        holders
    }

    /// Somebody listens from now on, or has other roles.
    pub(crate) fn add(&mut self, guild: &GuildState, user: Id<User>) {
        let Some(member) = guild.members.get(&user) else {
            return;
        };
        let mut roles = member.roles.iter();
        let may = self.singled_out.contains(&user) || roles.any(|role| self.roles.contains(role));
        if may && !self.everybody {
            self.users.insert(user);
        }
    }

    pub(crate) fn any_of(&self) -> Permissions {
        self.any_of
    }

    /// They, and perhaps some who do not listen any more or hold none of it; `None`: everybody may.
    pub(crate) fn few(&self) -> Option<&BTreeSet<Id<User>>> {
        (!self.everybody).then_some(&self.users)
    }

    /// Whether an event may give it to others than the member that it is about.
    pub(crate) fn may_change_by(kind: EventKind) -> bool {
        matches!(
            kind,
            EventKind::GuildUpdate
                | EventKind::ChannelCreate
                | EventKind::ChannelUpdate
                | EventKind::GuildRoleCreate
                | EventKind::GuildRoleUpdate
        )
    }
}
