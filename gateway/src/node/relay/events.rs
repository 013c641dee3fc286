//! Several events in one frame: users that many of them are for travel once.

use std::sync::Arc;

use bytes::Bytes;
use guildhall_shared::{
    Id,
    envelope::{Envelope, Scope},
    id::marker::User,
};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

/// Some of a list: how many are passed over, how many follow that are meant, and so on.
type Runs = Vec<(u32, u32)>;

/// Events that are for few different lists of users, and for many of the same users.
#[derive(Serialize, Deserialize)]
pub(super) struct WireEvents {
    /// Who is in any of the lists; ascending.
    pub(super) users: Vec<Id<User>>,
    pub(super) lists: Vec<Runs>,
    /// Those that are for a list have no users of their own.
    pub(super) events: Vec<(Option<u32>, Bytes)>,
}

impl WireEvents {
    pub(super) fn of(events: &[Arc<Envelope>]) -> Self {
        let (mut users, mut lists) = (Vec::new(), Vec::new());
        // By where they are in memory: events for the same users share them.
        let mut places: FxHashMap<(*const Id<User>, usize), u32> = FxHashMap::default();
        let events = events.iter().map(|event| match &event.vis.scope {
            Scope::Users(list) if list.is_sorted_by(|a, b| a < b) => {
                let place = places.entry((list.as_ptr(), list.len()));
                let place = *place.or_insert_with(|| {
                    users.extend_from_slice(list);
                    lists.push(list.clone());
                    lists.len() as u32 - 1
                });
                let mut event = Envelope::clone(event);
                event.vis.scope = Scope::Users(Arc::default());
                (Some(place), event.encode())
            }
            _ => (None, event.encode()),
        });
        let events = events.collect();
        // Stable: that merges what ascends already.
        users.sort();
        users.dedup();
        Self {
            lists: lists.iter().map(|list| runs(&users, list)).collect(),
            users,
            events,
        }
    }

    /// Errors: what is wrong with it.
    pub(super) fn read(self) -> Result<Vec<Arc<Envelope>>, &'static str> {
        if self.lists.len() > self.events.len() {
            return Err("too many lists");
        }
        let lists = self.lists.iter().map(|list| meant(&self.users, list));
        let lists: Option<Vec<Arc<[Id<User>]>>> = lists.collect();
        let lists = lists.ok_or("list of users")?;
        let events = self.events.into_iter().map(|(place, bytes)| {
            let event = Envelope::decode(bytes).map_err(|_| "envelope");
            let mut event = event?;
            if let Some(place) = place {
                let list = lists.get(place as usize).ok_or("list of users")?;
                event.vis.scope = Scope::Users(list.clone());
            }
            Ok(Arc::new(event))
        });
        events.collect()
    }
}

/// Where a list is in a longer one; both ascend.
fn runs(all: &[Id<User>], list: &[Id<User>]) -> Runs {
    let (mut runs, mut rest) = (Runs::new(), all);
    for user in list {
        let passed = match rest.first() {
            Some(next) if next == user => 0,
            _ => rest.partition_point(|other| other < user),
        };
        if passed == 0
            && let Some((_, meant)) = runs.last_mut()
        {
            *meant += 1;
        } else {
            runs.push((passed as u32, 1));
        }
        rest = &rest[passed + 1..];
    }
    runs
}

fn meant(all: &[Id<User>], runs: &[(u32, u32)]) -> Option<Arc<[Id<User>]>> {
    let (mut list, mut rest) = (Vec::new(), all);
    for &(passed, meant) in runs {
        let (these, others) = rest
            .get(passed as usize..)?
            .split_at_checked(meant as usize)?;
        list.extend_from_slice(these);
        rest = others;
    }
    Some(list.into())
}
