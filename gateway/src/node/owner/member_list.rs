//! One list of members, as the clients of people show it beside a channel: grouped, ordered,
//! and told in blocks of rows to those who look at them. Spec: gateway.md › Member list.
//!
//! Pure. Knows who is in which group under which name, and what it last told of each block;
//! what a member looks like is its caller's knowledge. All rows have one index over the whole
//! list, group headers included.

use std::{collections::BTreeMap, rc::Rc};

use guildhall_shared::{
    Id,
    id::marker::{Role, User},
};
use rustc_hash::FxHashMap;

use super::sorted::Sorted;

/// Rows of a block. Clients ask for `[0,99]`, `[100,199]` and so on.
pub(crate) const BLOCK_ROWS: u32 = 100;
/// Changes of one block told one by one; if there are more the block is told as a whole.
const OPS_MAX: usize = 24;

/// What stands above members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Group {
    /// A hoisted role.
    Role(Id<Role>),
    Online,
    Offline,
}

impl Group {
    /// `id` of a group.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Role(role) => role.to_string(),
            Self::Online => "online".to_owned(),
            Self::Offline => "offline".to_owned(),
        }
    }
}

/// Where a member stands in its group: names without case, then ids.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    name: Rc<str>,
    user: Id<User>,
}

#[derive(Debug, Clone)]
struct Entry {
    group: Group,
    name: Rc<str>,
    /// Rises with every change of what the row shows.
    version: u32,
}

/// One row, as far as it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    Group { group: Group, count: usize },
    Member { user: Id<User>, version: u32 },
}

/// Which row it is, whatever its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Which {
    Group(Group),
    Member(Id<User>),
}

impl Row {
    fn which(&self) -> Which {
        match self {
            Self::Group { group, .. } => Which::Group(*group),
            Self::Member { user, .. } => Which::Member(*user),
        }
    }

    /// Whether it is the same row, perhaps with other contents.
    fn is(&self, other: &Self) -> bool {
        self.which() == other.which()
    }
}

/// What is told of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// The rows of a block, fewer than it has place for at the list's end.
    Sync {
        block: u32,
        rows: Vec<Row>,
    },
    Insert {
        index: usize,
        row: Row,
    },
    Update {
        index: usize,
        row: Row,
    },
    Delete {
        index: usize,
    },
    /// A block has no rows any more.
    Invalidate {
        block: u32,
    },
}

#[derive(Debug, Default)]
pub(crate) struct MemberList {
    /// In the order in which they are shown; empty ones are not shown.
    groups: Vec<(Group, Sorted<Key>)>,
    members: FxHashMap<Id<User>, Entry>,
    /// What those who look at a block know of it.
    told: BTreeMap<u32, Vec<Row>>,
    changed: bool,
}

impl MemberList {
    /// Begins anew with these groups, in their order, and members, best in the order of their
    /// names. `renew`: what each row shows may have changed.
    pub(crate) fn fill(
        &mut self,
        groups: Vec<Group>,
        members: impl IntoIterator<Item = (Id<User>, Group, Rc<str>)>,
        renew: bool,
    ) {
        let mut by_group: FxHashMap<Group, Vec<Key>> = FxHashMap::default();
        let mut entries = FxHashMap::default();
        entries.reserve(self.members.len());
        for (user, group, name) in members {
            let before = self.members.get(&user);
            let version = before.map_or(0, |before| before.version + u32::from(renew));
            let key = Key {
                name: name.clone(),
                user,
            };
            by_group.entry(group).or_default().push(key);
            let entry = Entry {
                group,
                name,
                version,
            };
            entries.insert(user, entry);
        }
        let sorted = groups.into_iter().map(|group| {
            let keys = by_group.remove(&group).unwrap_or_default();
            (group, Sorted::of(keys))
        });
        self.groups = sorted.collect();
        self.members = entries;
        self.changed = true;
    }

