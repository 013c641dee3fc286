//! Messages, reactions, pins, polls, webhooks, search, read states.

use super::{Book, World};

pub(super) async fn prove(_world: &World, _book: &mut Book) {}
