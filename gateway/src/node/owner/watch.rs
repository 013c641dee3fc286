//! People's sessions that look at a guild's lists of members, and at single members.
//! Spec: gateway.md › Member list (op 14, op 37).
//!
//! Pure. One list for each class of channels that somebody looks at, whoever that is, and one for all
//! that everybody sees; it follows events and presences, and is told at the same tick as these. Who
//! watches comes from the edges, which say it again to a new owner: all who do are noted first, and
//! answered together.

mod shapes;

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use bytes::Bytes;
use guildhall_shared::{
    Id, Permissions,
    gateway::EventKind,
    id::marker::{Guild, Role, User},
    model::PresenceUser,
    permissions::Overwrite,
};
use rustc_hash::FxHashMap;
use serde::Serialize;
use serde_json::value::RawValue;

use self::shapes::{Header, json_of, op_json};
use super::{
    guild::{GuildState, Touched},
    member_list::{Group, MemberList},
    presence::{Presences, Told},
    to_edge::EdgeId,
    view::{Seen, sees},
};
use crate::{ask::Watch, bus::ClassId, names::Address};

/// Members of a guild up to which its lists show who is offline.
const OFFLINE_MEMBERS_MAX: u64 = 1000;
/// `id` of the list of channels that everybody sees.
const EVERYONE: &str = "everyone";
/// Lists filled in one go, as they are new or after a change that may touch all of them; the rest
/// follows. One with 20,000 members takes a few milliseconds.
pub(crate) const FILLS_MAX: usize = 8;
/// Sessions answered in one go, and bytes of what they are told: the body that exceeds them is the
/// last.
const ANSWERED_MAX: usize = 2000;
pub(crate) const ANSWER_BYTES: usize = 1024 * 1024;
/// Bytes of changes told in one flush; whoever they are too many for is shown the list anew.
const TOLD_BYTES: usize = 4 * 1024 * 1024;

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
    /// The sessions of each user.
    of_user: FxHashMap<Id<User>, BTreeSet<Watcher>>,
    /// Those who wait to be shown lists: all they look at, or what of it is lacking.
    due: BTreeSet<Watcher>,
    lists: BTreeMap<ListKey, List>,
    /// Who follows a member, wherever that stands in a list.
    followers: BTreeMap<Id<User>, BTreeSet<Watcher>>,
    /// Hoisted roles as the lists have them, and whether offline members are shown.
    hoisted: Vec<Id<Role>>,
    with_offline: bool,
    /// Roles, channels or who sees them have changed: the lists are filled again.
    stale: bool,
    /// What all rows show may have changed.
    renew: bool,
    /// Lists that are to be filled again, and whether what all their rows show has changed.
    unfilled: BTreeMap<ListKey, bool>,
    /// Members whose rows may have changed.
    touched: BTreeSet<Id<User>>,
}

#[derive(Debug)]
struct Session {
    user: Id<User>,
    watch: Watch,
    /// The blocks that it is told of.
    looks: Looks,
}

/// Blocks of lists.
type Looks = BTreeMap<ListKey, BTreeSet<u32>>;

/// Which list it is. No two have one name: a client would follow both as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ListKey {
    /// Of channels that everybody sees, whatever class they are in.
    Everyone,
    /// Of private threads in such channels, which have a name of their own.
    Private(ClassId),
    /// Of channels that some do not see, and of all threads in them.
    Class(ClassId),
}

#[derive(Debug, Default)]
struct List {
    /// As clients know it.
    id: String,
    members: MemberList,
    /// Who looks at each block.
    blocks: BTreeMap<u32, BTreeSet<Watcher>>,
}

/// A member whom lists show.
struct Standing {
    user: Id<User>,
    group: Group,
    name: Rc<str>,
    seen: Seen,
}

