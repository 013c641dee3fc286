//! Commands that ask for something, and are answered by dispatches. Spec: gateway.md ›
//! Opcodes, REQUEST_GUILD_MEMBERS.

use guildhall_shared::{Id, gateway::CloseCode, id::marker::Guild};
use simd_json::{
    OwnedValue,
    prelude::{TypedScalarValue, ValueAsArray, ValueAsScalar, ValueObjectAccess},
};

use super::{
    command::{Command, MembersCommand},
    ids::{guilds_of, id, id_of},
};
use crate::ask::{ChannelFields, Question, Wanted, Wish};

/// Longest nonce, in bytes, that is echoed; a longer one counts as none.
const NONCE_BYTES_MAX: usize = 32;
/// Guilds that can be asked about at once, which is as many as a person may be in; further ones are
/// left out.
const GUILDS_MAX: usize = 200;
/// Users that can be asked for by id at once.
const USER_IDS_MAX: usize = 100;
/// Members that a prefix finds, at most.
const FOUND_MAX: u64 = 100;

/// Op 8.
///
/// Errors: 4002 for what has neither `user_ids` nor `query` with its `limit`, for values of
/// the wrong type and for more than 100 ids.
pub(super) fn members(d: &OwnedValue) -> Result<Command, CloseCode> {
    let guilds = guilds(field(d, "guild_id").ok_or(CloseCode::DecodeError)?)?;
    let wanted = match (field(d, "user_ids"), field(d, "query")) {
        (Some(ids), _) => Wanted::Ids(wishes(ids)?),
        (None, Some(query)) => {
            let query = query.as_str().ok_or(CloseCode::DecodeError)?;
            let limit = field(d, "limit").and_then(ValueAsScalar::as_u64);
            match (query, limit.ok_or(CloseCode::DecodeError)?) {
                ("", 0) => Wanted::All(None),
                (query, limit) => Wanted::Prefix {
                    query: query.to_owned(),
                    limit: match limit {
                        0 => FOUND_MAX as u16,
                        limit => limit.min(FOUND_MAX) as u16,
                    },
                },
            }
        }
        (None, None) => return Err(CloseCode::DecodeError),
    };
    let presences = match field(d, "presences") {
        None => false,
        Some(value) => value.as_bool().ok_or(CloseCode::DecodeError)?,
    };
    Ok(Command::Members(Box::new(MembersCommand {
        guilds,
        wanted,
        presences,
        nonce: nonce(d),
    })))
}

/// Op 35. The token of a page before is not needed: an answer has all there is.
///
/// As with the other commands of official clients alone, one that is not understood is none.
pub(super) fn recent_members(d: &OwnedValue) -> Command {
    let query = field(d, "query").and_then(ValueAsScalar::as_str);
    let Some(guild) = guild(d) else {
        return Command::Other;
    };
    Command::Members(Box::new(MembersCommand {
        guilds: vec![guild],
        wanted: Wanted::Recent {
            query: query.unwrap_or_default().to_owned(),
        },
        presences: false,
        nonce: nonce(d),
    }))
}

/// Op 36.
pub(super) fn channel_statuses(d: &OwnedValue) -> Command {
    guild(d).map_or(Command::Other, |guild| {
        Command::Ask(guild, Question::ChannelStatuses)
    })
}

/// Op 39.
pub(super) fn member_count(d: &OwnedValue) -> Command {
    let channel = id(d, "channel_id").ok().flatten();
    match (guild(d), channel) {
        (Some(guild), Some(channel)) => Command::Ask(guild, Question::MemberCount { channel }),
        _ => Command::Other,
    }
}

