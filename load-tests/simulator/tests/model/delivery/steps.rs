//! What happens to an event, step by step.

use super::*;

impl State {
    /// Whether the user sees the channel once this event is applied.
    pub(super) fn sees_at(&self, seq: Seq) -> bool {
        let changes = self.log[..usize::from(seq)].iter().rev();
        let mut changes = changes.filter(|kind| **kind != Kind::Message);
        changes.next().is_none_or(|kind| *kind == Kind::Grant)
    }

    pub(super) fn kind(&self, seq: Seq) -> Kind {
        self.log[usize::from(seq) - 1]
    }

    pub(super) fn head(&self) -> Seq {
        self.log.len() as Seq
    }

    /// An owner hands the next number on to the edges that listen.
    pub(super) fn advance(&mut self, owner: usize, seq: Seq, without: Without) {
        let view = (self.kind(seq) != Kind::Message).then(|| self.sees_at(seq));
        for edge in &mut self.edges {
            let Some(link) = &mut edge.links[owner] else {
                continue;
            };
            match view {
                Some(view) if without == Without::ViewOrder => edge.apart.push((owner, view)),
                Some(view) => link.push(Word::View(view)),
                None => {}
            }
            link.push(Word::Event(seq));
        }
        if let Some(owner) = &mut self.owners[owner] {
            owner.have = Some(seq);
            owner.early &= !bit(seq);
        }
    }

    /// An owner sees a number, wherever it comes from.
    pub(super) fn offer(&mut self, owner: usize, seq: Seq, without: Without) {
        let Some(have) = self.have(owner) else { return };
        if seq <= have {
            return;
        }
        if seq > have + 1 && without != Without::GapNotice {
            if let Some(owner) = &mut self.owners[owner] {
                owner.early |= bit(seq);
            }
            return;
        }
        self.advance(owner, seq, without);
        while let Some(open) = &self.owners[owner] {
            let next = open.have.map_or(0, |have| have + 1);
            if next == 0 || open.early & bit(next) == 0 {
                break;
            }
            self.advance(owner, next, without);
        }
    }

    pub(super) fn have(&self, owner: usize) -> Option<Seq> {
        self.owners[owner].as_ref()?.have
    }

    /// An edge's core gets an event, live or as part of a replay up to `decided`.
    pub(super) fn deliver(&mut self, edge: usize, seq: Seq, decided: Seq) {
        let kind = self.kind(seq);
        let edge = &mut self.edges[edge];
        let admitted = kind != Kind::Message || edge.sees;
        for session in &mut edge.sessions {
            let Joined::After(after) = session.state else {
                continue;
            };
            if seq <= after {
                continue;
            }
            let at = usize::from(seq) - 1;
            let later = session.fate[at..].iter().any(|fate| *fate != Fate::Open);
            session.disordered |= later;
            session.fate[at] = match admitted {
                true => Fate::Got(decided),
                false => Fate::PassedOver(decided),
            };
        }
        edge.have = edge.have.max(seq);
    }

    /// What a core does with a number: the next one is delivered, others are not.
    pub(super) fn accept(&mut self, edge: usize, seq: Seq, decided: Seq, without: Without) {
        let have = self.edges[edge].have;
        let next = seq == have + 1;
        if next
            || seq > have && without == Without::GapNotice
            || seq <= have && without == Without::RepeatDropping
        {
            self.deliver(edge, seq, decided);
        } else if seq > have {
            // Nothing more counts until the owner has answered again.
            self.edges[edge].live = false;
        }
    }

    pub(super) fn break_link(&mut self, edge: usize, owner: usize) {
        let edge = &mut self.edges[edge];
        edge.links[owner] = None;
        edge.apart.retain(|(from, _)| *from != owner);
        if edge.serving == Some(owner) {
            edge.serving = None;
        }
        if edge.pending.as_ref().is_some_and(|one| one.owner == owner) {
            edge.pending = None;
        }
    }

    /// The next word of an owner arrives at an edge.
    pub(super) fn pass(&mut self, edge: usize, owner: usize, without: Without) -> Option<()> {
        let link = self.edges[edge].links[owner].as_mut()?;
        if link.is_empty() {
            return None;
        }
        let word = link.remove(0);
        let counts = self.edges[edge].serving == Some(owner) && self.edges[edge].live;
        match word {
            Word::Event(seq) if counts => self.accept(edge, seq, seq, without),
            Word::View(sees) if counts => self.edges[edge].sees = sees,
            Word::Event(_) | Word::View(_) => {}
            Word::Answer { from, to, snapshot } => {
                self.answered(edge, owner, from, to, snapshot, without);
            }
        }
        Some(())
    }

