//! A guild's state at its owner: what snapshots show and permissions are computed from.
//!
//! Pure. Changed only by the guild's own events, in their order.

use std::collections::{BTreeMap, HashMap};

use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::Envelope,
    gateway::EventKind,
    id::marker,
    model::{Channel, Guild, Member, Role},
    permissions::{self, MemberAccess, OverwriteKind},
};
use guildhall_store::guild::Snapshot;
use rustc_hash::FxBuildHasher;
use serde::Deserialize;
use serde_json::Value;

use super::view::Classes;
use crate::bus::ClassId;

/// An event's body does not say what its kind promises: the guild must be read again.
#[derive(Debug, thiserror::Error)]
#[error("body of {kind}: {source}")]
pub(crate) struct Unreadable {
    kind: &'static str,
    source: serde_json::Error,
}

/// One guild at its realm's position.
#[derive(Debug)]
pub(crate) struct GuildState {
    pub(crate) guild: Guild,
    pub(crate) channels: BTreeMap<Id<marker::Channel>, Channel>,
    pub(crate) members: BTreeMap<Id<marker::User>, Member>,
    pub(crate) member_count: u64,
    pub(crate) classes: Classes,
    roles: HashMap<Id<marker::Role>, Permissions, FxBuildHasher>,
}

/// Whose view of the guild an event may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touched {
    Nobody,
    Member(Id<marker::User>),
    Everybody,
}

impl Touched {
    fn everybody_if(changed: bool) -> Self {
        if changed {
            Self::Everybody
        } else {
            Self::Nobody
        }
    }
}

#[derive(Deserialize)]
struct WithId {
    id: Id<marker::Any>,
}

#[derive(Deserialize)]
struct WithRole {
    role: Role,
}

#[derive(Deserialize)]
struct WithRoleId {
    role_id: Id<marker::Role>,
}

#[derive(Deserialize)]
struct WithUser {
    user: WithId,
}

