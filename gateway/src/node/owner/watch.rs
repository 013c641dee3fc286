//! People's sessions that look at a guild's lists of members, and at single members.
//! Spec: gateway.md › Member list (op 14, op 37).
//!
//! Pure. One list for each class of channels that somebody looks at, whoever that is; it
//! follows events and presences, and is told at the same tick as these. Who watches comes
//! from the edges, which say it again to a new owner.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use guildhall_shared::{
    Id, Permissions, Timestamp,
    gateway::EventKind,
    id::marker::{Guild, Role, User},
    model::{Member, PresenceUser, PresenceView},
    permissions::Overwrite,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    guild::{GuildState, Touched},
    member_list::{BLOCK_ROWS, Group, MemberList, Op, Row},
    presence::{Presences, Told},
    realm::EdgeId,
};
use crate::bus::{Address, ClassId, Watch};

/// Members of a guild up to which its lists show who is offline.
const OFFLINE_MEMBERS_MAX: u64 = 1000;

/// A session of an edge.
pub(crate) type Watcher = (EdgeId, Address);

/// What some sessions are told alone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Notice {
    pub(crate) to: Vec<Watcher>,
    pub(crate) kind: EventKind,
    pub(crate) body: Bytes,
}

#[derive(Debug, Default)]
pub(crate) struct Watchers {
    sessions: BTreeMap<Watcher, Session>,
    lists: BTreeMap<ClassId, List>,
    /// Who follows a member, wherever that stands in a list.
    followers: BTreeMap<Id<User>, BTreeSet<Watcher>>,
    /// Hoisted roles as the lists have them, and whether offline members are shown.
    hoisted: Vec<Id<Role>>,
    with_offline: bool,
    /// Roles, channels or who sees them have changed: the lists are filled again.
    stale: bool,
    /// A role that members held is gone: what all rows show has changed.
    renew: bool,
    /// Members whose rows may have changed.
    touched: BTreeSet<Id<User>>,
}

#[derive(Debug)]
struct Session {
    user: Id<User>,
    watch: Watch,
    /// The blocks it looks at, by class.
    looks: BTreeMap<ClassId, BTreeSet<u32>>,
}

#[derive(Debug, Default)]
struct List {
    /// As clients know it.
    id: String,
    members: MemberList,
    /// Who looks at each block.
    blocks: BTreeMap<u32, BTreeSet<Watcher>>,
}

impl Watchers {
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// A session looks at something else, or, without a watch, at nothing any more.
    pub(crate) fn set(
        &mut self,
        guild: &GuildState,
        presences: &Presences,
        watcher: Watcher,
        user: Id<User>,
        watch: Option<Watch>,
        out: &mut Vec<Notice>,
    ) {
        // Whoever comes gets the rows as they are: nothing may wait to be told.
        if self.is_due() {
            self.flush(guild, presences, &[], out);
        }
        self.remove(watcher);
        let Some(watch) = watch.filter(|_| guild.members.contains_key(&user)) else {
            return;
        };
        if self.sessions.is_empty() {
            self.follow_guild(guild);
        }
        for &member in watch.members.iter().filter(|member| **member != user) {
            self.followers.entry(member).or_default().insert(watcher);
        }
        let session = Session {
            user,
            watch,
            looks: BTreeMap::new(),
        };
        self.sessions.insert(watcher, session);
        self.look(guild, presences, watcher, out);
    }

    /// A session is gone, or looks at something else.
    pub(crate) fn remove(&mut self, watcher: Watcher) {
        let Some(session) = self.sessions.remove(&watcher) else {
            return;
        };
        for member in &session.watch.members {
            if let Some(followers) = self.followers.get_mut(member) {
                followers.remove(&watcher);
                if followers.is_empty() {
                    self.followers.remove(member);
                }
            }
        }
        self.look_away(watcher, &session.looks);
    }

    pub(crate) fn remove_users(&mut self, edge: EdgeId, users: &[Id<User>]) {
        self.remove_if(|watcher, user| watcher.0 == edge && users.contains(&user));
    }

    pub(crate) fn remove_edge(&mut self, edge: EdgeId) {
        self.remove_if(|watcher, _| watcher.0 == edge);
    }