    pub(super) fn answered(
        &mut self,
        at: usize,
        owner: usize,
        from: Seq,
        to: Seq,
        snapshot: bool,
        without: Without,
    ) {
        let sees = self.sees_at(to);
        let edge = &mut self.edges[at];
        if let Some(old) = edge.serving.replace(owner).filter(|old| *old != owner) {
            edge.links[old] = None;
            edge.apart.retain(|(from, _)| *from != old);
        }
        edge.pending = None;
        edge.live = true;
        edge.sees = sees;
        for seq in from + 1..=to {
            self.accept(at, seq, to, without);
        }
        let edge = &mut self.edges[at];
        let newcomer = &mut edge.sessions[1];
        if snapshot && newcomer.state == Joined::Waiting {
            // Otherwise events after the snapshot have gone by: another one is asked for.
            if edge.have <= to || without == Without::SnapshotAge {
                newcomer.state = Joined::After(to);
            }
        }
    }
}

pub(super) fn bit(seq: Seq) -> Seqs {
    1 << seq
}

impl Delivery {
    pub(super) fn step(&self, state: &mut State, action: &Action) -> Option<()> {
        match *action {
            Action::Commit(kind) => state.log.push(kind),
            Action::Publish(seq) => state.published |= bit(seq),
            Action::Hear(owner, seq) => state.offer(owner, seq, self.without),
            Action::Fetch(owner) => {
                let have = state.have(owner)?;
                state.offer(owner, have + 1, self.without);
            }
            Action::Crash(owner) => {
                state.owners[owner] = None;
                for edge in 0..self.edges {
                    state.break_link(edge, owner);
                }
            }
            Action::Start(owner) => state.owners[owner] = Some(Owner::default()),
            Action::Turn(edge, owner) => {
                let edge = &mut state.edges[edge];
                edge.pending = Some(Pending {
                    owner,
                    from: edge.have,
                    snapshot: edge.sessions[1].state == Joined::Waiting,
                    answered: false,
                });
            }
            Action::Answer(at) => {
                let pending = state.edges[at].pending.clone()?;
                let head = state.head();
                let owner = state.owners[pending.owner].as_mut()?;
                let have = *owner.have.get_or_insert(head);
                if have < pending.from {
                    return None; // it waits for what the edge has seen already
                }
                let edge = &mut state.edges[at];
                let link = edge.links[pending.owner].get_or_insert_default();
                link.push(Word::Answer {
                    from: pending.from,
                    to: have,
                    snapshot: pending.snapshot,
                });
                edge.pending.as_mut()?.answered = true;
            }
            Action::GiveUp(at) => {
                let edge = &mut state.edges[at];
                let pending = edge.pending.take()?;
                if edge.serving == Some(pending.owner) {
                    let link = edge.links[pending.owner].as_mut()?;
                    link.retain(|word| !matches!(word, Word::Answer { .. }));
                } else {
                    edge.links[pending.owner] = None;
                }
            }
            Action::Pass(edge, owner) => state.pass(edge, owner, self.without)?,
            Action::PassApart(edge) => {
                let edge = &mut state.edges[edge];
                let (owner, sees) = edge.apart.remove(0);
                if edge.serving == Some(owner) {
                    edge.sees = sees;
                }
            }
            Action::Overflow(at, owner) => {
                let edge = &mut state.edges[at];
                edge.links[owner].as_mut()?.remove(0);
                if self.without != Without::StopAtOverflow {
                    edge.live = false;
                }
            }
            Action::Join(edge) => state.edges[edge].sessions[1].state = Joined::Waiting,
        }
        Some(())
    }

    /// Lets everything run that needs no further fault, and says whether all sessions then
    /// have all events.
    pub(super) fn heals(&self, state: &State) -> bool {
        let mut state = state.clone();
        for _ in 0..200 {
            let Some(action) = self.next_repair(&state) else {
                break;
            };
            if self.step(&mut state, &action).is_none() {
                break;
            }
        }
        let head = state.head();
        let whole = |edge: &Edge| {
            edge.live && edge.have == head && edge.sessions[1].state != Joined::Waiting
        };
        state.edges.iter().all(whole)
    }

    pub(super) fn next_repair(&self, state: &State) -> Option<Action> {
        for owner in 0..OWNERS {
            if state.owners[owner].is_none() {
                return Some(Action::Start(owner));
            }
            let behind = state.have(owner).is_some_and(|have| have < state.head());
            if behind && self.without != Without::GapFetch {
                return Some(Action::Fetch(owner));
            }
        }
        for (at, edge) in state.edges.iter().enumerate() {
            for (owner, link) in edge.links.iter().enumerate() {
                if link.as_ref().is_some_and(|link| !link.is_empty()) {
                    return Some(Action::Pass(at, owner));
                }
            }
            if !edge.apart.is_empty() {
                return Some(Action::PassApart(at));
            }
            match &edge.pending {
                Some(pending) if !pending.answered => return Some(Action::Answer(at)),
                Some(_) => return Some(Action::GiveUp(at)),
                None => {}
            }
            let waits = edge.sessions[1].state == Joined::Waiting;
            if edge.serving.is_none() || !edge.live || waits {
                return Some(Action::Turn(at, edge.serving.unwrap_or(0)));
            }
        }
        None
    }
}
