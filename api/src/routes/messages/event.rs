//! Messages as events: what their bodies hold and who gets them.

use bytes::Bytes;
use guildhall_shared::{
    Id,
    envelope::{Alt, Envelope},
    gateway::{EventKind, Intents},
    id::marker::Guild,
    model::{Member, Message},
};
use serde::Serialize;
use sqlx::PgConnection;

use crate::{access::Audience, error::Result};

/// A message as the gateway sends it: with its guild and its author's membership.
#[derive(Serialize)]
struct GatewayMessage<'a> {
    #[serde(flatten)]
    message: &'a Message,
    #[serde(skip_serializing_if = "Option::is_none")]
    guild_id: Option<Id<Guild>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<&'a Member>,
}

/// `d` of MESSAGE_CREATE or MESSAGE_UPDATE, and its variant without content, which private
/// channels (no guild) do not need.
pub(super) fn bodies(
    guild: Option<Id<Guild>>,
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
    let is_empty = message.is_empty() && !matches!(message.referenced_message, Some(Some(_)));
    if is_empty || guild.is_none() {
        return Ok((full, None));
    }
    let mut full_for = vec![message.author.id];
    full_for.extend(message.mentions.iter().map(|user| user.id));
    full_for.dedup();
    let alt = Alt {
        full_for,
        body: body(&message.without_content())?,
    };
    Ok((full, Some(alt)))
}

/// Which intents let an event about a message through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    Reactions,
    Polls,
    Pins,
}

impl Topic {
    fn intents(self) -> Intents {
        match self {
            Self::Reactions => Intents::GUILD_MESSAGE_REACTIONS,
            Self::Polls => Intents::GUILD_MESSAGE_POLLS,
            Self::Pins => Intents::GUILDS,
        }
    }
}

/// Numbers an event about a message for those who may see the place it is in, which is
/// locked (`access::place_for_change`): one event in a guild, one per participant in a
/// private channel. The body's `guild_id` is left out where there is none.
pub(crate) async fn tell_in(
    db: &mut PgConnection,
    audience: &Audience,
    (kind, topic): (EventKind, Topic),
    body: &impl Serialize,
) -> Result<Vec<Envelope>> {
    let vis = audience.visibility(topic.intents());
    audience.append(db, kind, vis, body, None).await
}
