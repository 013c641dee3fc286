//! Realms against a guild of plain lists, in random histories.

use std::collections::BTreeSet;

use guildhall_shared::permissions::{self, ChannelClass, MemberAccess};
use proptest::prelude::*;

use super::{
    threads::{joined, thread},
    *,
};

/// A guild as plain lists: what each user sees follows from the permissions alone.
#[derive(Debug, Clone)]
struct World {
    owner: u64,
    roles: BTreeMap<u64, Permissions>,
    /// Their roles, and whether they are timed out.
    members: BTreeMap<u64, (Vec<u64>, bool)>,
    channels: BTreeMap<u64, Vec<Overwrite>>,
    /// Active ones with their parents, and whether they are private.
    threads: BTreeMap<u64, (u64, bool)>,
    /// Who is in all of the private threads.
    inside: BTreeSet<u64>,
}

#[derive(Debug, Clone)]
enum Change {
    Role(u64, u8),
    NoRole(u64),
    Channel(u64, Vec<(bool, u64, u8, u8)>),
    NoChannel(u64),
    Member(u64, u8, bool),
    NoMember(u64),
    Owner(u64),
}

/// Roles of [`World`] besides @everyone.
const ROLES: std::ops::Range<u64> = MODS..MODS + 4;
const CHANNELS: std::ops::Range<u64> = OPEN..OPEN + 5;
const USERS: std::ops::Range<u64> = OWNER..OWNER + 8;
/// Users by edge: some are on both.
const EDGES: [(EdgeId, std::ops::Range<u64>); 2] =
    [(EDGE, OWNER..OWNER + 6), (2, OWNER + 4..OWNER + 8)];

/// Some of the permissions that matter here.
fn bits(which: u8) -> Permissions {
    let of = [
        Permissions::VIEW_CHANNEL,
        Permissions::MANAGE_THREADS,
        Permissions::SEND_MESSAGES,
        Permissions::ADMINISTRATOR,
    ];
    let of = of.into_iter().enumerate();
    of.filter(|(bit, _)| which >> bit & 1 == 1)
        .fold(Permissions::empty(), |all, (_, one)| all | one)
}

fn change() -> impl Strategy<Value = Change> {
    // One in eight is an administrator.
    let granted = (0u8..16, any::<bool>(), any::<bool>())
        .prop_map(|(bits, a, b)| if a && b { bits } else { bits & 7 });
    let overwrite = (any::<bool>(), 0u64..8, 0u8..8, 0u8..8);
    prop_oneof![
        4 => (HALL..ROLES.end, granted).prop_map(|(role, bits)| Change::Role(role, bits)),
        1 => ROLES.prop_map(Change::NoRole),
        4 => (CHANNELS, prop::collection::vec(overwrite, 0..4))
            .prop_map(|(channel, overwrites)| Change::Channel(channel, overwrites)),
        1 => CHANNELS.prop_map(Change::NoChannel),
        6 => (USERS, 0u8..16, prop::bool::weighted(0.2))
            .prop_map(|(user, roles, silent)| Change::Member(user, roles, silent)),
        1 => USERS.prop_map(Change::NoMember),
        1 => USERS.prop_map(Change::Owner),
    ]
}

impl World {
    /// That of [`hall`], with a public and a private thread in every channel there may be.
    fn hall(realm: &mut Realm) -> Self {
        let mut threads = BTreeMap::new();
        for parent in CHANNELS {
            for (number, is_private) in [(parent + 100, false), (parent + 200, true)] {
                let kind = if is_private { 12 } else { 11 };
                let body = thread(number, parent, kind, false);
                apply(realm, EventKind::ThreadCreate, &body);
                threads.insert(number, (parent, is_private));
                if is_private {
                    apply(
                        realm,
                        EventKind::ThreadMembersUpdate,
                        &joined(number, ALICE),
                    );
                }
            }
        }
        Self {
            owner: OWNER,
            roles: BTreeMap::from([
                (HALL, Permissions::NEW_GUILD),
                (MODS, Permissions::MANAGE_CHANNELS),
            ]),
            members: BTreeMap::from([
                (OWNER, (vec![], false)),
                (MOD, (vec![MODS], false)),
                (ALICE, (vec![], false)),
            ]),
            channels: BTreeMap::from([(OPEN, vec![]), (STAFF, hidden_but_for_mods())]),
            threads,
            inside: BTreeSet::from([ALICE]),
        }
    }

