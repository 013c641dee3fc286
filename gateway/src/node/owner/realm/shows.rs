//! What users of a realm show, and the lists of members that sessions look at.

use std::{sync::Arc, time::Instant};

use guildhall_shared::{
    Id,
    envelope::{Durability, Envelope, Visibility},
    gateway::{EventKind, Intents},
    id::marker::User,
    model::{PresenceUser, SessionState},
};

use super::{EdgeId, Effect, Realm};
use crate::{
    ask::WatchChange,
    bus::PresenceChange,
    node::{
        owner::{
            guild::Touched,
            presence::{SETTLE, Told},
        },
        relay::frame::Sub,
    },
};

impl Realm {
    /// What the users of a subscription show, once they are subscribed.
    pub(crate) fn show(&mut self, now: Instant, edge: EdgeId, sub: &mut Sub) {
        if sub.presences {
            self.curious.insert(edge);
        }
        let settling = now.duration_since(self.opened) < SETTLE;
        for user in &mut sub.users {
            let belongs = match &self.guild {
                Some(guild) => guild.members.contains_key(&user.user),
                None => self.own,
            };
            if !belongs {
                continue;
            }
            let quiet = settling && user.snapshots.is_empty() && !self.own;
            let presence = std::mem::take(&mut user.presence);
            self.presences.set(edge, user.user, presence, quiet);
            if self.own {
                let sessions = std::mem::take(&mut user.sessions);
                self.presences.set_sessions(edge, sessions);
            }
        }
    }

    /// What a user of an edge shows from now on.
    pub(crate) fn show_change(&mut self, edge: EdgeId, change: &PresenceChange) {
        let known = self.edges.get(&edge);
        if known.is_some_and(|users| users.contains_key(&change.user)) {
            let presence = change.presence.clone();
            self.presences.set(edge, change.user, presence, false);
            if self.own {
                self.presences.set_sessions(edge, change.sessions.clone());
            }
        }
    }

    /// Tells edges that want to know of users that show something else, and a person's
    /// clients of their sessions; returns those users. `has_room`: an edge takes more now.
    pub(crate) fn tell_presences(
        &mut self,
        now: Instant,
        has_room: &impl Fn(EdgeId) -> bool,
        out: &mut Vec<Effect>,
    ) -> Vec<Told> {
        let told = self.presences.flush(now);
        if let Some(guild) = &self.guild {
            for told in told.iter().filter(|_| !self.curious.is_empty()) {
                let Some(member) = guild.members.get(&told.user) else {
                    continue;
                };
                let user = match &member.user {
                    Some(user) if told.renamed => PresenceUser::Whole(user),
                    _ => PresenceUser::Id { id: told.user },
                };
                let view = told.now.view(user, Some(guild.guild.id));
                let vis = Visibility {
                    except: vec![told.user],
                    ..Visibility::realm(Intents::GUILD_PRESENCES)
                };
                if let Some(event) = self.ephemeral(EventKind::PresenceUpdate, vis, &view) {
                    let to = |&edge: &EdgeId| Effect::EventTo(edge, event.clone());
                    out.extend(self.curious.iter().map(to));
                }
            }
        }
        if let (Some(watchers), Some(guild)) = (&mut self.watchers, &self.guild) {
            let mut notices = Vec::new();
            watchers.flush(guild, &self.presences, &told, has_room, &mut notices);
            out.extend(notices.into_iter().map(Effect::Notice));
        }
        if self.presences.take_sessions_changed() && self.presences.is_person() {
            let sessions = SessionState::views(self.presences.sessions());
            let vis = Visibility::realm(Intents::empty());
            let event = self.ephemeral(EventKind::SessionsReplace, vis, &sessions);
            out.extend(event.map(Effect::Event));
        }
        told
    }

