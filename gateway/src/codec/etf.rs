//! Erlang's external term format, both ways. Spec: gateway.md › Encodings.
//!
//! To clients: made from the JSON of a payload, as maps with binaries for keys. Ids above
//! 32 bits are integers, as the official server sends them. From clients: read into the
//! same value that JSON is read into, so that one reader serves both.

use std::fmt;

use guildhall_shared::gateway::CloseCode;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use simd_json::{OwnedValue, StaticNode};

use super::{command::Command, json};

/// First byte of every term.
pub const VERSION: u8 = 131;

/// Tags of the format; the ones that erlpack knows, and the newer atoms that Erlang sends.
pub mod tag {
    pub const NEW_FLOAT: u8 = 70;
    pub const SMALL_INTEGER: u8 = 97;
    pub const INTEGER: u8 = 98;
    pub const FLOAT: u8 = 99;
    pub const ATOM: u8 = 100;
    pub const SMALL_TUPLE: u8 = 104;
    pub const LARGE_TUPLE: u8 = 105;
    pub const NIL: u8 = 106;
    pub const STRING: u8 = 107;
    pub const LIST: u8 = 108;
    pub const BINARY: u8 = 109;
    pub const SMALL_BIG: u8 = 110;
    pub const LARGE_BIG: u8 = 111;
    pub const SMALL_ATOM: u8 = 115;
    pub const MAP: u8 = 116;
    pub const ATOM_UTF8: u8 = 118;
    pub const SMALL_ATOM_UTF8: u8 = 119;
}

/// Appends the term of a JSON text, without the version byte.
///
/// Errors: `json` is none; what was appended is then of no use.
pub fn put_json(out: &mut Vec<u8>, json: &[u8]) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    Term { out, ids: Ids::No }.deserialize(&mut reader)?;
    reader.end()
}

pub fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(tag::BINARY);
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_atom(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(&[tag::SMALL_ATOM, name.len() as u8]);
    out.extend_from_slice(name.as_bytes());
}

fn put_integer(out: &mut Vec<u8>, negative: bool, size: u64) {
    if let (false, Ok(small)) = (negative, u8::try_from(size)) {
        return out.extend_from_slice(&[tag::SMALL_INTEGER, small]);
    }
    let signed = match negative {
        false => i32::try_from(size).ok(),
        true => i64::try_from(size)
            .ok()
            .and_then(|size| i32::try_from(-size).ok()),
    };
    if let Some(signed) = signed {
        out.push(tag::INTEGER);
        return out.extend_from_slice(&signed.to_be_bytes());
    }
    let bytes = (u64::BITS - size.leading_zeros()).div_ceil(8);
    out.extend_from_slice(&[tag::SMALL_BIG, bytes as u8, u8::from(negative)]);
    out.extend_from_slice(&size.to_le_bytes()[..bytes as usize]);
}

/// Whether texts are ids, which the key before them says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ids {
    No,
    Text,
    List,
    /// Activities and their parties: what they call `id` is no snowflake, though it may be written in
    /// digits alone.
    Activities,
}

impl Ids {
    /// `within`: what is known of the object that has the key.
    fn of_key(key: &str, within: Self) -> Self {
        match key {
            // What applications or services name as they like.
            "custom_id" | "session_id" | "sync_id" => Self::No,
            "activities" => Self::Activities,
            "party" if within == Self::Activities => Self::Activities,
            "id" if within == Self::Activities => Self::No,
            "id" => Self::Text,
            "roles" | "mention_roles" => Self::List,
            _ if key.ends_with("_id") => Self::Text,
            _ if key.ends_with("_ids") => Self::List,
            _ => Self::No,
        }
    }

    fn of_elements(self) -> Self {
        match self {
            Self::List => Self::Text,
            Self::Activities => Self::Activities,
            Self::Text | Self::No => Self::No,
        }
    }
}

/// The number of an id above 32 bits; smaller ones stay texts, as clients expect.
fn id_number(text: &str) -> Option<u64> {
    let canonical = !text.starts_with(['0', '+']);
    let number: u64 = text.parse().ok().filter(|_| canonical)?;
    (number > u64::from(u32::MAX)).then_some(number)
}

