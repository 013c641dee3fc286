//! Which server has which keys.

use std::{fmt, sync::Arc};

use redis::Value;

use crate::{
    node::Node,
    slot::{SLOTS, slot_of},
};

/// A server that keys are written to.
pub struct Primary {
    /// `host:port`; empty for a single server.
    pub name: Arc<str>,
    /// To make connections of one's own.
    pub client: redis::Client,
    /// The connection for commands; a single server's is elsewhere.
    pub(crate) node: Option<Node>,
    #[cfg(feature = "simulated")]
    pub(crate) simulated: Option<crate::simulated::Way>,
}

/// All primaries, and what each has.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    primaries: Vec<Arc<Primary>>,
    /// Per slot the number of its primary, [`NOBODY`] if it has none. Empty: the first has all.
    slots: Vec<u16>,
    /// It was asked for and nobody answered.
    pub(crate) asked_in_vain: bool,
}

const NOBODY: u16 = u16::MAX;

/// A run of slots, both ends included, and the address of their primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u16,
    pub(crate) last: u16,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Primary {
    pub(crate) fn new(name: Arc<str>, client: redis::Client, node: Option<Node>) -> Self {
        Self {
            name,
            client,
            node,
            #[cfg(feature = "simulated")]
            simulated: None,
        }
    }
}

impl Layout {
    pub(crate) fn single(client: redis::Client) -> Self {
        Self::of(Primary::new(Arc::from(""), client, None))
    }

    #[cfg(feature = "simulated")]
    pub(crate) fn simulated(nowhere: redis::Client, way: crate::simulated::Way) -> Self {
        let mut primary = Primary::new(Arc::from(""), nowhere, None);
        primary.simulated = Some(way);
        Self::of(primary)
    }

    /// One that has all keys.
    fn of(primary: Primary) -> Self {
        Self {
            primaries: vec![Arc::new(primary)],
            slots: Vec::new(),
            asked_in_vain: false,
        }
    }

    /// This one with other slots at other primaries; those that are known already stay as they
    /// are, and `make` makes the others. Slots outside of the ranges are kept if `keep`.
    pub(crate) fn with(
        &self,
        ranges: &[Range],
        keep: bool,
        mut make: impl FnMut(&Range, Arc<str>) -> Option<Primary>,
    ) -> Self {
        let mut next = match keep {
            true => self.clone(),
            false => Self::default(),
        };
        next.slots.resize(SLOTS, NOBODY);
        for range in ranges {
            let name = name(&range.host, range.port);
            let known = |layout: &Self| {
                let mut primaries = layout.primaries.iter();
                primaries.position(|primary| primary.name == name)
            };
            let number = known(&next).or_else(|| {
                let primary = match known(self) {
                    Some(number) => self.primaries[number].clone(),
                    None => Arc::new(make(range, name.clone())?),
                };
                next.primaries.push(primary);
                Some(next.primaries.len() - 1)
            });
            let number = number.map_or(NOBODY, |number| number as u16);
            let (first, last) = (usize::from(range.first), usize::from(range.last));
            if let Some(slots) = next.slots.get_mut(first..=last.min(SLOTS - 1)) {
                slots.fill(number);
            }
        }
        next.asked_in_vain = false;
        next
    }

    /// Whether the same servers have the same keys.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        let names = |layout: &Self| -> Vec<Arc<str>> {
            layout
                .primaries
                .iter()
                .map(|one| one.name.clone())
                .collect()
        };
        self.slots == other.slots && names(self) == names(other)
    }

    pub fn primaries(&self) -> &[Arc<Primary>] {
        &self.primaries
    }

    /// Who has a key, or carries a channel; `None` while nobody is known to.
    pub fn home(&self, key: &[u8]) -> Option<&Arc<Primary>> {
        match self.slots.is_empty() {
            true => self.primaries.first(),
            false => self
                .number(slot_of(key))
                .map(|number| &self.primaries[number]),
        }
    }

    /// The same of a slot of a cluster, as a number among the primaries.
    pub(crate) fn number(&self, slot: u16) -> Option<usize> {
        let number = *self.slots.get(usize::from(slot))?;
        (number != NOBODY).then_some(usize::from(number))
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Primary>> {
        self.primaries.iter().find(|primary| &*primary.name == name)
    }
}

