//! The computation against a slow reference, and what else holds of permissions and ranks.

use proptest::prelude::*;

use super::*;

const NOW_MS: u64 = 1_767_323_045_678;
const GUILD: u64 = 1000;
const USER: u64 = 77;

/// A guild as the tests draw it: bits as plain numbers, roles by index.
#[derive(Debug, Clone)]
struct World {
    is_owner: bool,
    everyone: u64,
    roles: Vec<u64>,
    /// Indices into `roles`.
    held: Vec<usize>,
    timeout_ms: Option<i64>,
    overwrites: Vec<DrawnOverwrite>,
    class: ChannelClass,
}

#[derive(Debug, Clone)]
struct DrawnOverwrite {
    target: Whom,
    allow: u64,
    deny: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Whom {
    Everyone,
    Role(usize),
    Me,
    Stranger,
    /// A member overwrite that happens to carry a role's id, and the other way round.
    MemberWithRoleId(usize),
    RoleWithMyId,
}

fn role_id(index: usize) -> u64 {
    2000 + index as u64
}

fn bits() -> impl Strategy<Value = u64> {
    // Sparse sets, and the bits that change the course of the computation.
    (
        any::<u64>(),
        any::<u64>(),
        prop::sample::subsequence(vec![3u32, 10, 11, 16, 17, 20, 38], 0..4),
    )
        .prop_map(|(a, b, special)| {
            let known = Permissions::all().bits();
            special
                .iter()
                .fold(a & b & known & !(1 << 3), |set, bit| set | 1 << bit)
        })
}

prop_compose! {
    fn world()(
        is_owner in prop::bool::weighted(0.1),
        everyone in bits(),
        roles in prop::collection::vec(bits(), 0..5),
        held in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        timeout_ms in prop::option::of(-5000..5000i64),
        overwrites in prop::collection::vec((0..6u8, any::<prop::sample::Index>(), bits(), bits()), 0..8),
        class in prop::sample::select(vec![
            ChannelClass::Text, ChannelClass::Thread, ChannelClass::Voice, ChannelClass::Plain,
        ]),
    ) -> World {
        let pick = |index: &prop::sample::Index| (!roles.is_empty()).then(|| index.index(roles.len()));
        let mut drawn: Vec<DrawnOverwrite> = Vec::new();
        for (what, index, allow, deny) in overwrites {
            let target = match (what, pick(&index)) {
                (0, _) => Whom::Everyone,
                (1, Some(role)) => Whom::Role(role),
                (2, _) => Whom::Me,
                (3, Some(role)) => Whom::MemberWithRoleId(role),
                (4, _) => Whom::RoleWithMyId,
                _ => Whom::Stranger,
            };
            // One overwrite per target, as the API keeps them.
            if drawn.iter().all(|overwrite| overwrite.target != target) {
                drawn.push(DrawnOverwrite { target, allow, deny });
            }
        }
        let mut held: Vec<usize> = held.iter().filter_map(pick).collect();
        held.sort_unstable();
        held.dedup();
        World { is_owner, everyone, roles, held, timeout_ms, overwrites: drawn, class }
    }
}

impl World {
    fn fast(&self) -> (Permissions, Permissions) {
        let (base, channel, _) = self.computed(ThreadDoor::Open);
        (base, channel)
    }

    fn in_thread(&self, door: ThreadDoor) -> Permissions {
        self.computed(door).2
    }

    fn overwrites(&self) -> Vec<Overwrite> {
        let overwrites = self.overwrites.iter().map(|drawn| {
            let (kind, id) = match drawn.target {
                Whom::Everyone => (OverwriteKind::Role, GUILD),
                Whom::Role(role) => (OverwriteKind::Role, role_id(role)),
                Whom::Me => (OverwriteKind::Member, USER),
                Whom::Stranger => (OverwriteKind::Member, USER + 1),
                Whom::MemberWithRoleId(role) => (OverwriteKind::Member, role_id(role)),
                Whom::RoleWithMyId => (OverwriteKind::Role, USER),
            };
            Overwrite {
                id: Id::new(id).unwrap(),
                kind,
                allow: Permissions::from_bits_truncate(drawn.allow),
                deny: Permissions::from_bits_truncate(drawn.deny),
            }
        });
        overwrites.collect()
    }

