//! What happens to the session, step by step.

use super::*;

impl Held {
    pub(super) fn last(&self) -> u8 {
        self.base + self.items.len() as u8
    }

    pub(super) fn holder(&self, node: usize) -> Holder {
        Holder {
            node,
            generation: self.generation,
        }
    }

    pub(super) fn holds(&self, s: u8) -> bool {
        (self.base..=self.last()).contains(&s)
    }
}

impl Node {
    pub(super) const EMPTY: Self = Self {
        standing: Standing::Up,
        life: 0,
        copy: None,
        resuming: None,
    };
}

fn resumes(record: Option<Record>) -> u8 {
    record.map_or(0, |record| record.resumes)
}

/// Positions after these dispatches.
fn positions(start: [u8; REALMS], items: &[Item]) -> [u8; REALMS] {
    let mut at = start;
    for item in items {
        if let Item::Durable(realm, seq) = *item {
            at[realm] = seq;
        }
    }
    at
}

impl State {
    pub(super) fn close_copy(&mut self, node: usize) {
        self.nodes[node].copy = None;
        if self.client.place == Place::Live(node) {
            self.client.place = Place::Away;
        }
    }

    pub(super) fn stop(&mut self, node: usize) {
        self.close_copy(node);
        self.hang_up(node);
    }

    pub(super) fn refuse(&mut self, node: usize) {
        self.nodes[node].resuming = None;
        if self.client.place == Place::Asking(node) {
            self.client.place = Place::Invalid;
        }
    }

    /// The client that waits at a node, if it still does, is sent away, to come again.
    pub(super) fn hang_up(&mut self, node: usize) {
        self.nodes[node].resuming = None;
        if self.client.place == Place::Asking(node) {
            self.client.place = Place::Away;
        }
    }

    /// The client that waits at a node, if it still does, goes on after `s`.
    pub(super) fn attach(&mut self, node: usize, s: u8) {
        self.nodes[node].resuming = None;
        if self.client.place == Place::Asking(node) {
            self.client.place = Place::Live(node);
        }
        if let Some(copy) = &mut self.nodes[node].copy {
            copy.written = s;
        }
    }

    pub(super) fn set_record(&mut self, record: Record) {
        self.record_before = self.record;
        self.record = Some(record);
    }

    pub(super) fn ship(&mut self, node: usize, model: &Resume) {
        let life = self.nodes[node].life;
        let Some(copy) = &mut self.nodes[node].copy else {
            return;
        };
        copy.shipped = Some(copy.last());
        let of = copy.holder(node);
        let mut items = copy.items.clone();
        if model.without == Without::EphemeralRecords {
            items.retain(|item| *item != Item::Ephemeral);
        }
        let log = Log {
            of,
            life,
            base: copy.base,
            start: copy.start,
            items,
        };
        if self.ended.contains(&of) {
            return; // what a copy says that went on elsewhere counts no longer
        }
        self.logs.retain(|log| log.of != of);
        self.logs.push(log);
        self.logs
            .sort_by_key(|log| (log.of.node, log.of.generation));
    }
}

impl Resume {
    pub(super) fn up(&self, state: &State, node: usize) -> bool {
        state.nodes[node].standing == Standing::Up
    }

    /// What Redis loses ends what it finds under way: no attempt is compared with a record that
    /// is again what it was, nor brings a copy of before.
    pub(super) fn end_attempts(&self, state: &mut State) {
        if self.without != Without::EndOfAttempts {
            (0..NODES).for_each(|node| state.hang_up(node));
        }
    }

    /// A node sees which life Redis is in. If it is another one, its copy is in doubt, and its
    /// log begins anew.
    pub(super) fn look(&self, state: &mut State, node: usize) {
        let life = state.life;
        let node = &mut state.nodes[node];
        if node.life == life {
            return;
        }
        node.life = life;
        if let Some(copy) = &mut node.copy {
            copy.shipped = None;
            copy.doubted = self.without != Without::DoubtOfCopies;
        }
    }

    /// As it does before its copy is resumed or handed over.
    fn look_first(&self, state: &mut State, node: usize) {
        if self.without != Without::Look {
            self.look(state, node);
        }
    }

    /// What a record says, also if there is none.
    fn said(&self, record: Option<Record>) -> Option<Record> {
        match self.absent {
            Absent::Unknown => record,
            Absent::AtHome => record.or(Some(Record::HOME)),
        }
    }

    /// A client asks a node to go on after `s`. The record is read at once; a node that has the
    /// session looks which life Redis is in and counts the RESUME in the same step.
    pub(super) fn resume(&self, state: &mut State, node: usize, s: u8) {
        match &state.nodes[node].copy {
            Some(copy) if copy.doubted => return state.refuse(node),
            Some(_) => self.look_first(state, node),
            None => {}
        }
        let seen = state.record;
        let said = match self.said(seen) {
            Some(said) => said.holder,
            None if self.without == Without::OwnCheck => Record::HOME.holder,
            None => return state.refuse(node),
        };
        let fence = state.fence.filter(|_| self.fence == Fence::Postgres);
        let from = match fence {
            Some(fence) if fence.generation > said.generation => fence,
            _ => said,
        };
        if let Some(copy) = &mut state.nodes[node].copy {
            let own = copy.holder(node);
            // A record that is older than the copy was rewound.
            let is_newest = from == own || from.generation < own.generation;
            if is_newest || self.without == Without::OwnCheck {
                if copy.doubted || !copy.holds(s) {
                    return state.refuse(node);
                }
                if self.without != Without::OwnRaise {
                    copy.resumes = copy.resumes.max(resumes(seen)) + 1;
                    let resumes = copy.resumes;
                    state.set_record(Record {
                        holder: own,
                        resumes,
                    });
                }
                return state.attach(node, s);
            }
            state.close_copy(node);
        }
        state.nodes[node].resuming = Some(Resuming {
            s,
            step: Step::Ask { from, seen },
        });
    }

