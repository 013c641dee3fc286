//! Members, roles, bans, audit log, automod, prune.

use super::{Book, World};

pub(super) async fn prove(_world: &World, _book: &mut Book) {}
