//! Content over REST: an application without the intent for it reads what the gateway would tell
//! it. Spec: gateway.md › Intents.

use std::iter;

use guildhall_shared::{
    Id,
    gateway::Intents,
    id::marker::{self, Guild},
    model::{Message, User},
};

use crate::auth::CurrentUser;

/// Who reads a message's content without the intent for it: its author, and whom it mentions.
pub(super) fn readers(message: &Message) -> impl Iterator<Item = &User> {
    iter::once(&message.author).chain(&message.mentions)
}

/// Whether somebody is one of a message's [`readers`].
pub(crate) fn is_read_by(message: &Message, user: Id<marker::User>) -> bool {
    readers(message).any(|reader| reader.id == user)
}

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
        || is_read_by(message, reader.id)
}

/// A message as its reader sees it, with the one it answers.
pub(crate) fn shown_to(
    reader: &CurrentUser,
    guild: Option<Id<Guild>>,
    message: Message,
) -> Message {
    let sees = |message: &Message| sees_content(reader, guild, message);
    let answered = message.referenced_message.as_ref();
    let answered = answered.and_then(|answered| answered.as_deref());
    match sees(&message) && answered.is_none_or(sees) {
        true => message,
        false => message.for_reader(&sees),
    }
}
