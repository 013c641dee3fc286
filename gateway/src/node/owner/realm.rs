//! One realm at its owner: its state, the edges that listen, and what each is sent.
//!
//! Pure: events go in, [`Effect`]s come out in the order in which they must be sent.

mod reach;
mod shows;
mod views;

use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use guildhall_shared::{
    Id,
    envelope::Envelope,
    gateway::EventKind,
    id::marker::{Channel, Realm as RealmMarker, User},
    shard::Position,
};

use super::{
    guild::{GuildState, Touched, Unreadable},
    holders::Holders,
    intake::Intake,
    noted::Noted,
    presence::Presences,
    snapshot,
    to_edge::EdgeId,
    view::Seen,
    watch::{Notice, Watchers},
};
use crate::{
    bus::{ClassId, Subscriber, ViewChange},
    clock,
    few::Few,
    names::SessionKey,
};

/// Newest events a realm keeps for edges that were away for a moment; older ones are
/// read from Postgres.
pub(crate) const RECENT_MAX: usize = 256;
/// How long they are kept.
pub(crate) const RECENT_AGE: Duration = Duration::from_secs(15);

/// Something to send, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// To every edge of the realm.
    Event(Arc<Envelope>),
    /// To one edge.
    EventTo(EdgeId, Arc<Envelope>),
    View(EdgeId, ViewChange),
    /// To some sessions alone.
    Notice(Notice),
}

/// The users of one edge, with the classes it believes they see.
type EdgeUsers = Few<Id<User>, Option<Seen>>;

#[derive(Debug)]
pub(crate) struct Realm {
    id: Id<RealmMarker>,
    pub(crate) intake: Intake,
    /// `None` for a user's realm, and for a guild that is gone.
    guild: Option<Box<GuildState>>,
    /// Whether everyone who subscribes belongs to it: a user's own realm.
    own: bool,
    edges: Few<EdgeId, EdgeUsers>,
    /// Edges where somebody wants to know who is online.
    curious: BTreeSet<EdgeId>,
    pub(crate) presences: Presences,
    /// Sessions that look at lists of members, if there are any.
    watchers: Option<Box<Watchers>>,
    /// Of each permission that events were for; none since that may have changed.
    holders: RefCell<Vec<Holders>>,
    /// Opened at this node; those who come from another owner soon after are known to all.
    pub(crate) opened: Instant,
    /// What Redis says of who is online.
    pub(crate) noted: Noted,
    recent: VecDeque<(Instant, Arc<Envelope>)>,
}

impl Realm {
    /// A guild's realm; without a state if the guild is gone.
    pub(crate) fn guild(
        id: Id<RealmMarker>,
        position: Position,
        guild: Option<GuildState>,
    ) -> Self {
        Self {
            id,
            intake: Intake::new(position),
            guild: guild.map(Box::new),
            own: false,
            edges: Few::default(),
            curious: BTreeSet::new(),
            presences: Presences::default(),
            watchers: None,
            holders: RefCell::default(),
            opened: clock::now(),
            noted: Noted::default(),
            recent: VecDeque::new(),
        }
    }

    /// A user's realm: it has no state but its position.
    pub(crate) fn user(id: Id<RealmMarker>, position: Position) -> Self {
        Self {
            own: true,
            ..Self::guild(id, position, None)
        }
    }

    pub(crate) fn position(&self) -> Position {
        self.intake.position()
    }

    /// `None` for a user's realm, and for a guild that is gone.
    pub(crate) fn guild_state(&self) -> Option<&GuildState> {
        self.guild.as_deref()
    }

    /// What is left of a realm that is closed.
    pub(crate) fn into_guild_state(self) -> Option<Box<GuildState>> {
        self.guild
    }

    pub(crate) fn is_own(&self) -> bool {
        self.own
    }

    pub(crate) fn has_edges(&self) -> bool {
        !self.edges.is_empty()
    }

    /// Users who listen; one with sessions on several nodes counts for each.
    pub(crate) fn subscribers(&self) -> usize {
        self.edges.values().map(|users| users.len()).sum()
    }

    pub(crate) fn edges(&self) -> impl Iterator<Item = EdgeId> {
        self.edges.keys().copied()
    }

