//! Running the checker, and what it found.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

/// How much of a model is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// All of it.
    Whole,
    /// Breadth first, until about so many distinct states were seen.
    States(usize),
}

const THREADS: usize = 2;

/// Checks that every property of the model holds, and that all it says may happen does; in how many
/// distinct states.
pub(crate) fn holds<M>(name: &str, model: M, bound: Bound) -> usize
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Debug + Send + Sync + Clone + PartialEq + 'static,
    M::Action: Debug + Send + Sync + Clone + PartialEq,
{
    let started = Instant::now();
    let builder = model.checker().threads(THREADS);
    let builder = match bound {
        Bound::Whole => builder,
        Bound::States(count) => builder.target_state_count(count),
    };
    let checker = builder.spawn_bfs().join();
    println!(
        "{name}: {} states, {} of them distinct, depth {}, {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64(),
    );
    checker.assert_properties();
    checker.unique_state_count()
}

/// Checks that the model breaks this property, and prints how.
pub(crate) fn breaks<M>(name: &str, model: M, property: &'static str)
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Debug + Send + Sync + Clone + PartialEq + 'static,
    M::Action: Debug + Send + Sync + Clone + PartialEq,
{
    let started = Instant::now();
    let wanted = HasDiscoveries::AnyOf([property].into());
    let checker = model.checker().threads(THREADS).finish_when(wanted);
    let checker = checker.spawn_bfs().join();
    let path = checker.discovery(property);
    let path = path.unwrap_or_else(|| panic!("{name}: nothing breaks «{property}»"));
    println!(
        "{name}: «{property}» is broken by {:?} ({} states, {:.1} s)",
        path.into_actions(),
        checker.unique_state_count(),
        started.elapsed().as_secs_f64(),
    );
}
