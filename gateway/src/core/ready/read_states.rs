//! `read_state` of a READY: what was stored, counted on to where the READY's guilds stand.

use std::collections::{BTreeMap, HashMap};

use guildhall_shared::{
    Id, Timestamp,
    envelope::{Envelope, Scope},
    id::marker::{Channel, Guild, Message, Role, User},
    model::RelationshipKind,
};
use guildhall_store::{
    personal::Personal,
    read_state::{Place, ReadState},
};
use serde::{Deserialize, Serialize};

use super::guild::Membership;
use crate::session::AssembledGuild;

/// One read state. Spec: objects.md › Read state.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    id: Id<Channel>,
    read_state_type: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_message_id: Option<Id<Message>>,
    mention_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_pin_timestamp: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_viewed: Option<i32>,
}

/// What a message says of whom it calls.
#[derive(Deserialize)]
struct Call {
    channel_id: Id<Channel>,
    author: WithId,
    mention_everyone: bool,
    mentions: Vec<WithId>,
    mention_roles: Vec<Id<Role>>,
}

#[derive(Deserialize)]
struct WithId {
    id: Id<User>,
}

/// The read states of the channels that `sees` lets through; the calls of `missed`, which came
/// after the states were read and before the guilds were, are counted in.
pub(super) fn entries(
    user: Id<User>,
    personal: &Personal,
    guilds: &[AssembledGuild],
    missed: &[Envelope],
    sees: impl Fn(Id<Guild>, Id<Channel>) -> bool,
) -> Vec<Entry> {
    let mut states: BTreeMap<Id<Channel>, ReadState> = personal
        .read_states
        .states
        .iter()
        .map(|state| (state.channel, state.clone()))
        .collect();
    let mut memberships: HashMap<Id<Guild>, Membership> = HashMap::new();
    for event in missed {
        let guild: Id<Guild> = event.realm.cast();
        let membership = memberships.entry(guild).or_insert_with(|| {
            let body = guilds.iter().find(|one| one.id == guild);
            let read = body.and_then(|one| Membership::of(user, &one.body).ok());
            read.unwrap_or_default()
        });
        if let Some((channel, place)) = called(event, user, personal, membership) {
            let unread = || ReadState::unread(channel, Some(place));
            states.entry(channel).or_insert_with(unread).mentions += 1;
        }
    }
    let seen = |state: &ReadState| {
        state
            .place
            .is_none_or(|place| sees(place.guild, place.seen_by))
    };
    states
        .into_values()
        .filter(seen)
        .map(|state| Entry {
            id: state.channel,
            read_state_type: 0,
            last_message_id: state.last_message,
            mention_count: state.mentions,
            last_pin_timestamp: state.last_pin,
            last_viewed: state.last_viewed,
        })
        .collect()
}

/// Where a message calls this user, if it does: as `guildhall_store::read_state` decides it.
fn called(
    event: &Envelope,
    user: Id<User>,
    personal: &Personal,
    membership: &Membership,
) -> Option<(Id<Channel>, Place)> {
    let guild: Id<Guild> = event.realm.cast();
    let call: Call = serde_json::from_slice(&event.body).ok()?;
    let seen_by = match &event.vis.scope {
        Scope::Channel(channel) => *channel,
        Scope::Thread { parent, .. } => *parent,
        Scope::Realm | Scope::Users(_) | Scope::Permissions { .. } => return None,
    };
    let in_thread = seen_by != call.channel_id;
    if in_thread && !membership.joined.contains(&call.channel_id) {
        return None;
    }
    let author = call.author.id;
    let blocks = |one: &guildhall_shared::model::Relationship| {
        one.id == author && one.kind == RelationshipKind::Blocked
    };
    if author == user || personal.relationships.iter().any(blocks) {
        return None;
    }
    let mut settings = personal.guild_settings.iter();
    let settings = settings.find(|settings| settings.guild_id == Some(guild));
    let (no_everyone, no_roles) = settings.map_or((false, false), |settings| {
        (settings.suppress_everyone, settings.suppress_roles)
    });
    let mut roles = call.mention_roles.iter();
    let is_called = call.mentions.iter().any(|one| one.id == user)
        || call.mention_everyone && !no_everyone
        || !no_roles && roles.any(|role| membership.roles.contains(role));
    is_called.then_some((call.channel_id, Place { guild, seen_by }))
}
