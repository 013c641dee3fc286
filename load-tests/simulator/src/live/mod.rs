//! Real gateways, and clients that check what they are told: all of a small cluster's, of a large
//! one a sample of its guilds and sessions on all of its nodes.

mod client;
mod history;
mod losses;
mod wire;
mod writer;

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use guildhall_gateway::simulated::{Broken, Gateway, Redis, ResumeLog, Setup, Simulation, Store};
use guildhall_shared::cluster_map::ClusterMap;
use guildhall_shared::id::Id;
use guildhall_shared::id::marker::{Guild, User};
use tokio::task::spawn_local;
use tokio::time::Instant;

use self::client::{Client, Known};
use self::history::History;
use self::losses::Losses;
use crate::chance::Chance;

/// What is real.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub guilds: usize,
    pub clients: usize,
    /// Mean times, in virtual milliseconds, between two events of a guild, and between breaks of
    /// a client's connection.
    pub write_every_ms: u64,
    pub break_every_ms: u64,
    /// The longest that anything sent is on its way.
    pub delay_ms_max: u64,
    pub resume: ResumeLog,
    /// What all gateways leave out.
    pub broken: Option<Broken>,
}

/// What clients and writers came to.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    pub(crate) written: u64,
    pub(crate) dispatches: u64,
    pub(crate) resumed: u64,
    /// Sessions that could not be resumed.
    pub(crate) invalid: u64,
}

/// See the module.
pub(crate) struct Live {
    shared: Rc<Shared>,
    gateways: Vec<Option<Gateway>>,
    sample: Sample,
    shards: u16,
    boots: u32,
    simulation: Simulation,
}

/// What clients and writers share.
pub(crate) struct Shared {
    store: Store,
    redis: Redis,
    histories: RefCell<BTreeMap<Id<Guild>, History>>,
    sessions: RefCell<BTreeMap<Id<User>, Known>>,
    chance: RefCell<Chance>,
    /// Nodes that a balancer leads clients to.
    open: RefCell<Vec<usize>>,
    losses: RefCell<Losses>,
    writes_until: Instant,
    breaks_every_ms: u64,
    counts: RefCell<Counts>,
    wrong: RefCell<Option<Error>>,
}

impl Live {
    /// All but the gateways, which start one by one. To be called on a `LocalSet`.
    pub(crate) fn begin(
        sample: &Sample,
        seed: u64,
        (shards, nodes): (u16, usize),
        writes_for: Duration,
    ) -> Self {
        let simulation = Simulation::begin(seed, sample.delay_ms_max, sample.broken);
        let shared = Rc::new(Shared {
            store: Store::new(shards),
            redis: Redis::default(),
            histories: RefCell::default(),
            sessions: RefCell::default(),
            chance: RefCell::new(Chance::new(seed ^ 0x5eed)),
            open: RefCell::default(),
            losses: RefCell::default(),
            writes_until: Instant::now() + writes_for,
            breaks_every_ms: sample.break_every_ms,
            counts: RefCell::default(),
            wrong: RefCell::default(),
        });
        let users: Vec<Id<User>> = (0..sample.clients)
            .map(|nth| spread(1 << 20, nth))
            .collect();
        for &user in &users {
            let (token, known) = (shared.store.put_bot(user), Known::default());
            shared.sessions.borrow_mut().insert(user, known.clone());
            let client = Client::new(shared.clone(), user, token, known);
            spawn_local(client.run());
        }
        for nth in 0..sample.guilds {
            // Each user is in two of them.
            let is_in = |place: usize| {
                place % sample.guilds == nth || (place * 7 + 3) % sample.guilds == nth
            };
            let members = users.iter().enumerate();
            let members = members.filter(|(place, _)| is_in(*place));
            let members: Vec<Id<User>> = members.map(|(_, &user)| user).collect();
            if members.is_empty() {
                continue;
            }
            let guild = spread(1 << 10, nth);
            writer::found(&shared, guild, &members);
            let every_ms = sample.write_every_ms.max(1);
            spawn_local(writer::write(shared.clone(), guild, every_ms));
        }
        Self {
            shared,
            gateways: (0..nodes).map(|_| None).collect(),
            sample: sample.clone(),
            shards,
            boots: 0,
            simulation,
        }
    }

    /// A gateway starts, if anything is real.
    pub(crate) fn start(&mut self, node: usize, relay_addr: String) {
        if self.sample.guilds == 0 {
            return;
        }
        self.boots += 1;
        self.gateways[node] = Some(Gateway::start(Setup {
            id: name(node),
            boot: self.boots,
            relay_addr,
            shards: self.shards,
            resume: self.sample.resume,
            store: self.shared.store.clone(),
            redis: self.shared.redis.clone(),
        }));
        self.shared.let_in(node);
    }

    /// One that has left in peace ends.
    pub(crate) fn end(&mut self, node: usize) {
        self.shared.keep_out(node);
        self.gateways[node] = None;
    }

    /// One ends at once; `silently`: with its machine.
    pub(crate) fn crash(&mut self, node: usize, silently: bool) {
        self.shared.lost_node(node);
        if silently {
            self.simulation.hush(&name(node));
        }
        self.end(node);
    }

    /// One begins to leave.
    pub(crate) fn leave(&self, node: usize) {
        self.shared.keep_out(node);
        self.gateway(node).inspect(|gateway| gateway.leave());
    }

