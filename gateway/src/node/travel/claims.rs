//! Sessions asked for at whoever has them: a core of this process, or another node over its link.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::{sync::oneshot, time::timeout};

use super::{holders::Holders, losses::Losses};
use crate::{
    bus::{Claim, Claimed, CoreHandle, ToCore},
    names::CoreId,
    node::relay::{
        frame::{Frame, Wanted},
        link::Links,
    },
};

/// Time a node has to give a session up before it counts as dead for it.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Claims {
    boot: u32,
    holders: Rc<Holders>,
    losses: Rc<Losses>,
    cores: Vec<CoreHandle>,
    last: Cell<u64>,
    waiting: RefCell<FxHashMap<u64, Waiting>>,
}

struct Waiting {
    /// `None`: a core of this process.
    node: Option<Rc<str>>,
    answer: oneshot::Sender<Option<Box<Claimed>>>,
}

impl Claims {
    pub(crate) fn new(
        boot: u32,
        holders: Rc<Holders>,
        losses: Rc<Losses>,
        cores: Vec<CoreHandle>,
    ) -> Rc<Self> {
        Rc::new(Self {
            boot,
            holders,
            losses,
            cores,
            last: Cell::new(0),
            waiting: RefCell::default(),
        })
    }

    /// Asks a core of this process. `life`: of Redis when it said that the session is here.
    pub(crate) async fn here(&self, core: CoreId, mut claim: Claim, life: &str) -> Option<Claimed> {
        if !self.losses.know(life, claim.session).await {
            return Some(Claimed::Gone);
        }
        let handle = self.cores.get(usize::from(core))?;
        let answer = self.wait(None);
        claim.number = self.last.get();
        handle.send(ToCore::Claim(Box::new(claim))).ok()?;
        self.within_time(answer).await
    }

    /// Asks another node. `None`: it is dead, as far as this one can tell, or has started anew.
    pub(crate) async fn at_node(
        &self,
        links: &Rc<Links>,
        node: &Rc<str>,
        mut wanted: Wanted,
    ) -> Option<Claimed> {
        if !links.is_usable(node) {
            return None;
        }
        let answer = self.wait(Some(node.clone()));
        wanted.claim.number = self.last.get();
        links.send(node, &Frame::Claim(wanted));
        self.within_time(answer).await
    }

    /// What another node asks for.
    pub(crate) async fn of_others(&self, wanted: Wanted) -> Option<Claimed> {
        if wanted.boot != self.boot {
            return None;
        }
        if self.holders.generation(wanted.claim.session) > wanted.generation {
            // It was resumed here since: that attempt was given up, and must not take it away.
            return Some(Claimed::Gone);
        }
        self.here(wanted.core, wanted.claim, &wanted.life).await
    }

    /// An answer has come; too late, it is for nobody.
    pub(crate) fn answer(&self, number: u64, result: Option<Box<Claimed>>) {
        if let Some(waiting) = self.waiting.borrow_mut().remove(&number) {
            let _ = waiting.answer.send(result);
        }
    }

    /// A node will not answer any more.
    pub(crate) fn link_down(&self, node: &Rc<str>) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|_, claim| claim.node.as_ref() != Some(node));
    }

    fn wait(&self, node: Option<Rc<str>>) -> oneshot::Receiver<Option<Box<Claimed>>> {
        let number = self.last.get() + 1;
        self.last.set(number);
        let (answer, receiver) = oneshot::channel();
        let mut waiting = self.waiting.borrow_mut();
        waiting.insert(number, Waiting { node, answer });
        receiver
    }

    async fn within_time(
        &self,
        answer: oneshot::Receiver<Option<Box<Claimed>>>,
    ) -> Option<Claimed> {
        let answer = timeout(ANSWER_MAX, answer).await;
        // Those that were given up on are forgotten.
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|_, claim| !claim.answer.is_closed());
        drop(waiting);
        answer.ok()?.ok()?.map(|claimed| *claimed)
    }
}
