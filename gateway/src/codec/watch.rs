//! Op 14 and op 37: what a person's client looks at. Spec: gateway.md › Member list.

use std::collections::{BTreeMap, BTreeSet};

use guildhall_shared::{Id, gateway::CloseCode, id::marker::Guild};
use simd_json::{
    OwnedValue,
    owned::Object,
    prelude::{TypedScalarValue, ValueAsArray, ValueAsObject, ValueAsScalar, ValueObjectAccess},
};

use super::{
    command::WatchCommand,
    ids::{id, id_of},
};

/// Rows of a block: ranges are told in these.
const BLOCK_ROWS: u64 = 100;
/// Blocks of one channel that a session can look at; further ones are left out.
const BLOCKS_MAX: usize = 5;
/// Channels of one guild.
const CHANNELS_MAX: usize = 10;
/// Members of one guild that a session can follow.
const MEMBERS_MAX: usize = 200;

/// Op 14. Errors: 4002 for what is of another type.
pub(super) fn one(d: &OwnedValue) -> Result<(Id<Guild>, WatchCommand), CloseCode> {
    let guild = id(d, "guild_id")?.ok_or(CloseCode::DecodeError)?;
    Ok((guild, watch(d)?))
}

/// Op 37: several guilds at once; one with an empty object is no longer looked at.
pub(super) fn bulk(d: &OwnedValue) -> Result<Vec<(Id<Guild>, WatchCommand)>, CloseCode> {
    let guilds = d
        .get("subscriptions")
        .and_then(ValueAsObject::as_object)
        .ok_or(CloseCode::DecodeError)?;
    let guilds = by_id(guilds)?.into_iter().map(|(guild, d)| {
        let is_empty = d.as_object().is_some_and(|fields| fields.is_empty());
        let command = match is_empty {
            true => WatchCommand {
                channels: Some(Vec::new()),
                members: Some(Vec::new()),
                threads: false,
            },
            false => watch(d)?,
        };
        Ok((guild, command))
    });
    guilds.collect()
}

/// What an object has for each id, by ascending id: one of many keys comes in any order. An id that
/// is written in several ways, `1` and `01`, counts once, as the last of them in order of texts.
fn by_id<T>(object: &Object) -> Result<BTreeMap<Id<T>, &OwnedValue>, CloseCode> {
    let mut entries: Vec<_> = object.iter().collect();
    entries.sort_by_key(|&(key, _)| key);
    let entries = entries.into_iter().map(|(key, value)| {
        let id = key.parse().map_err(|_| CloseCode::DecodeError)?;
        Ok((id, value))
    });
    entries.collect()
}

fn watch(d: &OwnedValue) -> Result<WatchCommand, CloseCode> {
    if d.as_object().is_none() {
        return Err(CloseCode::DecodeError);
    }
    let there = |key: &str| d.get(key).filter(|value| !value.is_null());
    let channels = match there("channels") {
        None => None,
        Some(channels) => {
            let channels = channels.as_object().ok_or(CloseCode::DecodeError)?;
            let channels = by_id(channels)?.into_iter();
            let channels = channels.map(|(channel, ranges)| Ok((channel, blocks(ranges)?)));
            let mut channels = channels.collect::<Result<Vec<_>, CloseCode>>()?;
            channels.truncate(CHANNELS_MAX);
            Some(channels)
        }
    };
    let members = match there("members") {
        None => None,
        Some(members) => {
            let members = members.as_array().ok_or(CloseCode::DecodeError)?;
            let members = members.iter().take(MEMBERS_MAX).map(id_of);
            Some(
                members
                    .collect::<Option<_>>()
                    .ok_or(CloseCode::DecodeError)?,
            )
        }
    };
    let threads = d.get("threads").and_then(ValueAsScalar::as_bool);
    Ok(WatchCommand {
        channels,
        members,
        threads: threads.unwrap_or_default(),
    })
}

