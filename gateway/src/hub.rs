//! The realms that sessions of this core are in, and who of them gets an event.
//!
//! Keeps, per realm, the position up to which events were delivered: a repeat is dropped, a
//! gap is reported so that the core subscribes again. Permissions are never computed here:
//! the owner says which user sees which class of channels, in order with the events.

use guildhall_shared::{
    Id,
    envelope::{Durability, Envelope, Scope},
    gateway::{EventKind, Intents},
    id::marker::{Channel, Realm, User},
    shard::Position,
};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use crate::{
    broken::{self, Broken},
    bus::{ClassId, ViewChange},
    few::Few,
    names::SessionSlot,
};

/// All realms of a core.
#[derive(Debug, Default)]
pub struct Hub {
    /// Boxed: most are users' own realms, and a table is up to half empty.
    realms: FxHashMap<Id<Realm>, Box<RealmHub>>,
}

/// One realm: its position and its listeners.
#[derive(Debug, Default)]
pub struct RealmHub {
    /// Events up to here were delivered; `None` until the owner answered for the first time.
    position: Option<Position>,
    /// A gap was found, and a subscription from `position` is under way.
    syncing: bool,
    users: Few<Id<User>, LocalUser>,
    everyone: SmallVec<[Listener; 1]>,
    /// `None` while there are no channels: a user's own realm has none.
    places: Option<Box<Places>>,
}

/// Who hears which channel of a realm.
#[derive(Debug, Default)]
struct Places {
    channels: FxHashMap<Id<Channel>, ClassId>,
    classes: FxHashMap<ClassId, Vec<Listener>>,
}

/// A user of this core in a realm.
#[derive(Debug, Default)]
struct LocalUser {
    /// Sessions that get events, and those that wait for their snapshot.
    listeners: SmallVec<[Listener; 1]>,
    waiting: SmallVec<[SessionSlot; 4]>,
    classes: SmallVec<[ClassId; 8]>,
}

/// A session in a realm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listener {
    slot: SessionSlot,
    intents: u32,
    /// Its snapshot was taken here: only later events are for it (I6).
    after: u64,
}

/// What to do with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Deliver,
    /// Delivered before, or nobody here is in the realm.
    Drop,
    /// Events after this position are missing.
    Gap(Position),
}

/// Which body a session gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    Full,
    WithoutContent,
    /// The one at this place of [`Alt::parts`](guildhall_shared::envelope::Alt::parts).
    Part(usize),
}

/// What users' sessions have besides, and nobody can ask for: THREAD_MEMBERS_UPDATE about others comes
/// with GUILD_MEMBERS to bots, and to users like anything else of threads that they see.
const OF_USERS: Intents = Intents::from_bits_retain(1 << 31);

/// Intents of a user's session, which names none: everything but presences and members,
/// of which users get what they subscribe to.
pub fn user_intents() -> Intents {
    let subscribed = Intents::GUILD_PRESENCES.union(Intents::GUILD_MEMBERS);
    Intents::all().difference(subscribed).union(OF_USERS)
}

impl Hub {
    pub fn get(&self, realm: Id<Realm>) -> Option<&RealmHub> {
        self.realms.get(&realm).map(Box::as_ref)
    }

    pub fn get_mut(&mut self, realm: Id<Realm>) -> Option<&mut RealmHub> {
        self.realms.get_mut(&realm).map(Box::as_mut)
    }

    pub fn realms(&self) -> usize {
        self.realms.len()
    }

    /// A session wants to be in a realm; it hears nothing until [`RealmHub::attach`].
    pub fn join(&mut self, realm: Id<Realm>, user: Id<User>, slot: SessionSlot) {
        let user = self.realms.entry(realm).or_default().users.or_default(user);
        if !user.waiting.contains(&slot) {
            user.waiting.push(slot);
        }
    }

    /// A session is no longer in a realm. True if it was the user's last one here.
    pub fn leave(&mut self, realm: Id<Realm>, user: Id<User>, slot: SessionSlot) -> bool {
        let Some(hub) = self.realms.get_mut(&realm) else {
            return false;
        };
        let Some(local) = hub.users.get_mut(&user) else {
            return false;
        };
        local.waiting.retain(|waiting| *waiting != slot);
        local.listeners.retain(|listener| listener.slot != slot);
        hub.everyone.retain(|listener| listener.slot != slot);
        if let Some(places) = &mut hub.places {
            places.forget(slot, &local.classes);
        }
        let last = local.listeners.is_empty() && local.waiting.is_empty();
        if last {
            hub.users.remove(&user);
            if hub.users.is_empty() {
                self.realms.remove(&realm);
            }
        }
        last
    }

