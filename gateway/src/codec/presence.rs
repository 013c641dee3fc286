//! Op 3, and `presence` of IDENTIFY. Spec: gateway.md › Presence, objects.md › Activity.
//!
//! What a client may say of itself is taken over field by field: nothing else reaches others.

use guildhall_shared::{
    Id,
    gateway::CloseCode,
    id::marker::Any,
    model::{ACTIVITIES_MAX, Status},
};
use serde_json::{Map, Value, json};
use simd_json::{
    OwnedValue,
    prelude::{TypedScalarValue, ValueAsArray, ValueAsObject, ValueAsScalar, ValueObjectAccess},
};

use super::{
    command::{ActivityCommand, PresenceCommand},
    ids::id_of,
};

/// Characters of a name or a text of an activity; longer ones are cut.
const TEXT_CHARS_MAX: usize = 128;
/// Characters of an address or a key of an image; longer ones are dropped.
const URL_CHARS_MAX: usize = 512;
/// Labels of an activity's buttons.
const BUTTONS_MAX: usize = 2;
/// Types of activity: playing, streaming, listening, watching, custom, competing.
const KINDS: std::ops::RangeInclusive<u64> = 0..=5;
/// Which text of an activity stands in lists: name, state, details.
const DISPLAY_TYPES: [Option<u64>; 3] = [Some(0), Some(1), Some(2)];

/// Reads op 3's `d`.
///
/// `game` stands in for `activities` (discord.py identifies so); null and absent members
/// are as if empty. Errors: 4002 for another status, and for what is of another type.
pub(super) fn presence(d: &OwnedValue) -> Result<PresenceCommand, CloseCode> {
    if d.as_object().is_none() {
        return Err(CloseCode::DecodeError);
    }
    let status = match member(d, "status") {
        None => None,
        Some(status) => match status.as_str().ok_or(CloseCode::DecodeError)? {
            "online" => Some(Status::Online),
            "idle" => Some(Status::Idle),
            "dnd" => Some(Status::Dnd),
            "invisible" | "offline" => Some(Status::Invisible),
            // Of official clients at their start: as it was.
            "unknown" => None,
            _ => return Err(CloseCode::DecodeError),
        },
    };
    let mut activities = Vec::new();
    match (member(d, "activities"), member(d, "game")) {
        (Some(list), _) => {
            let list = list.as_array().ok_or(CloseCode::DecodeError)?;
            for one in list.iter().filter(|one| !one.is_null()) {
                activities.push(activity(one)?);
            }
        }
        (None, Some(game)) => activities.push(activity(game)?),
        (None, None) => {}
    }
    activities.truncate(ACTIVITIES_MAX);
    Ok(PresenceCommand { status, activities })
}

/// A member that is there and not null.
fn member<'a>(d: &'a OwnedValue, key: &str) -> Option<&'a OwnedValue> {
    d.get(key).filter(|value| !value.is_null())
}

fn activity(d: &OwnedValue) -> Result<ActivityCommand, CloseCode> {
    if d.as_object().is_none() {
        return Err(CloseCode::DecodeError);
    }
    let kind = match member(d, "type") {
        None => 0,
        Some(kind) => kind.as_u64().ok_or(CloseCode::DecodeError)?,
    };
    if !KINDS.contains(&kind) {
        return Err(CloseCode::DecodeError);
    }
    Ok(ActivityCommand {
        kind: kind as u8,
        name: text(d, "name").unwrap_or_default(),
        state: text(d, "state"),
        url: url(d, "url"),
        rest: rest(d),
    })
}

/// What clients of people say of an activity besides.
fn rest(d: &OwnedValue) -> Map<String, Value> {
    let mut rest = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            rest.insert(key.to_owned(), value);
        }
    };
    for key in ["details", "platform", "sync_id"] {
        put(key, text(d, key).map(Value::from));
    }
    for key in ["details_url", "state_url"] {
        put(key, url(d, key).map(Value::from));
    }
    put("flags", number(d, "flags"));
    let shown = number(d, "status_display_type");
    put(
        "status_display_type",
        shown.filter(|shown| DISPLAY_TYPES.contains(&shown.as_u64())),
    );
    let instance = member(d, "instance").and_then(ValueAsScalar::as_bool);
    put("instance", instance.map(Value::from));
    put("application_id", id(d, "application_id"));
    let object = |key: &str, fields: &dyn Fn(&OwnedValue) -> Map<String, Value>| {
        let inner = member(d, key).filter(|value| value.as_object().is_some())?;
        Some(fields(inner))
            .filter(|map| !map.is_empty())
            .map(Value::from)
    };
    put(
        "timestamps",
        object("timestamps", &|times| {
            let times = ["start", "end"].map(|key| (key, number(times, key)));
            collect(times)
        }),
    );
    put(
        "assets",
        object("assets", &|assets| {
            let keys = ["large_image", "small_image", "large_url", "small_url"];
            let mut map = collect(keys.map(|key| (key, url(assets, key).map(Value::from))));
            let keys = ["large_text", "small_text"];
            map.extend(collect(
                keys.map(|key| (key, text(assets, key).map(Value::from))),
            ));
            map
        }),
    );
    put(
        "party",
        object("party", &|party| {
            let size = member(party, "size").and_then(ValueAsArray::as_array);
            let size = size.and_then(|size| match size.as_slice() {
                [now, most] => Some(json!([now.as_u32()?, most.as_u32()?])),
                _ => None,
            });
            collect([("id", text(party, "id").map(Value::from)), ("size", size)])
        }),
    );
    put(
        "emoji",
        object("emoji", &|emoji| {
            let animated = member(emoji, "animated").and_then(ValueAsScalar::as_bool);
            collect([
                ("name", text(emoji, "name").map(Value::from)),
                ("id", id(emoji, "id")),
                ("animated", animated.map(Value::from)),
            ])
        })
        // Libraries read none without a name, nor the presence it is in.
        .filter(|emoji| emoji.get("name").is_some()),
    );
    let buttons = member(d, "buttons").and_then(ValueAsArray::as_array);
    let labels = buttons.map(|buttons| {
        let labels = buttons.iter().filter_map(|button| match button.as_str() {
            Some(label) => Some(cut(label)),
            None => text(button, "label"),
        });
        labels
            .take(BUTTONS_MAX)
            .map(Value::from)
            .collect::<Vec<_>>()
    });
    put(
        "buttons",
        labels.filter(|labels| !labels.is_empty()).map(Value::from),
    );
    rest
}