/// Op 43. Fields that are not known are passed over.
pub(super) fn channel_info(d: &OwnedValue) -> Result<Command, CloseCode> {
    let names = match field(d, "fields") {
        None => &[][..],
        Some(fields) => fields.as_array().ok_or(CloseCode::DecodeError)?.as_slice(),
    };
    let asks_for = |wanted: &str| names.iter().any(|name| name.as_str() == Some(wanted));
    let fields = ChannelFields {
        status: asks_for("status"),
        voice_start_time: asks_for("voice_start_time"),
    };
    let guild = guild(d).ok_or(CloseCode::DecodeError)?;
    Ok(Command::Ask(guild, Question::ChannelInfo(fields)))
}

/// A member of `d` that is there and not null.
fn field<'a>(d: &'a OwnedValue, name: &str) -> Option<&'a OwnedValue> {
    d.get(name).filter(|value| !value.is_null())
}

fn guild(d: &OwnedValue) -> Option<Id<Guild>> {
    d.get("guild_id").and_then(id_of)
}

/// One guild, or a list; discord.py-self asks at its start, be it for none.
fn guilds(value: &OwnedValue) -> Result<Vec<Id<Guild>>, CloseCode> {
    let one = std::slice::from_ref(value);
    let list = value.as_array().map_or(one, |list| list.as_slice());
    let mut guilds = guilds_of(list).ok_or(CloseCode::DecodeError)?;
    guilds.truncate(GUILDS_MAX);
    Ok(guilds)
}

/// One user, or a list. What cannot be an id comes back as it was.
fn wishes(value: &OwnedValue) -> Result<Vec<Wish>, CloseCode> {
    let one = std::slice::from_ref(value);
    let list = value.as_array().map_or(one, |list| list.as_slice());
    if list.len() > USER_IDS_MAX {
        return Err(CloseCode::DecodeError);
    }
    let wish = |value: &OwnedValue| {
        if let Some(user) = id_of(value) {
            return Some(Wish::User(user));
        }
        let text = match (value.as_str(), value.as_i64(), value.as_u64()) {
            (Some(text), ..) => serde_json::to_string(text).ok()?,
            (None, Some(number), _) => number.to_string(),
            (None, None, Some(number)) => number.to_string(),
            (None, None, None) => serde_json::to_string(&value.as_f64()?).ok()?,
        };
        Some(Wish::Junk(text))
    };
    let wishes: Option<Vec<_>> = list.iter().map(wish).collect();
    wishes.ok_or(CloseCode::DecodeError)
}

