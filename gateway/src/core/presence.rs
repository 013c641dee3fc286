//! What others see of this core's sessions: op 3, and what the node is told of it.
//!
//! Nothing is kept twice: what a user shows in a realm is merged from their sessions there
//! whenever it is asked for. Told with every subscription, so that owners need no other
//! source, and whenever it changes.

use guildhall_shared::{
    Id,
    id::marker::{Realm, User},
    model::{Presence, SessionState},
    shard,
};

use super::{Core, clock, outbox::Topic};
use crate::{
    bus::{Subscription, ToNode},
    codec::PresenceCommand,
    names::SessionSlot,
};

impl Core {
    /// Op 3.
    pub(super) fn set_presence(&mut self, slot: SessionSlot, command: &PresenceCommand) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        if !session.set_presence(now, clock::now_ms(), command) {
            return;
        }
        session.recorded_at = None;
        let user = session.user;
        let guilds = session.guilds.iter().map(|&(guild, _)| shard::realm(guild));
        let realms = guilds.chain([shard::realm(user)]).collect();
        self.tell_presence(user, realms);
    }

    /// Tells the node what a user shows in these realms from now on, and where it was to be told before.
    pub(super) fn tell_presence(&mut self, user: Id<User>, mut realms: Vec<Id<Realm>>) {
        let core = self.core_id();
        if !realms.is_empty()
            && let Some(ToNode::Presence { realms: before, .. }) =
                self.outbox.take(Topic::Presence(user))
        {
            realms.extend(before.into_iter().map(|(realm, _)| realm));
            realms.sort_unstable();
            realms.dedup();
        }
        let realms = realms.into_iter();
        let realms: Vec<_> = realms
            .map(|realm| (realm, self.presence_in(realm, user)))
            .collect();
        if !realms.is_empty() {
            let sessions = self.sessions_of(user);
            self.outbox.push_back(ToNode::Presence {
                core,
                user,
                realms,
                sessions,
            });
        }
    }

    /// Fills in what others see of those who are subscribed.
    pub(super) fn describe(&self, subscriptions: &mut [Subscription]) {
        for subscription in subscriptions {
            let realm = subscription.realm;
            for subscriber in &mut subscription.users {
                subscriber.presence = self.presence_in(realm, subscriber.user);
                if realm == shard::realm(subscriber.user) {
                    subscriber.sessions = self.sessions_of(subscriber.user);
                }
            }
        }
    }

    fn presence_in(&self, realm: Id<Realm>, user: Id<User>) -> Presence {
        let mut presence = Presence::default();
        if let Some(hub) = self.hub.get(realm) {
            for slot in hub.sessions_of(user) {
                if let Some(session) = self.sessions.get(slot as usize) {
                    presence.merge(&session.presence());
                }
            }
        }
        presence
    }

    /// A person's sessions here; of bots none are told.
    fn sessions_of(&self, user: Id<User>) -> Vec<SessionState> {
        let Some(hub) = self.hub.get(shard::realm(user)) else {
            return Vec::new();
        };
        let sessions = hub.sessions_of(user);
        let sessions = sessions.filter_map(|slot| self.sessions.get(slot as usize));
        let people = sessions.filter(|session| !session.bot);
        people.map(crate::session::Session::state).collect()
    }
}