impl GuildState {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        let mut classes = Classes::default();
        for channel in &snapshot.channels {
            classes.place(channel.id, &channel.permission_overwrites);
        }
        let mut state = Self {
            guild: snapshot.guild,
            channels: snapshot
                .channels
                .into_iter()
                .map(|channel| (channel.id, channel))
                .collect(),
            members: snapshot
                .members
                .into_iter()
                .filter_map(|member| Some((member.user.as_ref()?.id, member)))
                .collect(),
            member_count: snapshot.member_count,
            classes,
            roles: HashMap::default(),
        };
        state.index_roles();
        state
    }

    /// The classes a user sees now; `None` for one who is no member.
    pub(crate) fn seen_by(&self, user: Id<marker::User>, now: Timestamp) -> Option<Vec<ClassId>> {
        let access = self.access(user)?;
        let base = self.base(access, now);
        Some(self.classes.seen_by(self.guild.id, base, access, now))
    }

    /// Whether a member holds any of the permissions, in the channel if one is given.
    pub(crate) fn holds(
        &self,
        user: Id<marker::User>,
        any_of: Permissions,
        channel: Option<Id<marker::Channel>>,
        now: Timestamp,
    ) -> bool {
        let Some(access) = self.access(user) else {
            return false;
        };
        let base = self.base(access, now);
        let held = match channel {
            None => base,
            Some(channel) => match self.channels.get(&channel) {
                Some(channel) => permissions::in_channel(
                    base,
                    self.guild.id,
                    access,
                    &channel.permission_overwrites,
                    channel.kind.class(),
                    now,
                ),
                None => return false,
            },
        };
        held.intersects(any_of)
    }

    /// Takes an event's change over; says whose view it may have changed.
    ///
    /// Errors: the body is not of its kind's shape.
    pub(crate) fn apply(&mut self, event: &Envelope) -> Result<Touched, Unreadable> {
        self.change(event).map_err(|source| Unreadable {
            kind: event.kind.name(),
            source,
        })
    }

    fn change(&mut self, event: &Envelope) -> Result<Touched, serde_json::Error> {
        let body = event.body.as_ref();
        Ok(match event.kind {
            EventKind::GuildUpdate => {
                let guild: Guild = serde_json::from_slice(body)?;
                let moved = guild.owner_id != self.guild.owner_id;
                self.guild = guild;
                let changed = self.index_roles();
                Touched::everybody_if(moved || changed)
            }
            EventKind::ChannelCreate | EventKind::ChannelUpdate => {
                let mut channel: Channel = serde_json::from_slice(body)?;
                let known = self.channels.get(&channel.id);
                // CHANNEL_UPDATE may be older than the newest message.
                if let Some(Some(Some(newest))) = known.map(|known| known.last_message_id)
                    && channel.last_message_id.is_some_and(|id| id < Some(newest))
                {
                    channel.last_message_id = Some(Some(newest));
                }
                let changed = self
                    .classes
                    .place(channel.id, &channel.permission_overwrites);
                self.channels.insert(channel.id, channel);
                Touched::everybody_if(changed)
            }
            EventKind::ChannelDelete => {
                let WithId { id } = serde_json::from_slice(body)?;
                let id = id.cast();
                self.classes.remove(id);
                self.channels.remove(&id);
                Touched::Everybody
            }
            EventKind::GuildRoleCreate | EventKind::GuildRoleUpdate => {
                let WithRole { role } = serde_json::from_slice(body)?;
                match self
                    .guild
                    .roles
                    .iter_mut()
                    .find(|known| known.id == role.id)
                {
                    Some(known) => *known = role,
                    None => self.guild.roles.push(role),
                }
                Touched::everybody_if(self.index_roles())
            }
            EventKind::GuildRoleDelete => {
                let WithRoleId { role_id } = serde_json::from_slice(body)?;
                self.delete_role(role_id);
                Touched::Everybody
            }
            EventKind::GuildMemberAdd => {
                let member: Member = serde_json::from_slice(body)?;
                let Some(user) = member.user.as_ref().map(|user| user.id) else {
                    return Err(serde::de::Error::missing_field("user"));
                };
                if self.members.insert(user, member).is_none() {
                    self.member_count += 1;
                }
                Touched::Member(user)
            }
            EventKind::GuildMemberUpdate => self.update_member(body)?,
            EventKind::GuildMemberRemove => {
                let WithUser { user } = serde_json::from_slice(body)?;
                let user = user.id.cast();
                if self.members.remove(&user).is_some() {
                    self.member_count = self.member_count.saturating_sub(1);
                }
                Touched::Member(user)
            }
            EventKind::MessageCreate => {
                if let guildhall_shared::envelope::Scope::Channel(channel) = event.vis.scope
                    && let Some(channel) = self.channels.get_mut(&channel)
                {
                    let WithId { id } = serde_json::from_slice(body)?;
                    channel.last_message_id = Some(Some(id.cast()));
                }
                Touched::Nobody
            }
            _ => Touched::Nobody,
        })
    }

    /// Fields that the body does not carry stay as they are.
    fn update_member(&mut self, body: &[u8]) -> Result<Touched, serde_json::Error> {
        let change: Value = serde_json::from_slice(body)?;
        let WithUser { user } = WithUser::deserialize(&change)?;
        let user = user.id.cast();
        let Some(member) = self.members.get_mut(&user) else {
            // Its GUILD_MEMBER_REMOVE came before: nothing to change.
            return Ok(Touched::Nobody);
        };
        let mut merged = serde_json::to_value(&*member)?;
        overlay(&mut merged, change);
        let after: Member = serde_json::from_value(merged)?;
        let changed = after.roles != member.roles;
        *member = after;
        Ok(if changed {
            Touched::Member(user)
        } else {
            Touched::Nobody
        })
    }

    fn delete_role(&mut self, role: Id<marker::Role>) {
        self.guild.roles.retain(|known| known.id != role);
        for member in self.members.values_mut() {
            member.roles.retain(|&held| held != role);
        }
        for channel in self.channels.values_mut() {
            let before = channel.permission_overwrites.len();
            channel.permission_overwrites.retain(|overwrite| {
                overwrite.kind != OverwriteKind::Role || overwrite.id != role.cast()
            });
            if channel.permission_overwrites.len() != before {
                self.classes
                    .place(channel.id, &channel.permission_overwrites);
            }
        }
        self.index_roles();
    }

    /// Renews the roles' permissions; `true` if they have changed in what concerns viewing.
    fn index_roles(&mut self) -> bool {
        let viewing = Permissions::VIEW_CHANNEL | Permissions::ADMINISTRATOR;
        let roles: HashMap<_, _, FxBuildHasher> = self
            .guild
            .roles
            .iter()
            .map(|role| (role.id, role.permissions))
            .collect();
        let same = roles.len() == self.roles.len()
            && roles.iter().all(|(id, after)| {
                self.roles
                    .get(id)
                    .is_some_and(|before| (*before ^ *after) & viewing == Permissions::empty())
            });
        self.roles = roles;
        !same
    }

    fn access(&self, user: Id<marker::User>) -> Option<MemberAccess<'_>> {
        let member = self.members.get(&user)?;
        Some(MemberAccess {
            user,
            is_owner: self.guild.owner_id == user,
            roles: &member.roles,
            communication_disabled_until: member.communication_disabled_until,
        })
    }

    fn base(&self, access: MemberAccess<'_>, now: Timestamp) -> Permissions {
        permissions::base(
            self.guild.id,
            access,
            |role| self.roles.get(&role).copied(),
            now,
        )
    }
}

/// Puts the fields of `change` over those of `base`, also inside objects of both.
fn overlay(base: &mut Value, change: Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (name, value) in change {
                match base.get_mut(&name) {
                    Some(below) => overlay(below, value),
                    None => {
                        base.insert(name, value);
                    }
                }
            }
        }
        (base, change) => *base = change,
    }
}
