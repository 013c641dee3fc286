//! What an edge tells an owner, and which owner that is.

use std::rc::Rc;

use guildhall_shared::{
    Id,
    id::marker::{Realm, User},
};

use crate::{ask::WatchChange, bus::PresenceChange, node::relay::frame::Sub};

/// Who serves a realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Server {
    /// This node.
    Local,
    /// Another one, over its link.
    Node(Rc<str>),
}

/// Frames to send once the state is no longer borrowed.
pub(super) type Outgoing = Vec<(Server, Message)>;

/// What an owner is told of a realm, a user or a session.
pub(super) enum Message {
    Sub(Sub),
    Unsub {
        realm: Id<Realm>,
        users: Vec<Id<User>>,
        /// Another owner serves them now.
        moved: bool,
    },
    Presence(PresenceChange),
    Watch(Box<WatchChange>),
}