/// Writes what a deserializer reads.
struct Term<'a> {
    out: &'a mut Vec<u8>,
    ids: Ids,
}

impl<'de> DeserializeSeed<'de> for Term<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Term<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        put_atom(self.out, "nil");
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        put_atom(self.out, if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        put_integer(self.out, false, value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        put_integer(self.out, value < 0, value.unsigned_abs());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.out.push(tag::NEW_FLOAT);
        self.out.extend_from_slice(&value.to_be_bytes());
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        let id = match self.ids {
            Ids::Text => id_number(text),
            Ids::No | Ids::List | Ids::Activities => None,
        };
        match id {
            Some(id) => put_integer(self.out, false, id),
            None => put_binary(self.out, text.as_bytes()),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let (out, ids) = (self.out, self.ids.of_elements());
        let at = out.len();
        out.extend_from_slice(&[tag::LIST, 0, 0, 0, 0]);
        let mut count = 0u32;
        while elements.next_element_seed(Term { out, ids })?.is_some() {
            count += 1;
        }
        match count {
            0 => out.truncate(at),
            _ => out[at + 1..at + 5].copy_from_slice(&count.to_be_bytes()),
        }
        out.push(tag::NIL);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let (out, within) = (self.out, self.ids);
        let at = out.len();
        out.extend_from_slice(&[tag::MAP, 0, 0, 0, 0]);
        let mut count = 0u32;
        while let Some(ids) = entries.next_key_seed(Key { out, within })? {
            entries.next_value_seed(Term { out, ids })?;
            count += 1;
        }
        out[at + 1..at + 5].copy_from_slice(&count.to_be_bytes());
        Ok(())
    }
}

/// Writes a key, and says what its value is.
struct Key<'a> {
    out: &'a mut Vec<u8>,
    within: Ids,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Ids;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Ids, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Ids;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Ids, E> {
        put_binary(self.out, key.as_bytes());
        Ok(Ids::of_key(key, self.within))
    }
}

/// Reads one command.
///
/// Errors: as JSON's, and 4002 for what is no term of the kinds that JSON has: atoms for
/// keys, improper lists, compressed terms, numbers beyond 64 bits.
pub fn parse(term: &[u8]) -> Result<Command, CloseCode> {
    let value = value(term).ok_or(CloseCode::DecodeError)?;
    json::read(&value)
}

/// A whole term with its version byte.
fn value(term: &[u8]) -> Option<OwnedValue> {
    let mut reader = Reader(term);
    if reader.u8()? != VERSION {
        return None;
    }
    let value = reader.term(json::DEPTH_MAX)?;
    reader.0.is_empty().then_some(value)
}