    /// The session from whoever has it, or from the log it left.
    pub(super) fn ask(
        &self,
        state: &mut State,
        node: usize,
        s: u8,
        from: Holder,
        seen: Option<Record>,
    ) {
        if self.up(state, from.node) {
            self.look_first(state, from.node);
        }
        let holder = &state.nodes[from.node];
        let held = holder
            .copy
            .as_ref()
            .filter(|copy| holder.standing == Standing::Up && copy.generation == from.generation);
        let copy = match held {
            Some(held) if held.doubted || !held.holds(s) => return state.refuse(node),
            Some(held) => {
                let done = usize::from(s - held.base);
                let copy = Held {
                    base: s,
                    start: positions(held.start, &held.items[..done]),
                    items: held.items[done..].to_vec(),
                    shipped: None,
                    written: s,
                    how: How::Moved,
                    ..held.clone()
                };
                state.close_copy(from.node);
                Some(copy)
            }
            None => self.count(state, s, from),
        };
        let Some(copy) = copy else {
            return state.refuse(node);
        };
        state.nodes[node].resuming = Some(Resuming {
            s,
            step: Step::Raise { from, seen, copy },
        });
    }

    pub(super) fn count(&self, state: &State, s: u8, from: Holder) -> Option<Held> {
        let any_life = self.without == Without::LifeOfLogs;
        let logs = state.logs.iter();
        let mut logs = logs.filter(|log| any_life || log.life == state.life);
        let log = match self.without {
            Without::LogGeneration => logs.max_by_key(|log| log.of.generation),
            _ => logs.find(|log| log.of == from),
        }?;
        let mut done = usize::from(s.checked_sub(log.base)?);
        if done > log.items.len() {
            if self.without != Without::Ahead {
                return None;
            }
            done = log.items.len();
        }
        let at = positions(log.start, &log.items[..done]);
        let base = match self.without {
            Without::ClientsNumber => log.base + log.items.len() as u8,
            _ => s,
        };
        Some(Held {
            generation: from.generation,
            base,
            start: at,
            items: Vec::new(),
            at,
            shipped: None,
            written: base,
            resumes: 0,
            doubted: false,
            how: How::Counted,
        })
    }

    pub(super) fn raise(&self, state: &mut State, node: usize, resuming: Resuming) {
        let Step::Raise { from, seen, copy } = resuming.step else {
            return;
        };
        let now = Holder {
            node,
            generation: from.generation + 1,
        };
        let fenced = self.fence == Fence::Postgres && copy.how == How::Counted;
        let outrun = state
            .fence
            .is_some_and(|fence| fence.generation >= now.generation);
        let changed = self.said(state.record) != self.said(seen);
        let changed = changed && self.without != Without::Compare;
        if changed || fenced && outrun {
            // Another attempt was faster. This one is not tried again: its client may have gone
            // on with the other, and its `s` with it.
            return state.hang_up(node);
        }
        if fenced {
            state.fence = Some(now);
        }
        if copy.how == How::Counted && self.fence == Fence::Log {
            state.logs.retain(|log| log.of != from);
            state.ended.push(from);
        }
        let resumes = resumes(seen) + 1;
        state.set_record(Record {
            holder: now,
            resumes,
        });
        state.reused |= now.generation <= state.highest;
        state.highest = state.highest.max(now.generation);
        let written = copy.written;
        state.nodes[node].copy = Some(Held {
            generation: now.generation,
            resumes,
            ..copy
        });
        if self.ship == Ship::Sync {
            state.ship(node, self);
        }
        state.attach(node, written);
    }

    /// A node writes that it has the session, or learns that it has not. A copy in doubt, too,
    /// says where it is.
    pub(super) fn renew(&self, state: &mut State, node: usize) {
        let Some(copy) = &state.nodes[node].copy else {
            return;
        };
        let own = copy.holder(node);
        match state.record {
            Some(record) if record.holder == own => {}
            Some(record) if record.holder.generation >= own.generation => state.close_copy(node),
            _ => {
                let resumes = copy.resumes;
                state.set_record(Record {
                    holder: own,
                    resumes,
                });
            }
        }
    }

    pub(super) fn receive(&self, state: &mut State) -> Option<()> {
        let Place::Live(node) = state.client.place else {
            return None;
        };
        let copy = state.nodes[node].copy.as_mut()?;
        let item = *copy.items.get(usize::from(copy.written - copy.base))?;
        copy.written += 1;
        state.client.jumped |= copy.written != state.client.got.len() as u8 + 1;
        state.client.got.push(item);
        Some(())
    }

    pub(super) fn may_receive(&self, state: &State) -> bool {
        let Place::Live(node) = state.client.place else {
            return false;
        };
        let waits = self.ship == Ship::Sync && self.without != Without::Waiting;
        state.nodes[node].copy.as_ref().is_some_and(|copy| {
            // One in doubt is not in the log.
            let ready = if waits && !copy.doubted {
                copy.shipped.unwrap_or(copy.base)
            } else {
                copy.last()
            };
            self.up(state, node) && copy.written < ready
        })
    }
}