    /// Makes a change here and as an event; `None` if there is nothing to change.
    fn make(&mut self, realm: &Realm, change: Change) -> Option<(EventKind, Value)> {
        Some(match change {
            Change::Role(number, which) => {
                self.roles.insert(number, bits(which));
                let body = json!({"role": role(number, bits(which))});
                (EventKind::GuildRoleUpdate, body)
            }
            Change::NoRole(role) => {
                self.roles.remove(&role)?;
                self.members
                    .values_mut()
                    .for_each(|(roles, _)| roles.retain(|held| *held != role));
                for overwrites in self.channels.values_mut() {
                    overwrites.retain(|overwrite| overwrite.id != id(role));
                }
                (
                    EventKind::GuildRoleDelete,
                    json!({"role_id": role.to_string()}),
                )
            }
            Change::Channel(number, overwrites) => {
                let mut by_target: BTreeMap<u64, Overwrite> = BTreeMap::new();
                for (of_member, target, allow, deny) in overwrites {
                    let (kind, target) = match of_member {
                        true => (OverwriteKind::Member, USERS.start + target),
                        false => (OverwriteKind::Role, HALL + target % 5),
                    };
                    let (allow, deny) = (bits(allow), bits(deny));
                    let id = id(target);
                    let overwrite = Overwrite {
                        id,
                        kind,
                        allow,
                        deny,
                    };
                    by_target.insert(target, overwrite);
                }
                let overwrites: Vec<Overwrite> = by_target.into_values().collect();
                let body = json!(channel(number, overwrites.clone()));
                match self.channels.insert(number, overwrites) {
                    Some(_) => (EventKind::ChannelUpdate, body),
                    None => (EventKind::ChannelCreate, body),
                }
            }
            Change::NoChannel(channel) => {
                self.channels.remove(&channel)?;
                (EventKind::ChannelDelete, json!({"id": channel.to_string()}))
            }
            Change::Member(user, which, is_silent) => {
                let held = ROLES.filter(|role| which >> (role - ROLES.start) & 1 == 1);
                let held: Vec<u64> = held.filter(|role| self.roles.contains_key(role)).collect();
                let mut body = member(user, &held);
                body.communication_disabled_until = is_silent.then(far_away);
                match self.members.insert(user, (held, is_silent)) {
                    Some(_) => (EventKind::GuildMemberUpdate, json!(body)),
                    None => (EventKind::GuildMemberAdd, json!(body)),
                }
            }
            Change::NoMember(user) => {
                self.members.remove(&user)?;
                self.inside.remove(&user);
                let body = json!({"user": {"id": user.to_string()}});
                (EventKind::GuildMemberRemove, body)
            }
            Change::Owner(user) => {
                self.owner = user;
                let mut guild = realm.guild_state().unwrap().guild.clone();
                guild.owner_id = id(user);
                (EventKind::GuildUpdate, json!(guild))
            }
        })
    }

    /// `None` for one who is no member.
    fn held(&self, user: u64, channel: Option<u64>) -> Option<Permissions> {
        let (roles, is_silent) = self.members.get(&user)?;
        let roles: Vec<_> = roles.iter().map(|&role| id(role)).collect();
        let access = MemberAccess {
            user: id(user),
            is_owner: user == self.owner,
            roles: &roles,
            communication_disabled_until: is_silent.then(far_away),
        };
        let (now, of_role) = (Timestamp::from_unix_ms(0), |role: Id<marker::Role>| {
            self.roles.get(&role.get()).copied()
        });
        let base = permissions::base(id(HALL), access, of_role, now);
        let Some(channel) = channel else {
            return Some(base);
        };
        let overwrites = self.channels.get(&channel)?;
        let class = ChannelClass::Text;
        Some(permissions::in_channel(
            base,
            id(HALL),
            access,
            overwrites,
            class,
            now,
        ))
    }

