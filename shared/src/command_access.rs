//! Who may use an application's command in a guild. Spec: permissions.md › Application commands.

use crate::{
    Permissions,
    id::{
        Id,
        marker::{Any, Channel, Guild, Role, User},
    },
    model::CommandPermission,
};

/// Who asks, and where.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    pub guild: Id<Guild>,
    pub user: Id<User>,
    /// Without @everyone.
    pub roles: &'a [Id<Role>],
    /// In the channel if one is given, else in the guild.
    pub held: Permissions,
    /// For a thread, its parent.
    pub channel: Option<Id<Channel>>,
}

/// What a guild has set for a command.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules<'a> {
    /// `default_member_permissions`.
    pub default: Option<Permissions>,
    /// Entries of the command; where there are some, those of the application do not count.
    pub command: &'a [CommandPermission],
    pub application: &'a [CommandPermission],
}

/// Whether the asker may use the command.
///
/// Administrators may; others need USE_APPLICATION_COMMANDS. The nearest entry decides:
/// the user's, then any role's that allows, then @everyone's; without one, the default does.
/// An entry about the channel, or else about all channels, must not forbid it.
pub fn may_use(asker: Asker<'_>, rules: Rules<'_>) -> bool {
    if asker.held.contains(Permissions::ADMINISTRATOR) {
        return true;
    }
    if !asker.held.contains(Permissions::USE_APPLICATION_COMMANDS) {
        return false;
    }
    let entries = match rules.command {
        [] => rules.application,
        own => own,
    };
    let entry = |kind: u8, id: Id<Any>| {
        let found = entries
            .iter()
            .find(|entry| entry.kind == kind && entry.id == id);
        found.map(|entry| entry.permission)
    };
    let of_roles = || {
        let roles = asker.roles.iter();
        let given: Vec<bool> = roles
            .filter_map(|role| entry(CommandPermission::ROLE, role.cast()))
            .collect();
        (!given.is_empty()).then(|| given.contains(&true))
    };
    let default = || match rules.default {
        None => true,
        Some(needed) => !needed.is_empty() && asker.held.contains(needed),
    };
    let is_person_allowed = entry(CommandPermission::USER, asker.user.cast())
        .or_else(of_roles)
        .or_else(|| entry(CommandPermission::ROLE, asker.guild.cast()))
        .unwrap_or_else(default);
    let all_channels = Id::new(asker.guild.get() - 1);
    let is_channel_allowed = asker.channel.is_none_or(|channel| {
        entry(CommandPermission::CHANNEL, channel.cast())
            .or_else(|| entry(CommandPermission::CHANNEL, all_channels?))
            .unwrap_or(true)
    });
    is_person_allowed && is_channel_allowed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GUILD: u64 = 100;

    fn id<T>(id: u64) -> Id<T> {
        Id::new(id).unwrap()
    }

    fn entry(kind: u8, id_: u64, permission: bool) -> CommandPermission {
        CommandPermission {
            id: id(id_),
            kind,
            permission,
        }
    }

    fn asker(roles: &[Id<Role>]) -> Asker<'_> {
        Asker {
            guild: id(GUILD),
            user: id(7),
            roles,
            held: Permissions::USE_APPLICATION_COMMANDS,
            channel: Some(id(5)),
        }
    }

    fn entries() -> impl Strategy<Value = Vec<CommandPermission>> {
        let one = (1..=3_u8, 1..=8_u64, any::<bool>());
        let one = one.prop_map(|(kind, id, permission)| entry(kind, id, permission));
        prop::collection::vec(one, 0..6)
    }

    #[test]
    fn the_nearest_entry_decides() {
        let roles = [id(1), id(2)];
        let allowed = |command: &[CommandPermission]| {
            let rules = Rules {
                command,
                ..Rules::default()
            };
            may_use(asker(&roles), rules)
        };
        assert!(allowed(&[]));
        assert!(!allowed(&[entry(1, GUILD, false)]));
        assert!(allowed(&[entry(1, GUILD, false), entry(1, 2, true)]));
        assert!(allowed(&[entry(1, 1, false), entry(1, 2, true)]));
        assert!(!allowed(&[entry(2, 7, false), entry(1, 2, true)]));
        assert!(!allowed(&[entry(2, 7, true), entry(3, 5, false)]));
        assert!(!allowed(&[entry(3, GUILD - 1, false)]));
        assert!(allowed(&[entry(3, GUILD - 1, false), entry(3, 5, true)]));
    }

    #[test]
    fn an_empty_default_is_for_administrators() {
        let rules = Rules {
            default: Some(Permissions::empty()),
            ..Rules::default()
        };
        assert!(!may_use(asker(&[]), rules));
        let admin = Asker {
            held: Permissions::ADMINISTRATOR,
            ..asker(&[])
        };
        assert!(may_use(admin, rules));
    }

    proptest! {
        #[test]
        fn without_the_permission_nothing_helps(entries in entries(), bits: u64) {
            let held = Permissions::from_bits_truncate(bits)
                .difference(Permissions::ADMINISTRATOR | Permissions::USE_APPLICATION_COMMANDS);
            let rules = Rules { command: &entries, ..Rules::default() };
            let asker = Asker { held, ..asker(&[]) };
            prop_assert!(!may_use(asker, rules));
        }

        #[test]
        fn entries_of_the_command_hide_those_of_the_application(own in entries(), other in entries()) {
            let roles = [id(1), id(2)];
            let with = Rules { command: &own, application: &other, default: None };
            let without = Rules { command: &own, ..Rules::default() };
            if !own.is_empty() {
                prop_assert_eq!(may_use(asker(&roles), with), may_use(asker(&roles), without));
            }
        }

        #[test]
        fn no_channel_means_no_channel_rule(entries in entries()) {
            let rules = Rules { command: &entries, ..Rules::default() };
            let anywhere = Asker { channel: None, ..asker(&[]) };
            prop_assert!(may_use(anywhere, rules) || !may_use(asker(&[]), rules));
        }
    }
}