fn nonce(d: &OwnedValue) -> Option<String> {
    let nonce = field(d, "nonce")?.as_str()?;
    (nonce.len() <= NONCE_BYTES_MAX).then(|| nonce.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::codec::parse;

    fn read(op: u8, d: Value) -> Result<Command, CloseCode> {
        match parse(&mut json!({"op": op, "d": d}).to_string().into_bytes())? {
            Command::Malformed(code) => Err(code),
            command => Ok(command),
        }
    }

    fn members(d: Value) -> MembersCommand {
        match read(8, d.clone()) {
            Ok(Command::Members(members)) => *members,
            other => panic!("{d}: {other:?}"),
        }
    }

    #[test]
    fn what_libraries_ask_with_is_read() {
        // discord.py: ids are numbers; discord.js: an absent key; hikari: both forms at once.
        let all = members(
            json!({"guild_id": 81384788765712384u64, "query": "", "limit": 0,
            "presences": false, "nonce": "ab"}),
        );
        assert_eq!(all.guilds[0].get(), 81384788765712384);
        assert_eq!(all.wanted, Wanted::All(None));
        assert_eq!(all.nonce.as_deref(), Some("ab"));
        let one = members(json!({"guild_id": ["5"], "user_ids": "7", "query": "", "limit": 0}));
        assert_eq!(
            one.wanted,
            Wanted::Ids(vec![Wish::User(Id::new(7).unwrap())])
        );
        let several = members(json!({"guild_id": "5", "user_ids": [7, "8"], "presences": true}));
        assert!(several.presences);
        assert!(matches!(several.wanted, Wanted::Ids(ids) if ids.len() == 2));
        let prefix = |limit: u64| {
            members(json!({"guild_id": "5", "query": "An", "limit": limit, "user_ids": null}))
                .wanted
        };
        for (limit, capped) in [(0, 100), (7, 7), (100, 100), (5000, 100)] {
            let query = "An".to_owned();
            assert_eq!(
                prefix(limit),
                Wanted::Prefix {
                    query,
                    limit: capped
                }
            );
        }
    }

    #[test]
    fn no_guild_may_be_asked_about() {
        let none = json!({"guild_id": [], "query": "", "limit": 0, "user_ids": null});
        assert!(members(none).guilds.is_empty());
    }

    #[test]
    fn a_guild_that_is_named_again_is_asked_about_once() {
        let of = |guilds: Vec<u64>| {
            let asked = members(json!({"guild_id": guilds, "query": "x", "limit": 0})).guilds;
            asked.iter().map(|guild| guild.get()).collect::<Vec<_>>()
        };
        assert_eq!(of(vec![7; 700]), [7]);
        assert_eq!(of(vec![7, 5, 7, 6, 5]), [7, 5, 6]);
        let first: Vec<u64> = (1..=GUILDS_MAX as u64).collect();
        assert_eq!(of((1..=500).collect()), first);
    }

    #[test]
    fn what_is_no_id_comes_back_as_it_was() {
        let junk = members(json!({"guild_id": "5", "user_ids": [0, -3, 1.5, "x\"y", 7]}));
        let text = |text: &str| Wish::Junk(text.to_owned());
        let user = Wish::User(Id::new(7).unwrap());
        let all = [text("0"), text("-3"), text("1.5"), text(r#""x\"y""#), user];
        assert_eq!(junk.wanted, Wanted::Ids(all.to_vec()));
    }

    #[test]
    fn a_nonce_of_more_than_32_bytes_counts_as_none() {
        let of = |nonce: Value| {
            members(json!({"guild_id": "5", "query": "", "limit": 0, "nonce": nonce})).nonce
        };
        assert_eq!(of(json!("é".repeat(16))), Some("é".repeat(16)));
        assert_eq!(of(json!("é".repeat(17))), None);
        assert_eq!(of(json!(5)), None);
        assert_eq!(of(Value::Null), None);
    }

    #[test]
    fn what_says_nothing_is_a_decode_error() {
        for d in [
            Value::Null,
            json!({}),
            json!({"guild_id": "5"}),
            json!({"guild_id": "5", "query": ""}),
            json!({"guild_id": "5", "query": "", "limit": -1}),
            json!({"guild_id": "5", "query": 5, "limit": 0}),
            json!({"guild_id": {}, "query": "", "limit": 0}),
            json!({"guild_id": "x", "query": "", "limit": 0}),
            json!({"guild_id": "5", "user_ids": [{}]}),
            json!({"guild_id": "5", "user_ids": vec![1; 101]}),
            json!({"guild_id": "5", "query": "", "limit": 0, "presences": "yes"}),
        ] {
            assert_eq!(
                read(8, d.clone()).unwrap_err(),
                CloseCode::DecodeError,
                "{d}"
            );
        }
        assert_eq!(read(43, json!({})).unwrap_err(), CloseCode::DecodeError);
        for op in [35, 36, 39] {
            assert!(matches!(read(op, json!([1])), Ok(Command::Other)));
        }
    }

    #[test]
    fn channels_are_asked_about() {
        let d = json!({"guild_id": 5, "fields": ["status", "voice_start_time", "later"]});
        let Ok(Command::Ask(guild, Question::ChannelInfo(fields))) = read(43, d) else {
            panic!("no question");
        };
        assert_eq!(guild.get(), 5);
        assert!(fields.status && fields.voice_start_time);
        let d = json!({"guild_id": "5", "channel_id": "6"});
        assert!(
            matches!(read(39, d), Ok(Command::Ask(_, Question::MemberCount { channel })) if channel.get() == 6)
        );
    }
}