/// What is left of a term. `None` of its methods: it is malformed.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// `depth`: how deep it may still nest.
    fn term(&mut self, depth: u32) -> Option<OwnedValue> {
        let number = |value: StaticNode| Some(OwnedValue::Static(value));
        match self.u8()? {
            tag::SMALL_INTEGER => number(StaticNode::U64(self.u8()?.into())),
            tag::INTEGER => {
                let value = i32::from_be_bytes(self.array()?);
                number(integer(value < 0, value.unsigned_abs().into())?)
            }
            tag::SMALL_BIG => {
                let len = self.u8()?.into();
                number(self.big(len)?)
            }
            tag::LARGE_BIG => {
                let len = self.u32()?;
                number(self.big(len)?)
            }
            tag::NEW_FLOAT => number(float(f64::from_be_bytes(self.array()?))?),
            tag::FLOAT => {
                let text = std::str::from_utf8(self.take(31)?).ok()?;
                number(float(text.trim_end_matches('\0').parse().ok()?)?)
            }
            tag::ATOM => {
                let len = self.u16()?;
                Some(atom(latin1(self.take(len)?)))
            }
            tag::SMALL_ATOM => {
                let len = self.u8()?.into();
                Some(atom(latin1(self.take(len)?)))
            }
            tag::ATOM_UTF8 => {
                let len = self.u16()?;
                Some(atom(self.text(len)?))
            }
            tag::SMALL_ATOM_UTF8 => {
                let len = self.u8()?.into();
                Some(atom(self.text(len)?))
            }
            tag::BINARY => {
                let len = self.u32()?;
                Some(OwnedValue::from(self.text(len)?))
            }
            // How Erlang writes a list of bytes: `shard: [0, 1]` comes as this.
            tag::STRING => {
                let len = self.u16()?;
                let bytes = self.take(len)?.iter();
                Some(bytes.map(|&byte| OwnedValue::from(byte)).collect())
            }
            tag::NIL => Some(OwnedValue::from(Vec::<OwnedValue>::new())),
            tag::LIST => {
                let len = self.u32()?;
                let list = self.list(len, depth)?;
                (self.u8()? == tag::NIL).then_some(list)
            }
            tag::SMALL_TUPLE => {
                let len = self.u8()?.into();
                self.list(len, depth)
            }
            tag::LARGE_TUPLE => {
                let len = self.u32()?;
                self.list(len, depth)
            }
            tag::MAP => self.map(depth),
            _ => None,
        }
    }

    fn list(&mut self, len: usize, depth: u32) -> Option<OwnedValue> {
        let depth = depth.checked_sub(1)?;
        // Every element takes a byte at least.
        let mut list = Vec::with_capacity(len.min(self.0.len()));
        for _ in 0..len {
            list.push(self.term(depth)?);
        }
        Some(OwnedValue::from(list))
    }

    fn map(&mut self, depth: u32) -> Option<OwnedValue> {
        let depth = depth.checked_sub(1)?;
        let len = self.u32()?;
        let mut map = simd_json::owned::Object::default();
        for _ in 0..len {
            let key = match self.u8()? {
                tag::BINARY => {
                    let len = self.u32()?;
                    self.text(len)?
                }
                tag::STRING => {
                    let len = self.u16()?;
                    self.text(len)?
                }
                _ => return None,
            };
            map.insert(key, self.term(depth)?);
        }
        Some(OwnedValue::from(map))
    }

    /// Sign and bytes, lowest first.
    fn big(&mut self, len: usize) -> Option<StaticNode> {
        let negative = self.u8()? != 0;
        let mut bytes = self.take(len)?;
        while let [rest @ .., 0] = bytes {
            bytes = rest;
        }
        let mut size = [0; 8];
        size.get_mut(..bytes.len())?.copy_from_slice(bytes);
        integer(negative, u64::from_le_bytes(size))
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn text(&mut self, len: usize) -> Option<String> {
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).ok().map(str::to_owned)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<usize> {
        self.array().map(u16::from_be_bytes).map(usize::from)
    }

    fn u32(&mut self) -> Option<usize> {
        self.array().map(|bytes| u32::from_be_bytes(bytes) as usize)
    }
}

fn integer(negative: bool, size: u64) -> Option<StaticNode> {
    match negative {
        false => Some(StaticNode::U64(size)),
        true => 0i64.checked_sub_unsigned(size).map(StaticNode::I64),
    }
}

/// JavaScript's numbers above 31 bits come as floats, intents among them.
fn float(value: f64) -> Option<StaticNode> {
    const WHOLE_MAX: f64 = (1u64 << f64::MANTISSA_DIGITS) as f64;
    if !value.is_finite() {
        None
    } else if value.fract() == 0.0 && value.abs() < WHOLE_MAX {
        integer(value < 0.0, value.abs() as u64)
    } else {
        Some(StaticNode::F64(value))
    }
}

/// Other atoms than these are texts: `status: :online`.
fn atom(name: String) -> OwnedValue {
    match &*name {
        "nil" | "null" => OwnedValue::Static(StaticNode::Null),
        "true" => OwnedValue::Static(StaticNode::Bool(true)),
        "false" => OwnedValue::Static(StaticNode::Bool(false)),
        _ => OwnedValue::from(name),
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

#[cfg(test)]
#[path = "etf_tests.rs"]
mod tests;