/// The blocks that ranges of rows, both ends included, lie in.
fn blocks(ranges: &OwnedValue) -> Result<Vec<u32>, CloseCode> {
    let ranges = ranges.as_array().ok_or(CloseCode::DecodeError)?;
    let mut blocks = BTreeSet::new();
    for range in ranges {
        let range = range.as_array().map(Vec::as_slice);
        let Some([first, last]) = range else {
            return Err(CloseCode::DecodeError);
        };
        let (Some(first), Some(last)) = (first.as_u64(), last.as_u64()) else {
            return Err(CloseCode::DecodeError);
        };
        if first > last || last > u64::from(u32::MAX) / 2 {
            return Err(CloseCode::DecodeError);
        }
        let wanted = first / BLOCK_ROWS..=last / BLOCK_ROWS;
        blocks.extend(wanted.take(BLOCKS_MAX).map(|block| block as u32));
    }
    Ok(blocks.into_iter().take(BLOCKS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::codec::{Command, parse};

    fn read(op: u8, d: serde_json::Value) -> Result<Vec<(Id<Guild>, WatchCommand)>, CloseCode> {
        let mut text = json!({"op": op, "d": d}).to_string().into_bytes();
        match parse(&mut text)? {
            Command::Malformed(code) => Err(code),
            Command::Watch(watches) => Ok(watches),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ranges_become_blocks() {
        let d = json!({
            "guild_id": "1", "typing": true, "members": ["5", 6],
            "channels": {"2": [[0, 99], [100, 199]], "3": [[250, 260], [0, 9999]]},
        });
        let (guild, watch) = read(14, d).unwrap().remove(0);
        assert_eq!(guild.get(), 1);
        let mut channels = watch.channels.unwrap();
        channels.sort();
        let channels: Vec<_> = channels
            .into_iter()
            .map(|(id, blocks)| (id.get(), blocks))
            .collect();
        assert_eq!(channels, [(2, vec![0, 1]), (3, vec![0, 1, 2, 3, 4])]);
        assert_eq!(watch.members.unwrap().len(), 2);
        let (_, typing) = read(14, json!({"guild_id": "1", "typing": true}))
            .unwrap()
            .remove(0);
        assert_eq!(typing, WatchCommand::default());
        for (threads, asked) in [
            (json!(true), true),
            (json!(false), false),
            (json!(null), false),
        ] {
            let d = json!({"guild_id": "1", "threads": threads});
            assert_eq!(read(14, d).unwrap().remove(0).1.threads, asked);
        }
    }

    #[test]
    fn the_same_is_read_every_time() {
        let many: serde_json::Map<_, _> = (1..=40)
            .map(|id: u32| (id.to_string(), json!([[0, 99]])))
            .collect();
        let d = json!({"guild_id": "1", "channels": many});
        let channels = read(14, d).unwrap().remove(0).1.channels.unwrap();
        let ids: Vec<_> = channels.iter().map(|(id, _)| id.get()).collect();
        assert_eq!(ids, (1..=10).collect::<Vec<_>>());
        let many: serde_json::Map<_, _> = (1..=40)
            .map(|id: u32| (id.to_string(), json!({})))
            .collect();
        let bulk = || read(37, json!({"subscriptions": many})).unwrap();
        assert_eq!(bulk(), bulk());
    }

    #[test]
    fn an_id_written_in_two_ways_counts_once() {
        let mut many: serde_json::Map<_, _> = (2..=40)
            .map(|id: u32| (id.to_string(), json!({})))
            .collect();
        many.insert("01".to_owned(), json!({}));
        let channels = json!({"2": [[0, 99]], "02": [[100, 199]]});
        many.insert("1".to_owned(), json!({"channels": channels}));
        let guilds = read(37, json!({"subscriptions": many})).unwrap();
        assert_eq!(guilds.len(), 40);
        let channels = guilds[0].1.channels.as_deref().unwrap();
        assert_eq!(channels, [(Id::new(2).unwrap(), vec![0])]);
    }

    #[test]
    fn an_empty_object_drops_a_guild() {
        let watches = read(
            37,
            json!({"subscriptions": {"1": {}, "2": {"typing": true}}}),
        )
        .unwrap();
        let dropped = watches.iter().find(|(guild, _)| guild.get() == 1).unwrap();
        assert_eq!(dropped.1.channels, Some(Vec::new()));
        let kept = watches.iter().find(|(guild, _)| guild.get() == 2).unwrap();
        assert_eq!(kept.1.channels, None);
    }

    #[test]
    fn faults_are_decode_errors() {
        for (op, d) in [
            (14, json!({})),
            (14, json!({"guild_id": "1", "channels": []})),
            (14, json!({"guild_id": "1", "channels": {"x": []}})),
            (14, json!({"guild_id": "1", "channels": {"1": [[5]]}})),
            (14, json!({"guild_id": "1", "channels": {"1": [[5, 4]]}})),
            (14, json!({"guild_id": "1", "members": "5"})),
            (37, json!({})),
            (37, json!({"subscriptions": {"1": 5}})),
        ] {
            assert_eq!(
                read(op, d.clone()).unwrap_err(),
                CloseCode::DecodeError,
                "{d}"
            );
        }
    }
}
