//! What may happen when, and what must hold.

use stateright::{Model, Property};

use super::*;

impl Model for Resume {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut nodes = [Node::EMPTY, Node::EMPTY, Node::EMPTY];
        nodes[0].copy = Some(Held {
            generation: 1,
            base: 0,
            start: [0; REALMS],
            items: Vec::new(),
            at: [0; REALMS],
            shipped: None,
            written: 0,
            resumes: 0,
            doubted: false,
            how: How::Identified,
        });
        let record = Some(Record::HOME);
        let mut state = State {
            heads: [0; REALMS],
            ephemeral_left: self.ephemeral,
            faults: self.faults,
            life: 0,
            nodes,
            record,
            record_before: record,
            fence: None,
            logs: Vec::new(),
            ended: Vec::new(),
            client: Client {
                place: Place::Live(0),
                got: Vec::new(),
                jumped: false,
            },
            highest: 1,
            reused: false,
        };
        if self.ship == Ship::Sync {
            state.ship(0, self);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.client.place == Place::Invalid {
            return; // another session begins
        }
        let realms = (0..REALMS).filter(|realm| state.heads[*realm] < self.events[*realm]);
        actions.extend(realms.map(Action::Commit));
        for (at, node) in state.nodes.iter().enumerate().take(self.nodes) {
            match node.standing {
                Standing::Up => {}
                Standing::Down => {
                    actions.push(Action::Start(at));
                    continue;
                }
                Standing::Frozen => {
                    actions.push(Action::Thaw(at));
                    continue;
                }
            }
            if let Some(copy) = &node.copy {
                let behind = (0..REALMS).filter(|realm| copy.at[*realm] < state.heads[*realm]);
                actions.extend(behind.map(|realm| Action::Dispatch(at, realm)));
                if state.ephemeral_left > 0 {
                    actions.push(Action::Ephemeral(at));
                }
                if !copy.doubted && copy.shipped != Some(copy.last()) {
                    actions.push(Action::Ship(at));
                }
                if copy.doubted && state.client.place == Place::Live(at) {
                    actions.push(Action::Prove(at));
                }
                actions.push(Action::Renew(at));
            }
            if node.life != state.life {
                actions.push(Action::Look(at));
            }
            if let Some(resuming) = &node.resuming {
                actions.push(match resuming.step {
                    Step::Ask { .. } => Action::Ask(at),
                    Step::Raise { .. } => Action::Raise(at),
                });
            }
            if state.client.place == Place::Away {
                actions.push(Action::Resume(at));
            }
            if state.faults.kills > 0 {
                actions.push(Action::Kill(at));
            }
            if state.faults.freezes > 0 {
                actions.push(Action::Freeze(at));
            }
        }
        if self.may_receive(state) {
            actions.push(Action::Receive);
        }
        if let Place::Live(node) | Place::Asking(node) = state.client.place
            && (state.faults.breaks > 0 || !self.up(state, node))
        {
            actions.push(Action::Break);
        }
        if state.faults.losses > 0 && state.record.is_some() {
            actions.push(Action::Lose);
        }
        if state.faults.flushes > 0 {
            actions.push(Action::Flush);
        }
        if state.faults.rewinds > 0 && state.record != state.record_before {
            actions.push(Action::Rewind);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Commit(realm) => state.heads[realm] += 1,
            Action::Dispatch(node, realm) => {
                let copy = state.nodes[node].copy.as_mut()?;
                copy.at[realm] += 1;
                let seq = copy.at[realm];
                if realm != 0 || seq != HIDDEN {
                    copy.items.push(Item::Durable(realm, seq));
                }
            }
            Action::Ephemeral(node) => {
                state.ephemeral_left -= 1;
                let copy = state.nodes[node].copy.as_mut()?;
                copy.items.push(Item::Ephemeral);
            }
            Action::Ship(node) => state.ship(node, self),
            Action::Receive => self.receive(&mut state)?,
            Action::Break => {
                if let Place::Live(node) | Place::Asking(node) = state.client.place
                    && self.up(&state, node)
                {
                    state.faults.breaks -= 1;
                }
                state.client.place = Place::Away;
            }
            Action::Kill(node) => {
                state.faults.kills -= 1;
                state.stop(node);
                state.nodes[node].standing = Standing::Down;
            }
            Action::Start(node) => {
                state.nodes[node] = Node {
                    life: state.life,
                    ..Node::EMPTY
                };
            }
            Action::Freeze(node) => {
                state.faults.freezes -= 1;
                state.nodes[node].standing = Standing::Frozen;
            }
            Action::Thaw(node) => state.nodes[node].standing = Standing::Up,
            Action::Look(node) => self.look(&mut state, node),
            Action::Prove(node) => state.nodes[node].copy.as_mut()?.doubted = false,
            Action::Resume(node) => {
                state.client.place = Place::Asking(node);
                state.nodes[node].resuming = None;
                let s = state.client.got.len() as u8;
                self.resume(&mut state, node, s);
            }
            Action::Ask(node) => {
                let resuming = state.nodes[node].resuming.take()?;
                if let Step::Ask { from, seen } = resuming.step {
                    self.ask(&mut state, node, resuming.s, from, seen);
                }
            }
            Action::Raise(node) => {
                let resuming = state.nodes[node].resuming.take()?;
                self.raise(&mut state, node, resuming);
            }
            Action::Renew(node) => self.renew(&mut state, node),
            Action::Lose => {
                state.faults.losses -= 1;
                state.record = None;
                self.end_attempts(&mut state);
            }
            Action::Flush => {
                state.faults.flushes -= 1;
                state.life += 1;
                (state.record, state.record_before) = (None, None);
                state.logs.clear();
                state.ended.clear();
                self.end_attempts(&mut state);
            }
            Action::Rewind => {
                state.faults.rewinds -= 1;
                state.life += 1;
                state.record = state.record_before;
                self.end_attempts(&mut state);
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(
                "I4: exactly once and in order",
                |model: &Self, state: &State| {
                    (0..REALMS).all(|realm| is_whole(model, state, realm))
                },
            ),
            Property::always("I5: s grows by one", |_, state: &State| {
                !state.client.jumped
            }),
            Property::sometimes("resumed by a move", |_, state: &State| {
                is_live(state, How::Moved)
            }),
            Property::sometimes("resumed from a log", |_, state: &State| {
                is_live(state, How::Counted)
            }),
            Property::sometimes("all arrives", |model: &Self, state: &State| {
                let all = model.events[0] - u8::from(model.events[0] >= HIDDEN) + model.events[1];
                let durable = |item: &&Item| **item != Item::Ephemeral;
                state.client.got.iter().filter(durable).count() == usize::from(all)
            }),
        ];
        if self.faults.rewinds + self.faults.losses == 0 {
            properties.push(Property::always(
                "I13: a generation is given once",
                |_, state: &State| !state.reused,
            ));
        }
        match self.ship {
            Ship::Async => properties.push(Property::sometimes("op 9", |_, state: &State| {
                state.client.place == Place::Invalid
            })),
            Ship::Sync if self.faults.flushes + self.faults.rewinds == 0 => {
                properties.push(Property::always("no op 9", |_, state: &State| {
                    state.client.place != Place::Invalid
                }));
            }
            Ship::Sync => {}
        }
        properties
    }
}

fn is_live(state: &State, how: How) -> bool {
    match state.client.place {
        Place::Live(node) => {
            let copy = state.nodes[node].copy.as_ref();
            copy.is_some_and(|copy| {
                copy.how == how && usize::from(copy.base) < state.client.got.len()
            })
        }
        _ => false,
    }
}

/// The client has the first events of the realm that are for it, in their order.
fn is_whole(model: &Resume, state: &State, realm: usize) -> bool {
    let got = state.client.got.iter().filter_map(|item| match *item {
        Item::Durable(of, seq) if of == realm => Some(seq),
        _ => None,
    });
    let all = (1..=model.events[realm]).filter(|seq| realm != 0 || *seq != HIDDEN);
    got.zip(all.chain(std::iter::repeat(0)))
        .all(|(got, due)| got == due)
}