    /// Takes the listeners of a realm that is replaced by this one, fresh from the
    /// database; returns what each has to know anew.
    pub(crate) fn take_over(&mut self, old: &mut Self) -> Vec<(EdgeId, ViewChange)> {
        self.presences = std::mem::take(&mut old.presences);
        self.curious = std::mem::take(&mut old.curious);
        self.watchers = old.watchers.take().filter(|_| self.guild.is_some());
        if let Some(watchers) = &mut self.watchers {
            watchers.renew();
        }
        self.opened = old.opened;
        self.noted = old.noted;
        old.listeners()
            .into_iter()
            .map(|(edge, users)| {
                let view = self.subscribe(edge, users);
                (edge, view)
            })
            .collect()
    }

    /// The listeners with their users.
    fn listeners(&self) -> Vec<(EdgeId, Vec<Id<User>>)> {
        self.edges
            .iter()
            .map(|(&edge, users)| (edge, users.keys().copied().collect()))
            .collect()
    }

    /// Adds an edge's users; the realm as they see it.
    pub(crate) fn subscribe(
        &mut self,
        edge: EdgeId,
        users: impl IntoIterator<Item = Id<User>>,
    ) -> ViewChange {
        let known = self.edges.or_default(edge);
        let holders = self.holders.get_mut();
        let users = users
            .into_iter()
            .map(|user| {
                if let Some(guild) = &self.guild {
                    holders.iter_mut().for_each(|some| some.add(guild, user));
                }
                let seen = match &self.guild {
                    Some(guild) => guild.seen_by(user),
                    None => (self.own && user.cast() == self.id).then(Seen::default),
                };
                let told = as_told(&seen);
                known.insert(user, seen);
                (user, told)
            })
            .collect();
        let channels = self.guild.iter().flat_map(|guild| guild.classes.told());
        let channels = channels
            .map(|&(channel, class)| (channel, Some(class)))
            .collect();
        ViewChange { channels, users }
    }

    /// Removes an edge's users, and the edge with the last of them. `moved`: another owner serves
    /// them now, and tells of them.
    pub(crate) fn unsubscribe(&mut self, edge: EdgeId, users: &[Id<User>], moved: bool) {
        if moved {
            self.presences.hand_over(edge, users);
        } else {
            self.presences.remove(edge, users);
        }
        if let Some(watchers) = &mut self.watchers {
            watchers.remove_users(edge, users);
        }
        if let Some(known) = self.edges.get_mut(&edge) {
            for user in users {
                known.remove(user);
            }
            if known.is_empty() {
                self.edges.remove(&edge);
                self.curious.remove(&edge);
            }
        }
    }

    /// An edge's link broke; true if there is something to tell of it later.
    pub(crate) fn drop_edge(&mut self, now: Instant, edge: EdgeId) -> bool {
        self.curious.remove(&edge);
        if let Some(watchers) = &mut self.watchers {
            watchers.remove_edge(edge);
        }
        let Some(users) = self.edges.remove(&edge) else {
            return false;
        };
        self.presences
            .lose(now, edge, users.keys().copied().collect());
        true
    }

    /// Whether one of these is in a guild that, as far as is known here, they are not in. Also one who
    /// asks for nothing: a session that waits for the guild, or comes back to it, leaves it by that.
    pub(crate) fn is_stranger_among(&self, subscribers: &[Subscriber]) -> bool {
        match &self.guild {
            Some(guild) => {
                let mut users = subscribers.iter().map(|subscriber| &subscriber.user);
                users.any(|user| !guild.members.contains_key(user))
            }
            None => !self.own,
        }
    }

    /// The GUILD_CREATEs that these subscribers asked for; none for those who are no members. At most
    /// one more than fits; and the sessions for which there was no room.
    pub(crate) fn portion(
        &self,
        subscribers: &[Subscriber],
        bytes_max: usize,
    ) -> (Vec<(SessionKey, Bytes)>, Vec<SessionKey>) {
        let (mut snapshots, mut left, mut bytes) = (Vec::new(), Vec::new(), 0);
        let Some(guild) = &self.guild else {
            return (snapshots, left);
        };
        for subscriber in subscribers.iter().filter(|user| !user.snapshots.is_empty()) {
            let Some(classes) = guild.seen_by(subscriber.user) else {
                continue;
            };
            for request in &subscriber.snapshots {
                if bytes >= bytes_max {
                    left.push(request.session);
                    continue;
                }
                let d = snapshot::guild_create(
                    guild,
                    &self.presences,
                    subscriber.user,
                    &classes,
                    request,
                );
                if let Some(d) = d {
                    bytes += d.len();
                    snapshots.push((request.session, d));
                }
            }
        }
        (snapshots, left)
    }

    /// All of them.
    #[cfg(test)]
    pub(crate) fn snapshots(&self, subscribers: &[Subscriber]) -> Vec<(SessionKey, Bytes)> {
        self.portion(subscribers, usize::MAX).0
    }

