//! What client libraries must find in an event or an answer: see [`faults`].
//!
//! `libraries.tsv` was written from the sources of libraries that no test here runs. A row names a
//! field without which, or with null or another type in its place, one of them throws: it drops the
//! event, fails the call or does not start.

use std::{collections::HashMap, sync::LazyLock};

use serde_json::Value;

/// Faults told of one body.
const FAULTS_MAX: usize = 5;
/// Characters shown of a value that is not what it should be.
const SHOWN_CHARS_MAX: usize = 100;

/// What a field must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Any,
    Bool,
    /// A number as text: an id, or permissions.
    Digits,
    /// Written with a decimal point: where it is read as a double, an integer is none.
    Float,
    Int,
    List,
    Number,
    Object,
    Text,
    /// `2026-01-02T03:04:05.678000+00:00`.
    Time,
    /// An object with rows of its own.
    Sort(&'static str),
    ListOf(Box<Kind>),
}

impl Kind {
    fn parse(text: &'static str) -> Option<Self> {
        let inner = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        if let Some(inner) = inner {
            return Some(Self::ListOf(Box::new(Self::parse(inner)?)));
        }
        Some(match text {
            "any" => Self::Any,
            "bool" => Self::Bool,
            "digits" => Self::Digits,
            "float" => Self::Float,
            "int" => Self::Int,
            "list" => Self::List,
            "number" => Self::Number,
            "object" => Self::Object,
            "text" => Self::Text,
            "time" => Self::Time,
            sort if sort.starts_with('@') => Self::Sort(sort),
            _ => return None,
        })
    }
}

/// One row.
#[derive(Debug, Clone)]
struct Field {
    of: &'static str,
    /// Dotted; `.` is the whole body.
    path: &'static str,
    kind: Kind,
    may_be_absent: bool,
    may_be_null: bool,
    /// Only of objects whose `type` is one of these; empty: of all.
    types: Vec<i64>,
    readers: &'static str,
}

fn parse(row: &'static str) -> Option<Field> {
    let columns: Vec<&str> = row.split('\t').collect();
    let &[of, path, kind, types, readers] = columns.as_slice() else {
        return None;
    };
    let not_null = kind.strip_suffix("|null");
    let shape = not_null.unwrap_or(kind);
    let there = shape.strip_suffix('?');
    let types = types.split(',').filter(|number| *number != "-");
    Some(Field {
        of,
        path,
        kind: Kind::parse(there.unwrap_or(shape))?,
        may_be_absent: there.is_some(),
        may_be_null: not_null.is_some(),
        types: types
            .map(|number| number.parse::<i64>().ok())
            .collect::<Option<Vec<i64>>>()?,
        readers,
    })
}

/// The rows of each event, answer and sort of object.
static FIELDS: LazyLock<HashMap<&'static str, Vec<Field>>> = LazyLock::new(|| {
    let rows = include_str!("../libraries.tsv").lines().skip(1);
    let mut fields: HashMap<_, Vec<Field>> = HashMap::new();
    for field in rows.filter_map(parse) {
        fields.entry(field.of).or_default().push(field);
    }
    fields
});

/// What some library does not find, or not as it reads it, in `body`; empty: nothing, and of what
/// has no rows. `name` is an event's, as a bot gets it; the id of an operation of the official
/// document; `error` or `rate limit` for the bodies of refusals.
pub fn faults(name: &str, body: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    check(name, body, name, &mut faults);
    faults.truncate(FAULTS_MAX);
    faults
}

fn check(of: &str, body: &Value, at: &str, faults: &mut Vec<String>) {
    for field in FIELDS.get(of).into_iter().flatten() {
        if faults.len() >= FAULTS_MAX {
            return;
        }
        let is_of_type = |types: &[i64]| {
            let kind = body["type"].as_i64();
            types.is_empty() || kind.is_some_and(|kind| types.contains(&kind))
        };
        if !is_of_type(&field.types) {
            continue;
        }
        let at = match field.path {
            "." => at.to_owned(),
            path => format!("{at}.{path}"),
        };
        match find(body, field.path) {
            None if field.may_be_absent => {}
            None => faults.push(format!("{at} is missing for {}", field.readers)),
            Some(Value::Null) if field.may_be_null => {}
            Some(value) => fits(&field.kind, value, &at, field.readers, faults),
        }
    }
}

fn find<'a>(body: &'a Value, path: &str) -> Option<&'a Value> {
    let mut keys = path.split('.').filter(|key| !key.is_empty());
    keys.try_fold(body, |found, key| found.get(key))
}

