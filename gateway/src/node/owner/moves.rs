//! Which channels users gain and lose by one event.
//!
//! Pure. Thousands of users see the same before it and after it: what that means is found out
//! once for all of them.

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use guildhall_shared::{
    Id,
    id::marker::{Channel, User},
};
use rustc_hash::FxHashMap;

use super::{
    to_edge::EdgeId,
    view::{Moved, Seen, sees},
};
use crate::bus::ClassId;

/// Users that something is told to, by the edges where they are; one who is on several is with
/// each. Both ascend.
#[derive(Debug)]
pub(crate) struct Audience {
    pub(crate) edges: Vec<(EdgeId, Arc<[Id<User>]>)>,
}

/// An [`Audience`] that is not complete yet.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    pub(crate) edges: BTreeMap<EdgeId, Vec<Id<User>>>,
}

/// Users who see the same and saw the same.
#[derive(Debug)]
pub(crate) struct Alike {
    saw: Seen,
    sees: Seen,
    pub(crate) who: Gathering,
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
    pub(crate) fn first(&self) -> Option<Id<User>> {
        let (_, users) = self.edges.first()?;
        users.first().copied()
    }
}

impl Gathering {
    pub(crate) fn add(&mut self, edge: EdgeId, user: Id<User>) {
        self.edges.entry(edge).or_default().push(user);
    }

    /// Nobody else is added.
    pub(crate) fn settle(self) -> Audience {
        let edges = self.edges.into_iter().map(|(edge, mut users)| {
            users.sort_unstable();
            users.dedup();
            let users: Arc<[Id<User>]> = users.into();
            (edge, users)
        });
        Audience {
            edges: edges.collect(),
        }
    }
}

impl Regarded {
    pub(crate) fn add(&mut self, edge: EdgeId, user: Id<User>, saw: &Seen, sees: &Seen) {
        let alike = &mut self.alike;
        let place = self.places.entry((saw.clone(), sees.clone()));
        let place = *place.or_insert_with(|| {
            alike.push(Alike {
                saw: saw.clone(),
                sees: sees.clone(),
                who: Gathering::default(),
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
            let mut all = Gathering::default();
            for &place in places {
                for (&edge, users) in &regarded[place].who.edges {
                    all.edges.entry(edge).or_default().extend_from_slice(users);
                }
            }
            Rc::new(all.settle())
        });
        (channel, audience.clone())
    });
    by_channel.collect()
}
