//! Whom an event of a realm is for.

use std::sync::Arc;

use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::{Envelope, Scope},
    gateway::EventKind,
    id::marker::{Channel, User},
};
use rustc_hash::FxHashSet;

use super::{Realm, id_of};
use crate::{
    few::Few,
    node::owner::{guild::GuildState, holders::Holders, threads::Sight},
};

impl Realm {
    /// An event as the edges get it: permissions are resolved to users here, because no
    /// edge computes any.
    pub(crate) fn resolve(&self, event: &Arc<Envelope>) -> Arc<Envelope> {
        let mut users: Vec<Id<User>> = match (&event.vis.scope, self.guild.as_deref()) {
            // Who is in a thread stays in it without seeing its channel.
            (Scope::Users(users), Some(guild)) if event.kind == EventKind::ThreadMemberUpdate => {
                let parent = id_of(event).and_then(|thread| guild.threads.parent(thread));
                let Some(parent) = parent else {
                    return event.clone();
                };
                let (view, now) = (Permissions::VIEW_CHANNEL, Timestamp::now());
                let users = users.iter().copied();
                let seeing = users.filter(|&user| guild.holds(user, view, Some(parent), now));
                seeing.collect()
            }
            (Scope::Realm | Scope::Channel(_) | Scope::Users(_), _) => return event.clone(),
            (_, None) => Vec::new(),
            (Scope::Permissions { any_of, channel }, Some(guild)) => {
                let mut held = guild.held_by_many(*channel, Timestamp::now());
                let is_for = |user: &Id<User>| {
                    let member = guild.members.get(user);
                    member.is_some_and(|member| held.by(*user, member).intersects(*any_of))
                };
                let candidates = self.who_may_hold(guild, *any_of, &[]).into_iter();
                candidates.filter(is_for).collect()
            }
            (Scope::Thread { parent, members }, Some(guild)) => {
                self.of_thread(guild, *parent, members)
            }
        };
        users.sort_unstable();
        users.dedup();
        let mut resolved = Envelope::clone(event);
        resolved.vis.scope = Scope::Users(users.into());
        Arc::new(resolved)
    }

    /// Users who listen; one who does on several edges is there for each.
    fn listening(&self) -> impl Iterator<Item = Id<User>> {
        self.edges.values().flat_map(Few::keys).copied()
    }

    /// Listeners who may hold any of these, or are among the others; all who listen, if these are
    /// fewer.
    fn who_may_hold(
        &self,
        guild: &GuildState,
        any_of: Permissions,
        others: &[Id<User>],
    ) -> Vec<Id<User>> {
        let mut known = self.holders.borrow_mut();
        let place = known.iter().position(|some| some.any_of() == any_of);
        let place = place.unwrap_or_else(|| {
            known.push(Holders::new(guild, any_of, self.listening()));
            known.len() - 1
        });
        let few = known[place].few();
        match few.filter(|few| few.len() + others.len() < self.subscribers()) {
            Some(few) => {
                let listens =
                    |user: &Id<User>| self.edges.values().any(|users| users.contains_key(user));
                few.iter().chain(others).copied().filter(listens).collect()
            }
            None => self.listening().collect(),
        }
    }

    /// Listeners who see a private thread: its members, and moderators.
    fn of_thread(
        &self,
        guild: &GuildState,
        parent: Id<Channel>,
        members: &[Id<User>],
    ) -> Vec<Id<User>> {
        let inside: FxHashSet<Id<User>> = members.iter().copied().collect();
        let mut held = guild.held_by_many(Some(parent), Timestamp::now());
        let sees = |user: &Id<User>| {
            let Some(member) = guild.members.get(user) else {
                return false;
            };
            match Sight::of(held.by(*user, member)) {
                Sight::Nothing => false,
                Sight::Own => inside.contains(user),
                Sight::All => true,
            }
        };
        let candidates = self.who_may_hold(guild, Permissions::MANAGE_THREADS, members);
        candidates.into_iter().filter(sees).collect()
    }
}
