//! The envelope: one event on its way from the API to the gateways.
//!
//! Binary, little-endian, a version byte first:
//! `ver u8 | durability u8 | realm u64 | era u32 | seq u64 | kind u16 | vis | at_ms u64 |
//! trace u128 | body | alt?`, where byte strings and lists carry a u32 count before them.
//! `alt` is `full_for | same at the start u32 | same at the end u32 | what is between`, as the two
//! bodies of a message differ in little but its text; the list's count bears the bit
//! [`ALT_IS_PATCH`]. Without that bit a whole body follows, as events were stored before.
//! Parts, if there are any, come behind it: a u32 count, and each in the same form as `alt`.
//! `vis`, `body` and `alt` are also what `realm_event` keeps, in the same form: who knows of no
//! parts reads what is before them.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{
    Permissions,
    gateway::{EventKind, Intents},
    id::{
        Id,
        marker::{Channel, Realm, User},
    },
    shard::Position,
};

const VERSION: u8 = 1;
/// In the count of `full_for`: the body is told by how it differs.
const ALT_IS_PATCH: u32 = 1 << 31;
/// A message and the one it answers: two bodies have the content of one of them.
const PARTS_MAX: u32 = 2;

/// One event. `body` is the JSON of `d`, made once by whoever caused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub realm: Id<Realm>,
    pub durability: Durability,
    pub kind: EventKind,
    pub vis: Visibility,
    /// When it was stored, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Follows one request through the cluster's logs; 0 for none.
    pub trace: u128,
    pub body: Bytes,
    pub alt: Option<Alt>,
}

/// Whether an event is numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Numbered in its realm and stored: delivered exactly once, in order.
    Durable(Position),
    /// Typing, presence: best effort, never replayed.
    Ephemeral,
}

/// Who gets an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visibility {
    pub scope: Scope,
    /// Any of these lets it through to a bot; empty: none needed.
    pub intents: Intents,
    /// These users get it whatever their intents (a member's own update).
    pub regardless: Vec<Id<User>>,
    /// These users never get it.
    pub except: Vec<Id<User>>,
}

/// The users an event is for, before intents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everyone in the realm.
    Realm,
    /// Those who may view the channel.
    Channel(Id<Channel>),
    /// These, if they are in the realm. Shared: many events may be for the same thousands.
    Users(Arc<[Id<User>]>),
    /// Those who hold any of the permissions, in the channel if one is given, else in the guild.
    Permissions {
        any_of: Permissions,
        channel: Option<Id<Channel>>,
    },
    /// Those who may view a private thread: they see its parent, and are in the thread
    /// or hold MANAGE_THREADS there. Public threads are seen as [`Scope::Channel`] of the parent.
    Thread {
        parent: Id<Channel>,
        /// In the thread at the event (and, if it is about somebody leaving, who left).
        members: Vec<Id<User>>,
    },
}

/// The variant for sessions without the MESSAGE_CONTENT intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alt {
    /// These users get the full body all the same (author, mentioned users).
    pub full_for: Vec<Id<User>>,
    pub body: Bytes,
    /// Variants with some of the content; at most two, and nearly always none.
    pub parts: Vec<Part>,
}

/// What some of these sessions get in place of [`Alt::body`]: of a reply they may read either it
/// or the message it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub users: Vec<Id<User>>,
    pub body: Bytes,
}