    fn sees(&self, user: u64, channel: u64) -> bool {
        let held = self.held(user, Some(channel));
        held.is_some_and(|held| held.contains(Permissions::VIEW_CHANNEL))
    }

    fn sees_thread(&self, user: u64, parent: u64, is_private: bool, is_inside: bool) -> bool {
        let held = self.held(user, Some(parent)).unwrap_or_default();
        let manages = held.contains(Permissions::MANAGE_THREADS);
        self.sees(user, parent) && (!is_private || is_inside || manages)
    }

    /// What a user hears of an event that made this world out of the one `before`, in order.
    fn hears(&self, before: &Self, user: u64, kind: EventKind, about: Option<u64>) -> Vec<String> {
        let name = kind.name().to_owned();
        let is_member = |world: &Self| world.members.contains_key(&user);
        if kind == EventKind::ChannelDelete || !is_member(before) || !is_member(self) {
            return vec![name];
        }
        let all = || self.channels.keys().copied();
        let gained = all().filter(|&id| !before.sees(user, id) && self.sees(user, id));
        let gained: Vec<u64> = gained.collect();
        let lost = all().filter(|&id| before.sees(user, id) && !self.sees(user, id));
        let mut heard: Vec<String> = gained
            .iter()
            .filter(|&&id| kind != EventKind::ChannelCreate || about != Some(id))
            .map(|id| format!("CHANNEL_CREATE {id}"))
            .collect();
        heard.push(name);
        let is_inside = self.inside.contains(&user);
        let threads = self.threads.iter().filter(|(_, (parent, is_private))| {
            gained.contains(parent) && self.sees_thread(user, *parent, *is_private, is_inside)
        });
        let threads: Vec<String> = threads.map(|(id, _)| id.to_string()).collect();
        if !threads.is_empty() {
            let gained: Vec<String> = gained.iter().map(u64::to_string).collect();
            heard.push(format!("THREAD_LIST_SYNC {gained:?} {threads:?}"));
        }
        for id in lost {
            if kind == EventKind::ChannelUpdate && about == Some(id) {
                heard.push(format!("CHANNEL_UPDATE {id}"));
            }
            heard.push(format!("CHANNEL_DELETE {id}"));
        }
        heard
    }
}

/// When a timeout ends that has not ended yet.
fn far_away() -> Timestamp {
    Timestamp::from_unix_ms(32_503_680_000_000)
}

/// What a user of an edge is sent, in order: the event itself, and what was made up for them.
fn heard(effects: &[Effect], at: EdgeId, user: u64) -> Vec<String> {
    let heard = effects.iter().filter_map(|effect| match effect {
        Effect::Event(event) => Some(event.kind.name().to_owned()),
        Effect::EventTo(edge, event) if *edge == at => {
            let Scope::Users(users) = &event.vis.scope else {
                panic!("made-up events are for users")
            };
            if !users.contains(&id(user)) {
                return None;
            }
            let name = event.kind.name();
            let body: Value = serde_json::from_slice(&event.body).unwrap();
            let ids = |list: &Value| -> Vec<String> {
                let list = list.as_array().unwrap().iter();
                list.map(|one| one["id"].as_str().or(one.as_str()).unwrap().to_owned())
                    .collect()
            };
            Some(match event.kind {
                EventKind::ThreadListSync => {
                    let (channels, threads) = (ids(&body["channel_ids"]), ids(&body["threads"]));
                    format!("{name} {channels:?} {threads:?}")
                }
                _ => format!("{name} {}", body["id"].as_str().unwrap()),
            })
        }
        Effect::EventTo(..) | Effect::View(..) | Effect::Notice(_) => None,
    });
    heard.collect()
}

