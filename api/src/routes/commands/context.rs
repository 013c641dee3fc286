//! Where a command is used, and by whose installation.

use guildhall_shared::{
    Permissions,
    model::{ChannelKind, Command, CommandBody},
};
use serde::Serialize;

use crate::access::Place;

/// `integration_types` of a command that comes with its application into a guild.
pub(super) const GUILD_INSTALL: u8 = 0;
/// Of one that comes with a user who has installed its application.
const USER_INSTALL: u8 = 1;

/// `context` of an interaction; one of `contexts` of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "u8")]
pub(crate) enum CallContext {
    Guild,
    /// Direct messages with the application's bot.
    BotDm,
    /// Direct messages with somebody else, group DMs.
    Private,
}

impl From<CallContext> for u8 {
    fn from(context: CallContext) -> Self {
        match context {
            CallContext::Guild => 0,
            CallContext::BotDm => 1,
            CallContext::Private => 2,
        }
    }
}

/// Whether an application is in the place itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// With its bot.
    There,
    /// Its commands are, without its bot: a guild has them alone.
    Commands,
    Outside,
}

impl CallContext {
    pub(crate) fn of(place: &Place, presence: Presence) -> Self {
        match (place.guild_id(), place.kind(), presence) {
            (Some(_), _, _) => Self::Guild,
            (None, ChannelKind::DM, Presence::There) => Self::BotDm,
            (None, _, _) => Self::Private,
        }
    }

    /// Whether a command may be used here; one that says nothing, anywhere.
    pub(crate) fn takes(self, command: &CommandBody) -> bool {
        let contexts = command.contexts.as_deref();
        let is_listed = contexts.is_none_or(|all| all.contains(&u8::from(self)));
        // The older way to say that it is for guilds alone.
        is_listed && (self == Self::Guild || command.dm_permission != Some(false))
    }
}

/// Whether a command comes with users who have installed its application.
pub(crate) fn is_portable(command: &Command) -> bool {
    command.guild_id.is_none() && command.body.integration_types.contains(&USER_INSTALL)
}

/// Whether somebody who has installed its application may use a command; `held` in a guild.
/// What the guild has set for commands is about those it has installed itself.
pub(crate) fn is_usable_by_installer(
    command: &Command,
    context: CallContext,
    held: Option<Permissions>,
) -> bool {
    let needed = Permissions::USE_APPLICATION_COMMANDS | Permissions::ADMINISTRATOR;
    is_portable(command)
        && context.takes(&command.body)
        && held.is_none_or(|held| held.intersects(needed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_used_where_it_says() {
        let all = [CallContext::Guild, CallContext::BotDm, CallContext::Private];
        let of = |body: &CommandBody| all.map(|context| context.takes(body));
        let mut body = CommandBody::default();
        assert_eq!(of(&body), [true; 3]);
        body.contexts = Some(vec![0, 2]);
        assert_eq!(of(&body), [true, false, true]);
        body.dm_permission = Some(false);
        assert_eq!(of(&body), [true, false, false]);
        body.contexts = Some(vec![1]);
        assert_eq!(of(&body), [false; 3]);
    }
}
