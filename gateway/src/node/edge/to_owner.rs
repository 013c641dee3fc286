//! What owners are told, in order.

use super::{
    Edge,
    message::{Message, Outgoing, Server},
};
use crate::{
    bus::PresenceChange,
    node::relay::frame::{FRAME_BYTES_MAX, Frame, SUBS_MAX, Sub},
    wire::PERSON_MESSAGE_BYTES_MAX,
};

/// Users in one frame of subscriptions, so that it stays below a frame's limit: what each shows may
/// be as long as a person's message, and half as much is left for the rest.
pub(super) const USERS_PER_FRAME_MAX: usize = FRAME_BYTES_MAX / (PERSON_MESSAGE_BYTES_MAX * 3 / 2);

impl Edge {
    /// Hands messages to the owners, in order.
    pub(super) fn send(&self, out: Outgoing) {
        self.outgoing.borrow_mut().extend(out);
        if self.sending.replace(true) {
            return;
        }
        loop {
            let out = self.outgoing.take();
            if out.is_empty() {
                break;
            }
            self.send_all(out);
        }
        self.sending.set(false);
    }

    /// Subscriptions of one link go together, and so do presences; what is said of one realm
    /// keeps its order.
    fn send_all(&self, out: Outgoing) {
        let mut batch: Vec<(Server, Vec<Sub>)> = Vec::new();
        let mut presences: Vec<(Server, Vec<PresenceChange>)> = Vec::new();
        for (server, message) in out {
            match message {
                Message::Sub(sub) => {
                    self.send_presences(&mut presences);
                    gather(&mut batch, server, sub);
                }
                Message::Presence(change) => {
                    self.send_subs(&mut batch);
                    gather(&mut presences, server, change);
                }
                Message::Watch(change) => {
                    self.send_subs(&mut batch);
                    match &server {
                        Server::Local => self.owner.watch(self.local, *change),
                        Server::Node(node) => self.links.send_if_up(node, &Frame::Watch(change)),
                    }
                }
                Message::Unsub {
                    realm,
                    users,
                    moved,
                } => {
                    // Never behind a later subscription of the same realm.
                    self.send_subs(&mut batch);
                    self.send_presences(&mut presences);
                    match &server {
                        Server::Local => {
                            self.owner.unsubscribe(self.local, realm, &users, moved);
                        }
                        Server::Node(node) => {
                            let unsub = Frame::Unsub {
                                realm,
                                users,
                                moved,
                            };
                            self.links.send_if_up(node, &unsub);
                        }
                    }
                }
            }
        }
        self.send_subs(&mut batch);
        self.send_presences(&mut presences);
    }

    fn send_presences(&self, batch: &mut Vec<(Server, Vec<PresenceChange>)>) {
        for (server, changes) in batch.drain(..) {
            match server {
                Server::Local => self.owner.presence(self.local, changes),
                Server::Node(node) => self.links.send_if_up(&node, &Frame::Presence(changes)),
            }
        }
    }

    fn send_subs(&self, batch: &mut Vec<(Server, Vec<Sub>)>) {
        for (server, mut subs) in batch.drain(..) {
            match server {
                Server::Local => self.owner.subscribe(self.local, subs),
                Server::Node(node) => {
                    while !subs.is_empty() {
                        if !self.links.has_room(&node) {
                            self.put_off(&subs);
                            break;
                        }
                        let mut users = 0;
                        let count = subs
                            .iter()
                            .take(SUBS_MAX)
                            .take_while(|sub| {
                                users += sub.users.len();
                                users <= USERS_PER_FRAME_MAX
                            })
                            .count();
                        let rest = subs.split_off(count.max(1));
                        self.links.send(&node, &Frame::Sub(subs));
                        subs = rest;
                    }
                }
            }
        }
    }

    /// Whether subscriptions may be sent to a server now.
    pub(super) fn has_room(&self, server: &Server) -> bool {
        match server {
            Server::Local => true,
            Server::Node(node) => self.links.has_room(node),
        }
    }

    /// There is no room for these: they are asked again when there is, as things stand then.
    fn put_off(&self, subs: &[Sub]) {
        let mut state = self.state.borrow_mut();
        for sub in subs {
            if let Some(pending) = state.pending.get_mut(&sub.id) {
                pending.unsent = true;
            }
        }
    }
}

/// Adds to what goes to one server.
fn gather<T>(batch: &mut Vec<(Server, Vec<T>)>, server: Server, one: T) {
    match batch.iter_mut().find(|(to, _)| *to == server) {
        Some((_, all)) => all.push(one),
        None => batch.push((server, vec![one])),
    }
}
