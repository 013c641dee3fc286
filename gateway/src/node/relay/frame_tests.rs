//! Any frames survive the wire, and any bytes give a frame or are refused.

use guildhall_shared::{
    envelope::{Durability, Scope, Visibility},
    gateway::{EventKind, Intents},
    model::{Activity, Platform, Presence, SessionState, Status},
};
use proptest::prelude::*;

use super::*;
use crate::{
    ask::{Members, Question, Wanted, Watch, Wish},
    bus::SnapshotRequest,
};

fn id<T>() -> impl Strategy<Value = Id<T>> {
    (1..=i64::MAX as u64).prop_map(|id| Id::new(id).unwrap())
}

fn position() -> impl Strategy<Value = Position> {
    (any::<u32>(), 1u64..u64::MAX).prop_map(|(era, seq)| Position { era, seq })
}

fn key() -> impl Strategy<Value = SessionKey> {
    (any::<u32>(), any::<u32>()).prop_map(|(slot, generation)| SessionKey { slot, generation })
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..50).prop_map(Bytes::from)
}

prop_compose! {
    fn envelope()(realm in id(), at in position(), body in bytes()) -> Arc<Envelope> {
        Arc::new(Envelope {
            realm,
            durability: Durability::Durable(at),
            kind: EventKind::MessageCreate,
            vis: Visibility::realm(Intents::GUILDS),
            at_ms: 7,
            trace: 0,
            body,
            alt: None,
        })
    }
}

prop_compose! {
    fn view()(
        channels in prop::collection::vec((id(), prop::option::of(any::<u16>())), 0..4),
        users in prop::collection::vec(
            (id(), prop::option::of(prop::collection::vec(any::<u16>(), 0..4))), 0..4),
    ) -> ViewChange {
        ViewChange { channels, users }
    }
}

prop_compose! {
    /// Some for the same users, some for others, some for all.
    fn events()(
        lists in prop::collection::vec(prop::collection::vec(1u64..20, 0..12), 1..4),
        ascend: bool,
        events in prop::collection::vec((envelope(), 0usize..4), 0..6),
    ) -> Vec<Arc<Envelope>> {
        let lists: Vec<Arc<[Id<User>]>> = lists
            .into_iter()
            .map(|mut list| {
                if ascend {
                    list.sort_unstable();
                    list.dedup();
                }
                list.into_iter().map(|user| Id::new(user).unwrap()).collect()
            })
            .collect();
        let events = events.into_iter().map(|(event, list)| match lists.get(list) {
            Some(list) => {
                let vis = Visibility::of(Scope::Users(list.clone()), Intents::GUILDS);
                Arc::new(Envelope { vis, ..Envelope::clone(&event) })
            }
            None => event,
        });
        events.collect()
    }
}

fn presence() -> impl Strategy<Value = Presence> {
    (any::<u64>(), ".{0,9}", prop::bool::ANY).prop_map(|(key, name, active)| {
        let name = serde_json::json!({ "name": name }).to_string();
        let json = serde_json::value::RawValue::from_string(name).unwrap();
        let activities = std::sync::Arc::new(vec![Activity::new(key, json)]);
        Presence::of_session(Platform::Mobile, Status::Dnd, active.then_some(&activities))
    })
}

prop_compose! {
    fn sub()(
        number in 1u64..,
        realm in id(),
        from in prop::option::of(position()),
        user in id(),
        presence in presence(),
        session in key(),
        large_threshold in 50u16..250,
        unavailable in any::<Option<bool>>(),
    ) -> Sub {
        let snapshots = vec![SnapshotRequest {
            session,
            large_threshold,
            members: true,
            presences: false,
            unavailable,
        }];
        let users = vec![Subscriber { presence, ..Subscriber::new(user, snapshots) }];
        Sub { id: number, realm, from, users, presences: true }
    }
}

