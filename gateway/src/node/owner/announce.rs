//! Tells of presences that have changed: at most once per user and tick, in slices.

use std::{rc::Rc, time::Duration};

use guildhall_shared::{Id, id::marker::Realm as RealmMarker};
use tokio::{task::yield_now, time::sleep};

use super::{EdgeId, Owner, realm::Realm};
use crate::{ask::WatchChange, bus::PresenceChange, clock};

/// Changes of one user within this time are told as one, or not at all if they cancel out.
const TICK: Duration = Duration::from_millis(200);
/// Users told of before others on this thread have their turn.
const SLICE_USERS: usize = 250;

impl Owner {
    /// Users of an edge show something else.
    pub(crate) fn presence(&self, edge: EdgeId, changes: Vec<PresenceChange>) {
        for change in changes {
            let id = change.realm;
            if let Some(entry) = self.state.borrow_mut().realms.get_mut(&id) {
                if let Some(realm) = &mut entry.realm {
                    realm.show_change(edge, &change);
                }
                // Subscriptions that wait for their answer were sent before it.
                for waiting in entry.waiting.iter_mut().filter(|one| one.edge == edge) {
                    let mut users = waiting.sub.users.iter_mut();
                    if let Some(user) = users.find(|user| user.user == change.user) {
                        user.presence = change.presence.clone();
                        user.sessions.clone_from(&change.sessions);
                    }
                }
            }
            self.presences_may_be_due(id);
        }
    }

    /// A session of an edge looks at something else in a guild.
    pub(crate) fn watch(&self, edge: EdgeId, change: WatchChange) {
        let (id, mut effects) = (change.guild.cast(), Vec::new());
        if let Some(entry) = self.state.borrow_mut().realms.get_mut(&id)
            && let Some(realm) = &mut entry.realm
        {
            realm.watch(edge, change, &mut effects);
        }
        self.deliver(id, &[], effects);
    }

    pub(super) fn presences_may_be_due(&self, id: Id<RealmMarker>) {
        let mut state = self.state.borrow_mut();
        let realm = state.realms.get(&id).and_then(|entry| entry.realm.as_ref());
        if realm.is_some_and(Realm::is_due) {
            state.presences_due.insert(id);
            self.presence_due.notify_one();
        }
    }

    /// Tells what is due, as long as the task lives.
    pub(crate) async fn announce(self: Rc<Self>) {
        loop {
            self.presence_due.notified().await;
            sleep(TICK).await;
            let due = std::mem::take(&mut self.state.borrow_mut().presences_due);
            let mut slice = 0;
            for id in due {
                slice += self.announce_realm(id).max(1);
                if slice >= SLICE_USERS {
                    slice = 0;
                    yield_now().await;
                }
            }
        }
    }

    /// One realm's changes; returns how many users they are of.
    fn announce_realm(&self, id: Id<RealmMarker>) -> usize {
        let (mut effects, edges, count);
        {
            let mut state = self.state.borrow_mut();
            let entry = state.realms.get_mut(&id);
            let Some(realm) = entry.and_then(|entry| entry.realm.as_mut()) else {
                return 0;
            };
            effects = Vec::new();
            let told = realm.tell_presences(clock::now(), &mut effects);
            count = told.len();
            edges = realm.edges().collect::<Vec<_>>();
            let news = count > 0 || !effects.is_empty();
            if news && realm.is_own() && realm.presences.is_person() {
                self.people.put(id.cast(), realm, false);
            }
        }
        self.deliver(id, &edges, effects);
        self.presences_may_be_due(id);
        count
    }
}
