//! Which owner is asked for a realm, and what comes of one that does not answer.

use std::collections::BTreeMap;

use guildhall_shared::{
    Id,
    id::marker::{Realm, User},
    shard::ShardId,
};

use super::{
    Edge, State,
    message::{Message, Outgoing, Server},
    subs::{Ask, Pending, Tries},
};
use crate::{
    bus::{PresenceChange, SUBSCRIBE_TIMEOUT, SnapshotRequest, Subscriber, ToCore},
    clock,
    names::CoreId,
    node::relay::frame::Sub,
};

/// Owners asked before a core is told that the realm is unavailable.
pub(super) const ATTEMPTS_MAX: u32 = 4;
/// Snapshots asked for at once: what an owner has no room for in its answer is asked for again, and
/// the rest when these have come.
const SNAPSHOTS_MAX: usize = 64;
/// Subscriptions that there was no room for, asked again at one look.
const UNSENT_MAX: usize = 8000;

impl Edge {
    /// Subscribes the cores again that had no room, or more than their owner.
    pub(super) fn subscribe_behind(&self, state: &mut State, out: &mut Outgoing) {
        let mut behind: Vec<(Id<Realm>, CoreId)> = Vec::new();
        for (&realm, entry) in &mut state.realms {
            for sub in &mut entry.cores {
                // Also where an answer is still to come: the next subscription follows it.
                sub.stalled = false;
                if sub.pending.is_none() && sub.queued.is_some() {
                    behind.push((realm, sub.core));
                }
            }
        }
        for (realm, core) in behind {
            self.metrics.resubscriptions.inc();
            self.next(state, realm, core, out);
        }
    }

    /// Subscribes a core for what is queued, unless an answer is still to come.
    pub(super) fn next(
        &self,
        state: &mut State,
        realm: Id<Realm>,
        core: CoreId,
        out: &mut Outgoing,
    ) {
        let Some(entry) = state.realms.get_mut(&realm) else {
            return;
        };
        let Some(sub) = entry.cores.iter_mut().find(|sub| sub.core == core) else {
            return;
        };
        if sub.pending.is_some() || sub.stalled {
            return;
        }
        let Some(ask) = sub.queued.take() else {
            return;
        };
        let tries = std::mem::take(&mut sub.tries);
        // All cores of a realm stay with one owner; `rebalance` moves them together.
        let server = match &entry.serving {
            Some(Server::Node(node)) if !self.links.is_trusted(node) => None,
            serving => serving.clone(),
        };
        let server = server.unwrap_or_else(|| self.candidate(realm, 0));
        self.ask(state, realm, core, server, *ask, tries, out);
    }

    /// Subscribes all cores of a realm at the owner it should have.
    pub(super) fn resubscribe(&self, state: &mut State, realm: Id<Realm>, out: &mut Outgoing) {
        let Some(entry) = state.realms.get_mut(&realm) else {
            return;
        };
        let mut asks = Vec::new();
        for sub in &mut entry.cores {
            if sub.pending.is_none() {
                sub.tries = Tries::default();
                sub.catch_up();
                asks.extend(sub.queued.take().map(|ask| (sub.core, *ask)));
            }
        }
        for (core, ask) in asks {
            self.metrics.resubscriptions.inc();
            let server = self.candidate(realm, 0);
            self.ask(state, realm, core, server, ask, Tries::default(), out);
        }
    }

    /// Turns to the next owner where the one asked has not answered in time, and to the same where
    /// there was no room and is some now.
    pub(super) fn retry(&self, state: &mut State, out: &mut Outgoing) {
        let now = clock::now();
        let mut unsent = 0;
        let mut again: Vec<(u64, Tries)> = Vec::new();
        for (&id, pending) in &state.pending {
            if pending.until <= now {
                again.push((id, self.failed(pending)));
            } else if pending.unsent && unsent < UNSENT_MAX && self.has_room(&pending.server) {
                unsent += 1;
                again.push((id, pending.tries.clone()));
            }
        }
        for (id, tries) in again {
            self.ask_again(state, id, tries, out);
        }
    }

    /// What has been tried, now that who was asked has not answered.
    fn failed(&self, pending: &Pending) -> Tries {
        let Pending {
            realm,
            server,
            tries,
            ..
        } = pending;
        let failed = match *server == self.candidate(*realm, 0) {
            true => Some(server.clone()),
            false => tries.failed.clone(),
        };
        Tries {
            attempt: tries.attempt + 1,
            failed,
        }
    }

