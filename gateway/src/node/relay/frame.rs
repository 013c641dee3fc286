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
    envelope::Envelope,
    gateway::EventKind,
    id::marker::{Realm, User},
    shard::Position,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::events::WireEvents;
use crate::{
    ask::{Answers, Ask, WatchChange},
    bus::{Claim, Claimed, PresenceChange, Subscriber, ViewChange},
    names::{Address, CoreId, SessionKey},
    session::record::{SessionRecord, Travelling},
};

/// What the frames mean: raised by every change that another version would not understand. Gateways
/// of different versions have no links; each serves its clients itself then.
pub(crate) const VERSION: u16 = 8;
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
    /// Perhaps only the first of what is lacking: the rest is to be asked for again.
    pub(crate) replay: Vec<Arc<Envelope>>,
    /// The replay cannot be had: for who stands before this position it never can.
    pub(crate) lost: Option<Position>,
    pub(crate) snapshots: Vec<(SessionKey, Bytes)>,
    /// Sessions whose snapshots are to be asked for again: these were enough for one answer.
    pub(crate) left: Vec<SessionKey>,
}

#[derive(Serialize, Deserialize)]
struct WireSubOk {
    id: u64,
    realm: Id<Realm>,
    position: Position,
    view: ViewChange,
    replay: Vec<Bytes>,
    lost: Option<Position>,
    snapshots: Vec<(SessionKey, Bytes)>,
    left: Vec<SessionKey>,
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
                    left: ok.left.clone(),
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
                    left: ok.left,
                }))
            }
            REFUSED => {
                let (id, realm) = decode(&payload)?;
                Self::Refused { id, realm }
            }
            EV => Self::Ev(event(payload)?),
            EVS => Self::Evs(decode::<WireEvents>(&payload)?.read().map_err(BadFrame)?),
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
#[path = "frame_tests.rs"]
mod tests;