    fn remove_if(&mut self, gone: impl Fn(Watcher, Id<User>) -> bool) {
        let sessions = self.sessions.iter();
        let gone = sessions.filter(|(watcher, session)| gone(**watcher, session.user));
        let gone: Vec<Watcher> = gone.map(|(&watcher, _)| watcher).collect();
        for watcher in gone {
            self.remove(watcher);
        }
    }

    /// An event of the guild has been applied.
    pub(crate) fn applied(&mut self, guild: &GuildState, touched: Touched) {
        if self.is_empty() {
            return;
        }
        match touched {
            Touched::Nobody => {}
            Touched::Member(user) => {
                if !guild.members.contains_key(&user) {
                    self.remove_if(|_, of| of == user);
                }
                self.touched.insert(user);
            }
            Touched::Everybody => self.stale = true,
        }
        self.stale |= self.hoisted != hoisted(guild) || self.with_offline != with_offline(guild);
    }

    /// A role is gone, and its holders with it.
    pub(crate) fn role_deleted(&mut self) {
        (self.stale, self.renew) = (true, true);
    }

    /// Tells those who follow a member that it has changed.
    pub(crate) fn member_updated(&self, user: Id<User>, body: &Bytes, out: &mut Vec<Notice>) {
        if let Some(followers) = self.followers.get(&user) {
            out.push(Notice {
                to: followers.iter().copied().collect(),
                kind: EventKind::GuildMemberUpdate,
                body: body.clone(),
            });
        }
    }

    /// Whether there is something to flush.
    pub(crate) fn is_due(&self) -> bool {
        !self.is_empty() && (self.stale || !self.touched.is_empty())
    }

    /// Tells of everything that has changed since the last flush. `told` are the users whose
    /// presence has.
    pub(crate) fn flush(
        &mut self,
        guild: &GuildState,
        presences: &Presences,
        told: &[Told],
        out: &mut Vec<Notice>,
    ) {
        if self.is_empty() {
            return;
        }
        for told in told {
            self.touched.insert(told.user);
            if let Some(followers) = self.followers.get(&told.user)
                && guild.members.contains_key(&told.user)
            {
                let user = PresenceUser::Id { id: told.user };
                let view = told.now.view(user, Some(guild.guild.id));
                out.push(Notice {
                    to: followers.iter().copied().collect(),
                    kind: EventKind::PresenceUpdate,
                    body: json_of(&view),
                });
            }
        }
        let touched = std::mem::take(&mut self.touched);
        let stale = std::mem::take(&mut self.stale);
        let renamed: Vec<ClassId> = match stale {
            true => {
                let lists = self.lists.iter();
                let renamed = lists.filter(|(class, list)| name_of(guild, **class) != list.id);
                renamed.map(|(&class, _)| class).collect()
            }
            false => Vec::new(),
        };
        let is_elsewhere = |session: &Session| {
            wanted(guild, session.user, &session.watch) != session.looks
                || renamed
                    .iter()
                    .any(|class| session.looks.contains_key(class))
        };
        // Whoever may no longer see a list hears nothing more of it.
        let moved: Vec<Watcher> = self
            .sessions
            .iter()
            .filter(|(_, session)| stale || touched.contains(&session.user))
            .filter(|(_, session)| is_elsewhere(session))
            .map(|(&watcher, _)| watcher)
            .collect();
        for &watcher in &moved {
            if let Some(session) = self.sessions.get_mut(&watcher) {
                let looks = std::mem::take(&mut session.looks);
                self.look_away(watcher, &looks);
            }
        }
        if stale {
            self.follow_guild(guild);
            self.refill(guild, presences);
        }
        let now = Timestamp::now();
        for user in touched {
            let seen = guild.seen_by(user, now).unwrap_or_default();
            let place = place(guild, presences, &self.hoisted, self.with_offline, user);
            for (class, list) in &mut self.lists {
                let place = place.clone().filter(|_| seen.contains(class));
                list.members.put(user, place);
            }
        }
        for list in self.lists.values_mut() {
            list.tell(guild, presences, out);
        }
        // Whoever sees another list than before begins with its rows as they are.
        for watcher in moved {
            self.look(guild, presences, watcher, out);
        }
    }