    /// A member's row, or `None` if it has none any more. Its contents may be other ones even
    /// if its place is the same.
    pub(crate) fn put(&mut self, user: Id<User>, place: Option<(Group, Rc<str>)>) {
        if let (Some(entry), Some((group, name))) = (self.members.get_mut(&user), &place)
            && (entry.group, &entry.name) == (*group, name)
        {
            entry.version += 1;
            self.changed = true;
            return;
        }
        let before = self.members.remove(&user);
        if before.is_none() && place.is_none() {
            return;
        }
        self.changed = true;
        if let Some(Entry { group, name, .. }) = &before {
            let key = Key {
                name: name.clone(),
                user,
            };
            if let Some((_, keys)) = self.groups.iter_mut().find(|(known, _)| known == group) {
                keys.remove(&key);
            }
        }
        let Some((group, name)) = place else { return };
        let Some((_, keys)) = self.groups.iter_mut().find(|(known, _)| *known == group) else {
            return;
        };
        let key = Key {
            name: name.clone(),
            user,
        };
        keys.insert(key);
        let version = before.map_or(0, |before| before.version + 1);
        let entry = Entry {
            group,
            name,
            version,
        };
        self.members.insert(user, entry);
    }

    /// Shown groups with their members' numbers, in order.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (Group, usize)> {
        let groups = self.groups.iter().map(|(group, keys)| (*group, keys.len()));
        groups.filter(|(_, count)| *count > 0)
    }

    /// The rows of a block now.
    pub(crate) fn rows(&self, block: u32) -> Vec<Row> {
        let mut skip = (block * BLOCK_ROWS) as usize;
        let mut rows = Vec::new();
        for (group, keys) in self.groups.iter().filter(|(_, keys)| keys.len() > 0) {
            let room = BLOCK_ROWS as usize - rows.len();
            if room == 0 {
                break;
            }
            let count = keys.len();
            if skip > count {
                skip -= count + 1;
                continue;
            }
            let group = *group;
            let header = (skip == 0).then_some(Row::Group { group, count });
            let members = keys.from(skip.saturating_sub(1)).map(|key| Row::Member {
                user: key.user,
                version: self.members.get(&key.user).map_or(0, |entry| entry.version),
            });
            rows.extend(header.into_iter().chain(members).take(room));
            skip = 0;
        }
        rows
    }

    /// Somebody begins to look at a block: its rows, as all who look at it know them from the
    /// next flush on. Between flushes they may know it a little differently, and then the
    /// newcomer is told like the others.
    pub(crate) fn look_at(&mut self, block: u32) -> Op {
        let rows = match self.told.get(&block) {
            Some(rows) => rows.clone(),
            None => {
                let rows = self.rows(block);
                self.told.insert(block, rows.clone());
                rows
            }
        };
        Op::Sync { block, rows }
    }

    /// Nobody looks at a block any more.
    pub(crate) fn leave(&mut self, block: u32) {
        self.told.remove(&block);
    }

    /// What has changed in each block that is looked at since the last flush, by block, the
    /// later ones first: what changes in one leaves the indexes of the others alone.
    pub(crate) fn flush(&mut self) -> Vec<(u32, Vec<Op>)> {
        if !std::mem::take(&mut self.changed) {
            return Vec::new();
        }
        let blocks: Vec<u32> = self.told.keys().rev().copied().collect();
        let mut all = Vec::new();
        for block in blocks {
            let now = self.rows(block);
            let Some(told) = self.told.get_mut(&block) else {
                continue;
            };
            if *told != now {
                all.push((block, changes(block, told, &now)));
                *told = now;
            }
        }
        all
    }
}