prop_compose! {
    fn ask()(
        number: u32,
        guild in id(),
        session in key(),
        user in id(),
        wish in prop_oneof![id().prop_map(Wish::User), ".{0,9}".prop_map(Wish::Junk)],
        nonce in prop::option::of(".{0,9}"),
        presences: bool,
    ) -> Ask {
        let from = Address { core: 1, session };
        let wanted = Wanted::Ids(vec![wish]);
        let question = Question::Members(Box::new(Members { wanted, presences, nonce }));
        Ask { number, guild, from, user, bot: presences, intents: 7, question }
    }
}

prop_compose! {
    fn tell()(
        session in key(),
        number in prop::option::of(any::<u32>()),
        ends in prop::collection::vec(id(), 0..3),
        body in bytes(),
    ) -> Tell {
        Tell {
            to: Address { core: 1, session },
            answers: number.map(|number| Answers { number, ends }),
            dispatches: vec![(EventKind::GuildMembersChunk, body)],
        }
    }
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (any::<[u8; 32]>(), ".{0,20}", any::<u16>()).prop_map(|(nonce, node, version)| {
            Frame::Challenge(Challenge {
                node,
                nonce,
                version,
            })
        }),
        (any::<[u8; 32]>(), any::<[u8; 32]>()).prop_map(|(nonce, proof)| Frame::Hello(Hello {
            node: "a".into(),
            nonce,
            proof
        })),
        any::<[u8; 32]>().prop_map(Frame::Proof),
        prop::collection::vec(sub(), 0..3).prop_map(Frame::Sub),
        (id(), prop::collection::vec(id(), 0..3), any::<bool>()).prop_map(
            |(realm, users, moved)| Frame::Unsub {
                realm,
                users,
                moved,
            }
        ),
        (
            any::<u64>(),
            id(),
            position(),
            view(),
            prop::collection::vec(envelope(), 0..3),
            prop::option::of(position()),
            prop::collection::vec((key(), bytes()), 0..3),
            prop::collection::vec(key(), 0..3),
        )
            .prop_map(
                |(number, realm, position, view, replay, lost, snapshots, left)| {
                    Frame::SubOk(Box::new(SubOk {
                        id: number,
                        realm,
                        position,
                        view,
                        replay,
                        lost,
                        snapshots,
                        left,
                    }))
                }
            ),
        prop::collection::vec((id(), id(), presence(), any::<[u8; 16]>()), 0..3).prop_map(|all| {
            Frame::Presence(
                all.into_iter()
                    .map(|(realm, user, presence, session)| PresenceChange {
                        realm,
                        user,
                        sessions: vec![SessionState {
                            id: session,
                            status: Status::Idle,
                            platform: Platform::Web,
                            activities: None,
                        }],
                        presence,
                    })
                    .collect(),
            )
        }),
        (
            id(),
            id(),
            key(),
            prop::option::of(prop::collection::vec((id(), any::<u32>()), 0..3))
        )
            .prop_map(|(guild, user, session, looks)| {
                Frame::Watch(Box::new(WatchChange {
                    guild,
                    from: Address { core: 1, session },
                    user,
                    watch: looks.map(|looks| Watch {
                        channels: looks
                            .into_iter()
                            .map(|(id, block)| (id, vec![block]))
                            .collect(),
                        members: vec![user],
                    }),
                }))
            }),
        (prop::collection::vec(key(), 0..3), bytes()).prop_map(|(to, body)| Frame::TellAll {
            to: to
                .into_iter()
                .map(|session| Address { core: 0, session })
                .collect(),
            kind: EventKind::GuildMemberListUpdate,
            body,
        }),
        (any::<u64>(), id()).prop_map(|(id, realm)| Frame::Refused { id, realm }),
        envelope().prop_map(Frame::Ev),
        events().prop_map(Frame::Evs),
        (id(), view()).prop_map(|(realm, change)| Frame::View { realm, change }),
        ask().prop_map(|ask| Frame::Ask(Box::new(ask))),
        tell().prop_map(|tell| Frame::Tell(Box::new(tell))),
        Just(Frame::Ping),
        Just(Frame::Pong),
    ]
}