    fn follow_guild(&mut self, guild: &GuildState) {
        self.hoisted = hoisted(guild);
        self.with_offline = with_offline(guild);
    }

    /// The lists anew.
    fn refill(&mut self, guild: &GuildState, presences: &Presences) {
        let (now, renew) = (Timestamp::now(), std::mem::take(&mut self.renew));
        for (&class, list) in &mut self.lists {
            let members = rows(
                guild,
                presences,
                class,
                &self.hoisted,
                self.with_offline,
                now,
            );
            let groups = groups(&self.hoisted, self.with_offline);
            list.members.fill(groups, members, renew);
        }
    }

    fn look_away(&mut self, watcher: Watcher, looks: &BTreeMap<ClassId, BTreeSet<u32>>) {
        for (class, blocks) in looks {
            let Some(list) = self.lists.get_mut(class) else {
                continue;
            };
            for block in blocks {
                let Some(watchers) = list.blocks.get_mut(block) else {
                    continue;
                };
                watchers.remove(&watcher);
                if watchers.is_empty() {
                    list.blocks.remove(block);
                    list.members.leave(*block);
                }
            }
            if list.blocks.is_empty() {
                self.lists.remove(class);
            }
        }
    }

    fn look(
        &mut self,
        guild: &GuildState,
        presences: &Presences,
        watcher: Watcher,
        out: &mut Vec<Notice>,
    ) {
        let Some(session) = self.sessions.get_mut(&watcher) else {
            return;
        };
        let looks = wanted(guild, session.user, &session.watch);
        session.looks.clone_from(&looks);
        for (class, blocks) in looks {
            let list = self.lists.entry(class).or_insert_with(|| {
                let now = Timestamp::now();
                let mut members = MemberList::default();
                let all = rows(
                    guild,
                    presences,
                    class,
                    &self.hoisted,
                    self.with_offline,
                    now,
                );
                members.fill(groups(&self.hoisted, self.with_offline), all, false);
                List {
                    id: name_of(guild, class),
                    members,
                    blocks: BTreeMap::new(),
                }
            });
            let mut ops = Vec::new();
            for block in blocks {
                ops.push(list.members.look_at(block));
                list.blocks.entry(block).or_default().insert(watcher);
            }
            let ops: Vec<Value> = ops.iter().map(|op| op_json(guild, presences, op)).collect();
            out.push(Notice {
                to: vec![watcher],
                kind: EventKind::GuildMemberListUpdate,
                body: list.update(guild, presences, &ops),
            });
        }
    }
}

impl List {
    fn tell(&mut self, guild: &GuildState, presences: &Presences, out: &mut Vec<Notice>) {
        let changed = self.members.flush();
        if changed.is_empty() {
            return;
        }
        let changed: Vec<(u32, Vec<Value>)> = changed
            .into_iter()
            .map(|(block, ops)| {
                let ops = ops.iter().map(|op| op_json(guild, presences, op));
                (block, ops.collect())
            })
            .collect();
        // Mostly all look at the first block: who looks at the same blocks gets the same bytes.
        let mut of_watcher: BTreeMap<Watcher, Vec<u32>> = BTreeMap::new();
        for (block, _) in &changed {
            for &watcher in self.blocks.get(block).into_iter().flatten() {
                of_watcher.entry(watcher).or_default().push(*block);
            }
        }
        let mut alike: BTreeMap<Vec<u32>, Vec<Watcher>> = BTreeMap::new();
        for (watcher, blocks) in of_watcher {
            alike.entry(blocks).or_default().push(watcher);
        }
        for (blocks, to) in alike {
            let ops = changed.iter().filter(|(block, _)| blocks.contains(block));
            let ops: Vec<Value> = ops.flat_map(|(_, ops)| ops.iter().cloned()).collect();
            let (kind, body) = (
                EventKind::GuildMemberListUpdate,
                self.update(guild, presences, &ops),
            );
            out.push(Notice { to, kind, body });
        }
    }

