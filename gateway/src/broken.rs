//! A gateway that is wrong on purpose, in one way at a time: what checks the cluster must find it.
//!
//! Behind the feature `broken`, and not in optimised builds, or in a simulation; otherwise nothing
//! here does anything.

/// What is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// What was delivered before is delivered again, wherever it is noticed.
    Repeats,
    /// What is missing is not fetched.
    GapFetch,
    /// Nobody asks Postgres for what was never published.
    PostgresCheck,
    /// Who sees what is told after the event that changed it.
    ClassOrder,
    /// Nobody minds which copy of a session is the newest.
    Generation,
}

#[cfg(all(feature = "broken", not(debug_assertions)))]
compile_error!("the feature `broken` is for tests and not for optimised builds");

#[cfg(feature = "simulated")]
thread_local! {
    /// What the gateways of this thread's simulation leave out.
    static SIMULATED: std::cell::Cell<Option<Broken>> = const { std::cell::Cell::new(None) };
}

/// Gateways of this thread leave it out from now on.
#[cfg(feature = "simulated")]
pub(crate) fn simulate(what: Option<Broken>) {
    SIMULATED.set(what);
}

/// Whether this process leaves it out: `GUILDHALL_BROKEN` names it.
#[cfg(feature = "broken")]
pub(crate) fn is(what: Broken) -> bool {
    static WORD: std::sync::OnceLock<Option<Broken>> = std::sync::OnceLock::new();
    let word = WORD.get_or_init(|| match std::env::var("GUILDHALL_BROKEN").as_deref() {
        Ok("repeats") => Some(Broken::Repeats),
        Ok("gap-fetch") => Some(Broken::GapFetch),
        Ok("postgres-check") => Some(Broken::PostgresCheck),
        Ok("class-order") => Some(Broken::ClassOrder),
        Ok("generation") => Some(Broken::Generation),
        _ => None,
    });
    #[cfg(feature = "simulated")]
    if SIMULATED.get() == Some(what) {
        return true;
    }
    *word == Some(what)
}

#[cfg(all(feature = "simulated", not(feature = "broken")))]
pub(crate) fn is(what: Broken) -> bool {
    SIMULATED.get() == Some(what)
}

#[cfg(not(any(feature = "broken", feature = "simulated")))]
pub(crate) const fn is(_: Broken) -> bool {
    false
}