proptest! {
    #[test]
    fn frames_survive_the_wire_in_any_pieces(
        frames in prop::collection::vec(frame(), 1..5),
        piece in 1usize..40,
    ) {
        let wire: Vec<u8> = frames.iter().flat_map(|frame| frame.encode()).collect();
        let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
        for piece in wire.chunks(piece) {
            buffer.extend_from_slice(piece);
            while let Some(payload) = cut(&mut buffer, FRAME_BYTES_MAX).unwrap() {
                got.push(Frame::decode(payload).unwrap());
            }
        }
        prop_assert_eq!(got, frames);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..20) {
        let _ = Frame::decode(bytes.clone().into());
        let mut typed = vec![kind];
        typed.extend_from_slice(&bytes);
        let _ = Frame::decode(typed.into());
        let _ = cut(&mut BytesMut::from(&bytes[..]), HELLO_BYTES_MAX);
    }

    #[test]
    fn altered_frames_never_panic(frame in frame(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = frame.encode().slice(4..).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = Frame::decode(bytes.into());
    }
}

#[test]
fn users_travel_once_however_many_events_and_lists_they_are_in() {
    let all: Arc<[Id<User>]> = (1..=10_000).filter_map(|n| Id::new(n << 40)).collect();
    let but = |left_out: usize| -> Arc<[Id<User>]> {
        let others = all.iter().enumerate().filter(|(at, _)| *at != left_out);
        others.map(|(_, &user)| user).collect()
    };
    let event = |list: Arc<[Id<User>]>| {
        Arc::new(Envelope {
            realm: Id::new(7).unwrap(),
            durability: Durability::Ephemeral,
            kind: EventKind::ChannelDelete,
            vis: Visibility::of(Scope::Users(list), Intents::GUILDS),
            at_ms: 0,
            trace: 0,
            body: Bytes::from(vec![b' '; 200]),
            alt: None,
        })
    };
    let same = (0..500).map(|_| event(all.clone()));
    let others = (0..500).map(|at| event(but(at * 20)));
    let frame = Frame::Evs(same.chain(others).collect());
    let bytes = frame.encode();
    // An id takes up to 10 bytes, an event's header and list well below 100.
    assert!(bytes.len() < 10_000 * 10 + 1000 * (200 + 100));
    let read = Frame::decode(bytes.slice(4..)).unwrap();
    assert_eq!(read, frame);
    let Frame::Evs(events) = read else {
        panic!("other events")
    };
    let (Scope::Users(a), Scope::Users(b)) = (&events[0].vis.scope, &events[1].vis.scope) else {
        panic!("{events:?}")
    };
    assert!(Arc::ptr_eq(a, b));
}

#[test]
fn users_that_are_not_there_are_no_frame() {
    let user = Id::<User>::new(9).unwrap();
    for (lists, place) in [
        (vec![vec![(0u32, 2u32)]], 0u32),
        (vec![vec![(2, 0)]], 0),
        (vec![vec![(0, u32::MAX), (u32::MAX, 1)]], 0),
        (vec![vec![(0, 1)]], 1),
        (vec![vec![(0, 1)]; 2], 0),
    ] {
        let event = Envelope {
            realm: Id::new(7).unwrap(),
            durability: Durability::Ephemeral,
            kind: EventKind::ChannelDelete,
            vis: Visibility::users(Vec::new()),
            at_ms: 0,
            trace: 0,
            body: Bytes::new(),
            alt: None,
        };
        let wire = WireEvents {
            users: vec![user],
            lists,
            events: vec![(Some(place), event.encode())],
        };
        assert!(Frame::decode(encode(EVS, &wire).slice(4..)).is_err());
    }
}

#[test]
fn a_frame_too_long_is_refused_before_it_is_read() {
    let mut buffer = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
    assert_eq!(cut(&mut buffer, FRAME_BYTES_MAX), Err(BadFrame("too long")));
}