proptest! {
    /// Whoever is asked one by one, by the permissions alone, has seen and sees the same, hears
    /// the same of each change, and gets the same events that are for those who may.
    #[test]
    fn many_at_once_see_and_hear_what_each_alone_would(
        changes in prop::collection::vec(change(), 1..30),
    ) {
        let mut realm = hall();
        let mut world = World::hall(&mut realm);
        let mut believed: Vec<(EdgeId, Believed)> = EDGES
            .into_iter()
            .map(|(edge, users)| {
                let view = realm.subscribe(edge, users.map(id));
                let (channels, users) = (BTreeMap::new(), BTreeMap::new());
                let mut believed = Believed { channels, users };
                believed.take(&view);
                (edge, believed)
            })
            .collect();
        for change in changes {
            let before = world.clone();
            let Some((kind, body)) = world.make(&realm, change) else {
                continue;
            };
            let about = body["id"].as_str().and_then(|id| id.parse::<u64>().ok());
            let effects = apply(&mut realm, kind, &body);

            let is_event = |effect: &Effect| matches!(effect, Effect::Event(_));
            let is_view = |effect: &Effect| matches!(effect, Effect::View(..));
            let event = effects.iter().position(is_event).unwrap();
            let early = effects.iter().take_while(|effect| is_view(effect)).count();
            let views = effects.iter().filter(|effect| is_view(effect)).count();
            if kind == EventKind::ChannelDelete {
                prop_assert_eq!(event, 0);
            } else {
                prop_assert_eq!(early, views);
            }
            for effect in &effects {
                match effect {
                    Effect::View(edge, change) => {
                        let (_, believed) = believed.iter_mut().find(|(of, _)| of == edge).unwrap();
                        believed.take(change);
                    }
                    Effect::EventTo(edge, event) => {
                        let Scope::Users(users) = &event.vis.scope else { panic!("{event:?}") };
                        prop_assert!(users.is_sorted_by(|a, b| a < b));
                        let (_, on_edge) = &EDGES[usize::from(*edge != EDGE)];
                        prop_assert!(users.iter().all(|user| on_edge.contains(&user.get())));
                        prop_assert!(!users.is_empty());
                    }
                    Effect::Event(_) | Effect::Notice(_) => {}
                }
            }
            for ((edge, users), (_, believed)) in EDGES.into_iter().zip(&believed) {
                for user in users {
                    let is_member = world.members.contains_key(&user);
                    prop_assert_eq!(believed.users[&id(user)].is_some(), is_member);
                    for channel in CHANNELS {
                        prop_assert_eq!(
                            believed.sees(user, channel), world.sees(user, channel),
                            "{} in {} after {:?} {}", user, channel, kind, body
                        );
                    }
                    prop_assert_eq!(
                        heard(&effects, edge, user), world.hears(&before, user, kind, about),
                        "{} at {} after {:?} {}", user, edge, kind, body
                    );
                }
            }
            let any_of = Permissions::MANAGE_THREADS | Permissions::SEND_MESSAGES;
            for channel in CHANNELS.map(Some).chain([None]) {
                let scope = Scope::Permissions { any_of, channel: channel.map(id) };
                let holds = |user: &u64| {
                    let held = world.held(*user, channel);
                    held.is_some_and(|held| held.intersects(any_of))
                };
                prop_assert_eq!(resolved(&realm, scope), USERS.filter(holds).collect::<Vec<u64>>());
            }
            for parent in CHANNELS {
                let scope = Scope::Thread { parent: id(parent), members: vec![id(ALICE), id(MOD)] };
                let sees = |user: &u64| {
                    world.sees_thread(*user, parent, true, [ALICE, MOD].contains(user))
                };
                prop_assert_eq!(resolved(&realm, scope), USERS.filter(sees).collect::<Vec<u64>>());
            }
        }
    }
}