/// The ops that make a client's block out of the old rows into the new ones. Its other blocks
/// stay as they are: either as many rows are put in as are taken out, or the list ends in
/// this block.
fn changes(block: u32, old: &[Row], new: &[Row]) -> Vec<Op> {
    if new.is_empty() {
        return vec![Op::Invalidate { block }];
    }
    let whole = || {
        let rows = new.to_vec();
        vec![Op::Sync { block, rows }]
    };
    let is_full = |rows: &[Row]| rows.len() == BLOCK_ROWS as usize;
    if old.is_empty() || is_full(old) != is_full(new) {
        return whole();
    }
    let first = (block * BLOCK_ROWS) as usize;
    // Rows that stay in their order need no telling.
    let new_places = new.iter().enumerate();
    let new_places: FxHashMap<Which, usize> = new_places
        .map(|(place, row)| (row.which(), place))
        .collect();
    let places = old.iter().map(|row| new_places.get(&row.which()).copied());
    let places: Vec<Option<usize>> = places.collect();
    let stays = longest_ascending(&places);
    let mut rows: Vec<Row> = Vec::with_capacity(new.len());
    let mut ops = Vec::new();
    for (place, row) in old.iter().enumerate().rev() {
        if stays[place] {
            rows.push(*row);
        } else {
            let index = first + place;
            ops.push(Op::Delete { index });
        }
    }
    rows.reverse();
    for (place, &row) in new.iter().enumerate() {
        let index = first + place;
        match rows.get(place) {
            Some(known) if known.is(&row) => {
                if *known != row {
                    ops.push(Op::Update { index, row });
                }
            }
            _ => {
                rows.insert(place, row);
                ops.push(Op::Insert { index, row });
            }
        }
        if ops.len() > OPS_MAX {
            return whole();
        }
    }
    ops
}

