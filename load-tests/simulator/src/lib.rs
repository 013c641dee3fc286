//! A whole cluster in one thread, with a clock and chance of its own: the real planner, steps
//! and liveness of the coordinator, and the real owner, edge, cores and RESUME of gateways, over a
//! Redis, a Postgres and a network that fail.
//!
//! Same settings and seed, same output. What is modelled and what is not: `docs/simulation.md`.

mod chance;
mod coordinator;
mod crowd;
mod faults;
mod gateway;
mod live;
mod redis;
mod report;
mod watch;
mod world;

pub use faults::Plan;
pub use guildhall_gateway::simulated::{Broken, ResumeLog};
pub use live::Sample;
pub use report::Report;
pub use world::{Settings, run};