impl Watchers {
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// A session looks at something else, or, without a watch, at nothing any more.
    pub(crate) fn set(
        &mut self,
        guild: &GuildState,
        watcher: Watcher,
        user: Id<User>,
        watch: Option<Watch>,
    ) {
        let Some(watch) = watch.filter(|_| guild.members.contains_key(&user)) else {
            return self.remove(watcher);
        };
        if self.sessions.is_empty() {
            self.follow_guild(guild);
        }
        // The lists stay: mostly it goes on to look at them.
        self.look_away(watcher);
        self.forget(watcher);
        for &member in watch.members.iter().filter(|member| **member != user) {
            self.followers.entry(member).or_default().insert(watcher);
        }
        let session = Session {
            user,
            watch,
            looks: Looks::new(),
        };
        self.sessions.insert(watcher, session);
        self.of_user.entry(user).or_default().insert(watcher);
        self.due.insert(watcher);
    }

    /// A session is gone, or looks at nothing.
    pub(crate) fn remove(&mut self, watcher: Watcher) {
        self.look_away(watcher);
        self.forget(watcher);
        self.due.remove(&watcher);
        self.drop_unseen();
    }

    /// Takes out a session that is told of no list any more.
    fn forget(&mut self, watcher: Watcher) {
        let Some(session) = self.sessions.remove(&watcher) else {
            return;
        };
        if let Some(of_user) = self.of_user.get_mut(&session.user) {
            of_user.remove(&watcher);
            if of_user.is_empty() {
                self.of_user.remove(&session.user);
            }
        }
        for member in &session.watch.members {
            if let Some(followers) = self.followers.get_mut(member) {
                followers.remove(&watcher);
                if followers.is_empty() {
                    self.followers.remove(member);
                }
            }
        }
    }

    pub(crate) fn remove_users(&mut self, edge: EdgeId, users: &[Id<User>]) {
        for user in users {
            self.remove_if(*user, |watcher| watcher.0 == edge);
        }
    }

    pub(crate) fn remove_edge(&mut self, edge: EdgeId) {
        let all = self.sessions.keys().copied();
        let gone: Vec<Watcher> = all.filter(|watcher| watcher.0 == edge).collect();
        for watcher in gone {
            self.remove(watcher);
        }
    }