    /// Whether an event is the next one of its realm; if so the realm's position moves.
    pub fn accept(&mut self, event: &Envelope) -> Verdict {
        let Some(hub) = self.realms.get_mut(&event.realm) else {
            return Verdict::Drop;
        };
        let Some(have) = hub.position else {
            return Verdict::Drop;
        };
        let Durability::Durable(at) = event.durability else {
            return Verdict::Deliver;
        };
        if at.era == have.era && at.seq == have.seq + 1 {
            hub.position = Some(at);
            Verdict::Deliver
        } else if at <= have && broken::is(Broken::Repeats) {
            Verdict::Deliver
        } else if at <= have || hub.syncing {
            Verdict::Drop
        } else {
            hub.syncing = true;
            Verdict::Gap(have)
        }
    }

    /// Calls `each` for every session of this core that gets the event.
    pub fn recipients(&self, event: &Envelope, mut each: impl FnMut(SessionSlot, Variant)) {
        let Some(hub) = self.realms.get(&event.realm) else {
            return;
        };
        let vis = &event.vis;
        let seq = event.position().map_or(u64::MAX, |position| position.seq);
        // Who is told regardless of the mask, of a thread's members only with GUILDS.
        let (mask, own_mask) = match event.kind {
            EventKind::ThreadMembersUpdate => {
                let of_others = vis.intents.union(OF_USERS);
                (of_others.bits(), Intents::GUILDS.bits())
            }
            _ => (vis.intents.bits(), 0),
        };
        let needs_content = event.alt.is_some();
        // Few and rare: looked up once per event instead of once per session.
        let slots_of = |users: &[Id<User>]| -> Vec<SessionSlot> {
            let users = users.iter().filter_map(|user| hub.users.get(user));
            users
                .flat_map(|user| &user.listeners)
                .map(|listener| listener.slot)
                .collect()
        };
        let (regardless, except) = (slots_of(&vis.regardless), slots_of(&vis.except));
        let full_for = event
            .alt
            .as_ref()
            .map_or_else(Vec::new, |alt| slots_of(&alt.full_for));
        let parts = event.alt.iter().flat_map(|alt| &alt.parts);
        let parts: Vec<_> = parts.map(|part| slots_of(&part.users)).collect();
        let mut offer = |listener: &Listener| {
            let slot = listener.slot;
            let asks = |mask: u32| mask == 0 || listener.intents & mask != 0;
            if seq <= listener.after
                || !(asks(mask) || asks(own_mask) && regardless.contains(&slot))
                || except.contains(&slot)
            {
                return;
            }
            let blank = needs_content
                && listener.intents & Intents::MESSAGE_CONTENT.bits() == 0
                && !full_for.contains(&slot);
            let variant = match blank {
                true => parts
                    .iter()
                    .position(|slots| slots.contains(&slot))
                    .map_or(Variant::WithoutContent, Variant::Part),
                false => Variant::Full,
            };
            each(slot, variant);
        };
        match &vis.scope {
            Scope::Realm => hub.everyone.iter().for_each(offer),
            Scope::Channel(channel) => {
                let listeners = hub.places.as_ref().and_then(|places| {
                    let class = places.channels.get(channel)?;
                    places.classes.get(class)
                });
                listeners.into_iter().flatten().for_each(offer);
            }
            Scope::Users(users) => {
                for user in users.iter() {
                    let listeners = hub.users.get(user).map(|user| &user.listeners);
                    listeners.into_iter().flatten().for_each(&mut offer);
                }
            }
            // The owner names the users; what arrives unresolved is for nobody.
            Scope::Permissions { .. } | Scope::Thread { .. } => {}
        }
    }
}

impl RealmHub {
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    pub fn set_position(&mut self, position: Position) {
        self.position = Some(position);
    }

    /// The realm's position, which is `first` if it has none yet.
    pub fn position_or(&mut self, first: Position) -> &Position {
        self.position.get_or_insert(first)
    }

    /// A subscription from the realm's position is under way (again).
    pub fn set_syncing(&mut self, syncing: bool) {
        self.syncing = syncing;
    }

    /// Whether a user sees a channel (not a thread), by what the owner said last.
    pub fn sees(&self, user: Id<User>, channel: Id<Channel>) -> bool {
        let places = self.places.as_ref();
        let class = places.and_then(|places| places.channels.get(&channel));
        let seen = self.users.get(&user).map(|user| &user.classes);
        class
            .zip(seen)
            .is_some_and(|(class, seen)| seen.contains(class))
    }

    /// The classes of channels that a user sees, by what the owner said last.
    pub fn classes_of(&self, user: Id<User>) -> &[ClassId] {
        match self.users.get(&user) {
            Some(user) => &user.classes,
            None => &[],
        }
    }

