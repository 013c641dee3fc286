//! What owners say, passed on to the cores that want it.

use std::{sync::Arc, time::Duration};

use guildhall_shared::{Id, envelope::Envelope, id::marker::Realm};

use super::{
    Edge, State,
    message::{Message, Outgoing, Server},
    subs::{CoreSub, Pending},
};
use crate::{
    ask::WatchChange,
    broken::{self, Broken},
    bus::{Subscribed, ToCore, ViewChange},
    clock,
    names::CoreId,
    node::{
        owner::FromOwner,
        relay::frame::{SubOk, Tell},
    },
};

/// Pause before another owner is asked after one refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);

impl Edge {
    /// What an owner says.
    pub(crate) fn receive(&self, server: &Server, message: FromOwner) {
        match message {
            FromOwner::Event(event) => self.event(server, &event),
            FromOwner::Events(events) => {
                for event in &events {
                    self.event(server, event);
                }
            }
            FromOwner::View { realm, change } => self.view(server, realm, &change),
            FromOwner::Tell(tell) => self.tell(*tell),
            FromOwner::TellAll { to, kind, body } => {
                for to in to {
                    let dispatches = vec![(kind, body.clone())];
                    self.tell(Tell {
                        to,
                        answers: None,
                        dispatches,
                    });
                }
            }
            FromOwner::SubOk(ok) => self.answered(server, *ok),
            FromOwner::Refused { id, .. } => {
                if let Some(pending) = self.state.borrow_mut().pending.get_mut(&id) {
                    pending.until = clock::now() + REFUSED_PAUSE;
                }
            }
        }
    }

    /// What an owner tells one session. A core without room loses it, and asks again.
    fn tell(&self, tell: Tell) {
        let Tell {
            to,
            answers,
            dispatches,
        } = tell;
        let session = to.session;
        if let Some(core) = self.cores.get(usize::from(to.core))
            && core
                .send(ToCore::Tell {
                    session,
                    answers,
                    dispatches,
                })
                .is_err()
        {
            self.metrics.inbox_full.inc();
        }
    }

    fn event(&self, server: &Server, event: &Arc<Envelope>) {
        let mut state = self.state.borrow_mut();
        let Some(entry) = state.realms.get_mut(&event.realm) else {
            return;
        };
        if entry.serving.as_ref() != Some(server) {
            return;
        }
        let at = event.position();
        for sub in entry.cores.iter_mut().filter(|sub| sub.live) {
            if at.is_some_and(|at| Some(at) <= sub.position) && !broken::is(Broken::Repeats) {
                continue;
            }
            if self.give(sub, ToCore::Event(event.clone())) && at.is_some() {
                sub.position = at;
            }
        }
    }

    fn view(&self, server: &Server, realm: Id<Realm>, change: &ViewChange) {
        let mut state = self.state.borrow_mut();
        let Some(entry) = state.realms.get_mut(&realm) else {
            return;
        };
        if entry.serving.as_ref() != Some(server) {
            return;
        }
        for sub in entry.cores.iter_mut().filter(|sub| sub.live) {
            let change = sub.own_part(change);
            if !change.channels.is_empty() || !change.users.is_empty() {
                self.give(sub, ToCore::View { realm, change });
            }
        }
    }

    fn answered(&self, server: &Server, ok: SubOk) {
        let mut out = Outgoing::new();
        {
            let mut state = self.state.borrow_mut();
            if ok.id == 0 {
                self.read_again(&mut state, server, &ok);
            } else if let Some(pending) = state.pending.remove(&ok.id) {
                self.subscribed(&mut state, server, pending, ok, &mut out);
            }
        }
        self.send(out);
    }

    /// The owner had to read a realm anew: everyone who listens starts from there.
    fn read_again(&self, state: &mut State, server: &Server, ok: &SubOk) {
        let Some(entry) = state.realms.get_mut(&ok.realm) else {
            return;
        };
        if entry.serving.as_ref() != Some(server) {
            return;
        }
        for sub in entry.cores.iter_mut().filter(|sub| sub.live) {
            let subscribed = Subscribed {
                realm: ok.realm,
                position: ok.position,
                view: sub.own_part(&ok.view),
                complete: true,
                replay: Vec::new(),
                lost: ok.lost,
                snapshots: Vec::new(),
            };
            if self.give(sub, ToCore::Subscribed(Box::new(subscribed))) {
                sub.position = Some(ok.position);
            }
        }
    }