    /// Removes sessions of a user.
    fn remove_if(&mut self, user: Id<User>, is_gone: impl Fn(&Watcher) -> bool) {
        let all = self.of_user.get(&user).into_iter().flatten().copied();
        let gone: Vec<Watcher> = all.filter(is_gone).collect();
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
            Touched::Member(user) => {
                if !guild.members.contains_key(&user) {
                    self.remove_if(user, |_| true);
                }
                self.touched.insert(user);
            }
            Touched::Nobody => self.stale |= self.hoisted != hoisted(guild),
            Touched::Everybody => self.stale = true,
        }
        self.stale |= self.with_offline != with_offline(guild);
    }

    /// What any row shows may have changed: a role is gone, and its holders with it, or the guild was
    /// read again.
    pub(crate) fn renew(&mut self) {
        (self.stale, self.renew) = (true, true);
    }

    /// Tells those who follow a member that it has changed, or is gone.
    pub(crate) fn tell_followers(
        &self,
        user: Id<User>,
        kind: EventKind,
        body: &Bytes,
        out: &mut Vec<Notice>,
    ) {
        if let Some(followers) = self.followers.get(&user) {
            out.push(Notice {
                to: followers.iter().copied().collect(),
                kind,
                body: body.clone(),
            });
        }
    }

    /// Whether there is something to flush.
    pub(crate) fn is_due(&self) -> bool {
        let waits = self.stale || !self.touched.is_empty() || !self.unfilled.is_empty();
        waits && !self.is_empty()
    }

    /// Whether sessions wait to be shown lists, on edges that take more now.
    pub(crate) fn is_asked(&self, has_room: impl Fn(EdgeId) -> bool) -> bool {
        self.due.iter().any(|watcher| has_room(watcher.0))
    }

    /// Tells of everything that has changed since the last flush; how many lists were filled for it.
    /// `told` are the users whose presence has. Those whose edges take no more now, or who see other
    /// lists than before, wait to be shown theirs.
    pub(crate) fn flush(
        &mut self,
        guild: &GuildState,
        presences: &Presences,
        told: &[Told],
        has_room: &impl Fn(EdgeId) -> bool,
        out: &mut Vec<Notice>,
    ) -> usize {
        if self.is_empty() {
            return 0;
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
        let renamed: Vec<ListKey> = match stale {
            true => {
                let lists = self.lists.iter();
                let renamed = lists.filter(|(key, list)| key.name(guild) != list.id);
                renamed.map(|(&key, _)| key).collect()
            }
            false => Vec::new(),
        };
        let is_elsewhere = |watcher: &Watcher| {
            let Some(session) = self.sessions.get(watcher) else {
                return false;
            };
            let wanted = wanted(guild, session.user, &session.watch);
            let mut looks = session.looks.iter();
            let differs = match self.due.contains(watcher) {
                // The rest follows.
                true => looks.any(|(key, blocks)| wanted.get(key) != Some(blocks)),
                false => wanted != session.looks,
            };
            differs || renamed.iter().any(|key| session.looks.contains_key(key))
        };
        let candidates: BTreeSet<Watcher> = match stale {
            true => self.sessions.keys().copied().collect(),
            false => {
                let sessions = touched.iter().filter_map(|user| self.of_user.get(user));
                sessions.flatten().copied().collect()
            }
        };
        // Whoever may no longer see a list hears nothing more of it.
        let moved: Vec<Watcher> = candidates.into_iter().filter(is_elsewhere).collect();
        for watcher in moved {
            self.look_away(watcher);
            self.due.insert(watcher);
        }
        if stale {
            self.follow_guild(guild);
            // They would have to be filled again.
            self.lists.retain(|_, list| !list.blocks.is_empty());
            let renew = std::mem::take(&mut self.renew);
            for &key in self.lists.keys() {
                *self.unfilled.entry(key).or_default() |= renew;
            }
        }
        let mut fills = Vec::new();
        while fills.len() < FILLS_MAX
            && let Some(fill) = self.unfilled.pop_first()
        {
            // Nobody may look at it any more.
            if self.lists.contains_key(&fill.0) {
                fills.push(fill);
            }
        }
        self.fill(guild, presences, &fills);
        for user in touched {
            let seen = guild.seen_by(user).unwrap_or_default();
            let place = place(guild, presences, &self.hoisted, self.with_offline, user);
            for (key, list) in &mut self.lists {
                let place = place.clone().filter(|_| key.has(&seen));
                list.members.put(user, place);
            }
        }
        let (mut bytes, mut late) = (0, Vec::new());
        for (&key, list) in &mut self.lists {
            let left = list.tell(guild, presences, has_room, &mut bytes, out);
            late.extend(left.into_iter().map(|watcher| (key, watcher)));
        }
        for (key, watcher) in late {
            let looks = self.sessions.get_mut(&watcher);
            let blocks = looks.and_then(|session| session.looks.remove(&key));
            if let (Some(blocks), Some(list)) = (blocks, self.lists.get_mut(&key)) {
                list.leave(watcher, &blocks);
                self.due.insert(watcher);
            }
        }
        fills.len()
    }

    fn follow_guild(&mut self, guild: &GuildState) {
        self.hoisted = hoisted(guild);
        self.with_offline = with_offline(guild);
    }

    /// Fills these lists anew; with each comes whether what all its rows show has changed.
    fn fill(&mut self, guild: &GuildState, presences: &Presences, lists: &[(ListKey, bool)]) {
        if lists.is_empty() {
            return;
        }
        let is_of = |seen: &Seen| lists.iter().any(|(key, _)| key.has(seen));
        let all = standings(guild, presences, &self.hoisted, self.with_offline, is_of);
        for (key, renew) in lists {
            let Some(list) = self.lists.get_mut(key) else {
                continue;
            };
            let those = all.iter().filter(|one| key.has(&one.seen));
            let members = those.map(|one| (one.user, one.group, one.name.clone()));
            let groups = groups(&self.hoisted, self.with_offline);
            list.members.fill(groups, members, *renew);
        }
    }

    /// A session is told of nothing, for now. Lists that nobody is told of stay until all are shown
    /// what they look at.
    fn look_away(&mut self, watcher: Watcher) {
        let Some(session) = self.sessions.get_mut(&watcher) else {
            return;
        };
        for (key, blocks) in std::mem::take(&mut session.looks) {
            if let Some(list) = self.lists.get_mut(&key) {
                list.leave(watcher, &blocks);
            }
        }
    }

    fn drop_unseen(&mut self) {
        if self.due.is_empty() {
            self.lists.retain(|_, list| !list.blocks.is_empty());
        }
    }

    /// Shows lists to sessions that look at something else than before, or see something else: to
    /// some of them, if that is a lot, and to those whose edges take more now.
    pub(crate) fn answer(
        &mut self,
        guild: &GuildState,
        presences: &Presences,
        has_room: &impl Fn(EdgeId) -> bool,
        out: &mut Vec<Notice>,
    ) {
        let mut fills = FILLS_MAX;
        // Whoever comes gets the rows as they are: nothing may wait to be told.
        if self.is_due() {
            fills -= self.flush(guild, presences, &[], has_room, out);
        }
        let asking = self.due.iter().copied();
        let asking = asking.filter(|watcher| has_room(watcher.0));
        let asking: Vec<Watcher> = asking.take(ANSWERED_MAX).collect();
        // Who looks at the same blocks gets the same bytes.
        let mut alike: BTreeMap<(ListKey, BTreeSet<u32>), Vec<Watcher>> = BTreeMap::new();
        for &watcher in &asking {
            let Some(session) = self.sessions.get(&watcher) else {
                continue;
            };
            for (key, blocks) in wanted(guild, session.user, &session.watch) {
                if session.looks.get(&key) != Some(&blocks) {
                    alike.entry((key, blocks)).or_default().push(watcher);
                }
            }
        }
        let lacking = alike.keys().map(|(key, _)| *key);
        let lacking = lacking.filter(|key| !self.lists.contains_key(key));
        let lacking: BTreeSet<ListKey> = lacking.collect();
        let new: Vec<(ListKey, bool)> = lacking
            .into_iter()
            .take(fills)
            .map(|key| (key, false))
            .collect();
        for (key, _) in &new {
            let list = List {
                id: key.name(guild),
                ..List::default()
            };
            self.lists.insert(*key, list);
        }
        self.fill(guild, presences, &new);
        let (mut bytes, mut late) = (0, BTreeSet::new());
        for ((key, blocks), to) in alike {
            let list = self.lists.get_mut(&key);
            let Some(list) = list.filter(|_| bytes < ANSWER_BYTES) else {
                late.extend(to);
                continue;
            };
            for watcher in &to {
                let session = self.sessions.get_mut(watcher);
                let before = session.and_then(|of| of.looks.insert(key, blocks.clone()));
                if let Some(before) = before {
                    list.leave(*watcher, &before);
                }
            }
            let mut ops = Vec::new();
            for block in blocks {
                ops.push(op_json(guild, presences, &list.members.look_at(block)));
                list.blocks.entry(block).or_default().extend(&to);
            }
            let ops: Vec<&RawValue> = ops.iter().map(|op| &**op).collect();
            let body = list.update(guild, presences, &ops);
            bytes += body.len();
            out.push(Notice {
                to,
                kind: EventKind::GuildMemberListUpdate,
                body,
            });
        }
        for watcher in asking.iter().filter(|watcher| !late.contains(*watcher)) {
            self.due.remove(watcher);
        }
        self.drop_unseen();
    }
}

