//! Who sees which channels of a guild, as classes of channels with equal visibility.
//!
//! Pure. Only VIEW_CHANNEL matters here: whether one may connect or write changes no view,
//! and a timeout leaves VIEW_CHANNEL as it is.

use std::collections::{BTreeMap, HashMap};

use guildhall_shared::{
    Id, Permissions, Timestamp,
    id::marker::{Channel, Guild},
    permissions::{self, ChannelClass, MemberAccess, Overwrite},
};
use rustc_hash::FxBuildHasher;

use crate::bus::ClassId;

/// The classes of one guild's channels. Numbers are stable while the realm is open; a
/// number is used again only after its last channel has left it and its users were told.
#[derive(Debug, Default)]
pub struct Classes {
    by_channel: HashMap<Id<Channel>, ClassId, FxBuildHasher>,
    classes: BTreeMap<ClassId, Class>,
}

#[derive(Debug)]
struct Class {
    /// VIEW_CHANNEL parts of the overwrites, sorted: what makes channels equal.
    overwrites: Vec<Overwrite>,
    channels: usize,
}

impl Classes {
    /// Puts a channel where its overwrites belong; `true` if its class has changed.
    pub fn place(&mut self, channel: Id<Channel>, overwrites: &[Overwrite]) -> bool {
        let overwrites = view_part(overwrites);
        let before = self.by_channel.get(&channel).copied();
        if before.is_some_and(|class| self.classes[&class].overwrites == overwrites) {
            return false;
        }
        self.remove(channel);
        let class = match self
            .classes
            .iter_mut()
            .find(|(_, class)| class.overwrites == overwrites)
        {
            Some((&id, class)) => {
                class.channels += 1;
                id
            }
            None => {
                let id = self.unused();
                self.classes.insert(
                    id,
                    Class {
                        overwrites,
                        channels: 1,
                    },
                );
                id
            }
        };
        self.by_channel.insert(channel, class);
        true
    }

    /// Forgets a channel, and its class if it was the last one there.
    pub(crate) fn remove(&mut self, channel: Id<Channel>) {
        let Some(id) = self.by_channel.remove(&channel) else {
            return;
        };
        if let Some(class) = self.classes.get_mut(&id) {
            class.channels -= 1;
            if class.channels == 0 {
                self.classes.remove(&id);
            }
        }
    }

    pub(crate) fn of(&self, channel: Id<Channel>) -> Option<ClassId> {
        self.by_channel.get(&channel).copied()
    }

    /// What the overwrites of a class's channels say of viewing.
    pub(crate) fn overwrites(&self, class: ClassId) -> Option<&[Overwrite]> {
        self.classes.get(&class).map(|class| &class.overwrites[..])
    }

    /// Every channel with its class, by channel id.
    pub(crate) fn channels(&self) -> Vec<(Id<Channel>, ClassId)> {
        let mut channels: Vec<_> = self
            .by_channel
            .iter()
            .map(|(&id, &class)| (id, class))
            .collect();
        channels.sort_unstable();
        channels
    }

    /// The classes a member sees, ascending. `base` are the member's guild-level permissions.
    pub fn seen_by(
        &self,
        guild: Id<Guild>,
        base: Permissions,
        member: MemberAccess<'_>,
        now: Timestamp,
    ) -> Vec<ClassId> {
        self.classes
            .iter()
            .filter(|(_, class)| {
                permissions::in_channel(
                    base,
                    guild,
                    member,
                    &class.overwrites,
                    ChannelClass::Plain,
                    now,
                )
                .contains(Permissions::VIEW_CHANNEL)
            })
            .map(|(&id, _)| id)
            .collect()
    }

    fn unused(&self) -> ClassId {
        (0..=ClassId::MAX)
            .find(|id| !self.classes.contains_key(id))
            .expect("a guild has fewer channels than there are class numbers")
    }
}

