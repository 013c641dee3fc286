//! Realms that another node serves than the one they should be served by: moves not over yet.
//!
//! The coordinator waits for them between the steps of a plan, so their end is told at once.

use std::cell::RefCell;

use guildhall_shared::{Id, id::marker::Realm};
use rustc_hash::FxHashSet;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct Moving {
    realms: RefCell<FxHashSet<Id<Realm>>>,
    settled: Notify,
}

impl Moving {
    /// A look at all realms found these.
    pub(crate) fn found(&self, realms: FxHashSet<Id<Realm>>) {
        let before = self.realms.replace(realms);
        self.tell_if_settled(!before.is_empty());
    }

    /// A realm is where it should be, or nobody here wants it any more.
    pub(crate) fn done(&self, realm: Id<Realm>) {
        let was = self.realms.borrow_mut().remove(&realm);
        self.tell_if_settled(was);
    }

    pub(crate) fn count(&self) -> usize {
        self.realms.borrow().len()
    }

    /// Waits until the last of them is done.
    pub(crate) async fn settled(&self) {
        self.settled.notified().await;
    }

    fn tell_if_settled(&self, changed: bool) {
        if changed && self.realms.borrow().is_empty() {
            self.settled.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn ids(ids: &[u64]) -> FxHashSet<Id<Realm>> {
        ids.iter().filter_map(|&id| Id::new(id)).collect()
    }

    fn id(of: u64) -> Id<Realm> {
        Id::new(of).unwrap()
    }

    #[test]
    fn the_last_move_that_ends_is_told_once() {
        let moving = Moving::default();
        moving.found(ids(&[1, 2]));
        assert_eq!(moving.count(), 2);
        moving.done(id(1));
        moving.done(id(3));
        assert!(moving.settled().now_or_never().is_none());
        moving.done(id(2));
        assert_eq!(moving.count(), 0);
        assert!(moving.settled().now_or_never().is_some());
        moving.done(id(2));
        assert!(moving.settled().now_or_never().is_none());
    }

    #[test]
    fn a_look_that_finds_none_ends_them_all() {
        let moving = Moving::default();
        moving.found(ids(&[]));
        assert!(moving.settled().now_or_never().is_none());
        moving.found(ids(&[1]));
        moving.found(ids(&[]));
        assert!(moving.settled().now_or_never().is_some());
    }
}