fn collect<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    let there = fields
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)));
    there.collect()
}

fn text(d: &OwnedValue, key: &str) -> Option<String> {
    let text = member(d, key)?.as_str()?;
    (!text.is_empty()).then(|| cut(text))
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

fn url(d: &OwnedValue, key: &str) -> Option<String> {
    let text = member(d, key)?.as_str()?;
    (!text.is_empty() && text.len() <= URL_CHARS_MAX).then(|| text.to_owned())
}

/// A whole number; libraries also send times as floats.
fn number(d: &OwnedValue, key: &str) -> Option<Value> {
    let value = member(d, key)?;
    let whole = value.as_u64().or_else(|| {
        let float = value.as_f64()?;
        (float.fract() == 0.0 && (0.0..9e15).contains(&float)).then_some(float as u64)
    });
    whole.map(Value::from)
}

fn id(d: &OwnedValue, key: &str) -> Option<Value> {
    let id: Id<Any> = id_of(member(d, key)?)?;
    Some(Value::from(id.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Command, parse};

    fn read(d: &Value) -> Result<PresenceCommand, CloseCode> {
        let mut text = json!({"op": 3, "d": d}).to_string().into_bytes();
        match parse(&mut text)? {
            Command::Malformed(code) => Err(code),
            Command::Presence(presence) => Ok(*presence),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_forms_of_libraries_are_read() {
        let identify =
            read(&json!({"status": "dnd", "game": {"name": "chess"}, "since": 0, "afk": false}));
        let identify = identify.unwrap();
        assert_eq!(identify.status, Some(Status::Dnd));
        assert_eq!(identify.activities[0].name, "chess");
        let nulls = read(&json!({"status": null, "activities": null, "game": null, "since": null}));
        assert_eq!(nulls.unwrap(), PresenceCommand::default());
        let hidden = read(&json!({"status": "offline", "activities": [null]})).unwrap();
        assert_eq!(hidden.status, Some(Status::Invisible));
        assert!(hidden.activities.is_empty());
    }

    #[test]
    fn what_others_may_see_is_taken_over_and_nothing_else() {
        let sent = json!({"status": "online", "activities": [{
            "name": "game", "type": 0, "details": "in a match", "secrets": {"join": "x"},
            "timestamps": {"start": 5.0, "what": 1}, "application_id": 77,
            "assets": {"large_image": "a", "large_text": "b"}, "party": {"size": [1, 4]},
            "buttons": [{"label": "Join", "url": "https://x"}], "unknown": [1], "created_at": 9,
        }]});
        let rest = read(&sent).unwrap().activities.remove(0).rest;
        assert_eq!(
            Value::from(rest),
            json!({
                "details": "in a match",
                "timestamps": {"start": 5},
                "application_id": "77",
                "assets": {"large_image": "a", "large_text": "b"},
                "party": {"size": [1, 4]},
                "buttons": ["Join"],
            })
        );
    }

    #[test]
    fn what_libraries_do_not_read_is_dropped() {
        let sent = json!({"activities": [{
            "name": "", "type": 4, "emoji": {"id": "7"}, "status_display_type": 300,
            "party": {"size": [1, 4_294_967_296_u64]},
        }, {
            "name": "", "type": 4, "emoji": {"id": "7", "name": "blob"}, "status_display_type": 2,
        }]});
        let activities = read(&sent).unwrap().activities.into_iter();
        let rests: Vec<Value> = activities.map(|one| Value::from(one.rest)).collect();
        let kept = json!({"emoji": {"id": "7", "name": "blob"}, "status_display_type": 2});
        assert_eq!(rests, [json!({}), kept]);
    }

    #[test]
    fn faults_are_decode_errors() {
        for d in [
            json!(null),
            json!({"status": "away"}),
            json!({"status": 1}),
            json!({"activities": {}}),
            json!({"activities": ["chess"]}),
            json!({"activities": [{"name": "x", "type": 6}]}),
            json!({"game": "chess"}),
        ] {
            assert_eq!(read(&d).unwrap_err(), CloseCode::DecodeError, "{d}");
        }
    }
}