    /// The kept events after `after`, up to the position; `None` if they do not reach back so far.
    pub(crate) fn recent_after(&self, after: u64) -> Option<Vec<Arc<Envelope>>> {
        let lacking = self.position().seq.checked_sub(after)?;
        let lacking = usize::try_from(lacking).ok()?;
        let skipped = self.recent.len().checked_sub(lacking)?;
        Some(
            self.recent
                .iter()
                .skip(skipped)
                .map(|(_, event)| event.clone())
                .collect(),
        )
    }

    /// Forgets kept events that are too old.
    pub(crate) fn prune(&mut self, now: Instant) {
        while self
            .recent
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > RECENT_AGE)
        {
            self.recent.pop_front();
        }
    }

    /// Passes an ephemeral event on.
    pub(crate) fn pass(&self, event: &Arc<Envelope>, out: &mut Vec<Effect>) {
        out.push(Effect::Event(self.resolve(event)));
    }

    /// Takes the next event in order over and says what to send.
    ///
    /// Errors: the state cannot follow and must be read again; nothing is sent.
    pub(crate) fn apply(
        &mut self,
        now: Instant,
        event: Arc<Envelope>,
        out: &mut Vec<Effect>,
    ) -> Result<(), Unreadable> {
        let kept = self.watchers.is_some().then(|| event.clone());
        if Holders::may_change_by(event.kind) {
            self.holders.get_mut().clear();
        }
        let touched = self.follow(now, event, out)?;
        if let (Touched::Member(user), Some(guild)) = (touched, &self.guild) {
            let holders = self.holders.get_mut().iter_mut();
            holders.for_each(|some| some.add(guild, user));
        }
        if let Some(event) = kept {
            self.follow_lists(&event, touched, out);
        }
        if let Some(guild) = &mut self.guild {
            for user in guild.renamed.drain(..) {
                self.presences.rename(user);
            }
        }
        Ok(())
    }

    /// Says whose view may have changed.
    fn follow(
        &mut self,
        now: Instant,
        event: Arc<Envelope>,
        out: &mut Vec<Effect>,
    ) -> Result<Touched, Unreadable> {
        let Some(guild) = &mut self.guild else {
            self.send(now, event, out);
            return Ok(Touched::Nobody);
        };
        if !event.kind.changes_access() {
            let gone = guild.leaves(&event)?;
            guild.apply(&event)?;
            if let Some(gone) = gone {
                self.tell_of_leaving(gone, &event.vis.regardless, out);
            }
            self.send(now, event, out);
            return Ok(Touched::Nobody);
        }
        if event.kind == EventKind::GuildDelete {
            self.guild = None;
            self.send(now, event, out);
            self.review(Touched::Everybody, out);
            return Ok(Touched::Everybody);
        }
        let before = match event.kind {
            EventKind::ChannelUpdate => {
                let known = channel_of(&event).and_then(|channel| guild.channels.get(&channel));
                known.cloned()
            }
            _ => None,
        };
        let touched = guild.apply(&event)?;
        if event.kind == EventKind::ChannelDelete {
            // Still by the old view: who could see the channel must hear of its end.
            self.send(now, event, out);
            self.review(touched, out);
        } else if touched == Touched::Nobody {
            self.send(now, event, out);
        } else {
            self.change_views(now, event, before.as_ref(), touched, out);
        }
        Ok(touched)
    }

    fn send(&mut self, now: Instant, event: Arc<Envelope>, out: &mut Vec<Effect>) {
        out.push(Effect::Event(self.resolve(&event)));
        self.recent.push_back((now, event));
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
        self.prune(now);
    }
}

/// What somebody sees, as edges are told.
fn as_told(seen: &Option<Seen>) -> Option<Vec<ClassId>> {
    seen.as_deref().map(<[ClassId]>::to_vec)
}

/// The channel a CHANNEL_* event is about.
fn channel_of(event: &Envelope) -> Option<Id<Channel>> {
    matches!(
        event.kind,
        EventKind::ChannelCreate | EventKind::ChannelUpdate | EventKind::ChannelDelete
    )
    .then(|| id_of(event))
    .flatten()
}

/// The channel or thread whose id an event has.
fn id_of(event: &Envelope) -> Option<Id<Channel>> {
    #[derive(serde::Deserialize)]
    struct Body {
        id: Id<Channel>,
    }
    let body: Body = serde_json::from_slice(&event.body).ok()?;
    Some(body.id)
}