impl List {
    /// A session is told of these blocks no longer.
    fn leave(&mut self, watcher: Watcher, blocks: &BTreeSet<u32>) {
        for block in blocks {
            let Some(watchers) = self.blocks.get_mut(block) else {
                continue;
            };
            watchers.remove(&watcher);
            if watchers.is_empty() {
                self.blocks.remove(block);
                self.members.leave(*block);
            }
        }
    }

    /// Tells of what has changed; to whom it could not be told. `bytes`: how many were told.
    fn tell(
        &mut self,
        guild: &GuildState,
        presences: &Presences,
        has_room: &impl Fn(EdgeId) -> bool,
        bytes: &mut usize,
        out: &mut Vec<Notice>,
    ) -> Vec<Watcher> {
        let mut left = Vec::new();
        let changed = self.members.flush();
        if changed.is_empty() {
            return left;
        }
        // Mostly all look at the first block: who looks at the same blocks gets the same bytes.
        let mut of_watcher: Vec<(Watcher, usize)> = Vec::new();
        for (place, (block, _)) in changed.iter().enumerate() {
            let watchers = self.blocks.get(block).into_iter().flatten();
            of_watcher.extend(watchers.map(|&watcher| (watcher, place)));
        }
        of_watcher.sort_unstable();
        let mut alike: BTreeMap<Vec<usize>, Vec<Watcher>> = BTreeMap::new();
        for own in of_watcher.chunk_by(|(a, _), (b, _)| a == b) {
            let places = own.iter().map(|(_, place)| *place).collect();
            let to: &mut Vec<Watcher> = alike.entry(places).or_default();
            to.extend(own.first().map(|(watcher, _)| *watcher));
        }
        let changed = changed.iter().map(|(_, ops)| {
            let ops = ops.iter().map(|op| op_json(guild, presences, op));
            ops.collect::<Vec<_>>()
        });
        let changed: Vec<Vec<Box<RawValue>>> = changed.collect();
        for (places, to) in alike {
            let is_told = |watcher: &Watcher| *bytes < TOLD_BYTES && has_room(watcher.0);
            let (to, late): (Vec<Watcher>, Vec<Watcher>) = to.into_iter().partition(is_told);
            left.extend(late);
            if to.is_empty() {
                continue;
            }
            let ops = places.iter().flat_map(|&place| &changed[place]);
            let ops: Vec<&RawValue> = ops.map(|op| &**op).collect();
            let (kind, body) = (
                EventKind::GuildMemberListUpdate,
                self.update(guild, presences, &ops),
            );
            *bytes += body.len();
            out.push(Notice { to, kind, body });
        }
        left
    }