    /// Gives up on an answer, and asks whose turn it is.
    pub(super) fn ask_again(&self, state: &mut State, id: u64, tries: Tries, out: &mut Outgoing) {
        let Some(pending) = state.pending.remove(&id) else {
            return;
        };
        let (realm, core) = (pending.realm, pending.core);
        let Some(entry) = state.realms.get_mut(&realm) else {
            return;
        };
        if !pending.unsent && entry.is_left(&pending.server, &state.pending) {
            // A late answer of that owner must not leave a listener behind.
            out.push((pending.server.clone(), entry.moved(realm)));
        }
        let is_served = entry.serving.is_some();
        let Some(sub) = entry.cores.iter_mut().find(|sub| sub.core == core) else {
            return;
        };
        sub.pending = None;
        if tries.attempt >= ATTEMPTS_MAX {
            let is_served = is_served && sub.live;
            if is_served && pending.ask.from.is_none() && pending.ask.names_nobody() {
                // The owner of before goes on, and is asked for those who came meanwhile; the next
                // look tries again.
                return self.next(state, realm, core, out);
            }
            tracing::warn!(realm.id = %realm, "no owner answers");
            // The one that refuses a newcomer goes on for the others.
            sub.live = is_served;
            if self.give(sub, ToCore::Unavailable { realm }) {
                sub.queued = None;
            } else {
                // It does not know that it has to ask again.
                sub.queue(pending.ask);
            }
            return;
        }
        let server = self.candidate(realm, tries.attempt);
        self.ask(state, realm, core, server, pending.ask, tries, out);
    }

    #[expect(clippy::too_many_arguments, reason = "one private step of its callers")]
    pub(super) fn ask(
        &self,
        state: &mut State,
        realm: Id<Realm>,
        core: CoreId,
        server: Server,
        ask: Ask,
        tries: Tries,
        out: &mut Outgoing,
    ) {
        let Some(entry) = state.realms.get_mut(&realm) else {
            return;
        };
        let Some(sub) = entry.cores.iter_mut().find(|sub| sub.core == core) else {
            return;
        };
        let mut ask = ask;
        if ask.snapshots.len() > SNAPSHOTS_MAX {
            let snapshots = ask.snapshots.split_off(SNAPSHOTS_MAX);
            sub.queue(Ask {
                snapshots,
                ..Ask::default()
            });
        }
        // An owner that serves this core knows its users and tells it of every change: naming
        // all of them for each newcomer would make a storm in one guild quadratic.
        let complete = ask.from.is_some() || !sub.live || entry.serving.as_ref() != Some(&server);
        let mut users: BTreeMap<Id<User>, Vec<SnapshotRequest>> = if complete {
            sub.users.keys().map(|&user| (user, Vec::new())).collect()
        } else {
            let asking = ask.snapshots.iter().map(|&(user, _)| user);
            asking
                .chain(ask.users.iter().copied())
                .filter(|user| sub.users.contains_key(user))
                .map(|user| (user, Vec::new()))
                .collect()
        };
        if users.is_empty() {
            // They have left since; others may have come.
            return self.next(state, realm, core, out);
        }
        state.last_id += 1;
        let id = state.last_id;
        sub.pending = Some(id);
        for (user, request) in &ask.snapshots {
            if let Some(snapshots) = users.get_mut(user) {
                snapshots.push(request.clone());
            }
        }
        let from = ask.from.or(sub.position);
        let named = users.keys().copied().collect();
        let users = users.into_iter().map(|(user, snapshots)| {
            let PresenceChange {
                presence, sessions, ..
            } = entry.shown(realm, user);
            Subscriber {
                user,
                snapshots,
                presence,
                sessions,
            }
        });
        let message = Sub {
            id,
            realm,
            from,
            users: users.collect(),
            presences: entry.cores.iter().any(|sub| sub.presences),
        };
        out.push((server.clone(), Message::Sub(message)));
        state.pending.insert(
            id,
            Pending {
                realm,
                core,
                server,
                ask,
                named,
                complete,
                tries,
                unsent: false,
                until: clock::now() + SUBSCRIBE_TIMEOUT,
            },
        );
        self.busy.notify_one();
    }

    /// The owners to ask, best first: never empty. One that failed is tried again meanwhile.
    fn candidates(&self, realm: Id<Realm>) -> Vec<Server> {
        let map = self.map.current();
        let shard = ShardId::of(realm, self.shards);
        let mut servers = Vec::with_capacity(3);
        for node in [map.owner(shard), map.standby(shard)].into_iter().flatten() {
            if node == self.node {
                servers.push(Server::Local);
            } else if self.links.is_trusted(node) {
                servers.push(Server::Node(node.into()));
            } else {
                self.links.reopen(node);
            }
        }
        if !servers.contains(&Server::Local) {
            servers.push(Server::Local);
        }
        servers
    }

    pub(super) fn candidate(&self, realm: Id<Realm>, attempt: u32) -> Server {
        let mut servers = self.candidates(realm);
        let place = attempt as usize % servers.len();
        servers.swap_remove(place)
    }
}
