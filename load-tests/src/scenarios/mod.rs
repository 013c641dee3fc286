//! The scenarios: each is a subcommand, and prints its whole result in one run.

pub(crate) mod crowded;
pub(crate) mod delivery;
pub(crate) mod fanout;
pub(crate) mod logins;
pub(crate) mod nodes;
pub(crate) mod pages;
pub(crate) mod post;
mod target;