    /// `d` of a GUILD_MEMBER_LIST_UPDATE.
    fn update(&self, guild: &GuildState, presences: &Presences, ops: &[&RawValue]) -> Bytes {
        #[derive(Serialize)]
        struct Update<'a> {
            guild_id: Id<Guild>,
            id: &'a str,
            member_count: u64,
            online_count: usize,
            groups: Vec<Header>,
            ops: &'a [&'a RawValue],
        }
        let groups = self.members.groups();
        json_of(&Update {
            guild_id: guild.guild.id,
            id: &self.id,
            member_count: guild.member_count,
            online_count: presences.count(),
            groups: groups.map(Header::from).collect(),
            ops,
        })
    }
}

impl ListKey {
    /// The list of a channel of this class, or of a thread in it.
    fn of(guild: &GuildState, class: ClassId, is_private: bool) -> Self {
        let overwrites = guild.classes.overwrites(class).unwrap_or_default();
        match (is_open(guild.everyone_views(), overwrites), is_private) {
            (false, _) => Self::Class(class),
            (true, true) => Self::Private(class),
            (true, false) => Self::Everyone,
        }
    }

    /// Whether a member who sees this is in it.
    fn has(self, seen: &Seen) -> bool {
        match self {
            Self::Everyone | Self::Private(_) => true,
            Self::Class(class) => sees(seen, class),
        }
    }