    /// `d` of a GUILD_MEMBER_LIST_UPDATE.
    fn update(&self, guild: &GuildState, presences: &Presences, ops: &[Value]) -> Bytes {
        #[derive(Serialize)]
        struct Update<'a> {
            guild_id: Id<Guild>,
            id: &'a str,
            member_count: u64,
            online_count: usize,
            groups: Vec<Value>,
            ops: &'a [Value],
        }
        let groups = self.members.groups();
        let groups = groups.map(|(group, count)| json!({"id": group.name(), "count": count}));
        json_of(&Update {
            guild_id: guild.guild.id,
            id: &self.id,
            member_count: guild.member_count,
            online_count: presences.count(),
            groups: groups.collect(),
            ops,
        })
    }
}

/// The blocks that a session looks at and may see, by class.
fn wanted(guild: &GuildState, user: Id<User>, watch: &Watch) -> BTreeMap<ClassId, BTreeSet<u32>> {
    let mut wanted: BTreeMap<ClassId, BTreeSet<u32>> = BTreeMap::new();
    let seen = guild.seen_by(user, Timestamp::now()).unwrap_or_default();
    for (channel, blocks) in &watch.channels {
        let parent = guild.threads.parent(*channel).unwrap_or(*channel);
        if let Some(class) = guild
            .classes
            .of(parent)
            .filter(|class| seen.contains(class))
        {
            wanted.entry(class).or_default().extend(blocks);
        }
    }
    wanted
}

/// Hoisted roles, the highest first.
fn hoisted(guild: &GuildState) -> Vec<Id<Role>> {
    let mut roles: Vec<_> = guild.guild.roles.iter().filter(|role| role.hoist).collect();
    roles.sort_by_key(|role| (std::cmp::Reverse(role.position), role.id));
    roles.into_iter().map(|role| role.id).collect()
}

fn with_offline(guild: &GuildState) -> bool {
    guild.member_count <= OFFLINE_MEMBERS_MAX
}

fn groups(hoisted: &[Id<Role>], with_offline: bool) -> Vec<Group> {
    let roles = hoisted.iter().copied().map(Group::Role);
    let offline = with_offline.then_some(Group::Offline);
    roles.chain([Group::Online]).chain(offline).collect()
}

/// Where every member stands who sees a class.
fn rows(
    guild: &GuildState,
    presences: &Presences,
    class: ClassId,
    hoisted: &[Id<Role>],
    with_offline: bool,
    now: Timestamp,
) -> Vec<(Id<User>, Group, String)> {
    let row = |user: Id<User>| {
        let (group, name) = place(guild, presences, hoisted, with_offline, user)?;
        let seen = guild.seen_by(user, now)?;
        seen.contains(&class).then_some((user, group, name))
    };
    match with_offline {
        true => guild.members.keys().copied().filter_map(row).collect(),
        false => presences
            .online()
            .filter_map(|(user, _)| row(user))
            .collect(),
    }
}

/// Where a member stands, if it is shown at all.
fn place(
    guild: &GuildState,
    presences: &Presences,
    hoisted: &[Id<Role>],
    with_offline: bool,
    user: Id<User>,
) -> Option<(Group, String)> {
    let member = guild.members.get(&user)?;
    let group = if presences.of(user).is_offline() {
        with_offline.then_some(Group::Offline)?
    } else {
        let role = hoisted.iter().find(|role| member.roles.contains(role));
        role.map_or(Group::Online, |&role| Group::Role(role))
    };
    let account = member.user.as_ref()?;
    let name = member.nick.as_ref().or(account.global_name.as_ref());
    Some((group, name.unwrap_or(&account.username).to_lowercase()))
}

/// The name of a class's list.
fn name_of(guild: &GuildState, class: ClassId) -> String {
    let overwrites = guild.classes.overwrites(class);
    list_id(guild.everyone_views(), overwrites.unwrap_or_default())
}

/// A list's name: `everyone`, or a hash of what its channels' overwrites say of viewing.
pub(crate) fn list_id(everyone_views: bool, overwrites: &[Overwrite]) -> String {
    let denied = overwrites
        .iter()
        .any(|overwrite| overwrite.deny.contains(Permissions::VIEW_CHANNEL));
    if everyone_views && !denied {
        return "everyone".to_owned();
    }
    let mut parts: Vec<String> = overwrites
        .iter()
        .filter_map(|overwrite| {
            if overwrite.allow.contains(Permissions::VIEW_CHANNEL) {
                Some(format!("allow:{}", overwrite.id))
            } else if overwrite.deny.contains(Permissions::VIEW_CHANNEL) {
                Some(format!("deny:{}", overwrite.id))
            } else {
                None
            }
        })
        .collect();
    parts.sort_unstable();
    murmur3(parts.join(",").as_bytes()).to_string()
}

