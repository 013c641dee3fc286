//! Messages as events: what their bodies hold and who gets them.

use bytes::Bytes;
use guildhall_shared::{
    Id,
    envelope::{Alt, Part},
    id::marker::Guild,
    model::{Member, Message},
};
use serde::Serialize;

use super::sight::{is_read_by, readers};
use crate::{
    error::Result,
    routes::{polls, reactions},
};

/// What the gateway sends with a message: its guild and its author's membership.
#[derive(Serialize)]
struct GatewayExtras<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    guild_id: Option<Id<Guild>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<&'a Member>,
}

/// A message's JSON as REST answers it. Most are shorter than what is set aside.
pub(super) fn answer(message: &Message) -> serde_json::Result<Vec<u8>> {
    let mut json = Vec::with_capacity(1024);
    serde_json::to_writer(&mut json, message)?;
    Ok(json)
}

/// A message as it goes to everybody: it says nothing of what its reader did, with the message it
/// answers neither.
pub(super) fn as_nobody(message: Message) -> Message {
    let answered = message.referenced_message;
    Message {
        reactions: reactions::as_nobody(&message.reactions),
        poll: message.poll.map(polls::as_nobody),
        referenced_message: answered.map(|found| found.map(|found| Box::new(as_nobody(*found)))),
        ..message
    }
}

/// `d` of MESSAGE_CREATE or MESSAGE_UPDATE, and its variants without content, which private
/// channels (no guild) do not need.
pub(super) fn bodies(
    guild: Option<Id<Guild>>,
    member: Option<&Member>,
    message: Message,
) -> Result<(Bytes, Option<Alt>)> {
    // Whoever reads the event is not the one who asked for the message.
    let message = as_nobody(message);
    bodies_of((&message, &answer(&message)?), guild, member)
}

/// [`bodies`] of a message whose [`answer`], for everybody, is made already.
pub(super) fn bodies_of(
    (message, json): (&Message, &[u8]),
    guild: Option<Id<Guild>>,
    member: Option<&Member>,
) -> Result<(Bytes, Option<Alt>)> {
    let extras = serde_json::to_vec(&GatewayExtras {
        guild_id: guild,
        member,
    })?;
    let full = with_fields(json, &extras);
    let is_empty = message.is_empty() && !matches!(message.referenced_message, Some(Some(_)));
    if is_empty || guild.is_none() {
        return Ok((full, None));
    }
    let body_for = |reads: &dyn Fn(&Message) -> bool| -> Result<Bytes> {
        Ok(with_fields(&answer(&message.for_reader(reads))?, &extras))
    };
    let mut full_for: Vec<_> = readers(message).map(|user| user.id).collect();
    full_for.dedup();
    let mut parts = Vec::new();
    let answered = message.referenced_message.as_ref();
    if let Some(answered) = answered.and_then(|answered| answered.as_deref()) {
        full_for.retain(|&user| is_read_by(answered, user));
        for (one, other) in [(message, answered), (answered, message)] {
            // Clients of people have the intent.
            let bots = readers(one).filter(|user| user.bot && !is_read_by(other, user.id));
            let users: Vec<_> = bots.map(|user| user.id).collect();
            if !users.is_empty() {
                let body = body_for(&|shown: &Message| shown.id == one.id)?;
                parts.push(Part { users, body });
            }
        }
    }
    let alt = Alt {
        full_for,
        body: body_for(&|_: &Message| false)?,
        parts,
    };
    Ok((full, Some(alt)))
}

/// One JSON object of two; the first is not empty.
fn with_fields(object: &[u8], more: &[u8]) -> Bytes {
    match (object.split_last(), more) {
        (Some((_, open)), [_, fields @ .., _]) if !fields.is_empty() => {
            [open, b",", fields, b"}"].concat().into()
        }
        _ => Bytes::copy_from_slice(object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_added_to_an_object() {
        let with = |object: &str, more: &str| {
            let both = with_fields(object.as_bytes(), more.as_bytes());
            String::from_utf8(both.to_vec()).unwrap()
        };
        assert_eq!(
            with(r#"{"a":1}"#, r#"{"b":{},"c":[]}"#),
            r#"{"a":1,"b":{},"c":[]}"#
        );
        assert_eq!(with(r#"{"a":1}"#, "{}"), r#"{"a":1}"#);
    }
}