pub(crate) fn name(host: &str, port: u16) -> Arc<str> {
    format!("{host}:{port}").into()
}

/// The answer to `CLUSTER SLOTS`: `[[first, last, [host, port, …], replicas …], …]`. A host that
/// is not said is the one that was `asked`. Errors: nothing of this kind.
pub(crate) fn ranges(answer: Value, asked: &str) -> Option<Vec<Range>> {
    let Value::Array(ranges) = answer else {
        return None;
    };
    let range = |range: Value| {
        let Value::Array(range) = range else {
            return None;
        };
        let [
            Value::Int(first),
            Value::Int(last),
            Value::Array(primary),
            ..,
        ] = &range[..]
        else {
            return None;
        };
        let [host, Value::Int(port), ..] = &primary[..] else {
            return None;
        };
        let host = match host {
            Value::BulkString(host) => String::from_utf8_lossy(host).into_owned(),
            Value::SimpleString(host) => host.clone(),
            _ => String::new(),
        };
        let host = match &host[..] {
            "" => asked.to_owned(),
            "?" => return None, // it does not know
            _ => host,
        };
        Some(Range {
            first: u16::try_from(*first).ok()?,
            last: u16::try_from(*last).ok()?,
            host,
            port: u16::try_from(*port).ok()?,
        })
    };
    let ranges: Vec<Range> = ranges.into_iter().filter_map(range).collect();
    (!ranges.is_empty()).then_some(ranges)
}

impl fmt::Debug for Primary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Primary").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u16, last: u16, port: u16) -> Range {
        Range {
            first,
            last,
            host: "h".to_owned(),
            port,
        }
    }

    fn make(_: &Range, name: Arc<str>) -> Option<Primary> {
        let client = redis::Client::open("redis://h").unwrap();
        Some(Primary::new(name, client, None))
    }

    fn home(layout: &Layout, slot: u16) -> Option<&str> {
        let number = layout.number(slot)?;
        Some(&layout.primaries[number].name)
    }

    #[test]
    fn every_slot_has_its_primary() {
        let none = Layout::default();
        assert!(none.home(b"foo").is_none());
        let two = none.with(&[range(0, 99, 1), range(200, 16_383, 2)], false, make);
        assert_eq!(home(&two, 99), Some("h:1"));
        assert_eq!(home(&two, 100), None);
        assert_eq!(home(&two, 16_383), Some("h:2"));
        assert_eq!(two.home(b"foo").map(|primary| &*primary.name), Some("h:2"));

        let moved = two.with(&[range(7, 7, 3)], true, make);
        assert_eq!(home(&moved, 6), Some("h:1"));
        assert_eq!(home(&moved, 7), Some("h:3"));
        assert!(!moved.is_as(&two));

        let again = moved.with(&[range(0, 16_383, 2)], false, |_, _| None);
        assert_eq!(again.primaries().len(), 1);
        assert!(Arc::ptr_eq(&again.primaries()[0], &two.primaries()[1]));
        assert!(again.is_as(&again.clone()));
    }

    #[test]
    fn a_single_server_has_all() {
        let layout = Layout::single(redis::Client::open("redis://h").unwrap());
        assert_eq!(&*layout.home(b"foo").unwrap().name, "");
    }

    #[test]
    fn ranges_are_read_as_redis_writes_them() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let primary = |host| Value::Array(vec![host, Value::Int(1), text("id")]);
        let range_of = |host| Value::Array(vec![Value::Int(0), Value::Int(5), primary(host)]);
        let answer = Value::Array(vec![
            range_of(text("h")),
            range_of(Value::Nil),
            range_of(text("?")),
            Value::Nil,
        ]);
        let mut asked = range(0, 5, 1);
        asked.host = "asked".to_owned();
        assert_eq!(ranges(answer, "asked"), Some(vec![range(0, 5, 1), asked]));
        assert_eq!(ranges(Value::Array(Vec::new()), "asked"), None);
        assert_eq!(ranges(Value::Okay, "asked"), None);
    }
}
