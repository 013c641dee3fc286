//! A guild of a READY in the shape its client reads.
//!
//! A snapshot is JSON already; its values are moved about as they are.

use std::collections::BTreeMap;

use guildhall_shared::{
    Id,
    gateway::Capabilities,
    id::marker::{self, User},
    shard::Position,
};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

use super::json::Empty;
use crate::session::AssembledGuild;

/// Fields that stay where they are under [`Capabilities::CLIENT_STATE_V2`]: what the gateway adds to
/// a guild, and its lists.
const NOT_PROPERTIES: [&str; 17] = [
    "id",
    "joined_at",
    "large",
    "unavailable",
    "member_count",
    "voice_states",
    "members",
    "channels",
    "threads",
    "presences",
    "stage_instances",
    "guild_scheduled_events",
    "soundboard_sounds",
    "roles",
    "emojis",
    "stickers",
    "premium_subscription_count",
];
/// Of these, what `properties` has too.
const ALSO_PROPERTIES: [&str; 2] = ["id", "premium_subscription_count"];

type Fields<'a> = BTreeMap<&'a str, &'a RawValue>;

/// A guild's snapshot taken apart.
#[derive(Debug, Default)]
pub(super) struct Parts<'a> {
    fields: Fields<'a>,
    position: Option<Position>,
    v2: bool,
    /// Taken out for [`Capabilities::DEDUPE_USER_OBJECTS`], the receiver first.
    pub(super) members: Vec<Lifted<'a>>,
    pub(super) presences: Vec<Lifted<'a>>,
    /// Taken out for [`Capabilities::PRIORITIZED_READY_PAYLOAD`].
    pub(super) voice_states: Option<&'a RawValue>,
}

/// A member or presence without its user.
#[derive(Debug, Clone)]
pub(super) struct Lifted<'a> {
    pub(super) user_id: Id<User>,
    /// Of a member: a web client looks for its guild and its user by these.
    of: Option<Id<marker::Guild>>,
    fields: Fields<'a>,
}

/// GUILD_CREATE for a client that reads guilds otherwise; `None`: as it is.
pub(in crate::core) fn guild_create(
    capabilities: Capabilities,
    position: Position,
    body: &[u8],
) -> Option<Vec<u8>> {
    if !capabilities.contains(Capabilities::CLIENT_STATE_V2) {
        return None;
    }
    let fields = serde_json::from_slice(body).ok()?;
    let parts = Parts {
        fields,
        position: Some(position),
        v2: true,
        ..Parts::default()
    };
    serde_json::to_vec(&parts).ok()
}

impl<'a> Parts<'a> {
    /// What is taken out goes by the capabilities; users of what is taken out go to `users`.
    pub(super) fn of(
        capabilities: Capabilities,
        receiver: Id<User>,
        guild: &'a AssembledGuild,
        users: &mut BTreeMap<Id<User>, &'a RawValue>,
    ) -> serde_json::Result<Self> {
        let mut parts = Self {
            fields: serde_json::from_slice(&guild.body)?,
            position: Some(guild.position),
            v2: capabilities.contains(Capabilities::CLIENT_STATE_V2),
            ..Self::default()
        };
        if capabilities.contains(Capabilities::DEDUPE_USER_OBJECTS) {
            let members = parts.fields.remove("members");
            parts.members = lift(members, Some((guild.id, users)))?;
            parts.presences = lift(parts.fields.remove("presences"), None)?;
            parts.members.sort_by_key(|one| one.user_id != receiver);
        }
        if capabilities.contains(Capabilities::PRIORITIZED_READY_PAYLOAD) {
            parts.voice_states = parts.fields.remove("voice_states");
        }
        Ok(parts)
    }
}

/// A guild, and where the users of its members are put.
type OfGuild<'m, 'a> = (Id<marker::Guild>, &'m mut BTreeMap<Id<User>, &'a RawValue>);

fn lift<'a>(
    list: Option<&'a RawValue>,
    mut members: Option<OfGuild<'_, 'a>>,
) -> serde_json::Result<Vec<Lifted<'a>>> {
    #[derive(Deserialize)]
    struct WithId {
        id: Id<User>,
    }
    let Some(list) = list else {
        return Ok(Vec::new());
    };
    let list: Vec<Fields<'a>> = serde_json::from_str(list.get())?;
    let mut lifted = Vec::with_capacity(list.len());
    for mut fields in list {
        let Some(user) = fields.remove("user") else {
            continue;
        };
        let WithId { id } = serde_json::from_str(user.get())?;
        if let Some((_, users)) = &mut members {
            users.insert(id, user);
        }
        lifted.push(Lifted {
            user_id: id,
            of: members.as_ref().map(|(guild, _)| *guild),
            fields,
        });
    }
    Ok(lifted)
}

impl Serialize for Lifted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("user_id", &self.user_id)?;
        if let Some(guild) = self.of {
            map.serialize_entry("id", &self.user_id)?;
            map.serialize_entry("guild_id", &guild)?;
        }
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Serialize for Parts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Properties<'a>(&'a Fields<'a>);
        impl Serialize for Properties<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().filter(|(name, _)| is_property(name)))
            }
        }
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in &self.fields {
            if !self.v2 || NOT_PROPERTIES.contains(name) {
                map.serialize_entry(name, value)?;
            }
        }
        if self.v2 {
            map.serialize_entry("properties", &Properties(&self.fields))?;
            map.serialize_entry("data_mode", "full")?;
            map.serialize_entry("lazy", &true)?;
            map.serialize_entry("version", &self.position.map_or(0, |at| at.seq))?;
            map.serialize_entry("guild_hashes", &Empty {})?;
        }
        map.end()
    }
}

fn is_property(name: &str) -> bool {
    ALSO_PROPERTIES.contains(&name) || !NOT_PROPERTIES.contains(&name)
}

/// What decides whether a message calls a member.
#[derive(Debug, Default)]
pub(super) struct Membership {
    pub(super) roles: Vec<Id<marker::Role>>,
    /// Threads the member is in.
    pub(super) joined: Vec<Id<marker::Channel>>,
}

impl Membership {
    /// Of the receiver of a snapshot.
    pub(super) fn of(receiver: Id<User>, body: &[u8]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Body {
            members: Vec<Member>,
            threads: Vec<Thread>,
        }
        #[derive(Deserialize)]
        struct Member {
            user: WithId,
            roles: Vec<Id<marker::Role>>,
        }
        #[derive(Deserialize)]
        struct WithId {
            id: Id<User>,
        }
        #[derive(Deserialize)]
        struct Thread {
            id: Id<marker::Channel>,
            member: Option<serde::de::IgnoredAny>,
        }
        let Body { members, threads } = serde_json::from_slice(body)?;
        let own = members.into_iter().find(|one| one.user.id == receiver);
        let joined = threads.into_iter().filter(|one| one.member.is_some());
        Ok(Self {
            roles: own.map(|own| own.roles).unwrap_or_default(),
            joined: joined.map(|thread| thread.id).collect(),
        })
    }
}
