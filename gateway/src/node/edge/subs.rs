//! What this node's cores want of a realm, and what owners were asked for.

use std::{collections::HashMap, time::Instant};

use guildhall_shared::{
    Id,
    id::marker::{Realm, User},
    model::{Presence, SessionState},
    shard::Position,
};
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use super::message::{Message, Server};
use crate::{
    bus::{PresenceChange, SnapshotRequest, ViewChange},
    few::Few,
    names::CoreId,
};

#[derive(Default)]
pub(super) struct RealmSub {
    /// Whose events are passed on; `None` before the first answer and after its loss.
    pub(super) serving: Option<Server>,
    pub(super) cores: SmallVec<[CoreSub; 1]>,
}

pub(super) struct CoreSub {
    pub(super) core: CoreId,
    /// Users with sessions on this core, and what those show.
    pub(super) users: Few<Id<User>, Presence>,
    /// In a person's own realm: their sessions on this core.
    pub(super) sessions: Vec<SessionState>,
    /// A session here wants to know who is online, or did: it is asked anew with each owner.
    pub(super) presences: bool,
    /// It gets events: its last subscription stands and its inbox took everything since.
    pub(super) live: bool,
    /// Its inbox had no room: asked for again after a pause, not at the next occasion.
    pub(super) stalled: bool,
    /// Newest durable event it was given.
    pub(super) position: Option<Position>,
    pub(super) pending: Option<u64>,
    /// Asked for while a subscription was pending; sent when that one is answered.
    pub(super) queued: Option<Box<Ask>>,
    /// With what is queued.
    pub(super) tries: Tries,
}

/// What has been tried for a subscription.
#[derive(Debug, Clone, Default)]
pub(super) struct Tries {
    /// Owners that failed already.
    pub(super) attempt: u32,
    /// The owner by the map, if it is one of them.
    pub(super) failed: Option<Server>,
}

/// What a subscription is for.
#[derive(Debug, Clone, Default)]
pub(super) struct Ask {
    /// `None`: from where the core stands, without repeats; if it stands nowhere, from the
    /// snapshot on.
    pub(super) from: Option<Position>,
    /// Who comes to those that the owner knows of, besides those who want a snapshot.
    pub(super) users: Vec<Id<User>>,
    pub(super) snapshots: Vec<(Id<User>, SnapshotRequest)>,
}

pub(super) struct Pending {
    pub(super) realm: Id<Realm>,
    pub(super) core: CoreId,
    pub(super) server: Server,
    pub(super) ask: Ask,
    /// Users that the owner is to answer for, sorted.
    pub(super) named: SmallVec<[Id<User>; 1]>,
    /// All users of the core were named, not only those who came.
    pub(super) complete: bool,
    pub(super) tries: Tries,
    /// There was no room for it on the way to the owner, who knows nothing of it.
    pub(super) unsent: bool,
    /// When another owner is asked.
    pub(super) until: Instant,
}

pub(super) type PendingSubs = HashMap<u64, Pending, FxBuildHasher>;

impl RealmSub {
    pub(super) fn core(&mut self, core: CoreId) -> usize {
        if let Some(place) = self.cores.iter().position(|sub| sub.core == core) {
            return place;
        }
        self.cores.push(CoreSub {
            core,
            users: Few::default(),
            sessions: Vec::new(),
            presences: false,
            live: false,
            stalled: false,
            position: None,
            pending: None,
            queued: None,
            tries: Tries::default(),
        });
        self.cores.len() - 1
    }

    /// What a user's sessions on all cores show together.
    pub(super) fn shown(&self, realm: Id<Realm>, user: Id<User>) -> PresenceChange {
        let mut presence = Presence::default();
        for sub in &self.cores {
            if let Some(part) = sub.users.get(&user) {
                presence.merge(part);
            }
        }
        let sessions = self.cores.iter().filter(|_| realm == user.cast());
        let sessions = sessions.flat_map(|sub| sub.sessions.iter().cloned());
        PresenceChange {
            realm,
            user,
            presence,
            sessions: sessions.collect(),
        }
    }

    /// Who serves the realm, and who was asked to.
    pub(super) fn servers(&self, pending: &PendingSubs) -> Vec<Server> {
        let mut servers: Vec<Server> = self.serving.iter().cloned().collect();
        for id in self.cores.iter().filter_map(|sub| sub.pending) {
            if let Some(pending) = pending.get(&id)
                && !servers.contains(&pending.server)
            {
                servers.push(pending.server.clone());
            }
        }
        servers
    }

    /// Neither serves the realm nor was asked to: it is not to keep this node's users.
    pub(super) fn is_left(&self, server: &Server, pending: &PendingSubs) -> bool {
        let asked = self.cores.iter().filter_map(|sub| sub.pending);
        let mut asked = asked.filter_map(|id| pending.get(&id));
        self.serving.as_ref() != Some(server) && !asked.any(|asked| asked.server == *server)
    }

    /// For an owner that is left though no user has left the realm.
    pub(super) fn moved(&self, realm: Id<Realm>) -> Message {
        Message::Unsub {
            realm,
            users: self.users(),
            moved: true,
        }
    }

    fn users(&self) -> Vec<Id<User>> {
        let mut users: Vec<Id<User>> = self
            .cores
            .iter()
            .flat_map(|sub| sub.users.keys().copied())
            .collect();
        users.sort_unstable();
        users.dedup();
        users
    }
}

impl Ask {
    /// It is not for newcomers.
    pub(super) fn names_nobody(&self) -> bool {
        self.users.is_empty() && self.snapshots.is_empty()
    }

    /// These have left.
    pub(super) fn forget(&mut self, users: &[Id<User>]) {
        self.users.retain(|user| !users.contains(user));
        self.snapshots.retain(|(user, _)| !users.contains(user));
    }
}

impl Pending {
    /// These have left.
    pub(super) fn forget(&mut self, users: &[Id<User>]) {
        self.ask.forget(users);
        for user in users {
            if let Ok(place) = self.named.binary_search(user) {
                self.named.remove(place);
            }
        }
    }
}

impl CoreSub {
    /// Adds to what the next subscription is for: the earlier position, all snapshots.
    pub(super) fn queue(&mut self, ask: Ask) {
        match &mut self.queued {
            None => self.queued = Some(Box::new(ask)),
            Some(queued) => {
                queued.from = match (queued.from, ask.from) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                queued.users.extend(ask.users);
                queued.snapshots.extend(ask.snapshots);
            }
        }
    }

    /// Snapshots that there was no room for, before those that were asked for since.
    pub(super) fn queue_first(&mut self, snapshots: Vec<(Id<User>, SnapshotRequest)>) {
        if snapshots.is_empty() {
            return;
        }
        let first = Ask {
            snapshots,
            ..Ask::default()
        };
        if let Some(others) = self.queued.replace(Box::new(first)) {
            self.queue(*others);
        }
    }

    /// The core has everything up to its position and needs what came after.
    pub(super) fn catch_up(&mut self) {
        self.queue(Ask::default());
    }

    pub(super) fn own_part(&self, change: &ViewChange) -> ViewChange {
        ViewChange {
            channels: change.channels.clone(),
            users: change
                .users
                .iter()
                .filter(|(user, _)| self.users.contains_key(user))
                .cloned()
                .collect(),
        }
    }
}