/// Which of these belong to one longest ascending run, gaps allowed.
fn longest_ascending(places: &[Option<usize>]) -> Vec<bool> {
    // `ends[n]` is the index of the smallest end of a run of n + 1.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = vec![None; places.len()];
    for (at, place) in places.iter().enumerate() {
        let Some(place) = place else { continue };
        let run = ends.partition_point(|&end| places[end].is_some_and(|end| end < *place));
        before[at] = run.checked_sub(1).map(|shorter| ends[shorter]);
        match ends.get_mut(run) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut kept = vec![false; places.len()];
    let mut next = ends.last().copied();
    while let Some(at) = next {
        kept[at] = true;
        next = before[at];
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn id<T>(id: u64) -> Id<T> {
        Id::new(id).unwrap()
    }

    fn group(number: u8) -> Group {
        match number {
            0 => Group::Role(id(7)),
            1 => Group::Online,
            _ => Group::Offline,
        }
    }

    fn order() -> Vec<Group> {
        (0..3).map(group).collect()
    }

    /// What a client makes of the ops: rows it knows, by index.
    #[derive(Default)]
    struct Client {
        rows: Vec<Option<Row>>,
    }

    impl Client {
        fn take(&mut self, op: &Op) {
            match op {
                Op::Sync { block, rows } => {
                    self.forget(*block);
                    for (place, row) in rows.iter().enumerate() {
                        let index = (block * BLOCK_ROWS) as usize + place;
                        if self.rows.len() <= index {
                            self.rows.resize(index + 1, None);
                        }
                        self.rows[index] = Some(*row);
                    }
                }
                Op::Insert { index, row } => {
                    assert!(*index <= self.rows.len(), "an insertion beyond the end");
                    self.rows.insert(*index, Some(*row));
                }
                Op::Update { index, row } => {
                    assert!(self.rows[*index].is_some_and(|known| known.is(row)));
                    self.rows[*index] = Some(*row);
                }
                Op::Delete { index } => {
                    assert!(self.rows.remove(*index).is_some());
                }
                Op::Invalidate { block } => self.forget(*block),
            }
        }

        fn forget(&mut self, block: u32) {
            let start = (block * BLOCK_ROWS) as usize;
            let end = (start + BLOCK_ROWS as usize).min(self.rows.len());
            if end == self.rows.len() {
                self.rows.truncate(start.min(end));
            } else {
                self.rows[start..end].fill(None);
            }
        }

        fn block(&self, block: u32) -> Vec<Row> {
            let start = (block * BLOCK_ROWS) as usize;
            let known = self.rows.iter().skip(start).take(BLOCK_ROWS as usize);
            known.copied().flatten().collect()
        }
    }

    /// The list as its definition says, with the versions of the real one.
    fn naive(list: &MemberList, members: &BTreeMap<u64, (u8, String)>) -> Vec<Row> {
        let mut rows = Vec::new();
        for number in 0..3 {
            let mut of_group: Vec<(&str, u64)> = members
                .iter()
                .filter(|(_, (group, _))| *group == number)
                .map(|(&user, (_, name))| (name.as_str(), user))
                .collect();
            of_group.sort_unstable();
            if !of_group.is_empty() {
                let (group, count) = (group(number), of_group.len());
                rows.push(Row::Group { group, count });
            }
            rows.extend(of_group.into_iter().map(|(_, user)| Row::Member {
                user: id(user),
                version: list.members[&id(user)].version,
            }));
        }
        rows
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(u64, u8, u8),
        Remove(u64),
        Refill,
        Look(u32),
        Flush,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            20 => (1u64..260, 0u8..3, 0u8..30).prop_map(|(user, group, name)| Step::Put(user, group, name)),
            6 => (1u64..260).prop_map(Step::Remove),
            1 => Just(Step::Refill),
            2 => (0u32..4).prop_map(Step::Look),
            6 => Just(Step::Flush),
        ]
    }

    proptest! {
        /// Clients look at some blocks, some later than others; whatever happens, after every
        /// flush each knows exactly the rows of its blocks.
        #[test]
        fn every_client_knows_its_blocks(
            start in prop::collection::btree_map(1u64..260, (0u8..3, 0u8..30), 0..250),
            steps in prop::collection::vec(step(), 0..120),
        ) {
            let named = |name: u8| format!("n{name:02}");
            let mut members: BTreeMap<u64, (u8, String)> =
                start.into_iter().map(|(user, (group, name))| (user, (group, named(name)))).collect();
            let mut list = MemberList::default();
            let fill = |list: &mut MemberList, members: &BTreeMap<u64, (u8, String)>| {
                let all = members.iter().map(|(&user, (at, name))| (id(user), group(*at), Rc::<str>::from(name.as_str())));
                list.fill(order(), all, false);
            };
            fill(&mut list, &members);
            let mut clients: Vec<(BTreeSet<u32>, Client)> = Vec::new();
            for step in steps {
                match step {
                    Step::Put(user, at, name) => {
                        members.insert(user, (at, named(name)));
                        list.put(id(user), Some((group(at), named(name).into())));
                    }
                    Step::Remove(user) => {
                        members.remove(&user);
                        list.put(id(user), None);
                    }
                    Step::Refill => fill(&mut list, &members),
                    Step::Look(block) => {
                        // A new client looks at the first and one other; earlier ones stay.
                        let blocks = BTreeSet::from([0, block]);
                        let mut client = Client::default();
                        for &block in &blocks {
                            client.take(&list.look_at(block));
                        }
                        clients.push((blocks, client));
                    }
                    Step::Flush => {
                        for (block, ops) in list.flush() {
                            for (blocks, client) in &mut clients {
                                if blocks.contains(&block) {
                                    ops.iter().for_each(|op| client.take(op));
                                }
                            }
                        }
                        let expected = naive(&list, &members);
                        for (blocks, client) in &clients {
                            for &block in blocks {
                                let rows = expected.iter().skip((block * BLOCK_ROWS) as usize);
                                let rows: Vec<Row> = rows.take(BLOCK_ROWS as usize).copied().collect();
                                prop_assert_eq!(client.block(block), rows, "block {}", block);
                            }
                        }
                        let groups: usize = list.groups().map(|(_, count)| count).sum();
                        prop_assert_eq!(groups, members.len());
                    }
                }
            }
        }
    }

    #[test]
    fn one_who_comes_online_moves_one_row() {
        let mut list = MemberList::default();
        let members = (1..=5).map(|user| {
            (
                id(user),
                Group::Offline,
                Rc::<str>::from(format!("n{user}")),
            )
        });
        list.fill(order(), members, false);
        list.flush();
        list.look_at(0);
        list.put(id(3), Some((Group::Online, "n3".into())));
        let ops = list.flush();
        let (online, offline) = (Group::Online, Group::Offline);
        let member = Row::Member {
            user: id(3),
            version: 1,
        };
        assert_eq!(
            ops,
            [(
                0,
                vec![
                    Op::Delete { index: 3 },
                    Op::Insert {
                        index: 0,
                        row: Row::Group {
                            group: online,
                            count: 1
                        }
                    },
                    Op::Insert {
                        index: 1,
                        row: member
                    },
                    Op::Update {
                        index: 2,
                        row: Row::Group {
                            group: offline,
                            count: 4
                        }
                    },
                ]
            )]
        );
        assert!(list.flush().is_empty());
    }
}
