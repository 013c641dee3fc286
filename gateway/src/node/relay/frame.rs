//! Frames between gateways: `length u32 LE | type u8 | payload`, the length counting type
//! and payload.
//!
//! An event travels as the bytes of its envelope, and users that many of several events are for
//! travel once; everything else is postcard. Nothing here trusts the other side: any bytes give a
//! frame or [`BadFrame`].

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use guildhall_shared::{
    Id,
    envelope::{Envelope, Scope},
    gateway::EventKind,
    id::marker::{Realm, User},
    shard::Position,
};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    bus::{
        Address, Answers, Ask, Claim, Claimed, CoreId, PresenceChange, SessionKey, Subscriber,
        ViewChange, WatchChange,
    },
    session::record::{SessionRecord, Travelling},
};

/// What the frames mean: raised by every change that another version would not understand. Gateways
/// of different versions have no links; each serves its clients itself then.
pub(crate) const VERSION: u16 = 4;
/// Largest frame; a larger one resets the link.
pub(crate) const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest frame of a peer that has not proven itself.
pub(crate) const HELLO_BYTES_MAX: usize = 1024;
/// Realms per [`Frame::Sub`].
pub(crate) const SUBS_MAX: usize = 1000;

/// The bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bad frame: {0}")]
pub(crate) struct BadFrame(pub(crate) &'static str);

/// One edge wants one realm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sub {
    /// Comes back with the answer; never 0.
    pub(crate) id: u64,
    pub(crate) realm: Id<Realm>,
    /// Events after this one; `None`: from the snapshot on.
    pub(crate) from: Option<Position>,
    pub(crate) users: Vec<Subscriber>,
    /// Somebody on the edge wants to know who else is online.
    pub(crate) presences: bool,
}

/// The owner's answer to a [`Sub`]; events after `position` follow it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SubOk {
    /// The [`Sub`]'s id; 0 when the owner had to read the realm again and tells all.
    pub(crate) id: u64,
    pub(crate) realm: Id<Realm>,
    pub(crate) position: Position,
    /// All channels, and the users of the [`Sub`] (of the edge, if `id` is 0).
    pub(crate) view: ViewChange,
    pub(crate) replay: Vec<Arc<Envelope>>,
    pub(crate) lost: bool,
    pub(crate) snapshots: Vec<(SessionKey, Bytes)>,
}

#[derive(Serialize, Deserialize)]
struct WireSubOk {
    id: u64,
    realm: Id<Realm>,
    position: Position,
    view: ViewChange,
    replay: Vec<Bytes>,
    lost: bool,
    snapshots: Vec<(SessionKey, Bytes)>,
}

/// What an owner tells one session of an edge.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tell {
    pub(crate) to: Address,
    pub(crate) answers: Option<Answers>,
    pub(crate) dispatches: Vec<(EventKind, Bytes)>,
}

/// Where a session is thought to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) boot: u32,
    pub(crate) core: CoreId,
    /// How often the session had been resumed when that was looked up.
    pub(crate) generation: u64,
    /// In which life Redis said so.
    pub(crate) life: String,
    pub(crate) claim: Claim,
}

/// [`Claimed`] with the kinds of dispatches as numbers.
#[derive(Serialize, Deserialize)]
enum WireClaimed {
    Session(Box<SessionRecord>, u64, Vec<(u16, Bytes)>),
    Unknown,
    OtherToken,
    InvalidSeq,
    Gone,
}

impl WireClaimed {
    fn of(claimed: &Claimed) -> Self {
        match claimed {
            Claimed::Session(session) => {
                let dispatches = session.dispatches.iter();
                let dispatches = dispatches.map(|(kind, body)| (kind.number(), body.clone()));
                let record = Box::new(session.record.clone());
                Self::Session(record, session.s, dispatches.collect())
            }
            Claimed::Unknown => Self::Unknown,
            Claimed::OtherToken => Self::OtherToken,
            Claimed::InvalidSeq => Self::InvalidSeq,
            Claimed::Gone => Self::Gone,
        }
    }

