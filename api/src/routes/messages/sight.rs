//! Content over REST: an application without the intent for it reads what the gateway would tell
//! it. Spec: gateway.md › Intents.

use guildhall_shared::{Id, gateway::Intents, id::marker::Guild, model::Message};

use crate::auth::CurrentUser;

/// Whether the reader sees the content of a message of this guild, or of a private channel.
pub(super) fn sees_content(
    reader: &CurrentUser,
    guild: Option<Id<Guild>>,
    message: &Message,
) -> bool {
    let Some((_, flags)) = reader.account.application.filter(|_| reader.bot) else {
        return true;
    };
    guild.is_none()
        || Intents::allowed_by_application(flags).contains(Intents::MESSAGE_CONTENT)
        || message.author.id == reader.id
        || message.mentions.iter().any(|user| user.id == reader.id)
}

/// A message as its reader sees it.
pub(crate) fn shown_to(
    reader: &CurrentUser,
    guild: Option<Id<Guild>>,
    message: Message,
) -> Message {
    match sees_content(reader, guild, &message) {
        true => message,
        false => message.without_content(),
    }
}
