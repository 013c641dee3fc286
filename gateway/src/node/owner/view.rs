//! Who sees which channels of a guild, as classes of channels with equal visibility.
//!
//! Pure. Only VIEW_CHANNEL matters here: whether one may connect or write changes no view,
//! and a timeout leaves VIEW_CHANNEL as it is.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use guildhall_shared::{
    Id, Permissions, Timestamp,
    id::marker::{Channel, Guild, Role, User},
    permissions::{self, ChannelClass, MemberAccess, Overwrite, OverwriteKind},
};
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use crate::bus::ClassId;

/// Sets of roles whose views are kept; if there are more, all are computed anew.
const VIEWS_MAX: usize = 16_384;

/// The classes that somebody sees, ascending: mostly one list for many.
pub(crate) type Seen = Arc<[ClassId]>;

/// The classes of one guild's channels. Numbers are stable while the realm is open; a
/// number is used again only after its last channel has left it and its users were told.
#[derive(Debug, Default)]
pub struct Classes {
    by_channel: HashMap<Id<Channel>, ClassId, FxBuildHasher>,
    classes: BTreeMap<ClassId, Class>,
    /// By channel, as of the last [`Self::changes`].
    told: Vec<(Id<Channel>, ClassId)>,
}

/// A channel that came, went, or is in another class than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) channel: Id<Channel>,
    pub(crate) before: Option<ClassId>,
    pub(crate) now: Option<ClassId>,
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

    /// Every channel with its class, by channel id, as of the last [`Self::changes`].
    pub(crate) fn told(&self) -> &[(Id<Channel>, ClassId)] {
        &self.told
    }

    /// What has changed since the last call, by channel id.
    pub(crate) fn changes(&mut self) -> Vec<Moved> {
        let now = self.by_channel.iter();
        let mut now: Vec<_> = now.map(|(&channel, &class)| (channel, class)).collect();
        now.sort_unstable();
        let before = std::mem::replace(&mut self.told, now);
        let moved = self.told.iter().filter_map(|&(channel, class)| {
            let place = before.binary_search_by_key(&channel, |&(known, _)| known);
            let before = place.ok().map(|place| before[place].1);
            (before != Some(class)).then_some(Moved {
                channel,
                before,
                now: Some(class),
            })
        });
        let gone = before.iter().filter_map(|&(channel, class)| {
            let is_gone = !self.by_channel.contains_key(&channel);
            is_gone.then_some(Moved {
                channel,
                before: Some(class),
                now: None,
            })
        });
        let mut changes: Vec<Moved> = moved.chain(gone).collect();
        changes.sort_unstable_by_key(|moved| moved.channel);
        changes
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

/// Whether somebody who sees these classes sees this one.
pub(crate) fn sees(seen: &[ClassId], class: ClassId) -> bool {
    seen.binary_search(&class).is_ok()
}

/// What members see, computed once for all of those whom the same roles decide for: thousands
/// hold few different ones, and roles for colours decide nothing.
///
/// Good until roles, the owner or classes change.
#[derive(Debug)]
pub(crate) struct Views {
    /// Roles that may let their holders see more or less than others.
    deciding: FxHashSet<Id<Role>>,
    /// Members with overwrites of their own.
    singled_out: FxHashSet<Id<User>>,
    /// At most [`VIEWS_MAX`], by deciding roles, ascending.
    by_roles: FxHashMap<Box<[Id<Role>]>, Seen>,
}

impl Views {
    /// `granting`: the roles whose own permissions let somebody see what not all see.
    pub(crate) fn new(classes: &Classes, granting: impl Iterator<Item = Id<Role>>) -> Self {
        let mut deciding: FxHashSet<Id<Role>> = granting.collect();
        let mut singled_out: FxHashSet<Id<User>> = FxHashSet::default();
        let classes = classes.classes.values();
        for overwrite in classes.flat_map(|class| &class.overwrites) {
            match overwrite.kind {
                OverwriteKind::Role => deciding.insert(overwrite.id.cast()),
                OverwriteKind::Member => singled_out.insert(overwrite.id.cast()),
            };
        }
        Self {
            deciding,
            singled_out,
            by_roles: FxHashMap::default(),
        }
    }

    /// What a member sees; `see` says so if nobody like them was asked for yet.
    pub(crate) fn of(
        &mut self,
        member: MemberAccess<'_>,
        see: impl FnOnce() -> Vec<ClassId>,
    ) -> Seen {
        let Self {
            deciding,
            singled_out,
            by_roles,
        } = self;
        if member.is_owner || singled_out.contains(&member.user) {
            return see().into();
        }
        let held = member.roles.iter().copied();
        let mut roles: Vec<Id<Role>> = held.filter(|role| deciding.contains(role)).collect();
        roles.sort_unstable();
        if let Some(seen) = by_roles.get(&roles[..]) {
            return seen.clone();
        }
        if by_roles.len() >= VIEWS_MAX {
            by_roles.clear();
        }
        let seen: Seen = see().into();
        by_roles.insert(roles.into(), seen.clone());
        seen
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

    #[test]
    fn changes_are_told_once() {
        let mut classes = Classes::default();
        let hide = overwrite(1, Permissions::empty(), Permissions::VIEW_CHANNEL);
        classes.place(id(11), &[]);
        classes.place(id(10), &[hide]);
        let (open, hidden) = (classes.of(id(11)), classes.of(id(10)));
        let moved = |channel, before, now| Moved {
            channel: id(channel),
            before,
            now,
        };
        assert_eq!(
            classes.changes(),
            [moved(10, None, hidden), moved(11, None, open)]
        );
        classes.place(id(12), &[hide]);
        classes.place(id(10), &[]);
        classes.remove(id(11));
        assert_eq!(
            classes.changes(),
            [
                moved(10, hidden, open),
                moved(11, open, None),
                moved(12, None, hidden)
            ]
        );
        assert_eq!(classes.changes(), []);
        let told: Vec<_> = classes
            .told()
            .iter()
            .map(|(channel, _)| channel.get())
            .collect();
        assert_eq!(told, [10, 12]);
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