    /// In the guild, in the channel, and in a thread of it.
    fn computed(&self, door: ThreadDoor) -> (Permissions, Permissions, Permissions) {
        let guild = Id::new(GUILD).unwrap();
        let held: Vec<Id<Role>> = self
            .held
            .iter()
            .map(|&i| Id::new(role_id(i)).unwrap())
            .collect();
        let member = MemberAccess {
            user: Id::new(USER).unwrap(),
            is_owner: self.is_owner,
            roles: &held,
            communication_disabled_until: self
                .timeout_ms
                .map(|ms| Timestamp::from_unix_ms(NOW_MS.saturating_add_signed(ms))),
        };
        let now = Timestamp::from_unix_ms(NOW_MS);
        let permissions = |role: Id<Role>| {
            if role.get() == GUILD {
                return Some(Permissions::from_bits_truncate(self.everyone));
            }
            let index = role.get().checked_sub(role_id(0))? as usize;
            self.roles
                .get(index)
                .map(|&bits| Permissions::from_bits_truncate(bits))
        };
        let overwrites = self.overwrites();
        let base = base(guild, member, permissions, now);
        (
            base,
            in_channel(base, guild, member, &overwrites, self.class, now),
            in_thread(base, guild, member, &overwrites, door, now),
        )
    }

    // The reference: decides bit by bit, by the words of permissions.md, on plain numbers.

    fn is_unlimited(&self) -> bool {
        let administrator = |set: u64| set & 0x8 != 0;
        self.is_owner
            || administrator(self.everyone)
            || self
                .held
                .iter()
                .any(|&role| administrator(self.roles[role]))
    }

    fn survives_timeout(&self, bit: u32) -> bool {
        let timed_out = self.timeout_ms.is_some_and(|ms| ms > 0);
        !timed_out || bit == 10 || bit == 16
    }

    fn slow_base(&self, bit: u32) -> bool {
        if self.is_unlimited() {
            return true;
        }
        let granted = self.everyone >> bit & 1 == 1
            || self
                .held
                .iter()
                .any(|&role| self.roles[role] >> bit & 1 == 1);
        granted && self.survives_timeout(bit)
    }

    /// The bit before implicit denials: the most specific overwrite that mentions it decides.
    fn slow_explicit(&self, bit: u32) -> bool {
        let says = |wanted: &dyn Fn(Whom) -> bool| -> Option<bool> {
            let about = self
                .overwrites
                .iter()
                .filter(|overwrite| wanted(overwrite.target));
            let (mut allowed, mut denied) = (false, false);
            for overwrite in about {
                allowed |= overwrite.allow >> bit & 1 == 1;
                denied |= overwrite.deny >> bit & 1 == 1;
            }
            if allowed {
                Some(true)
            } else if denied {
                Some(false)
            } else {
                None
            }
        };
        let decided = says(&|target| target == Whom::Me)
            .or_else(|| {
                says(&|target| matches!(target, Whom::Role(role) if self.held.contains(&role)))
            })
            .or_else(|| says(&|target| target == Whom::Everyone))
            .unwrap_or_else(|| self.slow_base(bit));
        decided && self.survives_timeout(bit)
    }

