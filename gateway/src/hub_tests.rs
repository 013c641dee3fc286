//! Who gets an event, and what a change of views does.

use bytes::Bytes;
use guildhall_shared::{
    envelope::{Alt, Part, Visibility},
    gateway::EventKind,
};

use super::*;

fn id<T>(id: u64) -> Id<T> {
    Id::new(id).unwrap()
}

fn event(seq: u64, vis: Visibility) -> Envelope {
    Envelope {
        realm: id(1),
        durability: Durability::Durable(Position { era: 1, seq }),
        kind: EventKind::MessageCreate,
        vis,
        at_ms: 0,
        trace: 0,
        body: Bytes::new(),
        alt: None,
    }
}

fn recipients(hub: &Hub, event: &Envelope) -> Vec<(SessionSlot, Variant)> {
    let mut all = Vec::new();
    hub.recipients(event, |slot, variant| all.push((slot, variant)));
    all.sort_by_key(|&(slot, _)| slot);
    all
}

/// Users 10 (slots 0, 1) and 20 (slot 2); channel 5 is class 0, seen by both; channel 6 is
/// class 1, seen by user 10.
fn hub() -> Hub {
    let mut hub = Hub::default();
    for (user, slot) in [(10, 0), (10, 1), (20, 2)] {
        hub.join(id(1), id(user), slot);
    }
    let realm = hub.get_mut(id(1)).unwrap();
    realm.set_position(Position { era: 1, seq: 7 });
    let view = ViewChange {
        channels: vec![(id(5), Some(0)), (id(6), Some(1))],
        users: vec![(id(10), Some(vec![0, 1])), (id(20), Some(vec![0]))],
    };
    assert_eq!(
        realm.replace_view(view, &[]),
        [],
        "nobody heard of it before"
    );
    realm.attach(id(10), 0, Intents::GUILDS | Intents::GUILD_MESSAGES, 7);
    realm.attach(id(10), 1, Intents::GUILDS, 7);
    realm.attach(id(20), 2, user_intents(), 7);
    hub
}

#[test]
fn repeats_are_dropped_and_a_gap_is_reported_once() {
    let mut hub = hub();
    let next = |seq| event(seq, Visibility::realm(Intents::empty()));
    assert_eq!(hub.accept(&next(7)), Verdict::Drop);
    assert_eq!(hub.accept(&next(8)), Verdict::Deliver);
    assert_eq!(hub.accept(&next(8)), Verdict::Drop);
    assert_eq!(
        hub.accept(&next(10)),
        Verdict::Gap(Position { era: 1, seq: 8 })
    );
    assert_eq!(hub.accept(&next(11)), Verdict::Drop);
    assert_eq!(hub.accept(&next(9)), Verdict::Deliver);
}

#[test]
fn intents_and_classes_decide() {
    let hub = hub();
    let shared = event(8, Visibility::channel(id(5), Intents::GUILD_MESSAGES));
    assert_eq!(
        recipients(&hub, &shared),
        [(0, Variant::Full), (2, Variant::Full)]
    );
    let private = event(8, Visibility::channel(id(6), Intents::GUILD_MESSAGES));
    assert_eq!(recipients(&hub, &private), [(0, Variant::Full)]);
    let everyone = event(8, Visibility::realm(Intents::GUILDS));
    assert_eq!(recipients(&hub, &everyone).len(), 3);
    let own = event(
        8,
        Visibility {
            regardless: vec![id(10)],
            ..Visibility::realm(Intents::GUILD_MEMBERS)
        },
    );
    assert_eq!(
        recipients(&hub, &own),
        [(0, Variant::Full), (1, Variant::Full)]
    );
    let others = event(
        8,
        Visibility {
            except: vec![id(10)],
            ..Visibility::realm(Intents::empty())
        },
    );
    assert_eq!(recipients(&hub, &others), [(2, Variant::Full)]);
    let before = event(7, Visibility::realm(Intents::empty()));
    assert_eq!(recipients(&hub, &before), []);
}

