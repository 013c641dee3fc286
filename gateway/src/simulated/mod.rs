//! Gateways of a simulation: the real owner, edge, cores and RESUME on one thread, in virtual time,
//! with chance from a seed, over Postgres, a Redis and a network that are objects of this process.
//!
//! Behind the feature `simulated`. Code of the gateway asks `clock` for the time, for chance and for
//! which of several things is first; that is a simulation's own only on a thread on which one was
//! begun, and only until it ends. So a gateway that was built with the feature is none the weaker.
//!
//! From the bottom up: time and chance (`world`), what connects (`net`), what keeps (`store`, `redis`),
//! and whole gateways (`node`).

pub(crate) mod net;
mod node;
mod redis;
pub(crate) mod setup;
pub(crate) mod store;
pub(crate) mod world;

use tokio::time::Instant;

use crate::broken;

pub use self::{
    net::{Stream, connect},
    node::Gateway,
    redis::Redis,
    setup::Setup,
    store::{Store, Way},
};
pub use crate::{broken::Broken, config::ResumeLog};

/// A simulation of this thread, until it is dropped.
pub struct Simulation(());

impl Simulation {
    /// Begins one in a runtime whose time is paused. What is sent takes up to `delay_ms_max` to
    /// arrive, over the network, to Redis and to Postgres, each way. `broken`: what all gateways
    /// leave out, to see that it is noticed.
    pub fn begin(seed: u64, delay_ms_max: u64, broken: Option<Broken>) -> Self {
        world::begin(seed, delay_ms_max);
        net::begin();
        broken::simulate(broken);
        Self(())
    }

    /// What the nodes say to each other from now on arrives only at this time, in either direction.
    pub fn cut(&self, one: &str, other: &str, until: Instant) {
        net::with(|net| net.cut(one, other, until));
    }

    /// Nobody hears that this node's connections are gone: its machine went, not its process.
    pub fn hush(&self, node: &str) {
        net::with(|net| net.hush(node));
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        world::end();
        net::end();
        broken::simulate(None);
    }
}