    fn read(self) -> Result<Claimed, BadFrame> {
        Ok(match self {
            Self::Session(record, s, dispatches) => {
                let dispatches = dispatches.into_iter().map(|(kind, body)| {
                    let kind = EventKind::from_number(kind).ok_or(BadFrame("event kind"))?;
                    Ok((kind, body))
                });
                Claimed::Session(Box::new(Travelling {
                    record: *record,
                    s,
                    dispatches: dispatches.collect::<Result<_, _>>()?,
                }))
            }
            Self::Unknown => Claimed::Unknown,
            Self::OtherToken => Claimed::OtherToken,
            Self::InvalidSeq => Claimed::InvalidSeq,
            Self::Gone => Claimed::Gone,
        })
    }
}

/// Some of a list: how many are passed over, how many follow that are meant, and so on.
type Runs = Vec<(u32, u32)>;

/// Events that are for few different lists of users, and for many of the same users.
#[derive(Serialize, Deserialize)]
struct WireEvents {
    /// Who is in any of the lists; ascending.
    users: Vec<Id<User>>,
    lists: Vec<Runs>,
    /// Those that are for a list have no users of their own.
    events: Vec<(Option<u32>, Bytes)>,
}

impl WireEvents {
    fn of(events: &[Arc<Envelope>]) -> Self {
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

    fn read(self) -> Result<Vec<Arc<Envelope>>, BadFrame> {
        if self.lists.len() > self.events.len() {
            return Err(BadFrame("too many lists"));
        }
        let lists = self.lists.iter().map(|list| meant(&self.users, list));
        let lists: Option<Vec<Arc<[Id<User>]>>> = lists.collect();
        let lists = lists.ok_or(BadFrame("list of users"))?;
        let events = self.events.into_iter().map(|(place, bytes)| {
            let event = Envelope::decode(bytes).map_err(|_| BadFrame("envelope"));
            let mut event = event?;
            if let Some(place) = place {
                let list = lists.get(place as usize).ok_or(BadFrame("list of users"))?;
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

type WireTell = (Address, Option<Answers>, Vec<(u16, Bytes)>);

impl Tell {
    fn wire(&self) -> WireTell {
        let dispatches = self.dispatches.iter();
        let dispatches = dispatches.map(|(kind, body)| (*kind as u16, body.clone()));
        (self.to, self.answers.clone(), dispatches.collect())
    }

    fn from_wire((to, answers, dispatches): WireTell) -> Result<Self, BadFrame> {
        let dispatches = dispatches.into_iter().map(|(kind, body)| {
            let kind = EventKind::from_number(kind).ok_or(BadFrame("event kind"))?;
            Ok((kind, body))
        });
        Ok(Self {
            to,
            answers,
            dispatches: dispatches.collect::<Result<_, _>>()?,
        })
    }
}

/// From the listening side, first thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Challenge {
    pub(crate) node: String,
    pub(crate) nonce: [u8; 32],
    /// [`VERSION`] of that side.
    pub(crate) version: u16,
}

/// From the connecting side: who it is, and that it knows the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) node: String,
    pub(crate) nonce: [u8; 32],
    pub(crate) proof: [u8; 32],
}

/// Everything that crosses a link.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Frame {
    Challenge(Challenge),
    Hello(Hello),
    /// The listening side knows the key too.
    Proof([u8; 32]),
    Sub(Vec<Sub>),
    Unsub {
        realm: Id<Realm>,
        users: Vec<Id<User>>,
        /// They have not left the realm: another owner serves them now, and tells of them.
        moved: bool,
    },
    /// Users of the edge show something else in realms it is subscribed to.
    Presence(Vec<PresenceChange>),
    SubOk(Box<SubOk>),
    /// The owner cannot serve the realm now (its database is away).
    Refused {
        id: u64,
        realm: Id<Realm>,
    },
    Ev(Arc<Envelope>),
    /// Several, in order.
    Evs(Vec<Arc<Envelope>>),
    View {
        realm: Id<Realm>,
        change: ViewChange,
    },
    /// A session of the edge asks something of a guild's owner.
    Ask(Box<Ask>),
    /// A session of the edge looks at something else in a guild.
    Watch(Box<WatchChange>),
    /// The same for several sessions of the edge.
    TellAll {
        to: Vec<Address>,
        kind: EventKind,
        body: Bytes,
    },
    /// For one session of the edge alone: an answer, or a part of one.
    Tell(Box<Tell>),
    /// A client of the edge resumes a session that this start of the owner's process had.
    Claim(Wanted),
    /// What became of the claim of this number; `None`: it was another start's.
    Claimed {
        number: u64,
        result: Option<Box<Claimed>>,
    },
    Ping,
    Pong,
}

const CHALLENGE: u8 = 1;
const HELLO: u8 = 2;
const PROOF: u8 = 3;
const SUB: u8 = 4;
const UNSUB: u8 = 5;
const SUB_OK: u8 = 6;
const REFUSED: u8 = 7;
const EV: u8 = 8;
const VIEW: u8 = 9;
const PING: u8 = 10;
const PONG: u8 = 11;
const ASK: u8 = 12;
const TELL: u8 = 13;
const PRESENCE: u8 = 14;
const WATCH: u8 = 15;
const TELL_ALL: u8 = 16;
const CLAIM: u8 = 17;
const CLAIMED: u8 = 18;
const EVS: u8 = 19;

impl Frame {
    /// The whole frame with its length; longer than [`FRAME_BYTES_MAX`] must not be sent.
    pub(crate) fn encode(&self) -> Bytes {
        match self {
            Self::Challenge(challenge) => encode(CHALLENGE, challenge),
            Self::Hello(hello) => encode(HELLO, hello),
            Self::Proof(proof) => encode(PROOF, proof),
            Self::Sub(subs) => encode(SUB, subs),
            Self::Unsub {
                realm,
                users,
                moved,
            } => encode(UNSUB, &(realm, users, moved)),
            Self::Presence(changes) => encode(PRESENCE, changes),
            Self::SubOk(ok) => encode(
                SUB_OK,
                &WireSubOk {
                    id: ok.id,
                    realm: ok.realm,
                    position: ok.position,
                    view: ok.view.clone(),
                    replay: ok.replay.iter().map(|event| event.encode()).collect(),
                    lost: ok.lost,
                    snapshots: ok.snapshots.clone(),
                },
            ),
            Self::Refused { id, realm } => encode(REFUSED, &(id, realm)),
            Self::Ev(event) => {
                let mut out = BytesMut::with_capacity(256 + event.body.len() * 2);
                out.put_u32_le(0);
                out.put_u8(EV);
                event.encode_into(&mut out);
                finish(out)
            }
            Self::Evs(events) => encode(EVS, &WireEvents::of(events)),
            Self::View { realm, change } => encode(VIEW, &(realm, change)),
            Self::Ask(ask) => encode(ASK, ask),
            Self::Watch(change) => encode(WATCH, change),
            Self::TellAll { to, kind, body } => encode(TELL_ALL, &(to, kind.number(), body)),
            Self::Tell(tell) => encode(TELL, &tell.wire()),
            Self::Claim(wanted) => encode(CLAIM, wanted),
            Self::Claimed { number, result } => {
                let result = result.as_deref().map(WireClaimed::of);
                encode(CLAIMED, &(number, result))
            }
            Self::Ping => encode(PING, &()),
            Self::Pong => encode(PONG, &()),
        }
    }

    /// A frame without its length. An event's body shares the memory of `payload`.
    pub(crate) fn decode(mut payload: Bytes) -> Result<Self, BadFrame> {
        if !payload.has_remaining() {
            return Err(BadFrame("empty"));
        }
        Ok(match payload.get_u8() {
            CHALLENGE => Self::Challenge(decode(&payload)?),
            HELLO => Self::Hello(decode(&payload)?),
            PROOF => Self::Proof(decode(&payload)?),
            SUB => {
                let subs: Vec<Sub> = decode(&payload)?;
                if subs.len() > SUBS_MAX {
                    return Err(BadFrame("too many subscriptions"));
                }
                Self::Sub(subs)
            }
            UNSUB => {
                let (realm, users, moved) = decode(&payload)?;
                Self::Unsub {
                    realm,
                    users,
                    moved,
                }
            }
            PRESENCE => Self::Presence(decode(&payload)?),
            SUB_OK => {
                let ok: WireSubOk = decode(&payload)?;
                let replay: Result<_, _> = ok.replay.into_iter().map(event).collect();
                Self::SubOk(Box::new(SubOk {
                    id: ok.id,
                    realm: ok.realm,
                    position: ok.position,
                    view: ok.view,
                    replay: replay?,
                    lost: ok.lost,
                    snapshots: ok.snapshots,
                }))
            }
            REFUSED => {
                let (id, realm) = decode(&payload)?;
                Self::Refused { id, realm }
            }
            EV => Self::Ev(event(payload)?),
            EVS => Self::Evs(decode::<WireEvents>(&payload)?.read()?),
            VIEW => {
                let (realm, change) = decode(&payload)?;
                Self::View { realm, change }
            }
            WATCH => Self::Watch(Box::new(decode(&payload)?)),
            TELL_ALL => {
                let (to, kind, body): (_, u16, _) = decode(&payload)?;
                let kind = EventKind::from_number(kind).ok_or(BadFrame("event kind"))?;
                Self::TellAll { to, kind, body }
            }
            ASK => Self::Ask(Box::new(decode(&payload)?)),
            TELL => Self::Tell(Box::new(Tell::from_wire(decode(&payload)?)?)),
            CLAIM => Self::Claim(decode(&payload)?),
            CLAIMED => {
                let (number, result): (u64, Option<WireClaimed>) = decode(&payload)?;
                let result = result.map(|claimed| claimed.read().map(Box::new));
                Self::Claimed {
                    number,
                    result: result.transpose()?,
                }
            }
            PING => Self::Ping,
            PONG => Self::Pong,
            _ => return Err(BadFrame("type")),
        })
    }
}

/// Cuts the next whole frame off `buffer`, without its length; `None`: more bytes are needed.
///
/// Errors: the frame is longer than `bytes_max`.
pub(crate) fn cut(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, BadFrame> {
    let Some(length) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > bytes_max {
        return Err(BadFrame("too long"));
    }
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(length).freeze()))
}

fn event(bytes: Bytes) -> Result<Arc<Envelope>, BadFrame> {
    Envelope::decode(bytes)
        .map(Arc::new)
        .map_err(|_| BadFrame("envelope"))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadFrame> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(BadFrame("trailing bytes")),
        Err(_) => Err(BadFrame("payload")),
    }
}

fn encode(kind: u8, payload: &impl Serialize) -> Bytes {
    let start = vec![0, 0, 0, 0, kind];
    let out = postcard::to_extend(payload, start).expect("every frame's types have known lengths");
    finish(BytesMut::from(&out[..]))
}

fn finish(mut out: BytesMut) -> Bytes {
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_le_bytes());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use guildhall_shared::{
        envelope::{Durability, Visibility},
        gateway::{EventKind, Intents},
        model::{Activity, Platform, Presence, SessionState, Status},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::bus::{Members, Question, SnapshotRequest, Wanted, Watch, Wish};

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
                any::<bool>(),
                prop::collection::vec((key(), bytes()), 0..3),
            )
                .prop_map(
                    |(number, realm, position, view, replay, lost, snapshots)| {
                        Frame::SubOk(Box::new(SubOk {
                            id: number,
                            realm,
                            position,
                            view,
                            replay,
                            lost,
                            snapshots,
                        }))
                    }
                ),
            prop::collection::vec((id(), id(), presence(), any::<[u8; 16]>()), 0..3).prop_map(
                |all| {
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
                }
            ),
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
        let (Scope::Users(a), Scope::Users(b)) = (&events[0].vis.scope, &events[1].vis.scope)
        else {
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
}