    fn slow_channel(&self, bit: u32) -> bool {
        if self.is_unlimited() {
            return true;
        }
        const VIEW: u32 = 10;
        const NEEDS_SENDING: [u32; 6] = [12, 14, 15, 17, 46, 49];
        if !self.slow_explicit(VIEW) {
            return false;
        }
        let denied = match self.class {
            ChannelClass::Plain => false,
            ChannelClass::Voice => bit != VIEW && !self.slow_explicit(20),
            ChannelClass::Text => NEEDS_SENDING.contains(&bit) && !self.slow_explicit(11),
            ChannelClass::Thread => NEEDS_SENDING.contains(&bit) && !self.slow_explicit(38),
        };
        self.slow_explicit(bit) && !denied
    }
}

fn collect(has: impl Fn(u32) -> bool) -> Permissions {
    let known = Permissions::all().bits();
    let bits = (0..64).filter(|&bit| known >> bit & 1 == 1 && has(bit));
    Permissions::from_bits_truncate(bits.fold(0, |set, bit| set | 1 << bit))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_computation_agrees_with_a_slow_reference(world in world()) {
        let (base, channel) = world.fast();
        prop_assert_eq!(base, collect(|bit| world.slow_base(bit)));
        prop_assert_eq!(channel, collect(|bit| world.slow_channel(bit)));
    }

    #[test]
    fn the_order_of_overwrites_and_roles_does_not_matter(world in world()) {
        let mut turned = world.clone();
        turned.overwrites.reverse();
        turned.held.reverse();
        prop_assert_eq!(world.fast(), turned.fast());
    }

    #[test]
    fn any_number_reads_as_known_bits_and_comes_back(bits: u64) {
        for json in [bits.to_string(), format!("\"{bits}\"")] {
            let read: Permissions = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read.bits(), bits & Permissions::all().bits());
            let written = serde_json::to_string(&read).unwrap();
            prop_assert_eq!(serde_json::from_str::<Permissions>(&written).unwrap(), read);
        }
    }
}

proptest! {
    /// A thread shows what its parent shows, private ones only to who is in it or manages
    /// threads; SEND_MESSAGES alone sends nothing there.
    #[test]
    fn threads_follow_their_parent(world in world(), door in prop::sample::select(vec![
        ThreadDoor::Open, ThreadDoor::Inside, ThreadDoor::Outside,
    ])) {
        let held = world.in_thread(door);
        let slow = World { class: ChannelClass::Thread, ..world.clone() };
        let in_parent = collect(|bit| slow.slow_channel(bit));
        let hidden = door == ThreadDoor::Outside && !slow.slow_channel(34);
        prop_assert_eq!(held, if hidden { Permissions::empty() } else { in_parent });
        if !held.contains(Permissions::SEND_MESSAGES_IN_THREADS) {
            prop_assert!(!held.intersects(Permissions::NEEDS_SENDING));
        }
        prop_assert!(world.in_thread(ThreadDoor::Open).contains(held));
    }
}

proptest! {
    /// Whatever a change touches besides, it takes at least what its parts take; and only
    /// MANAGE_THREADS moderates or touches a locked thread.
    #[test]
    fn a_change_of_a_thread_takes_what_each_part_takes(
        held: u64, is_owner: bool, joined: bool, locked: bool, bits in 0u8..32,
    ) {
        let held = Permissions::from_bits_truncate(held);
        let change = ThreadChange::from_bits_truncate(bits);
        let may = |change| may_change_thread(held, is_owner, joined, locked, change);
        let parts = change.iter().all(may);
        prop_assert_eq!(may(change), parts && held.contains(Permissions::VIEW_CHANNEL));
        if may(change) && !held.contains(Permissions::MANAGE_THREADS) && !change.is_empty() {
            prop_assert!(!locked && !change.contains(ThreadChange::MODERATE));
            prop_assert!(is_owner || change == ThreadChange::UNARCHIVE);
        }
    }
}

