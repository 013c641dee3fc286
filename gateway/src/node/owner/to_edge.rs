//! What owners tell edges, and the way there.

use std::{rc::Rc, sync::Arc};

use bytes::Bytes;
use guildhall_shared::{
    Id, envelope::Envelope, gateway::EventKind, id::marker::Realm as RealmMarker,
};

use crate::{
    bus::ViewChange,
    names::Address,
    node::relay::{
        frame::{SubOk, Tell},
        outbox::Outbox,
    },
};

/// Bytes of snapshots in one answer, and made before others on this thread have their turn: the one
/// that exceeds them is the last.
pub(super) const SNAPSHOT_BYTES: usize = 1024 * 1024;

/// An edge node as an owner knows it: one link, or this process itself.
pub(crate) type EdgeId = u64;

/// What an owner tells an edge, in order per realm.
#[derive(Debug)]
pub(crate) enum FromOwner {
    SubOk(Box<SubOk>),
    Refused {
        id: u64,
        realm: Id<RealmMarker>,
    },
    Event(Arc<Envelope>),
    /// Several, in order.
    Events(Vec<Arc<Envelope>>),
    View {
        realm: Id<RealmMarker>,
        change: ViewChange,
    },
    /// For one session of the edge.
    Tell(Box<Tell>),
    /// For some of them.
    TellAll {
        to: Vec<Address>,
        kind: EventKind,
        body: Bytes,
    },
}

/// The way to an edge.
pub(crate) enum Peer {
    /// The edge of this process.
    Local(Box<dyn Fn(FromOwner)>),
    Remote(Rc<Outbox>),
}