    /// One that was asked to leave needs to live no longer for its clients.
    pub(crate) fn has_left(&self, node: usize) -> bool {
        self.gateway(node).is_none_or(Gateway::has_left)
    }

    /// Clients are led there all the same.
    pub(crate) fn stand_still(&self, node: usize) {
        self.shared.lost_node(node);
        self.gateway(node).inspect(|gateway| gateway.stand_still());
    }

    pub(crate) fn go_on(&self, node: usize) {
        self.shared.lost_node(node);
        self.gateway(node).inspect(|gateway| gateway.go_on());
    }

    /// Nothing arrives between two nodes for a while.
    pub(crate) fn cut(&self, (one, other): (usize, usize), lasts: Duration) {
        self.shared.lost_node(one);
        self.shared.lost_node(other);
        let until = Instant::now() + lasts;
        self.simulation.cut(&name(one), &name(other), until);
    }

    pub(crate) fn read_map(&self, node: usize, map: &Rc<ClusterMap>) {
        let gateway = self.gateway(node);
        gateway.inspect(|gateway| gateway.read_map(map.clone()));
    }

    pub(crate) fn realms_moving(&self, node: usize) -> u64 {
        let gateway = self.gateway(node);
        gateway.map_or(0, |gateway| gateway.realms_moving() as u64)
    }

    /// Redis forgets everything: by a command, or as it starts anew.
    pub(crate) fn flush(&self, restarts: bool) {
        self.shared.redis_forgot();
        match restarts {
            true => self.shared.redis.restart(),
            false => self.shared.redis.flush(),
        }
    }

    pub(crate) fn redis_goes_away(&self, lasts: Duration) {
        self.shared.redis_is_away(lasts);
        self.shared.redis.go_away(Instant::now() + lasts);
    }

    /// A replica of Redis falls behind, and takes its place after a while.
    pub(crate) fn fail_over(&self, lag: Duration) {
        self.shared.redis.remember();
        let shared = self.shared.clone();
        spawn_local(async move {
            tokio::time::sleep(lag).await;
            shared.redis_forgot();
            shared.redis.fail_over();
        });
    }

    pub(crate) fn postgres_goes_away(&self, lasts: Duration) {
        self.shared.store.go_away(Instant::now() + lasts);
    }

    /// Errors: what the first client saw that found something wrong.
    pub(crate) fn is_right(&self) -> Result<()> {
        self.shared.wrong.borrow_mut().take().map_or(Ok(()), Err)
    }

    /// After a quiet time at the end every client has everything.
    pub(crate) fn is_whole(&self) -> Result<()> {
        self.is_right()?;
        for (user, session) in &*self.shared.sessions.borrow() {
            let session = session.borrow();
            let session = session.as_ref().context("no session");
            session
                .and_then(|session| session.is_whole(&self.shared, *user))
                .with_context(|| format!("client-{user} at the end"))?;
        }
        let counts = self.counts();
        ensure!(
            counts.written == 0 || self.sample.clients == 0 || counts.dispatches > 0,
            "nobody was told anything"
        );
        Ok(())
    }

    pub(crate) fn counts(&self) -> Counts {
        self.shared.counts.borrow().clone()
    }

    fn gateway(&self, node: usize) -> Option<&Gateway> {
        self.gateways.get(node)?.as_ref()
    }
}

impl Shared {
    fn chance(&self) -> RefMut<'_, Chance> {
        self.chance.borrow_mut()
    }

    fn history<T>(&self, guild: Id<Guild>, look: impl FnOnce(&History) -> T) -> T {
        look(self.histories.borrow_mut().entry(guild).or_default())
    }

    fn writing_is_over(&self) -> bool {
        Instant::now() >= self.writes_until
    }

    fn let_in(&self, node: usize) {
        let mut open = self.open.borrow_mut();
        if !open.contains(&node) {
            open.push(node);
        }
    }

    fn keep_out(&self, node: usize) {
        self.open.borrow_mut().retain(|&known| known != node);
    }

    /// Where a client comes to: one in three times to where it was, if that is still open.
    fn gateway_for(&self, before: Option<usize>) -> Option<usize> {
        let open = self.open.borrow();
        let mut chance = self.chance();
        let before = before.filter(|before| chance.below(3) == 0 && open.contains(before));
        if open.is_empty() {
            return None;
        }
        before.or_else(|| open.get(chance.below(open.len() as u64) as usize).copied())
    }

    fn name_of(&self, node: usize) -> String {
        name(node)
    }

    fn redis_is_away(&self, lasts: Duration) {
        let now = Instant::now();
        let mut losses = self.losses.borrow_mut();
        losses.redis_is_away(now, now + lasts);
    }

    fn redis_forgot(&self) {
        self.losses.borrow_mut().redis_forgot(Instant::now());
    }

    fn lost_node(&self, node: usize) {
        self.losses.borrow_mut().node(node, Instant::now());
    }

    fn wrong(&self, error: Error) {
        self.wrong.borrow_mut().get_or_insert(error);
    }
}

/// Of a node, as in `gateway`.
pub(crate) fn name(node: usize) -> String {
    format!("node-{node:04}")
}

/// Ids whose shards are all over the place.
fn spread<T>(from: u64, nth: usize) -> Id<T> {
    let number = from + nth as u64 * 7_919 % (1 << 19);
    Id::new(number << 22).expect("it is above 0")
}
