//! The time of a simulation, its chance, and how long what is sent is on its way.

use std::{cell::RefCell, rc::Rc, time::Duration};

use rand::{
    RngExt, SeedableRng,
    distr::{Distribution, StandardUniform},
    rngs::StdRng,
};
use tokio::time::Instant;

/// What clients read as the time at first; Unix milliseconds.
const START_MS: u64 = 1_700_000_000_000;

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

struct World {
    began: Instant,
    chance: RefCell<StdRng>,
    delay_ms_max: u64,
}

/// Begins a world of this thread; see [`super::Simulation::begin`].
pub(super) fn begin(seed: u64, delay_ms_max: u64) {
    let world = World {
        began: Instant::now(),
        chance: RefCell::new(StdRng::seed_from_u64(seed)),
        delay_ms_max,
    };
    WORLD.set(Some(Rc::new(world)));
}

pub(super) fn end() {
    WORLD.set(None);
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

/// How long something is on its way.
pub(super) fn delay() -> Duration {
    let ms = with(|world| {
        let drawn: u64 = world.chance.borrow_mut().random();
        drawn % (world.delay_ms_max + 1)
    });
    Duration::from_millis(ms.unwrap_or(0))
}

/// Waits so long.
pub(super) async fn travel() {
    let delay = delay();
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

fn with<T>(act: impl FnOnce(&World) -> T) -> Option<T> {
    let world = WORLD.with_borrow(Clone::clone)?;
    Some(act(&world))
}