    /// A session of an edge looks at something else, which it is shown by
    /// [`answer_watches`](Self::answer_watches); nothing if its user is not on the edge.
    pub(crate) fn watch(&mut self, edge: EdgeId, change: WatchChange) {
        let Some(guild) = &self.guild else { return };
        let known = self.edges.get(&edge);
        let known = known.is_some_and(|users| users.contains_key(&change.user));
        let watch = change.watch.filter(|_| known);
        if watch.is_none() && self.watchers.is_none() {
            return;
        }
        let watchers = self.watchers.get_or_insert_default();
        watchers.set(guild, (edge, change.from), change.user, watch);
        if watchers.is_empty() {
            self.watchers = None;
        }
    }

    /// Shows sessions what they look at: as many as are shown it in one go.
    pub(crate) fn answer_watches(
        &mut self,
        has_room: &impl Fn(EdgeId) -> bool,
        out: &mut Vec<Effect>,
    ) {
        if let (Some(watchers), Some(guild)) = (&mut self.watchers, &self.guild) {
            let mut notices = Vec::new();
            watchers.answer(guild, &self.presences, has_room, &mut notices);
            out.extend(notices.into_iter().map(Effect::Notice));
        }
    }

    /// Whether sessions wait to be shown what they look at, on edges that take more now.
    pub(crate) fn is_asked(&self, has_room: impl Fn(EdgeId) -> bool) -> bool {
        let watchers = self.watchers.as_ref();
        watchers.is_some_and(|watchers| watchers.is_asked(has_room))
    }

    /// Whether there are presences or rows of lists to tell of, now or later.
    pub(crate) fn is_due(&self) -> bool {
        let watchers = self.watchers.as_ref();
        self.presences.is_due() || watchers.is_some_and(|watchers| watchers.is_due())
    }

    /// An event was applied: whoever looks at lists of members may have to be told.
    pub(super) fn follow_lists(
        &mut self,
        event: &Envelope,
        touched: Touched,
        out: &mut Vec<Effect>,
    ) {
        let Some(watchers) = &mut self.watchers else {
            return;
        };
        let Some(guild) = &self.guild else {
            self.watchers = None;
            return;
        };
        match event.kind {
            EventKind::GuildMemberAdd
            | EventKind::GuildMemberUpdate
            | EventKind::GuildMemberRemove => {
                let Some(user) = user_of(event) else { return };
                watchers.applied(guild, Touched::Member(user));
                // That somebody comes is told to no person but themselves.
                if event.kind != EventKind::GuildMemberAdd {
                    let mut notices = Vec::new();
                    watchers.tell_followers(user, event.kind, &event.body, &mut notices);
                    out.extend(notices.into_iter().map(Effect::Notice));
                }
            }
            EventKind::GuildUpdate
            | EventKind::ChannelUpdate
            | EventKind::ChannelDelete
            | EventKind::GuildRoleCreate
            | EventKind::GuildRoleUpdate => watchers.applied(guild, touched),
            EventKind::GuildRoleDelete => watchers.renew(),
            _ => {}
        }
    }

    /// An event of this realm that is not numbered.
    fn ephemeral(
        &self,
        kind: EventKind,
        vis: Visibility,
        d: &impl serde::Serialize,
    ) -> Option<Arc<Envelope>> {
        let body = serde_json::to_vec(d).ok()?.into();
        Some(Arc::new(Envelope {
            realm: self.id,
            durability: Durability::Ephemeral,
            kind,
            vis,
            at_ms: 0,
            trace: 0,
            body,
            alt: None,
        }))
    }
}

/// The user a GUILD_MEMBER_* event is about.
fn user_of(event: &Envelope) -> Option<Id<User>> {
    #[derive(serde::Deserialize)]
    struct Body {
        user: OfUser,
    }
    #[derive(serde::Deserialize)]
    struct OfUser {
        id: Id<User>,
    }
    let body: Body = serde_json::from_slice(&event.body).ok()?;
    Some(body.user.id)
}
