//! Applications, OAuth2, commands, interactions.

use super::{Book, World};

pub(super) async fn prove(_world: &World, _book: &mut Book) {}