/// Bytes that are no envelope of a version we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed envelope: {0}")]
pub struct Malformed(&'static str);

impl Visibility {
    /// For everyone in the realm who has one of `intents`.
    pub fn realm(intents: Intents) -> Self {
        Self::of(Scope::Realm, intents)
    }

    /// For those who may view `channel` and have one of `intents`.
    pub fn channel(channel: Id<Channel>, intents: Intents) -> Self {
        Self::of(Scope::Channel(channel), intents)
    }

    /// For `users` alone, whatever their intents.
    pub fn users(users: Vec<Id<User>>) -> Self {
        Self::of(Scope::Users(users.into()), Intents::empty())
    }

    pub fn of(scope: Scope, intents: Intents) -> Self {
        Self {
            scope,
            intents,
            regardless: Vec::new(),
            except: Vec::new(),
        }
    }

    /// As stored in `realm_event.vis`.
    pub fn encode(&self, out: &mut impl BufMut) {
        match &self.scope {
            Scope::Realm => out.put_u8(0),
            Scope::Channel(channel) => {
                out.put_u8(1);
                out.put_u64_le(channel.get());
            }
            Scope::Users(users) => {
                out.put_u8(2);
                put_ids(out, users);
            }
            Scope::Permissions { any_of, channel } => {
                out.put_u8(3);
                out.put_u64_le(any_of.bits());
                out.put_u64_le(channel.map_or(0, Id::get));
            }
            Scope::Thread { parent, members } => {
                out.put_u8(4);
                out.put_u64_le(parent.get());
                put_ids(out, members);
            }
        }
        out.put_u32_le(self.intents.bits());
        put_ids(out, &self.regardless);
        put_ids(out, &self.except);
    }

    pub fn decode(input: &mut impl Buf) -> Result<Self, Malformed> {
        let scope = match get(input, Buf::get_u8)? {
            0 => Scope::Realm,
            1 => Scope::Channel(get_id(input)?),
            2 => Scope::Users(get_ids::<User>(input)?.into()),
            3 => Scope::Permissions {
                any_of: Permissions::from_bits_truncate(get(input, Buf::get_u64_le)?),
                channel: match get(input, Buf::get_u64_le)? {
                    0 => None,
                    id => Some(Id::new(id).ok_or(Malformed("channel id"))?),
                },
            },
            4 => Scope::Thread {
                parent: get_id(input)?,
                members: get_ids(input)?,
            },
            _ => return Err(Malformed("scope")),
        };
        Ok(Self {
            scope,
            intents: Intents::from_bits_truncate(get(input, Buf::get_u32_le)?),
            regardless: get_ids(input)?,
            except: get_ids(input)?,
        })
    }
}

impl Alt {
    /// As stored in `realm_event.alt`; `full` is the event's body.
    pub fn encode(&self, full: &[u8], out: &mut impl BufMut) {
        put_body_for(full, &self.full_for, &self.body, out);
        if !self.parts.is_empty() {
            out.put_u32_le(self.parts.len() as u32);
            for part in &self.parts {
                put_body_for(full, &part.users, &part.body, out);
            }
        }
    }

    /// `full` is the event's body; all of `input` is read.
    pub fn decode(full: &[u8], input: &mut Bytes) -> Result<Self, Malformed> {
        let mut alt = Self::decode_without_parts(full, input)?;
        if input.has_remaining() {
            alt.parts = Self::decode_parts(full, input)?;
        }
        Ok(alt)
    }

    fn decode_without_parts(full: &[u8], input: &mut Bytes) -> Result<Self, Malformed> {
        let (full_for, body) = get_body_for(full, input)?;
        Ok(Self {
            full_for,
            body,
            parts: Vec::new(),
        })
    }

    fn decode_parts(full: &[u8], input: &mut Bytes) -> Result<Vec<Part>, Malformed> {
        let count = get(input, Buf::get_u32_le)?;
        if count > PARTS_MAX {
            return Err(Malformed("parts"));
        }
        let part = |_| {
            let (users, body) = get_body_for(full, input)?;
            Ok(Part { users, body })
        };
        (0..count).map(part).collect()
    }
}

/// A body that is not everybody's, by how it differs from `full`, with the users it is about.
fn put_body_for(full: &[u8], users: &[Id<User>], body: &[u8], out: &mut impl BufMut) {
    let start = same_at_start(full, body);
    let end = same_at_end(&full[start..], &body[start..]);
    out.put_u32_le(users.len() as u32 | ALT_IS_PATCH);
    users.iter().for_each(|id| out.put_u64_le(id.get()));
    out.put_u32_le(start as u32);
    out.put_u32_le(end as u32);
    put_bytes(out, &body[start..body.len() - end]);
}

fn get_body_for(full: &[u8], input: &mut Bytes) -> Result<(Vec<Id<User>>, Bytes), Malformed> {
    let count = get(input, Buf::get_u32_le)?;
    let users = get_counted_ids(input, count & !ALT_IS_PATCH)?;
    if count & ALT_IS_PATCH == 0 {
        return Ok((users, get_bytes(input)?));
    }
    let start = get(input, Buf::get_u32_le)? as usize;
    let end = get(input, Buf::get_u32_le)? as usize;
    let between = get_bytes(input)?;
    let rest = full.len().checked_sub(end).filter(|rest| start <= *rest);
    let rest = rest.ok_or(Malformed("alt longer than its body"))?;
    let body = [&full[..start], &between, &full[rest..]].concat().into();
    Ok((users, body))
}

/// Bytes that are compared at once.
const STRIDE: usize = 32;

fn same_at_start(a: &[u8], b: &[u8]) -> usize {
    let strides = a.chunks_exact(STRIDE).zip(b.chunks_exact(STRIDE));
    let same = strides.take_while(|(a, b)| a == b).count() * STRIDE;
    let rest = a[same..].iter().zip(&b[same..]);
    same + rest.take_while(|(a, b)| a == b).count()
}

fn same_at_end(a: &[u8], b: &[u8]) -> usize {
    let strides = a.rchunks_exact(STRIDE).zip(b.rchunks_exact(STRIDE));
    let same = strides.take_while(|(a, b)| a == b).count() * STRIDE;
    let (a, b) = (&a[..a.len() - same], &b[..b.len() - same]);
    let rest = a.iter().rev().zip(b.iter().rev());
    same + rest.take_while(|(a, b)| a == b).count()
}

impl Envelope {
    /// The position of a durable event.
    pub fn position(&self) -> Option<Position> {
        match self.durability {
            Durability::Durable(position) => Some(position),
            Durability::Ephemeral => None,
        }
    }

    pub fn encode(&self) -> Bytes {
        let alt = self.alt.as_ref();
        let alt = alt.map_or(0, |alt| alt.body.len().saturating_sub(self.body.len()) + 64);
        let mut out = BytesMut::with_capacity(192 + self.body.len() + alt);
        self.encode_into(&mut out);
        out.freeze()
    }

    pub fn encode_into(&self, out: &mut impl BufMut) {
        let (durability, Position { era, seq }) = match self.durability {
            Durability::Durable(position) => (0, position),
            Durability::Ephemeral => (1, Position { era: 0, seq: 0 }),
        };
        out.put_u8(VERSION);
        out.put_u8(durability);
        out.put_u64_le(self.realm.get());
        out.put_u32_le(era);
        out.put_u64_le(seq);
        out.put_u16_le(self.kind.number());
        self.vis.encode(out);
        out.put_u64_le(self.at_ms);
        out.put_u128_le(self.trace);
        put_bytes(out, &self.body);
        match &self.alt {
            None => out.put_u8(0),
            Some(alt) => {
                out.put_u8(if alt.parts.is_empty() { 1 } else { 2 });
                alt.encode(&self.body, out);
            }
        }
    }

    /// Bodies of the result share `input`'s memory.
    pub fn decode(mut input: Bytes) -> Result<Self, Malformed> {
        let input = &mut input;
        if get(input, Buf::get_u8)? != VERSION {
            return Err(Malformed("version"));
        }
        let durability = get(input, Buf::get_u8)?;
        let realm = get_id(input)?;
        let position = Position {
            era: get(input, Buf::get_u32_le)?,
            seq: get(input, Buf::get_u64_le)?,
        };
        let durability = match durability {
            0 if position.seq > 0 => Durability::Durable(position),
            1 => Durability::Ephemeral,
            _ => return Err(Malformed("durability")),
        };
        let kind = EventKind::from_number(get(input, Buf::get_u16_le)?).ok_or(Malformed("kind"))?;
        let vis = Visibility::decode(input)?;
        let at_ms = get(input, Buf::get_u64_le)?;
        let trace = get(input, Buf::get_u128_le)?;
        let body = get_bytes(input)?;
        let alt = match get(input, Buf::get_u8)? {
            0 => None,
            parts @ (1 | 2) => {
                let mut alt = Alt::decode_without_parts(&body, input)?;
                if parts == 2 {
                    alt.parts = Alt::decode_parts(&body, input)?;
                }
                Some(alt)
            }
            _ => return Err(Malformed("alt")),
        };
        if input.has_remaining() {
            return Err(Malformed("trailing bytes"));
        }
        Ok(Self {
            realm,
            durability,
            kind,
            vis,
            at_ms,
            trace,
            body,
            alt,
        })
    }
}

fn put_ids<T>(out: &mut impl BufMut, ids: &[Id<T>]) {
    out.put_u32_le(ids.len() as u32);
    for id in ids {
        out.put_u64_le(id.get());
    }
}

fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

/// Reads one fixed-size value, if that many bytes are left.
fn get<B: Buf, T>(input: &mut B, read: impl FnOnce(&mut B) -> T) -> Result<T, Malformed> {
    if input.remaining() < size_of::<T>() {
        return Err(Malformed("too short"));
    }
    Ok(read(input))
}

fn get_id<T>(input: &mut impl Buf) -> Result<Id<T>, Malformed> {
    Id::new(get(input, Buf::get_u64_le)?).ok_or(Malformed("id"))
}

fn get_ids<T>(input: &mut impl Buf) -> Result<Vec<Id<T>>, Malformed> {
    let count = get(input, Buf::get_u32_le)?;
    get_counted_ids(input, count)
}

fn get_counted_ids<T>(input: &mut impl Buf, count: u32) -> Result<Vec<Id<T>>, Malformed> {
    if input.remaining() / size_of::<u64>() < count as usize {
        return Err(Malformed("too short"));
    }
    (0..count).map(|_| get_id(input)).collect()
}

fn get_bytes(input: &mut Bytes) -> Result<Bytes, Malformed> {
    let len = get(input, Buf::get_u32_le)? as usize;
    if input.remaining() < len {
        return Err(Malformed("too short"));
    }
    Ok(input.split_to(len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id<T>() -> impl Strategy<Value = Id<T>> {
        (1..=i64::MAX as u64).prop_map(|id| Id::new(id).unwrap())
    }

    prop_compose! {
        fn visibility()(
            scope in prop_oneof![
                Just(Scope::Realm),
                id().prop_map(Scope::Channel),
                prop::collection::vec(id::<User>(), 0..4)
                    .prop_map(|users| Scope::Users(users.into())),
                (any::<u64>(), prop::option::of(id())).prop_map(|(bits, channel)| Scope::Permissions {
                    any_of: Permissions::from_bits_truncate(bits),
                    channel,
                }),
                (id(), prop::collection::vec(id(), 0..4))
                    .prop_map(|(parent, members)| Scope::Thread { parent, members }),
            ],
            intents in any::<u32>(),
            regardless in prop::collection::vec(id(), 0..3),
            except in prop::collection::vec(id(), 0..3),
        ) -> Visibility {
            Visibility { scope, intents: Intents::from_bits_truncate(intents), regardless, except }
        }
    }

    fn body_for() -> impl Strategy<Value = (Vec<Id<User>>, Bytes)> {
        let body = prop::collection::vec(any::<u8>(), 0..50).prop_map(Bytes::from);
        (prop::collection::vec(id(), 0..3), body)
    }

    prop_compose! {
        fn envelope()(
            realm in id(),
            position in prop::option::of((any::<u32>(), 1..u64::MAX)),
            kind in prop::sample::select(EventKind::ALL),
            vis in visibility(),
            at_ms in any::<u64>(),
            trace in any::<u128>(),
            body in prop::collection::vec(any::<u8>(), 0..200),
            alt in prop::option::of(body_for()),
            parts in prop::collection::vec(body_for(), 0..3),
        ) -> Envelope {
            Envelope {
                realm,
                durability: position.map_or(Durability::Ephemeral, |(era, seq)| Durability::Durable(Position { era, seq })),
                kind,
                vis,
                at_ms,
                trace,
                body: body.into(),
                alt: alt.map(|(full_for, body)| Alt {
                    full_for,
                    body,
                    parts: parts.into_iter().map(|(users, body)| Part { users, body }).collect(),
                }),
            }
        }
    }

    /// Scopes that came later have numbers of their own: what was stored before still reads.
    #[test]
    fn bytes_of_the_first_version_are_read() {
        let stored = |scope: &[u8]| [scope, &[0; 12][..]].concat();
        let channel = 9u64.to_le_bytes();
        for (bytes, scope) in [
            (vec![0], Scope::Realm),
            (
                [&[1][..], &channel].concat(),
                Scope::Channel(Id::new(9).unwrap()),
            ),
            (vec![2, 0, 0, 0, 0], Scope::Users(Arc::default())),
            (
                [&[3][..], &1024u64.to_le_bytes(), &channel].concat(),
                Scope::Permissions {
                    any_of: Permissions::VIEW_CHANNEL,
                    channel: Id::new(9),
                },
            ),
        ] {
            let read = Visibility::decode(&mut stored(&bytes).as_slice());
            assert_eq!(read, Ok(Visibility::of(scope, Intents::empty())));
        }
    }

    #[test]
    fn a_whole_body_for_readers_without_content_is_read_as_before() {
        let mut stored = Vec::new();
        put_ids(&mut stored, &[Id::<User>::new(7).unwrap()]);
        put_bytes(&mut stored, b"bare");
        let alt = Alt::decode(b"with text", &mut stored.into()).unwrap();
        assert_eq!(alt.full_for, [Id::new(7).unwrap()]);
        assert_eq!(&alt.body[..], b"bare");
    }

    #[test]
    fn what_is_alike_is_not_stored_twice() {
        let body = |text: &str| format!("{{{:0300}\"content\":\"{text}\",{:0500}}}", 0, 0);
        let (full, body) = (body("some words that only some may read"), body(""));
        let alt = Alt {
            full_for: vec![Id::new(7).unwrap()],
            body: body.clone().into(),
            parts: Vec::new(),
        };
        let mut stored = Vec::new();
        alt.encode(full.as_bytes(), &mut stored);
        assert_eq!(stored.len(), 4 + 8 + 4 + 4 + 4);
        let mut stored = Bytes::from(stored);
        assert_eq!(Alt::decode(full.as_bytes(), &mut stored), Ok(alt));
        assert!(stored.is_empty());
    }

    #[test]
    fn a_difference_beyond_its_body_is_malformed() {
        let alt = Alt {
            full_for: Vec::new(),
            body: Bytes::from_static(b"[bare]"),
            parts: Vec::new(),
        };
        let mut stored = Vec::new();
        alt.encode(b"[text]", &mut stored);
        let decoded = Alt::decode(b"]", &mut stored.into());
        assert_eq!(decoded, Err(Malformed("alt longer than its body")));
    }

    #[test]
    fn parts_are_behind_what_was_stored_before_and_few() {
        let full = b"{reply, answered}";
        let plain = Alt {
            full_for: vec![Id::new(7).unwrap()],
            body: Bytes::from_static(b"{, }"),
            parts: Vec::new(),
        };
        let part = Part {
            users: vec![Id::new(8).unwrap()],
            body: Bytes::from_static(b"{reply, }"),
        };
        let alt = |parts: usize| Alt {
            parts: vec![part.clone(); parts],
            ..plain.clone()
        };
        let stored = |alt: Alt| {
            let mut stored = Vec::new();
            alt.encode(full, &mut stored);
            stored
        };
        assert!(stored(alt(1)).starts_with(&stored(alt(0))));
        assert_eq!(Alt::decode(full, &mut stored(alt(2)).into()), Ok(alt(2)));
        let many = Alt::decode(full, &mut stored(alt(3)).into());
        assert_eq!(many, Err(Malformed("parts")));
    }

    proptest! {
        #[test]
        fn bodies_alike_at_both_ends_come_out(
            start in "[ab]{0,80}", texts in ("[ab]{0,9}", "[ab]{0,9}"), end in "[ab]{0,80}",
        ) {
            let body = |text: &str| Bytes::from(format!("{start}{text}{end}"));
            let alt = Alt { full_for: Vec::new(), body: body(&texts.1), parts: Vec::new() };
            let (full, mut stored) = (body(&texts.0), Vec::new());
            alt.encode(&full, &mut stored);
            prop_assert!(stored.len() <= 16 + 9);
            prop_assert_eq!(Alt::decode(&full, &mut stored.into()), Ok(alt));
        }

        #[test]
        fn what_goes_in_comes_out(envelope in envelope()) {
            prop_assert_eq!(Envelope::decode(envelope.encode()), Ok(envelope));
        }

        #[test]
        fn cut_or_altered_bytes_never_panic(envelope in envelope(), cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte: u8) {
            let bytes = envelope.encode();
            prop_assert!(Envelope::decode(bytes.slice(..cut.index(bytes.len()))).is_err());
            let mut altered = bytes.to_vec();
            let at = at.index(altered.len());
            altered[at] = byte;
            let _ = Envelope::decode(altered.into());
        }
    }
}