fn fits(kind: &Kind, value: &Value, at: &str, readers: &str, faults: &mut Vec<String>) {
    let text = value.as_str();
    let is_it = match kind {
        Kind::Any => !value.is_null(),
        Kind::Bool => value.is_boolean(),
        Kind::Digits => text.is_some_and(is_digits),
        Kind::Float => value.is_f64(),
        Kind::Int => value.is_i64() || value.is_u64(),
        Kind::List => value.is_array(),
        Kind::Number => value.is_number(),
        Kind::Object => value.is_object(),
        Kind::Text => value.is_string(),
        Kind::Time => text.is_some_and(is_time),
        Kind::Sort(sort) => {
            if value.is_object() {
                check(sort, value, at, faults);
            }
            value.is_object()
        }
        Kind::ListOf(inner) => {
            for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                fits(inner, value, &format!("{at}.{index}"), readers, faults);
            }
            value.is_array()
        }
    };
    if !is_it {
        let shown: String = value.to_string().chars().take(SHOWN_CHARS_MAX).collect();
        faults.push(format!("{at} is no {kind:?} for {readers}: {shown}"));
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_time(text: &str) -> bool {
    const LIKE: &[u8] = b"0000-00-00T00:00:00.000000+00:00";
    let fits = |(byte, like): (u8, &u8)| match like {
        b'0' => byte.is_ascii_digit(),
        like => byte == *like,
    };
    text.len() == LIKE.len() && text.ends_with("+00:00") && text.bytes().zip(LIKE).all(fits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The sort of object that it is or lists.
    fn sort(kind: &Kind) -> Option<&'static str> {
        match kind {
            Kind::Sort(sort) => Some(sort),
            Kind::ListOf(kind) => sort(kind),
            _ => None,
        }
    }

    #[test]
    fn every_row_is_read_and_every_sort_has_rows() {
        let rows = include_str!("../libraries.tsv").lines().skip(1);
        for row in rows {
            let field = parse(row).unwrap_or_else(|| panic!("no row: {row}"));
            if let Some(sort) = sort(&field.kind) {
                assert!(FIELDS.contains_key(sort), "{row}");
            }
            assert!(!field.readers.is_empty(), "{row}");
        }
    }

    #[test]
    fn every_library_is_named() {
        let readers = |field: &Field| field.readers.split(", ").collect::<Vec<_>>();
        let named: Vec<&str> = FIELDS.values().flatten().flat_map(readers).collect();
        for library in [
            "JDA",
            "Discord4J",
            "Kord",
            "Discord.Net",
            "DSharpPlus",
            "disgo",
            "discordgo",
            "Nyxx",
            "D++",
        ] {
            assert!(named.contains(&library), "{library}");
        }
    }

    #[test]
    fn what_is_missing_null_or_of_another_type_is_told() {
        let invite = json!({
            "type": 0, "channel_id": "1", "guild_id": "2", "code": "x", "max_age": 0,
            "max_uses": 0, "temporary": false, "uses": 0, "expires_at": null,
            "created_at": "2026-01-02T03:04:05.678000+00:00",
        });
        assert_eq!(faults("INVITE_CREATE", &invite), [""; 0]);
        let wrong = |key: &str, value: Value| {
            let mut invite = invite.clone();
            invite[key] = value;
            faults("INVITE_CREATE", &invite).len()
        };
        assert_eq!(wrong("type", Value::Null), 1);
        assert_eq!(wrong("channel_id", json!(1)), 1);
        assert_eq!(wrong("created_at", json!("2026-01-02T03:04:05Z")), 1);
        assert_eq!(wrong("expires_at", json!(5)), 1);
        // Absent is right, null is not.
        assert_eq!(wrong("inviter", Value::Null), 1);
        let mut bare = invite.clone();
        bare.as_object_mut().unwrap().remove("type");
        let told = faults("INVITE_CREATE", &bare);
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("INVITE_CREATE.type") && told[0].contains("Nyxx"));
    }

    #[test]
    fn objects_are_looked_into_by_their_type() {
        let channel = |kind: u8| {
            json!({ "id": "1", "type": kind, "guild_id": "2", "name": "a", "position": 0,
                "parent_id": null, "permission_overwrites": [], "flags": 0 })
        };
        assert_eq!(faults("CHANNEL_CREATE", &channel(0)), [""; 0]);
        let voice = faults("CHANNEL_CREATE", &channel(2));
        assert!(voice[0].contains("CHANNEL_CREATE.bitrate"), "{voice:?}");
        let list = json!([channel(0), channel(13)]);
        let stage = faults("list_guild_channels", &list);
        assert!(
            stage[0].contains("list_guild_channels.1.bitrate"),
            "{stage:?}"
        );
        assert_eq!(faults("list_guild_channels", &json!({})).len(), 1);
        assert_eq!(faults("rate limit", &json!({ "retry_after": 1 })).len(), 3);
        assert_eq!(faults("nothing", &Value::Null), [""; 0]);
    }
}