proptest! {
    /// Whoever may change overwrites changes no bit that they lack, for nobody: what a member
    /// may do in the channel changes in the bits alone that the change took. Without sight of
    /// it nothing else counts, so a change of that bit is left out here.
    #[test]
    fn a_change_of_overwrites_takes_every_bit_that_it_moves(
        world in world(), other in world(), actor_roles in prop::collection::vec(0usize..5, 0..3),
    ) {
        let before = World { class: ChannelClass::Plain, ..world };
        let mut after = before.clone();
        after.overwrites = other.overwrites;
        // Roles that are not there have no overwrites.
        after.overwrites.retain(|overwrite| match overwrite.target {
            Whom::Role(role) | Whom::MemberWithRoleId(role) => role < before.roles.len(),
            Whom::Everyone | Whom::Me | Whom::Stranger | Whom::RoleWithMyId => true,
        });
        let (old, new) = (before.overwrites(), after.overwrites());
        let moved = changed_bits(&old, &new);
        prop_assert_eq!(moved, changed_bits(&new, &old));
        if !moved.contains(Permissions::VIEW_CHANNEL) {
            let ((_, seen), (_, then)) = (before.fast(), after.fast());
            prop_assert!(moved.contains(seen ^ then), "{:?} for {moved:?}", seen ^ then);
        }

        let roles: Vec<Id<Role>> = actor_roles
            .iter()
            .map(|&role| Id::new(role_id(role)).unwrap())
            .collect();
        let actor = MemberAccess {
            user: Id::new(USER + 1).unwrap(),
            is_owner: false,
            roles: &roles,
            communication_disabled_until: None,
        };
        let needed = overwrites_need(Id::new(GUILD).unwrap(), actor, &old, &new);
        // The exception: MANAGE_ROLES given in this very channel to who makes the change.
        let given = before.overwrites.iter().any(|overwrite| {
            let own = match overwrite.target {
                Whom::Everyone | Whom::Stranger => true,
                Whom::Role(role) => actor_roles.contains(&role),
                Whom::Me | Whom::MemberWithRoleId(_) | Whom::RoleWithMyId => false,
            };
            own && overwrite.allow >> 28 & 1 == 1
        });
        prop_assert_eq!(needed, if given { Permissions::empty() } else { moved });
    }

    /// Nobody but the owner stands above a role of their own or one beside or above it: a
    /// comparison of numbers says who stands where.
    #[test]
    fn nobody_reaches_a_role_at_or_above_their_own(
        positions in prop::collection::vec(1i32..4, 1..6),
        held in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        target in any::<prop::sample::Index>(),
        is_owner in prop::bool::weighted(0.1),
    ) {
        let place = |role: Id<Role>| {
            let index = role.get().checked_sub(role_id(0))? as usize;
            positions.get(index).map(|&position| Rank::role(position, role))
        };
        let id = |index: usize| Id::<Role>::new(role_id(index)).unwrap();
        let held: Vec<usize> = held.iter().map(|index| index.index(positions.len())).collect();
        // One that is deleted gives no place.
        let roles: Vec<Id<Role>> = held.iter().map(|&index| id(index)).chain([id(99)]).collect();
        let rank = Rank::of_member(is_owner, &roles, place);
        let target = target.index(positions.len());
        let above = |one: usize, other: usize| {
            positions[one] > positions[other] || positions[one] == positions[other] && one < other
        };
        let reaches = is_owner || held.iter().any(|&own| above(own, target));
        prop_assert_eq!(place(id(target)).is_some_and(|role| rank > role), reaches);
        if !is_owner {
            let own = held.iter().filter_map(|&own| place(id(own)));
            prop_assert_eq!(rank, own.max().unwrap_or(Rank::Everyone));
            prop_assert!(rank < Rank::Owner);
        }
        // Another role takes nobody down.
        let more: Vec<Id<Role>> = roles.iter().copied().chain([id(target)]).collect();
        prop_assert!(Rank::of_member(is_owner, &more, place) >= rank);
    }
}

#[test]
fn all_is_the_documented_number() {
    assert_eq!(Permissions::all().bits(), 8_866_461_766_385_663);
    assert_eq!(Permissions::ADMINISTRATOR.bits(), 8);
}

#[test]
fn a_second_factor_is_for_the_documented_bits() {
    let bits = [1, 2, 3, 4, 5, 13, 28, 29, 30, 34, 41].map(|bit: u32| 1u64 << bit);
    assert_eq!(
        Permissions::NEEDS_FACTOR.bits(),
        bits.into_iter().sum::<u64>()
    );
}

#[test]
fn what_is_no_set_of_permissions_is_refused() {
    for bad in [
        "-1",
        "1.5",
        "\"x\"",
        "\"-1\"",
        "true",
        "[]",
        "\"99999999999999999999\"",
    ] {
        assert!(serde_json::from_str::<Permissions>(bad).is_err(), "{bad}");
    }
    assert_eq!(
        serde_json::from_str::<Permissions>("null").unwrap(),
        Permissions::empty()
    );
}

#[test]
fn of_equal_positions_the_smaller_id_outranks() {
    let rank = |position, id| Rank::role(position, Id::new(id).unwrap());
    assert!(rank(1, 5) > rank(1, 6));
    assert!(rank(2, 6) > rank(1, 5));
    assert!(Rank::Owner > rank(i32::MAX, 1));
    assert!(rank(0, 9) > Rank::Everyone);
}