/// MurmurHash3 for x86, 32 bits, seed 0.
fn murmur3(bytes: &[u8]) -> u32 {
    let scramble = |word: u32| {
        word.wrapping_mul(0xcc9e_2d51)
            .rotate_left(15)
            .wrapping_mul(0x1b87_3593)
    };
    let mut hash = 0u32;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        hash ^= scramble(u32::from_le_bytes(*word));
        hash = hash
            .rotate_left(13)
            .wrapping_mul(5)
            .wrapping_add(0xe654_6b64);
    }
    let rest = tail
        .iter()
        .rev()
        .fold(0, |rest, &byte| rest << 8 | u32::from(byte));
    hash ^= scramble(rest);
    hash ^= bytes.len() as u32;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

fn op_json(guild: &GuildState, presences: &Presences, op: &Op) -> Value {
    let range = |block: &u32| [block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS - 1];
    let item = |row: &Row| item(guild, presences, row);
    match op {
        Op::Sync { block, rows } => {
            let items: Vec<Value> = rows.iter().map(item).collect();
            json!({"op": "SYNC", "range": range(block), "items": items})
        }
        Op::Insert { index, row } => json!({"op": "INSERT", "index": index, "item": item(row)}),
        Op::Update { index, row } => json!({"op": "UPDATE", "index": index, "item": item(row)}),
        Op::Delete { index } => json!({"op": "DELETE", "index": index}),
        Op::Invalidate { block } => json!({"op": "INVALIDATE", "range": range(block)}),
    }
}

fn item(guild: &GuildState, presences: &Presences, row: &Row) -> Value {
    #[derive(Serialize)]
    struct Shown<'a> {
        #[serde(flatten)]
        member: &'a Member,
        presence: PresenceView<'a>,
    }
    match row {
        Row::Group { group, count } => json!({"group": {"id": group.name(), "count": count}}),
        Row::Member { user, .. } => {
            let presence = presences.of(*user);
            let shown = guild.members.get(user).map(|member| Shown {
                member,
                presence: presence.view(PresenceUser::Id { id: *user }, None),
            });
            let member = shown.and_then(|shown| serde_json::to_value(shown).ok());
            json!({ "member": member })
        }
    }
}

fn json_of(d: &impl Serialize) -> Bytes {
    let json = serde_json::to_vec(d).expect("string keys and finite numbers");
    json.into()
}

#[cfg(test)]
mod tests {
    use guildhall_shared::permissions::OverwriteKind;

    use super::*;

    fn id<T>(id: u64) -> Id<T> {
        Id::new(id).unwrap()
    }

    #[test]
    fn the_hash_is_murmur3() {
        for (text, hash) in [
            ("", 0),
            ("hello", 0x248b_fa47),
            ("hello, world", 0x149b_bb7f),
            ("The quick brown fox jumps over the lazy dog", 0x2e4f_f723),
        ] {
            assert_eq!(murmur3(text.as_bytes()), hash, "{text}");
        }
    }

    #[test]
    fn lists_are_named_by_who_may_see_them() {
        let view = Permissions::VIEW_CHANNEL;
        let overwrite = |target, allow, deny| Overwrite {
            id: id(target),
            kind: OverwriteKind::Role,
            allow,
            deny,
        };
        let none = Permissions::empty();
        assert_eq!(list_id(true, &[]), "everyone");
        assert_eq!(list_id(true, &[overwrite(2, view, none)]), "everyone");
        let hidden = [overwrite(2, view, none), overwrite(1, none, view)];
        let name = murmur3(b"allow:2,deny:1").to_string();
        assert_eq!(list_id(true, &hidden), name);
        assert_eq!(list_id(false, &[]), murmur3(b"").to_string());
    }
}
