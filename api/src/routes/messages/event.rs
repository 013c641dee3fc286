//! Messages as events: what their bodies hold and who gets them.

use bytes::Bytes;
use guildhall_shared::{
    Id,
    envelope::{Alt, Visibility},
    gateway::Intents,
    id::marker::{Channel, Guild},
    model::{Member, Message},
};
use serde::Serialize;

use crate::error::Result;

/// A message as the gateway sends it: with its guild and its author's membership.
#[derive(Serialize)]
struct GatewayMessage<'a> {
    #[serde(flatten)]
    message: &'a Message,
    guild_id: Id<Guild>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<&'a Member>,
}

/// `d` of MESSAGE_CREATE or MESSAGE_UPDATE, and its variant without content.
pub(super) fn bodies(
    guild: Id<Guild>,
    member: Option<&Member>,
    message: &Message,
) -> Result<(Bytes, Option<Alt>)> {
    let body = |message: &Message| {
        serde_json::to_vec(&GatewayMessage {
            message,
            guild_id: guild,
            member,
        })
        .map(Bytes::from)
    };
    let full = body(message)?;
    let has_content = !message.content.is_empty()
        || !message.embeds.is_empty()
        || !message.attachments.is_empty()
        || !message.components.is_empty();
    if !has_content {
        return Ok((full, None));
    }
    let mut full_for = vec![message.author.id];
    full_for.extend(message.mentions.iter().map(|user| user.id));
    full_for.dedup();
    let bare = Message {
        content: String::new(),
        embeds: Vec::new(),
        attachments: Vec::new(),
        components: Vec::new(),
        // Somebody else's content rides in here.
        referenced_message: message.referenced_message.as_ref().map(|message| {
            message.as_ref().map(|message| {
                Box::new(Message {
                    content: String::new(),
                    embeds: Vec::new(),
                    ..Message::clone(message)
                })
            })
        }),
        ..message.clone()
    };
    let alt = Alt {
        full_for,
        body: body(&bare)?,
    };
    Ok((full, Some(alt)))
}

pub(super) fn visibility(channel: Id<Channel>) -> Visibility {
    Visibility::channel(channel, Intents::GUILD_MESSAGES)
}