    /// Users with sessions here.
    pub fn users(&self) -> impl Iterator<Item = Id<User>> {
        self.users.keys().copied()
    }

    /// Sessions that get events of the realm, and those that wait for a snapshot.
    pub fn all_sessions(&self) -> Vec<SessionSlot> {
        let waiting = self.users.values().flat_map(|user| &user.waiting).copied();
        self.everyone
            .iter()
            .map(|listener| listener.slot)
            .chain(waiting)
            .collect()
    }

    /// Sessions that do not get events of the realm yet.
    pub fn all_waiting(&self) -> impl Iterator<Item = SessionSlot> {
        self.users.values().flat_map(|user| &user.waiting).copied()
    }

    /// Up to where a session has the realm's events, if it gets them.
    pub fn reached(&self, user: Id<User>, slot: SessionSlot) -> Option<Position> {
        let user = self.users.get(&user)?;
        let listener = user.listeners.iter().find(|one| one.slot == slot)?;
        let Position { era, seq } = self.position?;
        let seq = seq.max(listener.after);
        Some(Position { era, seq })
    }

    /// Sessions of a user that wait for a snapshot.
    pub fn waiting(&self, user: Id<User>) -> Vec<SessionSlot> {
        self.users
            .get(&user)
            .map(|user| user.waiting.to_vec())
            .unwrap_or_default()
    }

    /// A user's sessions here, whether they get events already or wait for them.
    pub fn sessions_of(&self, user: Id<User>) -> impl Iterator<Item = SessionSlot> {
        self.users.get(&user).into_iter().flat_map(|user| {
            let listening = user.listeners.iter().map(|listener| listener.slot);
            listening.chain(user.waiting.iter().copied())
        })
    }

    /// From now on a session that joined gets the events after `after`.
    pub fn attach(&mut self, user: Id<User>, slot: SessionSlot, intents: Intents, after: u64) {
        let Some(local) = self.users.get_mut(&user) else {
            return;
        };
        local.waiting.retain(|waiting| *waiting != slot);
        let listener = Listener {
            slot,
            intents: intents.bits(),
            after,
        };
        local.listeners.push(listener);
        self.everyone.push(listener);
        if let Some(places) = &mut self.places {
            for &class in &local.classes {
                places.classes.entry(class).or_default().push(listener);
            }
        }
    }

    /// Makes a session wait for a new snapshot: it gets no events until it is attached again.
    pub fn detach(&mut self, user: Id<User>, slot: SessionSlot) {
        let Some(local) = self.users.get_mut(&user) else {
            return;
        };
        local.listeners.retain(|listener| listener.slot != slot);
        local.waiting.push(slot);
        self.everyone.retain(|listener| listener.slot != slot);
        if let Some(places) = &mut self.places {
            places.forget(slot, &local.classes);
        }
    }

    /// Those who hear the realm, with what any of their sessions asked for.
    pub fn listening(&self) -> impl Iterator<Item = (Id<User>, Intents)> {
        self.users.iter().filter_map(|(&user, local)| {
            let asked = local.listeners.iter().map(|listener| listener.intents);
            let asked = asked.reduce(|some, more| some | more)?;
            Some((user, Intents::from_bits_retain(asked)))
        })
    }

    /// Whether an event that somebody asked for is of a channel that they do not see.
    pub fn hides(&self, event: &Envelope, user: Id<User>, asked: Intents) -> bool {
        let Scope::Channel(channel) = event.vis.scope else {
            return false;
        };
        asked.intersects(event.vis.intents)
            && !event.vis.regardless.contains(&user)
            && !self.sees(user, channel)
    }

    /// Replaces everything known about who sees what; returns those who hear the realm and see
    /// other channels than before, `new` ones aside.
    pub fn replace_view(&mut self, view: ViewChange, new: &[Id<Channel>]) -> Vec<Id<User>> {
        let before = self.places.take().unwrap_or_default();
        let mut saw = Vec::new();
        for (&id, user) in self.users.iter_mut() {
            let classes = std::mem::take(&mut user.classes);
            if !user.listeners.is_empty() {
                saw.push((id, classes));
            }
        }
        self.change_view(view);
        let nothing = Places::default();
        let after = self.places.as_deref().unwrap_or(&nothing);
        // Most see the same as others do.
        let mut differ = FxHashMap::default();
        saw.retain(|(id, saw)| {
            let Some(user) = self.users.get(id).filter(|user| !user.listeners.is_empty()) else {
                return false; // no longer in the realm
            };
            *differ
                .entry((saw.clone(), user.classes.clone()))
                .or_insert_with(|| before.seen(saw, new) != after.seen(&user.classes, new))
        });
        saw.into_iter().map(|(id, _)| id).collect()
    }