#[test]
fn members_of_threads_come_with_guilds_to_oneself_and_with_guild_members_to_others() {
    let mut hub = hub();
    let realm = hub.get_mut(id(1)).unwrap();
    for (slot, intents) in [
        (3, Intents::GUILD_MEMBERS),
        (4, Intents::GUILD_MESSAGES),
        (5, Intents::GUILDS),
    ] {
        realm.attach(id(10), slot, intents, 7);
    }
    let vis = Visibility::channel(id(5), Intents::GUILD_MEMBERS);
    let mut joined = event(8, vis);
    joined.kind = EventKind::ThreadMembersUpdate;
    let slots = |joined: &Envelope| -> Vec<SessionSlot> {
        let recipients = recipients(&hub, joined);
        recipients.into_iter().map(|(slot, _)| slot).collect()
    };
    // Slot 2 is a person's.
    assert_eq!(slots(&joined), [2, 3]);
    joined.vis.regardless = vec![id(10)];
    assert_eq!(slots(&joined), [0, 1, 2, 3, 5]);
    // Nor do bots get it that have asked for all that people have.
    let mut hub = self::hub();
    let realm = hub.get_mut(id(1)).unwrap();
    let asked = Intents::all() - Intents::GUILD_MEMBERS - Intents::GUILD_PRESENCES;
    realm.attach(id(10), 3, asked, 7);
    joined.vis.regardless.clear();
    assert_eq!(recipients(&hub, &joined), [(2, Variant::Full)]);
    // Others of members are not for people.
    joined.kind = EventKind::GuildMemberAdd;
    assert_eq!(recipients(&hub, &joined), []);
}

#[test]
fn content_is_for_those_who_may_read_it() {
    let hub = hub();
    let mut message = event(8, Visibility::channel(id(5), Intents::GUILD_MESSAGES));
    message.alt = Some(Alt {
        full_for: vec![],
        body: Bytes::new(),
        parts: vec![],
    });
    assert_eq!(
        recipients(&hub, &message),
        [(0, Variant::WithoutContent), (2, Variant::Full)]
    );
    message.alt = Some(Alt {
        full_for: vec![id(10)],
        body: Bytes::new(),
        parts: vec![],
    });
    assert_eq!(
        recipients(&hub, &message),
        [(0, Variant::Full), (2, Variant::Full)]
    );
    let part = |user| Part {
        users: vec![id(user)],
        body: Bytes::new(),
    };
    message.alt = Some(Alt {
        full_for: vec![],
        body: Bytes::new(),
        parts: vec![part(20), part(10)],
    });
    assert_eq!(
        recipients(&hub, &message),
        [(0, Variant::Part(1)), (2, Variant::Full)]
    );
}

#[test]
fn a_view_change_holds_for_the_next_event() {
    let mut hub = hub();
    let private = event(8, Visibility::channel(id(6), Intents::GUILD_MESSAGES));
    let change = |users| ViewChange {
        channels: vec![],
        users,
    };
    hub.get_mut(id(1)).unwrap().change_view(change(vec![
        (id(10), Some(vec![0])),
        (id(20), Some(vec![0, 1])),
    ]));
    assert_eq!(recipients(&hub, &private), [(2, Variant::Full)]);
    hub.get_mut(id(1))
        .unwrap()
        .change_view(change(vec![(id(20), None)]));
    assert_eq!(recipients(&hub, &private), []);
    let everyone = event(8, Visibility::realm(Intents::empty()));
    assert_eq!(recipients(&hub, &everyone).len(), 2);
}

#[test]
fn who_sees_a_channel_or_not_by_its_new_class_alone_is_touched_by_that() {
    let hub = hub();
    let realm = hub.get(id(1)).unwrap();
    let touched = |channel, class| {
        let change = ViewChange {
            channels: vec![(id(channel), class)],
            users: vec![],
        };
        realm.touched_by(&change)
    };
    assert_eq!(touched(5, Some(1)), [id(20)], "hidden from them");
    assert_eq!(touched(6, Some(0)), [id(20)], "shown to them");
    assert_eq!(touched(6, None), [id(10)], "gone");
    assert_eq!(touched(5, Some(0)), []);
    assert_eq!(touched(7, Some(0)), [], "new");
}

#[test]
fn a_new_owners_view_tells_who_sees_other_channels() {
    let mut hub = hub();
    let realm = hub.get_mut(id(1)).unwrap();
    // Another owner numbers its classes otherwise; channel 7 is new.
    let view = |sees: Vec<ClassId>| ViewChange {
        channels: vec![(id(5), Some(3)), (id(6), Some(2)), (id(7), Some(3))],
        users: vec![(id(10), Some(sees)), (id(20), Some(vec![3]))],
    };
    assert_eq!(realm.replace_view(view(vec![2, 3]), &[id(7)]), []);
    assert_eq!(realm.replace_view(view(vec![3]), &[]), [id(10)]);
    let without_5 = ViewChange {
        channels: vec![(id(7), Some(3))],
        users: vec![(id(10), Some(vec![3])), (id(20), None)],
    };
    assert_eq!(realm.replace_view(without_5, &[]), [id(10)]);
}

#[test]
fn the_last_session_takes_the_realm_with_it() {
    let mut hub = hub();
    assert!(!hub.leave(id(1), id(10), 0));
    assert!(hub.leave(id(1), id(10), 1));
    assert!(hub.leave(id(1), id(20), 2));
    assert!(hub.get(id(1)).is_none());
}