    /// As clients know it.
    fn name(self, guild: &GuildState) -> String {
        match self {
            Self::Everyone => EVERYONE.to_owned(),
            Self::Private(class) | Self::Class(class) => {
                hashed(guild.classes.overwrites(class).unwrap_or_default())
            }
        }
    }
}

/// The blocks that a session looks at and may see.
fn wanted(guild: &GuildState, user: Id<User>, watch: &Watch) -> Looks {
    let mut wanted = Looks::new();
    let seen = guild.seen_by(user).unwrap_or_default();
    let looked_at = watch
        .channels
        .iter()
        .filter(|(_, blocks)| !blocks.is_empty());
    for (channel, blocks) in looked_at {
        let parent = guild.threads.parent(*channel).unwrap_or(*channel);
        if let Some(class) = guild.classes.of(parent).filter(|class| sees(&seen, *class)) {
            let list = ListKey::of(guild, class, guild.threads.is_private(*channel));
            wanted.entry(list).or_default().extend(blocks);
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

/// The members whom lists show, in the order of their names: those of whose view `is_of` says so.
fn standings(
    guild: &GuildState,
    presences: &Presences,
    hoisted: &[Id<Role>],
    with_offline: bool,
    is_of: impl Fn(&Seen) -> bool,
) -> Vec<Standing> {
    let mut users: Vec<Id<User>> = match with_offline {
        true => guild.members.keys().copied().collect(),
        false => presences.users().collect(),
    };
    // Neighbours among the members are looked up one after the other.
    users.sort_unstable();
    let standing = |user| {
        let seen = guild.seen_by(user).filter(&is_of)?;
        let (group, name) = place(guild, presences, hoisted, with_offline, user)?;
        Some(Standing {
            user,
            group,
            name,
            seen,
        })
    };
    let mut standings: Vec<Standing> = users.into_iter().filter_map(standing).collect();
    standings.sort_unstable_by(|a, b| (&a.name, a.user).cmp(&(&b.name, b.user)));
    standings
}

/// Where a member stands, if it is shown at all.
fn place(
    guild: &GuildState,
    presences: &Presences,
    hoisted: &[Id<Role>],
    with_offline: bool,
    user: Id<User>,
) -> Option<(Group, Rc<str>)> {
    let member = guild.members.get(&user)?;
    let group = if presences.is_online(user) {
        let role = hoisted.iter().find(|role| member.roles.contains(role));
        role.map_or(Group::Online, |&role| Group::Role(role))
    } else {
        with_offline.then_some(Group::Offline)?
    };
    let account = member.user.as_ref()?;
    let name = member.nick.as_ref().or(account.global_name.as_ref());
    let name = name.unwrap_or(&account.username).to_lowercase();
    Some((group, name.into()))
}

/// Whether everybody sees channels with these overwrites.
fn is_open(everyone_views: bool, overwrites: &[Overwrite]) -> bool {
    let denies = |overwrite: &Overwrite| overwrite.deny.contains(Permissions::VIEW_CHANNEL);
    everyone_views && !overwrites.iter().any(denies)
}

/// The name of any list but that of all: a hash of what its channels' overwrites say of viewing.
fn hashed(overwrites: &[Overwrite]) -> String {
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
        assert!(is_open(true, &[]));
        assert!(is_open(true, &[overwrite(2, view, none)]));
        assert!(!is_open(false, &[overwrite(2, view, none)]));
        let hidden = [overwrite(2, view, none), overwrite(1, none, view)];
        assert!(!is_open(true, &hidden));
        let name = murmur3(b"allow:2,deny:1").to_string();
        assert_eq!(hashed(&hidden), name);
        assert_eq!(hashed(&[]), murmur3(b"").to_string());
    }
}
