//! JSON commands. Frames are small (15 KiB at most) and their buffer is ours to scribble in,
//! which is what simd-json wants.

use guildhall_shared::{
    gateway::{Capabilities, CloseCode, Intents, Opcode},
    model::Platform,
    token::Token,
};
use simd_json::{
    OwnedValue,
    prelude::{TypedScalarValue, ValueAsArray, ValueAsObject, ValueAsScalar, ValueObjectAccess},
};

use super::{
    command::{Command, Identify, Resume, VoiceCommand},
    ids::{guilds_of, id},
    presence::presence,
    questions, watch,
};

/// How deep a command may nest.
pub(super) const DEPTH_MAX: u32 = 32;
/// Intents that are passed over: GUILD_EMBEDDED_ACTIVITIES, which no page names and interactions.py
/// asks for.
const INTENTS_WITHOUT_EVENTS: u32 = 1 << 17;
const LARGE_THRESHOLD: std::ops::RangeInclusive<i64> = 50..=250;

/// Op 9. `resumable` is `d`.
pub fn invalid_session(resumable: bool) -> String {
    format!(r#"{{"t":null,"s":null,"op":9,"d":{resumable}}}"#)
}

/// Reads one command from JSON; `text` is overwritten. Errors: see [`super::read`].
pub fn parse(text: &mut [u8]) -> Result<Command, CloseCode> {
    if depth(text) > DEPTH_MAX {
        return Err(CloseCode::DecodeError);
    }
    let value = simd_json::to_owned_value(text).map_err(|_| CloseCode::DecodeError)?;
    read(&value)
}

/// Reads a command that came in any encoding.
pub(super) fn read(value: &OwnedValue) -> Result<Command, CloseCode> {
    if value.as_object().is_none() {
        return Err(CloseCode::DecodeError);
    }
    let op = value
        .get("op")
        .and_then(ValueAsScalar::as_u64)
        .ok_or(CloseCode::DecodeError)?;
    let null = OwnedValue::Static(simd_json::StaticNode::Null);
    let d = value.get("d").unwrap_or(&null);
    match op {
        op if op == Opcode::Heartbeat as u64 || op == Opcode::QosHeartbeat as u64 => {
            // Op 40 has it in an object.
            let seq = d.as_u64().or_else(|| d.get("seq")?.as_u64());
            Ok(Command::Heartbeat(seq))
        }
        op if op == Opcode::Identify as u64 => Ok(match identify(d) {
            Ok(identify) => Command::Identify(Box::new(identify)),
            Err(code) => Command::Unfit(code),
        }),
        op if op == Opcode::Resume as u64 => Ok(match resume(d) {
            Ok(resume) => Command::Resume(Box::new(resume)),
            Err(code) => Command::Unfit(code),
        }),
        // What an identified client alone may send: that comes before how it is said.
        op => identified(op, d).or_else(|code| match code {
            CloseCode::UnknownOpcode => Err(code),
            code => Ok(Command::Malformed(code)),
        }),
    }
}

fn identified(op: u64, d: &OwnedValue) -> Result<Command, CloseCode> {
    match op {
        op if op == Opcode::PresenceUpdate as u64 => {
            presence(d).map(|presence| Command::Presence(Box::new(presence)))
        }
        op if op == Opcode::GuildSubscriptions as u64 => {
            watch::one(d).map(|one| Command::Watch(vec![one]))
        }
        op if op == Opcode::GuildSubscriptionsBulk as u64 => watch::bulk(d).map(Command::Watch),
        op if op == Opcode::VoiceStateUpdate as u64 => voice(d),
        op if op == Opcode::RequestSoundboardSounds as u64 => sounds(d),
        op if op == Opcode::RequestGuildMembers as u64 => questions::members(d),
        op if op == Opcode::SearchRecentMembers as u64 => Ok(questions::recent_members(d)),
        op if op == Opcode::RequestChannelStatuses as u64 => Ok(questions::channel_statuses(d)),
        op if op == Opcode::RequestChannelMemberCount as u64 => Ok(questions::member_count(d)),
        op if op == Opcode::RequestChannelInfo as u64 => questions::channel_info(d),
        // What official clients send unasked.
        5 | 13 | 18..=22 | 28..=30 | 32..=34 | 38 | 41 | 42 => {
            if d.as_object().is_some() || d.is_null() || matches!(op, 32..=43) {
                Ok(Command::Other)
            } else {
                Err(CloseCode::DecodeError)
            }
        }
        _ => Err(CloseCode::UnknownOpcode),
    }
}

fn identify(d: &OwnedValue) -> Result<Identify, CloseCode> {
    let token = d
        .get("token")
        .and_then(ValueAsScalar::as_str)
        .ok_or(CloseCode::DecodeError)?;
    let properties = d
        .get("properties")
        .filter(|properties| properties.as_object().is_some())
        .ok_or(CloseCode::DecodeError)?;
    let browser = properties
        .get("browser")
        .or_else(|| properties.get("$browser"));
    let platform = Platform::of_browser(browser.and_then(ValueAsScalar::as_str).unwrap_or(""));
    let presence = match d.get("presence").filter(|presence| !presence.is_null()) {
        Some(given) => Some(Box::new(presence(given)?)),
        None => None,
    };
    let large_threshold = match d.get("large_threshold") {
        None => None,
        Some(value) if value.is_null() => None,
        Some(value) => {
            let value = value.as_i64().ok_or(CloseCode::DecodeError)?;
            Some(value.clamp(*LARGE_THRESHOLD.start(), *LARGE_THRESHOLD.end()) as u16)
        }
    };
    let capabilities = match d.get("capabilities") {
        None => Capabilities::empty(),
        Some(bits) if bits.is_null() => Capabilities::empty(),
        // Bits that are new to us ask for shapes that we do not have.
        Some(bits) => {
            let bits = bits.as_u64().ok_or(CloseCode::DecodeError)?;
            Capabilities::from_bits_truncate(bits as u32)
        }
    };
    let compress = match d.get("compress") {
        None => false,
        Some(value) if value.is_null() => false,
        Some(value) => value.as_bool().ok_or(CloseCode::DecodeError)?,
    };
    // In the order of the protocol's checks: what is malformed, the token, the shard, the intents.
    let token = Token::parse(token).ok_or(CloseCode::AuthenticationFailed)?;
    let given = |key: &str| d.get(key).filter(|value| !value.is_null());
    let shard = given("shard").map(|shard| bot_shard(shard).ok_or(CloseCode::InvalidShard));
    let intents = given("intents").map(|bits| intents(bits).ok_or(CloseCode::InvalidIntents));
    let (shard, intents) = (shard.transpose(), intents.transpose());
    let unfit = shard.err().or(intents.err());
    Ok(Identify {
        token,
        intents: intents.unwrap_or_default(),
        shard: shard.unwrap_or_default(),
        unfit,
        large_threshold,
        capabilities,
        compress,
        platform,
        presence,
    })
}

/// Without a guild it is about a call, which there are none of.
fn voice(d: &OwnedValue) -> Result<Command, CloseCode> {
    if d.as_object().is_none() {
        return Err(CloseCode::DecodeError);
    }
    let flag = |key: &str| match d.get(key) {
        None => Ok(false),
        Some(value) if value.is_null() => Ok(false),
        Some(value) => value.as_bool().ok_or(CloseCode::DecodeError),
    };
    let (guild, channel) = (id(d, "guild_id")?, id(d, "channel_id")?);
    let (self_mute, self_deaf) = (flag("self_mute")?, flag("self_deaf")?);
    let self_video = flag("self_video")?;
    let Some(guild) = guild else {
        return Ok(Command::Other);
    };
    Ok(Command::Voice(Box::new(VoiceCommand {
        guild,
        channel,
        self_mute,
        self_deaf,
        self_video,
    })))
}

fn sounds(d: &OwnedValue) -> Result<Command, CloseCode> {
    let guilds = d
        .get("guild_ids")
        .and_then(ValueAsArray::as_array)
        .ok_or(CloseCode::DecodeError)?;
    let guilds = guilds_of(guilds.as_slice());
    guilds.map(Command::Sounds).ok_or(CloseCode::DecodeError)
}

/// `None`: unknown bits, or no bits at all.
fn intents(value: &OwnedValue) -> Option<Intents> {
    let bits = u32::try_from(value.as_u64()?).ok()?;
    Intents::from_bits(bits & !INTENTS_WITHOUT_EVENTS)
}

fn bot_shard(value: &OwnedValue) -> Option<(u32, u32)> {
    let [id, count] = value.as_array()?.as_slice() else {
        return None;
    };
    let (id, count) = (
        u32::try_from(id.as_u64()?).ok()?,
        u32::try_from(count.as_u64()?).ok()?,
    );
    (id < count).then_some((id, count))
}

/// A client whose connection broke before READY says `null` for what it never had: that is no
/// session anybody knows.
fn resume(d: &OwnedValue) -> Result<Resume, CloseCode> {
    let token = d.get("token").and_then(ValueAsScalar::as_str);
    let token = token.ok_or(CloseCode::DecodeError)?;
    let session_id = match d.get("session_id") {
        Some(id) if !id.is_null() => id.as_str().ok_or(CloseCode::DecodeError)?,
        _ => "",
    };
    let seq = match d.get("seq") {
        Some(seq) if !seq.is_null() => seq.as_u64().ok_or(CloseCode::DecodeError)?,
        _ => 0,
    };
    let token = Token::parse(token).ok_or(CloseCode::AuthenticationFailed)?;
    Ok(Resume {
        token,
        session_id: session_id.to_owned(),
        seq,
    })
}

/// Deepest nesting of brackets outside of strings; cheap, and right for any valid JSON.
fn depth(text: &[u8]) -> u32 {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0u32, 0, false, false);
    for &byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use guildhall_shared::Id;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Result<Command, CloseCode> {
        well_formed(parse(&mut value.to_string().into_bytes()))
    }

    /// Whatever comes before how a command is said.
    fn well_formed(command: Result<Command, CloseCode>) -> Result<Command, CloseCode> {
        match command {
            Ok(Command::Malformed(code) | Command::Unfit(code)) => Err(code),
            command => command,
        }
    }

    fn identify_with(extra: serde_json::Value) -> Result<Command, CloseCode> {
        let mut d = json!({"token": "MQ.b.c", "properties": {"os": "linux"}, "intents": 1});
        d.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        read(json!({"op": 2, "d": d}))
    }

    #[test]
    fn op_4_names_a_guild_and_a_channel() {
        let voice = |d: serde_json::Value| read(json!({"op": 4, "d": d}));
        let d = json!({"guild_id": "1", "channel_id": 2, "self_mute": true, "self_deaf": null});
        let Ok(Command::Voice(command)) = voice(d) else {
            panic!("no voice command");
        };
        assert_eq!(command.guild.get(), 1);
        assert_eq!(command.channel.map(Id::get), Some(2));
        assert!(command.self_mute && !command.self_deaf && !command.self_video);
        let call = json!({"guild_id": null, "channel_id": null});
        assert!(matches!(voice(call), Ok(Command::Other)));
        for d in [
            json!(null),
            json!({"guild_id": "x"}),
            json!({"guild_id": "1", "channel_id": -1}),
            json!({"guild_id": "1", "self_mute": 1}),
        ] {
            assert_eq!(voice(d.clone()).unwrap_err(), CloseCode::DecodeError, "{d}");
        }
    }

    #[test]
    fn op_31_names_guilds() {
        let sounds = |d: serde_json::Value| read(json!({"op": 31, "d": d}));
        // Each once: every answer is a whole soundboard.
        let Ok(Command::Sounds(guilds)) = sounds(json!({"guild_ids": ["1", 2, "2", 1]})) else {
            panic!("no question about sounds");
        };
        assert_eq!(guilds.iter().map(|id| id.get()).collect::<Vec<_>>(), [1, 2]);
        for d in [
            json!(null),
            json!({"guild_ids": "1"}),
            json!({"guild_ids": [0]}),
        ] {
            assert_eq!(
                sounds(d.clone()).unwrap_err(),
                CloseCode::DecodeError,
                "{d}"
            );
        }
    }

    #[test]
    fn every_fault_has_its_code() {
        for bad in [
            "",
            "{",
            "[]",
            "1",
            "null",
            "\"x\"",
            "{\"op\":\"1\"}",
            "{\"op\":1.5}",
            "{}",
            "{\"op\":null}",
        ] {
            assert_eq!(
                parse(&mut bad.as_bytes().to_vec()).unwrap_err(),
                CloseCode::DecodeError,
                "{bad}"
            );
        }
        let early = parse(&mut br#"{"op": 31, "d": {}}"#.to_vec());
        assert!(matches!(
            early,
            Ok(Command::Malformed(CloseCode::DecodeError))
        ));
        assert_eq!(
            read(json!({"op": 12, "d": null})).unwrap_err(),
            CloseCode::UnknownOpcode
        );
        assert_eq!(
            read(json!({"op": 99})).unwrap_err(),
            CloseCode::UnknownOpcode
        );
        assert_eq!(
            read(json!({"op": 3, "d": 7})).unwrap_err(),
            CloseCode::DecodeError
        );
        for (extra, code) in [
            (json!({"token": 5}), CloseCode::DecodeError),
            (json!({"properties": null}), CloseCode::DecodeError),
            (json!({"large_threshold": "many"}), CloseCode::DecodeError),
            (json!({"capabilities": "16381"}), CloseCode::DecodeError),
            (
                json!({"token": "nonsense"}),
                CloseCode::AuthenticationFailed,
            ),
            (json!({"token": 5, "shard": [1, 1]}), CloseCode::DecodeError),
            (
                json!({"token": "nonsense", "compress": 1}),
                CloseCode::DecodeError,
            ),
            (
                json!({"token": "nonsense", "shard": [1, 1]}),
                CloseCode::AuthenticationFailed,
            ),
        ] {
            assert_eq!(identify_with(extra.clone()).unwrap_err(), code, "{extra}");
        }
        let resume = json!({"op": 6, "d": {"token": "MQ.b.c", "session_id": "x", "seq": "1"}});
        assert_eq!(read(resume).unwrap_err(), CloseCode::DecodeError);
        let deep = format!(
            "{{\"op\":3,\"d\":{}{}}}",
            "[".repeat(1000),
            "]".repeat(1000)
        );
        assert_eq!(
            parse(&mut deep.into_bytes()).unwrap_err(),
            CloseCode::DecodeError
        );
    }

    /// Whose the token is comes before both, and only the node knows.
    #[test]
    fn a_bad_shard_and_bad_intents_are_told_behind_the_token() {
        for (extra, code) in [
            (json!({"shard": [1, 1]}), CloseCode::InvalidShard),
            (json!({"shard": [0, 0]}), CloseCode::InvalidShard),
            (json!({"shard": [0]}), CloseCode::InvalidShard),
            (json!({"shard": ["0", "1"]}), CloseCode::InvalidShard),
            (json!({"shard": [-1, 1]}), CloseCode::InvalidShard),
            (
                json!({"shard": [1, 1], "intents": -1}),
                CloseCode::InvalidShard,
            ),
            (json!({"intents": 1 << 18}), CloseCode::InvalidIntents),
            (json!({"intents": "1"}), CloseCode::InvalidIntents),
            (json!({"intents": -1}), CloseCode::InvalidIntents),
            (json!({"intents": 1u64 << 40}), CloseCode::InvalidIntents),
        ] {
            let Ok(Command::Identify(identify)) = identify_with(extra.clone()) else {
                panic!("no IDENTIFY: {extra}");
            };
            assert_eq!(identify.unfit, Some(code), "{extra}");
        }
    }

    #[test]
    fn what_libraries_send_is_read() {
        for heartbeat in [
            json!({"op": 1, "d": null}),
            json!({"op": 1, "d": 251}),
            json!({"op": 40, "d": {"seq": 1, "qos": {}}}),
        ] {
            assert!(matches!(read(heartbeat), Ok(Command::Heartbeat(_))));
        }
        let Ok(Command::Identify(identify)) = identify_with(
            json!({"shard": [1, 2], "large_threshold": 1000, "compress": true, "presence": null,
                   "capabilities": (1u64 << 40) + 32_765, "client_state": {"guild_versions": {}},
                   "intents": 1 | 1 << 17}),
        ) else {
            panic!("a valid IDENTIFY");
        };
        assert_eq!(identify.shard, Some((1, 2)));
        assert_eq!(identify.unfit, None);
        assert_eq!(identify.large_threshold, Some(250));
        assert_eq!(identify.intents, Some(Intents::GUILDS));
        assert_eq!(identify.capabilities, Capabilities::all());
        let Ok(Command::Resume(resume)) =
            read(json!({"op": 6, "d": {"token": "Bot MQ.b.c", "session_id": "x", "seq": 7}}))
        else {
            panic!("a valid RESUME");
        };
        assert_eq!(resume.seq, 7);
        let never_had = json!({"op": 6, "d": {"token": "MQ.b.c", "session_id": null, "seq": null}});
        let Ok(Command::Resume(resume)) = read(never_had) else {
            panic!("a RESUME of nothing");
        };
        assert_eq!((&resume.session_id[..], resume.seq), ("", 0));
        assert!(matches!(
            read(json!({"op": 3, "d": {"status": "online"}})),
            Ok(Command::Presence(_))
        ));
        assert!(matches!(
            read(json!({"op": 4, "d": {"guild_id": null}})),
            Ok(Command::Other)
        ));
        for op in [5, 13]
            .into_iter()
            .chain(18..=22)
            .chain(28..=30)
            .chain(32..=34)
            .chain([38, 41, 42])
        {
            let read = read(json!({"op": op, "d": null}));
            assert!(matches!(read, Ok(Command::Other)), "{op}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&mut bytes);
        }

        /// simd-json and serde_json agree on what is JSON and on the opcode in it.
        #[test]
        fn agrees_with_serde_json(op in any::<u8>(), text in "[ -~]{0,40}", cut in any::<prop::sample::Index>()) {
            let whole = json!({"d": {"text": text, "list": [1, null, {"x": text}]}, "op": op}).to_string();
            let known = well_formed(parse(&mut whole.clone().into_bytes()));
            prop_assert_eq!(matches!(known, Err(CloseCode::DecodeError)), matches!(op, 2 | 6 | 8 | 14 | 31 | 37 | 43));
            let part = &whole[..cut.index(whole.len())];
            prop_assert!(serde_json::from_str::<serde_json::Value>(part).is_err());
            prop_assert_eq!(parse(&mut part.as_bytes().to_vec()).unwrap_err(), CloseCode::DecodeError);
        }
    }
}
