//! Gateways of a simulation: the real owner, edge, cores and RESUME on one thread, in virtual time,
//! with chance from a seed, over Postgres, a Redis and a network that are objects of this process.
//!
//! Behind the feature `simulated`. Code of the gateway asks `clock` for the time, for chance and for
//! which of several things is first; that is a simulation's own only on a thread on which one was
//! begun, and only until it ends. So a gateway that was built with the feature is none the weaker.

mod net;
mod node;
mod redis;
mod store;

use std::{cell::RefCell, rc::Rc, time::Duration};

use rand::{
    RngExt, SeedableRng,
    distr::{Distribution, StandardUniform},
    rngs::StdRng,
};
use tokio::time::Instant;

use self::net::Net;
pub(crate) use self::store::Accounts;
pub use self::{
    net::Stream,
    node::{Gateway, Setup},
    redis::Redis,
    store::{Store, Way},
};
pub use crate::{broken::Broken, config::ResumeLog};

/// What clients read as the time at first; Unix milliseconds.
const START_MS: u64 = 1_700_000_000_000;

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

struct World {
    began: Instant,
    chance: RefCell<StdRng>,
    net: Net,
    /// What all gateways leave out, to see that it is noticed.
    broken: Option<Broken>,
    delay_ms_max: u64,
}

/// A simulation of this thread, until it is dropped.
pub struct Simulation(());

impl Simulation {
    /// Begins one in a runtime whose time is paused. What is sent takes up to `delay_ms_max` to
    /// arrive, over the network, to Redis and to Postgres, each way.
    pub fn begin(seed: u64, delay_ms_max: u64, broken: Option<Broken>) -> Self {
        let world = World {
            began: Instant::now(),
            chance: RefCell::new(StdRng::seed_from_u64(seed)),
            net: Net::default(),
            broken,
            delay_ms_max,
        };
        WORLD.set(Some(Rc::new(world)));
        Self(())
    }

    /// What the nodes say to each other from now on arrives only at this time, in either direction.
    pub fn cut(&self, one: &str, other: &str, until: Instant) {
        with(|world| world.net.cut(one, other, until));
    }

    /// Nobody hears that this node's connections are gone: its machine went, not its process.
    pub fn hush(&self, node: &str) {
        with(|world| world.net.hush(node));
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        WORLD.set(None);
    }
}

/// Connects to a listener of the simulation as somebody with this name. `None`: there is no
/// simulation. Errors: nobody listens there.
pub fn connect(who: &str, address: &str) -> Option<std::io::Result<Stream>> {
    with(|world| world.net.connect(who, address))
}

pub(crate) fn is_on() -> bool {
    WORLD.with_borrow(Option::is_some)
}

pub(crate) fn now() -> Option<std::time::Instant> {
    is_on().then(|| Instant::now().into_std())
}

pub(crate) fn unix_ms() -> Option<u64> {
    with(|world| START_MS + Instant::now().duration_since(world.began).as_millis() as u64)
}

pub(crate) fn random<T>() -> Option<T>
where
    StandardUniform: Distribution<T>,
{
    with(|world| world.chance.borrow_mut().random())
}

pub(crate) fn is_broken(what: Broken) -> bool {
    with(|world| world.broken == Some(what)).unwrap_or(false)
}

/// How long something is on its way.
fn delay() -> Duration {
    let ms = with(|world| {
        let drawn: u64 = world.chance.borrow_mut().random();
        drawn % (world.delay_ms_max + 1)
    });
    Duration::from_millis(ms.unwrap_or(0))
}

/// Waits so long.
async fn travel() {
    let delay = delay();
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

fn with<T>(act: impl FnOnce(&World) -> T) -> Option<T> {
    let world = WORLD.with_borrow(Clone::clone)?;
    Some(act(&world))
}
