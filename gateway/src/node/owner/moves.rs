//! Which channels users gain and lose by one event.
//!
//! Pure. Thousands of users see the same before it and after it: what that means is found out
//! once for all of them.

use std::{collections::BTreeMap, rc::Rc};

use guildhall_shared::{
    Id,
    id::marker::{Channel, User},
};
use rustc_hash::FxHashMap;

use super::{
    realm::EdgeId,
    view::{Moved, Seen, sees},
};
use crate::bus::ClassId;

/// Users that something is told to, and the edges where they are. Both ascend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Audience {
    pub(crate) users: Vec<Id<User>>,
    pub(crate) edges: Vec<EdgeId>,
}

/// Users who see the same and saw the same.
#[derive(Debug)]
pub(crate) struct Alike {
    saw: Seen,
    sees: Seen,
    pub(crate) who: Audience,
    /// Ascending.
    pub(crate) gained: Vec<Id<Channel>>,
}

/// Channels that users gained and lost by one event, by channel.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    pub(crate) regarded: Vec<Alike>,
    pub(crate) gained: Vec<(Id<Channel>, Rc<Audience>)>,
    pub(crate) lost: Vec<(Id<Channel>, Rc<Audience>)>,
}

/// Users whom an event may show or hide channels, by what they saw and see.
#[derive(Debug, Default)]
pub(crate) struct Regarded {
    places: FxHashMap<(Seen, Seen), usize>,
    alike: Vec<Alike>,
}

impl Audience {
    /// Adds a user of an edge, edge by edge; one who is on several comes several times.
    pub(crate) fn add(&mut self, edge: EdgeId, user: Id<User>) {
        self.users.push(user);
        if self.edges.last() != Some(&edge) {
            self.edges.push(edge);
        }
    }

    /// Nobody else is added.
    pub(crate) fn settle(&mut self) {
        self.users.sort_unstable();
        self.users.dedup();
        self.edges.sort_unstable();
        self.edges.dedup();
    }
}

impl Regarded {
    /// Adds a user of an edge, edge by edge.
    pub(crate) fn add(&mut self, edge: EdgeId, user: Id<User>, saw: &Seen, sees: &Seen) {
        let alike = &mut self.alike;
        let place = self.places.entry((saw.clone(), sees.clone()));
        let place = *place.or_insert_with(|| {
            alike.push(Alike {
                saw: saw.clone(),
                sees: sees.clone(),
                who: Audience::default(),
                gained: Vec::new(),
            });
            alike.len() - 1
        });
        alike[place].who.add(edge, user);
    }

    /// What it comes to. `moved` are the channels that came, went or changed their class,
    /// `channels` all that there are, with their classes; both by channel.
    pub(crate) fn moves(self, moved: &[Moved], channels: &[(Id<Channel>, ClassId)]) -> Moves {
        let mut regarded = self.alike;
        if regarded.is_empty() {
            return Moves::default();
        }
        let mut staying: FxHashMap<ClassId, Vec<Id<Channel>>> = FxHashMap::default();
        for &(channel, class) in channels {
            let place = moved.binary_search_by_key(&channel, |moved| moved.channel);
            if place.is_err() {
                staying.entry(class).or_default().push(channel);
            }
        }
        // The users by their places among the regarded.
        let mut gained: BTreeMap<Id<Channel>, Vec<usize>> = BTreeMap::new();
        let mut lost: BTreeMap<Id<Channel>, Vec<usize>> = BTreeMap::new();
        for (place, alike) in regarded.iter_mut().enumerate() {
            alike.who.settle();
            let (new, old) = alike.moves(moved, &staying);
            for &channel in &new {
                gained.entry(channel).or_default().push(place);
            }
            for channel in old {
                lost.entry(channel).or_default().push(place);
            }
            alike.gained = new;
        }
        Moves {
            gained: audiences(&regarded, gained),
            lost: audiences(&regarded, lost),
            regarded,
        }
    }
}

impl Alike {
    /// The channels they gained, ascending, and those they lost. `staying`: the channels that
    /// are where they were, by class.
    fn moves(
        &self,
        moved: &[Moved],
        staying: &FxHashMap<ClassId, Vec<Id<Channel>>>,
    ) -> (Vec<Id<Channel>>, Vec<Id<Channel>>) {
        // What is in `these` and not in `others`.
        let only = |these: &Seen, others: &Seen| -> Vec<Id<Channel>> {
            let classes = these.iter().filter(|class| !sees(others, **class));
            let channels = classes.filter_map(|class| staying.get(class));
            channels.flatten().copied().collect()
        };
        let mut gained = only(&self.sees, &self.saw);
        let mut lost = only(&self.saw, &self.sees);
        for moved in moved {
            let Some(class) = moved.now else { continue };
            let had = moved.before.is_some_and(|class| sees(&self.saw, class));
            match (had, sees(&self.sees, class)) {
                (false, true) => gained.push(moved.channel),
                (true, false) => lost.push(moved.channel),
                (false, false) | (true, true) => {}
            }
        }
        gained.sort_unstable();
        (gained, lost)
    }
}

/// Who moved in each channel: mostly the same users in many of them.
fn audiences(
    regarded: &[Alike],
    by_channel: BTreeMap<Id<Channel>, Vec<usize>>,
) -> Vec<(Id<Channel>, Rc<Audience>)> {
    let mut known: FxHashMap<Vec<usize>, Rc<Audience>> = FxHashMap::default();
    let by_channel = by_channel.into_iter().map(|(channel, places)| {
        let audience = known.entry(places).or_insert_with_key(|places| {
            let mut all = Audience::default();
            for &place in places {
                let who = &regarded[place].who;
                all.users.extend_from_slice(&who.users);
                all.edges.extend_from_slice(&who.edges);
            }
            all.settle();
            Rc::new(all)
        });
        (channel, audience.clone())
    });
    by_channel.collect()
}
