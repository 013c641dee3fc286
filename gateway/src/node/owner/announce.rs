//! Tells of presences that have changed: at most once per user and tick, in slices. Shows sessions
//! the lists that they look at.

use std::{collections::VecDeque, rc::Rc, time::Duration};

use guildhall_shared::{Id, id::marker::Realm as RealmMarker};
use tokio::{task::yield_now, time::sleep};

use super::{EdgeId, Owner, realm::Realm};
use crate::{ask::WatchChange, bus::PresenceChange, clock};

/// Changes of one user within this time are told as one, or not at all if they cancel out; sessions
/// that look at something else within this time are answered together.
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

    /// A session of an edge looks at something else in a guild: it is shown that when others have had
    /// their turn, or at the next tick if somebody was within this one.
    pub(crate) fn watch(&self, edge: EdgeId, change: WatchChange) {
        let id = change.guild.cast();
        if let Some(entry) = self.state.borrow_mut().realms.get_mut(&id)
            && let Some(realm) = &mut entry.realm
        {
            realm.watch(edge, change);
        }
        self.watches_may_be_due(id);
    }

    fn watches_may_be_due(&self, id: Id<RealmMarker>) {
        let mut state = self.state.borrow_mut();
        let realm = state.realms.get(&id).and_then(|entry| entry.realm.as_ref());
        if realm.is_some_and(|realm| realm.is_asked(|_| true)) {
            state.watches_due.insert(id);
            self.watch_due.notify_one();
        }
    }

    /// Shows sessions what they look at, as long as the task lives.
    pub(crate) async fn answer_watches(self: Rc<Self>) {
        loop {
            self.watch_due.notified().await;
            // Those that come with it are answered with it.
            yield_now().await;
            let due = std::mem::take(&mut self.state.borrow_mut().watches_due);
            let mut due: VecDeque<Id<RealmMarker>> = due.into_iter().collect();
            while let Some(id) = due.pop_front() {
                if self.answer_realm(id) {
                    due.push_back(id);
                } else {
                    // For edges without room.
                    self.watches_may_be_due(id);
                }
                yield_now().await;
            }
            sleep(TICK).await;
        }
    }

    /// Some of a realm's sessions; whether more of them can be answered now.
    fn answer_realm(&self, id: Id<RealmMarker>) -> bool {
        let has_room = |edge| self.has_room(edge);
        let mut effects = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            let entry = state.realms.get_mut(&id);
            let Some(realm) = entry.and_then(|entry| entry.realm.as_mut()) else {
                return false;
            };
            realm.answer_watches(&has_room, &mut effects);
        }
        self.deliver(id, &[], effects);
        self.presences_may_be_due(id);
        let state = self.state.borrow();
        let realm = state.realms.get(&id).and_then(|entry| entry.realm.as_ref());
        realm.is_some_and(|realm| realm.is_asked(has_room))
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
            let has_room = |edge| self.has_room(edge);
            let told = realm.tell_presences(clock::now(), &has_room, &mut effects);
            count = told.len();
            edges = realm.edges().collect::<Vec<_>>();
            let news = count > 0 || !effects.is_empty();
            if news && realm.is_own() && realm.presences.is_person() {
                self.people.put(id.cast(), realm, false);
            }
        }
        self.deliver(id, &edges, effects);
        self.presences_may_be_due(id);
        self.watches_may_be_due(id);
        count
    }
}