    fn subscribed(
        &self,
        state: &mut State,
        server: &Server,
        pending: Pending,
        ok: SubOk,
        out: &mut Outgoing,
    ) {
        let realm = pending.realm;
        let best = self.candidate(realm, 0);
        let Some(entry) = state.realms.get_mut(&realm) else {
            return;
        };
        let serves = entry.serving.as_ref() == Some(server);
        if !pending.complete
            && let Some(sub) = entry.cores.iter_mut().find(|sub| sub.core == pending.core)
            && (!serves || !sub.live || ok.lost.is_some())
        {
            // What was told of the other users meanwhile may not have reached the core: all of
            // them are asked for.
            sub.pending = None;
            sub.live = false;
            sub.queue(pending.ask);
            if entry.is_left(server, &state.pending) {
                out.push((server.clone(), entry.moved(realm)));
            }
            return self.next(state, realm, pending.core, out);
        }
        // An answer from before the realm moved to its owner: asked again there, unless that has
        // failed with it.
        let has_failed = pending.tries.failed.as_ref() == Some(&best);
        let is_late = entry
            .serving
            .as_ref()
            .is_some_and(|now| now != server && *now == best && !has_failed);
        // Its core was given more by another owner since than the answer holds.
        let has_more = ok.lost.is_none()
            && entry
                .cores
                .iter()
                .any(|sub| sub.core == pending.core && Some(ok.position) < sub.position);
        // Asked from further back, the owner does not know how far it has to be: it is given time.
        let is_behind = has_more && pending.ask.from.is_some();
        let is_old = has_more && !ok.snapshots.is_empty();
        if is_late || is_behind || is_old {
            if entry.is_left(server, &state.pending) {
                out.push((server.clone(), entry.moved(realm)));
            }
            if let Some(sub) = entry.cores.iter_mut().find(|sub| sub.core == pending.core) {
                sub.pending = None;
                // Counted on: an owner that fails each time would be asked without end.
                sub.tries = pending.tries;
                sub.queue(pending.ask);
            }
            if is_behind && !is_late {
                return self.fell_behind();
            }
            return self.next(state, realm, pending.core, out);
        }
        if entry.serving.as_ref() != Some(server) {
            if *server == best {
                self.moving.done(realm);
            }
            if let Some(old) = entry.serving.replace(server.clone())
                && entry.is_left(&old, &state.pending)
            {
                out.push((old, entry.moved(realm)));
            }
            // From here on only the new owner's word counts, which the other cores have not
            // heard yet: they get nothing until it has answered them too.
            for sub in entry.cores.iter_mut().filter(|sub| sub.live) {
                if sub.core != pending.core {
                    sub.live = false;
                    if sub.pending.is_none() {
                        sub.catch_up();
                    }
                }
            }
        }
        if let Some(sub) = entry.cores.iter_mut().find(|sub| sub.core == pending.core) {
            if !serves || !sub.live {
                // Whom it has subscribed there by now, and nobody of other cores.
                let watches = state.watches.get(&realm).into_iter().flatten();
                let of_core = watches.filter(|(from, _)| from.core == pending.core);
                for (&from, (user, watch)) in of_core {
                    let change = WatchChange {
                        guild: realm.cast(),
                        from,
                        user: *user,
                        watch: Some(watch.clone()),
                    };
                    out.push((server.clone(), Message::Watch(Box::new(change))));
                }
            }
            sub.pending = None;
            let mut replay = ok.replay;
            let mut position = ok.position;
            if pending.ask.from.is_none() && ok.lost.is_none() {
                replay.retain(|event| event.position() > sub.position);
                position = sub.position.map_or(position, |had| had.max(position));
            }
            // Who has left since, and perhaps come again, is asked for anew: this is of before. A
            // snapshot without a view would let its session hear no channel.
            let (mut view, mut snapshots) = (ok.view, ok.snapshots);
            view.users
                .retain(|(user, _)| pending.named.binary_search(user).is_ok());
            let asked = &pending.ask.snapshots;
            snapshots.retain(|(session, _)| asked.iter().any(|(_, of)| of.session == *session));
            let subscribed = Subscribed {
                realm,
                position,
                view,
                complete: pending.complete,
                replay,
                lost: ok.lost,
                snapshots,
            };
            sub.live = true;
            if self.give(sub, ToCore::Subscribed(Box::new(subscribed))) {
                sub.position = Some(position);
                let asked = pending.ask.snapshots.into_iter();
                let left = asked.filter(|(_, request)| ok.left.contains(&request.session));
                sub.queue_first(left.collect());
            } else {
                // Asked for again, snapshots and all, when there is room.
                sub.queue(pending.ask);
            }
        }
        let cores: Vec<CoreId> = entry.cores.iter().map(|sub| sub.core).collect();
        for core in cores {
            self.next(state, realm, core, out);
        }
    }

    /// Puts a message into a core's inbox. A core that has no room gets nothing more of this
    /// realm until it has subscribed again from what it got.
    pub(super) fn give(&self, sub: &mut CoreSub, message: ToCore) -> bool {
        let Some(core) = self.cores.get(usize::from(sub.core)) else {
            return false;
        };
        if core.send(message).is_ok() {
            return true;
        }
        self.metrics.inbox_full.inc();
        self.fell_behind();
        sub.live = false;
        sub.stalled = true;
        sub.catch_up();
        false
    }
}
