//! What may happen when, and what must hold.

use stateright::{Model, Property};

use super::steps::bit;
use super::*;

impl Model for Delivery {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let session = |state| Session {
            state,
            fate: vec![Fate::Open; self.events],
            disordered: false,
        };
        let edge = Edge {
            serving: None,
            pending: None,
            live: false,
            have: 0,
            sees: true,
            links: [None, None],
            apart: Vec::new(),
            sessions: [session(Joined::After(0)), session(Joined::No)],
        };
        vec![State {
            log: Vec::new(),
            published: 0,
            owners: [Some(Owner::default()), Some(Owner::default())],
            edges: vec![edge; self.edges],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.log.len() < self.events {
            actions.push(Action::Commit(Kind::Message));
            actions.push(Action::Commit(match state.sees_at(state.head()) {
                true => Kind::Revoke,
                false => Kind::Grant,
            }));
        }
        for seq in 1..=state.head() {
            if state.published & bit(seq) == 0 {
                actions.push(Action::Publish(seq));
            }
        }
        for owner in 0..OWNERS {
            let Some(up) = &state.owners[owner] else {
                actions.push(Action::Start(owner));
                continue;
            };
            actions.push(Action::Crash(owner));
            let Some(have) = up.have else { continue };
            let news = (have + 1..=state.head()).filter(|seq| up.early & bit(*seq) == 0);
            let heard = news.filter(|seq| state.published & bit(*seq) != 0);
            actions.extend(heard.map(|seq| Action::Hear(owner, seq)));
            if have < state.head() && self.without != Without::GapFetch {
                actions.push(Action::Fetch(owner));
            }
        }
        for (at, edge) in state.edges.iter().enumerate() {
            if edge.pending.is_none() {
                actions.extend((0..OWNERS).map(|owner| Action::Turn(at, owner)));
            } else {
                actions.push(Action::GiveUp(at));
            }
            if edge.pending.as_ref().is_some_and(|one| !one.answered) {
                actions.push(Action::Answer(at));
            }
            for (owner, link) in edge.links.iter().enumerate() {
                match link.as_ref().and_then(|link| link.first()) {
                    Some(Word::Answer { .. }) => actions.push(Action::Pass(at, owner)),
                    Some(_) => {
                        actions.push(Action::Pass(at, owner));
                        if edge.serving == Some(owner) && edge.live {
                            actions.push(Action::Overflow(at, owner));
                        }
                    }
                    None => {}
                }
            }
            if !edge.apart.is_empty() {
                actions.push(Action::PassApart(at));
            }
            if edge.sessions[1].state == Joined::No && edge.serving.is_some() {
                actions.push(Action::Join(at));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.step(&mut state, &action)?;
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("I3: each once and in order", |_, state: &State| {
                all_sessions(state, |_, session| !session.disordered)
            }),
            Property::always("I3, I6: none is missing, none is too much", exact),
            Property::always("I7: a revocation holds from its number on", revoked),
            Property::always("I8: whatever went wrong heals", Delivery::heals),
            Property::sometimes(
                "all arrives on every edge",
                |model: &Self, state: &State| {
                    state.head() as usize == model.events
                        && state.edges.iter().all(|edge| edge.have == state.head())
                },
            ),
            Property::sometimes("a newcomer gets events", |_, state: &State| {
                let got = |fate: &Fate| matches!(fate, Fate::Got(_));
                let mut newcomers = state.edges.iter().map(|edge| &edge.sessions[1]);
                newcomers.any(|session| session.fate.iter().any(got))
            }),
            Property::sometimes("two owners serve one realm", |_, state: &State| {
                (0..OWNERS).all(|owner| state.have(owner).is_some_and(|have| have > 0))
            }),
        ]
    }
}

fn all_sessions(state: &State, holds: impl Fn(&Edge, &Session) -> bool) -> bool {
    let of_edge = |edge: &Edge| edge.sessions.iter().all(|session| holds(edge, session));
    state.edges.iter().all(of_edge)
}

/// What a session got is what its filter admitted, at the event or at the end of its replay.
fn exact(_: &Delivery, state: &State) -> bool {
    all_sessions(state, |edge, session| {
        let Joined::After(after) = session.state else {
            return session.fate.iter().all(|fate| *fate == Fate::Open);
        };
        (1..=state.head()).all(|seq| {
            let admitted = |decided| state.kind(seq) != Kind::Message || state.sees_at(decided);
            match session.fate[usize::from(seq) - 1] {
                Fate::Open => seq <= after || seq > edge.have,
                Fate::Got(decided) => seq > after && admitted(decided),
                Fate::PassedOver(decided) => seq > after && !admitted(decided),
            }
        })
    })
}

/// No message after a revocation, unless the user had been let in again when it was replayed.
fn revoked(_: &Delivery, state: &State) -> bool {
    all_sessions(state, |_, session| {
        (1..=state.head()).all(|seq| match session.fate[usize::from(seq) - 1] {
            Fate::Got(decided) if state.kind(seq) == Kind::Message && !state.sees_at(seq) => {
                let since = &state.log[usize::from(seq)..usize::from(decided)];
                since.contains(&Kind::Grant)
            }
            _ => true,
        })
    })
}