    /// Those who hear the realm and see other classes by this view than by what was said before.
    pub fn seeing_otherwise(&self, view: &ViewChange) -> Vec<Id<User>> {
        let sees_otherwise = |user: &LocalUser, classes: &[ClassId]| {
            let same = classes.len() == user.classes.len()
                && classes.iter().all(|class| user.classes.contains(class));
            !user.listeners.is_empty() && !same
        };
        let users = view.users.iter().filter(|(id, classes)| {
            let known = self.users.get(id).zip(classes.as_deref());
            known.is_some_and(|(user, classes)| sees_otherwise(user, classes))
        });
        users.map(|&(user, _)| user).collect()
    }

    /// Those whom a change lets see other channels. One that is new does not count, it tells of
    /// itself.
    pub fn touched_by(&self, change: &ViewChange) -> Vec<Id<User>> {
        let mut touched: Vec<_> = change.users.iter().map(|&(user, _)| user).collect();
        let Some(places) = &self.places else {
            return touched;
        };
        let moved = change.channels.iter().filter_map(|&(channel, now)| {
            let before = *places.channels.get(&channel)?;
            (now != Some(before)).then_some((before, now))
        });
        // Many channels go the same way.
        let moved: FxHashSet<(ClassId, Option<ClassId>)> = moved.collect();
        if moved.is_empty() {
            return touched;
        }
        let is_touched = |user: &LocalUser| {
            let sees = |class: ClassId| user.classes.contains(&class);
            let mut moved = moved.iter();
            moved.any(|&(before, now)| sees(before) != now.is_some_and(sees))
        };
        let others = self.users.iter().filter(|&(_, user)| is_touched(user));
        touched.extend(others.map(|(&user, _)| user));
        touched
    }

    /// A subscription from the realm's position is under way.
    pub fn is_syncing(&self) -> bool {
        self.syncing
    }

    /// Users that are no longer in the realm stop hearing it at once; their sessions
    /// are told by an event of the user's own realm.
    pub fn change_view(&mut self, change: ViewChange) {
        if self.places.is_none()
            && change.channels.is_empty()
            && !change
                .users
                .iter()
                .any(|(_, classes)| classes.as_ref().is_none_or(|classes| !classes.is_empty()))
        {
            return; // a user's own realm: it has no channels, and the user is in it
        }
        let places = self.places.get_or_insert_default();
        for (channel, class) in change.channels {
            match class {
                Some(class) => places.channels.insert(channel, class),
                None => places.channels.remove(&channel),
            };
        }
        // A role may change the view of everybody: each list is gone through once, not once
        // for each of them.
        let (mut moved, mut left) = (FxHashSet::default(), FxHashSet::default());
        let mut gone: FxHashSet<SessionSlot> = FxHashSet::default();
        for (id, classes) in &change.users {
            let Some(user) = self.users.get_mut(id) else {
                continue;
            };
            let had = std::mem::take(&mut user.classes);
            if !had.is_empty() {
                left.extend(had);
                moved.extend(user.listeners.iter().map(|listener| listener.slot));
            }
            if classes.is_none() {
                gone.extend(user.listeners.iter().map(|listener| listener.slot));
                let slots = user.listeners.drain(..).map(|listener| listener.slot);
                user.waiting.extend(slots);
            }
        }
        for class in left {
            if let Some(listeners) = places.classes.get_mut(&class) {
                listeners.retain(|listener| !moved.contains(&listener.slot));
            }
        }
        for (id, classes) in change.users {
            let (Some(user), Some(classes)) = (self.users.get_mut(&id), classes) else {
                continue;
            };
            for &class in &classes {
                let listeners = places.classes.entry(class).or_default();
                listeners.extend(&user.listeners);
            }
            user.classes = classes.into();
        }
        if !gone.is_empty() {
            self.everyone
                .retain(|listener| !gone.contains(&listener.slot));
        }
    }
}

impl Places {
    /// The channels that somebody in these classes sees, in order, but those in `without`.
    fn seen(&self, classes: &[ClassId], without: &[Id<Channel>]) -> Vec<Id<Channel>> {
        let channels = self.channels.iter();
        let mut seen: Vec<_> = channels
            .filter(|(channel, class)| classes.contains(class) && !without.contains(channel))
            .map(|(&channel, _)| channel)
            .collect();
        seen.sort_unstable();
        seen
    }

    /// A session is in these classes no longer.
    fn forget(&mut self, slot: SessionSlot, classes: &[ClassId]) {
        for class in classes {
            if let Some(listeners) = self.classes.get_mut(class) {
                listeners.retain(|listener| listener.slot != slot);
            }
        }
    }
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