fn view_part(overwrites: &[Overwrite]) -> Vec<Overwrite> {
    let mut part: Vec<Overwrite> = overwrites
        .iter()
        .map(|overwrite| Overwrite {
            allow: overwrite.allow & Permissions::VIEW_CHANNEL,
            deny: overwrite.deny & Permissions::VIEW_CHANNEL,
            ..*overwrite
        })
        .filter(|overwrite| !(overwrite.allow | overwrite.deny).is_empty())
        .collect();
    part.sort_unstable_by_key(|overwrite| (overwrite.kind, overwrite.id));
    part
}

#[cfg(test)]
mod tests {
    use guildhall_shared::permissions::OverwriteKind;
    use proptest::prelude::*;

    use super::*;

    fn id<T>(id: u64) -> Id<T> {
        Id::new(id).unwrap()
    }

    fn overwrite(target: u64, allow: Permissions, deny: Permissions) -> Overwrite {
        Overwrite {
            id: id(target),
            kind: OverwriteKind::Role,
            allow,
            deny,
        }
    }

    #[test]
    fn only_what_concerns_viewing_tells_channels_apart() {
        let mut classes = Classes::default();
        let mute = overwrite(1, Permissions::empty(), Permissions::SEND_MESSAGES);
        let hide = overwrite(1, Permissions::empty(), Permissions::VIEW_CHANNEL);
        classes.place(id(10), &[]);
        classes.place(id(11), &[mute]);
        classes.place(id(12), &[hide]);
        assert_eq!(classes.of(id(10)), classes.of(id(11)));
        assert_ne!(classes.of(id(10)), classes.of(id(12)));
        assert!(classes.place(id(11), &[mute, hide]));
        assert_eq!(classes.of(id(11)), classes.of(id(12)));
        assert!(!classes.place(id(11), &[hide]));
    }

    proptest! {
        /// A user sees a class exactly when the channel's own overwrites let them.
        #[test]
        fn classes_say_what_the_permissions_say(
            channels in prop::collection::vec(
                prop::collection::vec((1u64..6, any::<bool>(), 0u64..4, 0u64..4), 0..4),
                1..12,
            ),
            roles in prop::collection::vec(2u64..4, 0..3),
            base in any::<bool>(),
        ) {
            let now = Timestamp::from_unix_ms(0);
            let bits = |n: u64| Permissions::from_bits_truncate((n & 1) << 10 | (n & 2) << 19);
            let guild = id(1);
            let roles: Vec<_> = roles.into_iter().map(id).collect();
            let member = MemberAccess {
                user: id(5),
                is_owner: false,
                roles: &roles,
                communication_disabled_until: None,
            };
            let base = if base { Permissions::VIEW_CHANNEL } else { Permissions::empty() };
            let channels: Vec<(Id<Channel>, Vec<Overwrite>)> = channels
                .into_iter()
                .enumerate()
                .map(|(at, overwrites)| {
                    let mut list: Vec<Overwrite> = Vec::new();
                    for (target, is_member, allow, deny) in overwrites {
                        let kind = if is_member { OverwriteKind::Member } else { OverwriteKind::Role };
                        if list.iter().any(|other| (other.id, other.kind) == (id(target), kind)) {
                            continue;
                        }
                        list.push(Overwrite { id: id(target), kind, allow: bits(allow), deny: bits(deny) });
                    }
                    (id(100 + at as u64), list)
                })
                .collect();
            let mut classes = Classes::default();
            for (channel, overwrites) in &channels {
                classes.place(*channel, overwrites);
            }
            let seen = classes.seen_by(guild, base, member, now);
            for (channel, overwrites) in &channels {
                let direct = permissions::in_channel(base, guild, member, overwrites, ChannelClass::Text, now)
                    .contains(Permissions::VIEW_CHANNEL);
                prop_assert_eq!(classes.of(*channel).is_some_and(|class| seen.contains(&class)), direct);
            }
        }
    }
}
