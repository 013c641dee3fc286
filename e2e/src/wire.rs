//! What every frame from the gateway must look like, whatever it says.
//!
//! [`check`] reads the raw text (several libraries search it instead of parsing it) and lets
//! twilight parse what it knows. Spec: gateway.md › Connection; clients.md › Gateway framing.

use serde::de::DeserializeSeed;
use serde_json::Value;
use serenity::model::event::GatewayEvent as GatewayEventOfSerenity;
use twilight_model::gateway::event::{EventType, GatewayEvent, GatewayEventDeserializer};

/// A frame in its parts.
#[derive(Debug, Clone)]
pub struct Frame {
    pub raw: String,
    pub t: Option<String>,
    pub s: Option<u64>,
    pub op: u64,
    pub d: Value,
}

/// A frame's parts in its text.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    pub t: Option<&'a str>,
    pub s: Option<u64>,
    pub op: u64,
    /// Not parsed.
    pub d: &'a str,
}

/// Takes a frame apart, strictly: `{"t":…,"s":…,"op":…,"d":…}` in this order, no blank after a
/// colon, blanks only after the comma behind `s`. Does not look into `d`.
///
/// Errors: a sentence that says what is wrong.
pub fn split(raw: &str) -> Result<Parts<'_>, String> {
    let fault = |what: &str| format!("{what}: {}", clip(raw));
    let rest = raw
        .strip_prefix(r#"{"t":"#)
        .ok_or_else(|| fault("t is not first"))?;
    let (t, rest) = rest.split_once(',').ok_or_else(|| fault("no comma"))?;
    let t = match t {
        "null" => None,
        name => Some(
            name.strip_prefix('"')
                .and_then(|name| name.strip_suffix('"'))
                .ok_or_else(|| fault("t is neither null nor a string"))?,
        ),
    };
    let rest = rest
        .strip_prefix(r#""s":"#)
        .ok_or_else(|| fault("s does not follow t"))?;
    let (s, rest) = rest.split_once(',').ok_or_else(|| fault("no comma"))?;
    let s = match s {
        "null" => None,
        digits => Some(
            digits
                .parse()
                .map_err(|_| fault("s is neither null nor a number"))?,
        ),
    };
    let rest = rest
        .trim_start_matches(' ')
        .strip_prefix(r#""op":"#)
        .ok_or_else(|| fault("op does not follow s"))?;
    let (op, rest) = rest.split_once(',').ok_or_else(|| fault("no comma"))?;
    let op = op.parse().map_err(|_| fault("op is no number"))?;
    let d = rest
        .strip_prefix(r#""d":"#)
        .and_then(|d| d.strip_suffix('}'))
        .ok_or_else(|| fault("d is not last"))?;
    if d.starts_with(' ') {
        return Err(fault("a blank before d"));
    }
    if (op == 0) != (t.is_some() && s.is_some()) || t.is_some() != s.is_some() {
        return Err(fault("t and s are there in dispatches, and in those alone"));
    }
    Ok(Parts { t, s, op, d })
}

/// Takes a frame apart as [`split`] does, and parses it.
///
/// Errors: a sentence that says what is wrong.
pub fn parse(raw: &str) -> Result<Frame, String> {
    let fault = |what: &str| format!("{what}: {}", clip(raw));
    let Parts { t, s, op, d } = split(raw)?;
    let d = serde_json::from_str(d).map_err(|error| fault(&format!("d is no JSON ({error})")))?;
    let whole: Value =
        serde_json::from_str(raw).map_err(|error| fault(&format!("no JSON ({error})")))?;
    if whole.as_object().is_none_or(|keys| keys.len() != 4) {
        return Err(fault("not exactly four keys"));
    }
    Ok(Frame {
        raw: raw.to_owned(),
        t: t.map(str::to_owned),
        s,
        op,
        d,
    })
}

/// Events that are other objects for humans than for bots.
const OF_HUMANS: [&str; 2] = ["READY", "INTERACTION_CREATE"];

/// Presences of friends are of no guild.
fn is_of_humans(t: &str, d: &Value) -> bool {
    OF_HUMANS.contains(&t) || t == "PRESENCE_UPDATE" && d["guild_id"].is_null()
}

/// Whether twilight has a type that an event of this name fits. It reads `meta` of RATE_LIMITED as an
/// enum with a tag, which nobody sends.
pub fn known_to_twilight(name: &str) -> bool {
    EventType::try_from(name).is_ok() && name != "RATE_LIMITED"
}

/// Lets twilight parse a frame, as the type its `t` says. Events unknown to twilight pass, and
/// so do those of humans that only share a bot's event's name: twilight cannot read them from
/// Discord either.
pub fn check_with_twilight(frame: &Frame, of_bot: bool) -> Result<(), String> {
    if let Some(t) = &frame.t
        && (!known_to_twilight(t) || (!of_bot && is_of_humans(t, &frame.d)))
    {
        return Ok(());
    }
    let seed = GatewayEventDeserializer::from_json(&frame.raw)
        .ok_or_else(|| format!("twilight finds no op in {}", clip(&frame.raw)))?;
    let mut input = serde_json::Deserializer::from_str(&frame.raw);
    let event = seed
        .deserialize(&mut input)
        .map_err(|error| format!("twilight: {error} in {}", clip(&frame.raw)))?;
    match (event, &frame.t) {
        (GatewayEvent::Dispatch(s, event), Some(t)) => {
            let name = event.kind().name();
            if Some(s) != frame.s || name != Some(t.as_str()) {
                return Err(format!(
                    "twilight reads {name:?} {s} from {}",
                    clip(&frame.raw)
                ));
            }
            Ok(())
        }
        (_, None) => Ok(()),
        (other, Some(t)) => Err(format!("twilight reads {t} as {other:?}")),
    }
}

/// Lets serenity parse a dispatch that it knows, as the type its `t` says.
///
/// Errors: it takes it for an unknown event, or for another.
pub fn check_with_serenity(frame: &Frame) -> Result<(), String> {
    let event: GatewayEventOfSerenity = serde_json::from_str(&frame.raw)
        .map_err(|error| format!("serenity: {error} in {}", clip(&frame.raw)))?;
    let GatewayEventOfSerenity::Dispatch(s, event) = event else {
        return Err(format!("serenity reads {event:?}"));
    };
    let name = event.name();
    if Some(s) == frame.s && name == frame.t {
        Ok(())
    } else {
        Err(format!("serenity reads {name:?} from {}", clip(&frame.raw)))
    }
}

/// The start of a text, for messages.
pub fn clip(text: &str) -> String {
    const SHOWN_CHARS: usize = 300;
    let mut start: String = text.chars().take(SHOWN_CHARS).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_layout_passes() {
        assert!(parse(r#"{"t":null,"s":null,"op":11,"d":null}"#).is_ok());
        let frame = parse(r#"{"t":"RESUMED","s":12,      "op":0,"d":{}}"#).unwrap();
        assert_eq!(
            (frame.t.as_deref(), frame.s, frame.op),
            (Some("RESUMED"), Some(12), 0)
        );
        assert!(check_with_twilight(&frame, true).is_ok());
        for wrong in [
            r#"{"op":11,"t":null,"s":null,"d":null}"#,
            r#"{"t":null,"s":null,"op":11}"#,
            r#"{"t":null, "s":null,"op":11,"d":null}"#,
            r#"{"t":null,"s":null,"op": 11,"d":null}"#,
            r#"{"t":"RESUMED","s":null,"op":0,"d":{}}"#,
            r#"{"t":null,"s":1,"op":11,"d":null}"#,
            r#"{"t":null,"s":null,"op":11,"d":null,"d":null,"x":1}"#,
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
