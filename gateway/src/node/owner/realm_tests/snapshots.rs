//! What those who subscribe are answered with, and when.

use std::collections::BTreeSet;

use guildhall_shared::shard::ShardId;

use super::*;
use crate::node::{
    owner::{
        Entry, FromOwner, Todo, Wait, Waiting, entry::beginning, realm::RECENT_MAX,
        to_edge::SNAPSHOT_BYTES,
    },
    relay::frame::Sub,
};

#[test]
fn snapshots_show_each_user_their_channels() {
    let realm = hall();
    let ask = |user: u64, slot: u32, members: bool| {
        let request = SnapshotRequest {
            session: SessionKey {
                slot,
                generation: 1,
            },
            large_threshold: 50,
            members,
            presences: false,
            unavailable: Some(false),
        };
        Subscriber::new(id(user), vec![request])
    };
    let snapshots = realm.snapshots(&[
        ask(MOD, 1, true),
        ask(ALICE, 2, false),
        ask(STRANGER, 3, true),
    ]);
    let parsed: Vec<(u32, Value)> = snapshots
        .iter()
        .map(|(session, d)| (session.slot, serde_json::from_slice(d).unwrap()))
        .collect();
    assert_eq!(parsed.len(), 2);
    assert_eq!(parsed[0].1["channels"].as_array().unwrap().len(), 2);
    assert_eq!(parsed[0].1["members"].as_array().unwrap().len(), 3);
    assert_eq!(parsed[1].1["channels"][0]["id"], "200");
    assert_eq!(parsed[1].1["channels"].as_array().unwrap().len(), 1);
    assert_eq!(parsed[1].1["members"][0]["user"]["id"], "12");
    assert_eq!(parsed[1].1["members"].as_array().unwrap().len(), 1);
    assert_eq!(parsed[1].1["unavailable"], false);
    assert_eq!(parsed[1].1["member_count"], 3);
}

/// Two edges wait for a large guild while it goes on; the second one's link has no room for long.
#[test]
fn those_who_wait_for_a_large_guild_are_answered_in_turns() {
    const EACH: usize = 200_000;
    const WAITING: u64 = 1000;
    let mut realm = hall();
    let mut large = channel(OPEN, Vec::new());
    large.name = "x".repeat(EACH);
    apply(&mut realm, EventKind::ChannelUpdate, &json!(large));
    let start = realm.position();
    let mut entry = Entry::new(ShardId(0));
    entry.realm = Some(realm);
    let waiting = (1..=WAITING).map(|number| {
        let request = SnapshotRequest {
            session: SessionKey {
                slot: number as u32,
                generation: 1,
            },
            large_threshold: 50,
            members: false,
            presences: false,
            unavailable: None,
        };
        let sub = Sub {
            id: number,
            realm: id(HALL),
            from: match number % 3 {
                0 => Some(start),
                1 => Some(Position { era: 2, seq: 1 }),
                _ => None,
            },
            users: vec![Subscriber::new(id(OWNER), vec![request])],
            presences: false,
        };
        Waiting {
            ticket: number,
            edge: 1 + number % 2,
            sub,
            wait: Wait::Reading,
            at_least: None,
            lost: None,
        }
    });
    entry.waiting = waiting.collect();
    let mut todo = Todo::default();
    entry.answer(true, &mut todo);
    assert!(todo.answers.is_empty() && !todo.read);
    assert_eq!(todo.turns, BTreeSet::from([1, 2]));

    let mut answered = BTreeSet::new();
    for edge in [1, 2] {
        let mut goes_on = true;
        while goes_on {
            let realm = entry.realm.as_mut().unwrap();
            apply(realm, EventKind::MessageDelete, &json!({}));
            let at = realm.position();
            let mut todo = Todo::with_room();
            goes_on = entry.take_turn(edge, &mut todo);
            let mut bytes = 0;
            for (to, answer) in todo.answers {
                let FromOwner::SubOk(ok) = answer else {
                    panic!("no answer")
                };
                assert_eq!((to, ok.position), (edge, at));
                let replayed = match ok.id % 3 {
                    0 => at.seq - start.seq,
                    _ => 0,
                };
                assert_eq!(ok.replay.len() as u64, replayed);
                assert_eq!(ok.lost, (ok.id % 3 == 1).then(|| beginning(at)));
                assert_eq!(ok.snapshots.len(), 1);
                bytes += ok.snapshots[0].1.len();
                assert!(answered.insert(ok.id));
            }
            assert!(bytes < SNAPSHOT_BYTES + 2 * EACH, "{bytes}");
        }
        assert_eq!(answered.len() as u64, WAITING / 2 * edge);
    }
    assert!(entry.waiting.is_empty());
}

/// A core's users are named together, from the oldest position that one of them has: this owner may
/// not have heard yet that another one has joined.
#[test]
fn nobody_is_told_to_be_no_member_before_the_database_was_asked() {
    for (user, from) in [(STRANGER, Some(0)), (STRANGER, None), (ALICE, Some(0))] {
        let mut realm = hall();
        apply(&mut realm, EventKind::MessageDelete, &json!({}));
        let at = realm.position();
        let mut entry = Entry::new(ShardId(0));
        entry.realm = Some(realm);
        let users = [OWNER, user].map(|user| Subscriber::new(id(user), Vec::new()));
        let sub = Sub {
            id: 1,
            realm: id(HALL),
            from: from.map(|seq| Position { era: 1, seq }),
            users: users.into(),
            presences: false,
        };
        entry.waiting = vec![Waiting {
            ticket: 7,
            edge: EDGE,
            sub,
            wait: Wait::Reading,
            at_least: None,
            lost: None,
        }];
        let mut todo = Todo::with_room();
        entry.answer(false, &mut todo);
        let is_member = user == ALICE;
        assert_eq!(
            todo.answers.len(),
            usize::from(is_member),
            "{user} {from:?}"
        );
        assert_eq!(
            todo.unsure.len(),
            usize::from(!is_member),
            "{user} {from:?}"
        );
        // The database says that the realm is where this owner is: they are none.
        for waiting in &mut entry.waiting {
            waiting.at_least = Some(at);
            waiting.wait = Wait::Reading;
        }
        entry.answer(false, &mut todo);
        assert!(entry.waiting.is_empty());
        let Some((EDGE, FromOwner::SubOk(ok))) = todo.answers.pop() else {
            panic!("no answer")
        };
        let named = ok.view.users.iter();
        let strangers = named.filter(|(_, classes)| classes.is_none()).count();
        assert_eq!(strangers, usize::from(!is_member), "{user} {from:?}");
    }
}

#[test]
fn kept_events_reach_back_only_so_far() {
    let mut realm = hall();
    for _ in 0..3 {
        apply(&mut realm, EventKind::MessageDelete, &json!({}));
    }
    assert_eq!(realm.recent_after(3), Some(Vec::new()));
    assert_eq!(realm.recent_after(1).map(|events| events.len()), Some(2));
    assert_eq!(realm.recent_after(0).map(|events| events.len()), Some(3));
    assert_eq!(realm.recent_after(4), None);
    for _ in 0..RECENT_MAX {
        apply(&mut realm, EventKind::MessageDelete, &json!({}));
    }
    assert_eq!(realm.recent_after(1), None);
}
