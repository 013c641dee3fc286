use serde_json::{Value, json};

use super::*;
use crate::decoder::{Decoder, frames};

fn shape(format: Format, s: u64) -> Shape<'static> {
    Shape::new(format, s, None)
}

const ETF: Format = Format {
    encoding: Encoding::Etf,
    compression: Compression::None,
};

#[test]
fn all_sessions_frames_differ_in_s_alone() {
    let now = Instant::now();
    let one = Dispatch::new(EventKind::MessageCreate, br#"{"id":"1"}"#, now);
    let two = Dispatch::new(
        EventKind::TypingStart,
        format!("\"{}\"", "x".repeat(70_000)).as_bytes(),
        now,
    );
    let plain = Shape::plain();
    let mut layout = Layout::of([&one, &two].into_iter());
    assert!(layout.is_of(plain, [&one, &two].into_iter()));
    assert!(!layout.is_of(plain, [&two, &one].into_iter()));
    assert!(!layout.is_of(plain, [&one].into_iter()));
    assert!(!layout.is_of(shape(ETF, 1), [&one, &two].into_iter()));
    assert!(!layout.is_of(shape(Format::default(), u64::MAX), [&one, &two].into_iter()));

    let mut before: Option<Vec<u8>> = None;
    for first_s in [1, 9, 99, 123, 2_147_483_646] {
        let bytes = layout.numbered(first_s).to_vec();
        assert_eq!(bytes.len(), layout.len());
        let payloads = frames(&bytes);
        let [(Frame::Text, first), (Frame::Text, second)] = &payloads[..] else {
            panic!("{payloads:?}")
        };
        let start = format!(r#"{{"t":"MESSAGE_CREATE","s":{first_s},"#);
        assert!(first.starts_with(start.as_bytes()));
        let value: Value = serde_json::from_slice(first).unwrap();
        let expected = json!({"t": "MESSAGE_CREATE", "s": first_s, "op": 0, "d": {"id": "1"}});
        assert_eq!(value, expected);
        let start = format!(r#"{{"t":"TYPING_START","s":{},"#, first_s + 1);
        assert!(second.starts_with(start.as_bytes()));
        let value: Value = serde_json::from_slice(second).unwrap();
        assert_eq!(value["s"], first_s + 1);
        let differing = before.replace(bytes.clone()).map_or(0, |before| {
            before.iter().zip(&bytes).filter(|(a, b)| a != b).count()
        });
        assert!(differing <= 22, "{differing}");
    }
}

#[test]
fn an_s_of_any_size_has_room_in_every_format() {
    let dispatch = Dispatch::new(EventKind::MessageCreate, br#"{"id":"1"}"#, Instant::now());
    let long = Dispatch::new(
        EventKind::GuildCreate,
        format!("[\"{}\"]", "é".repeat(3_000)).as_bytes(),
        Instant::now(),
    );
    let mut compressors = Compressors::default();
    for format in crate::decoder::FORMATS {
        for last_s in [2, 2_147_483_647, 2_147_483_648, 4_294_967_297, u64::MAX - 1] {
            let both = [&dispatch, &long];
            let mut layout =
                Layout::shaped(shape(format, last_s), both.into_iter(), &mut compressors);
            let mut decoder = Decoder::new(format);
            let mut stream = payload(format, true, crate::codec::HELLO);
            stream.extend_from_slice(layout.numbered(last_s - 1));
            let payloads = decoder.read(&stream);
            assert_eq!(payloads[0]["op"], 10, "{format:?}");
            assert_eq!(payloads[1]["s"], last_s - 1, "{format:?}");
            assert_eq!(payloads[1]["t"], "MESSAGE_CREATE");
            assert_eq!(payloads[1]["d"]["id"], "1");
            assert_eq!(payloads[2]["s"], last_s, "{format:?}");
            assert_eq!(payloads[2]["d"][0].as_str().unwrap().chars().count(), 3_000);
        }
    }
}

#[test]
fn payload_compression_is_for_large_dispatches() {
    let format = Format::default().with_payload_compression();
    let small = Dispatch::new(EventKind::TypingStart, b"{}", Instant::now());
    let body = format!("[\"{}\"]", "x".repeat(3_000));
    let large = Dispatch::new(EventKind::GuildCreate, body.as_bytes(), Instant::now());
    let both = [&small, &large];
    let mut compressors = Compressors::default();
    let mut layout = Layout::shaped(shape(format, 2), both.into_iter(), &mut compressors);
    let payloads = frames(layout.numbered(1));
    assert_eq!(payloads[0].0, Frame::Text);
    assert_eq!(payloads[1].0, Frame::Binary);
    assert!(payloads[1].1.len() < 300);
    let payloads = Decoder::new(format).read(layout.numbered(7));
    assert_eq!(payloads[1]["s"], 8);
}

#[test]
fn forms_are_made_once_and_only_when_needed() {
    let dispatch = Dispatch::new(EventKind::TypingStart, b"{}", Instant::now());
    let mut compressors = Compressors::default();
    Layout::of([&dispatch].into_iter());
    assert!(dispatch.forms.get().is_none());
    let zlib = Format {
        compression: Compression::Zlib,
        ..ETF
    };
    Layout::shaped(shape(zlib, 1), [&dispatch].into_iter(), &mut compressors);
    let forms = dispatch.forms();
    let made = forms.alone[1][0].get().unwrap().as_ptr();
    assert!(forms.alone[0][0].get().is_none() && forms.alone[1][1].get().is_none());
    Layout::shaped(shape(zlib, 1), [&dispatch].into_iter(), &mut compressors);
    assert_eq!(forms.alone[1][0].get().unwrap().as_ptr(), made);
}

#[test]
fn chained_dispatches_read_as_they_are_with_any_s_behind_any_kind() {
    let format = Format {
        encoding: Encoding::Json,
        compression: Compression::Zlib,
    };
    let dispatch = |kind: EventKind, id: u64, words: usize| {
        // As if there were heads in it.
        let content = r#"{"t":"MESSAGE_CREATE","s":1,"op":0,"d":0} "#.repeat(words);
        let body = json!({"id": id.to_string(), "content": content}).to_string();
        Dispatch::new(kind, body.as_bytes(), Instant::now())
    };
    let dispatches = [
        dispatch(EventKind::TypingStart, 1, 0),
        dispatch(EventKind::MessageCreate, 2, 2),
        dispatch(EventKind::MessageCreate, 3, 3),
        dispatch(EventKind::TypingStart, 4, 200),
        // Too long to be chained, and to be pointed at as a whole.
        dispatch(EventKind::GuildCreate, 5, 2_000),
        dispatch(EventKind::MessageCreate, 6, 1),
    ];
    let mut compressors = Compressors::default();
    for first_s in [1, 8, 99_998, i32::MAX as u64 - 5] {
        let mut decoder = Decoder::new(format);
        decoder.read(&payload(format, true, crate::codec::HELLO));
        let mut after = None;
        for (s, dispatch) in (first_s..).zip(&dispatches) {
            let shape = Shape::new(format, s, after.replace(dispatch));
            let mut layout = Layout::shaped(shape, [dispatch].into_iter(), &mut compressors);
            let payloads = decoder.read(layout.numbered(s));
            let d: Value = serde_json::from_slice(&dispatch.body).unwrap();
            let expected = json!({"t": dispatch.kind.name(), "s": s, "op": 0, "d": d});
            assert_eq!(payloads, [expected]);
        }
    }
    // One form for all numbers.
    let forms = dispatches
        .iter()
        .map(|dispatch| dispatch.forms().chained.borrow().len());
    assert_eq!(forms.collect::<Vec<_>>(), [0, 1, 1, 1, 0, 1]);
}

/// Of a MESSAGE_CREATE as the API makes them.
fn message(n: u64) -> Vec<u8> {
    let id = |n: u64| (1_100_000_000_000_000_000 + n * 4_194_304_123).to_string();
    json!({
        "id": id(n), "channel_id": id(1 << 20), "type": 0,
        "content": format!("message {n} of a busy guild, with {} in it", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        "timestamp": format!("2026-11-28T19:{:02}:{:02}.{:06}+00:00", n / 60 % 60, n % 60, n * 7919 % 1_000_000),
        "edited_timestamp": null, "tts": false, "mention_everyone": false, "mentions": [],
        "mention_roles": [], "attachments": [], "embeds": [], "pinned": false, "flags": 0,
        "components": [], "nonce": id(n * 31), "guild_id": id(2 << 20),
        "author": {
            "id": id((3 << 20) + n % 40), "username": format!("member{}", n % 40), "discriminator": "0",
            "global_name": null, "avatar": format!("{:032x}", (n % 40 + 1) * 0x1234_5678_9ABC), "bot": false,
            "public_flags": 0, "avatar_decoration_data": null, "collectibles": null, "primary_guild": null,
        },
        "member": {
            "roles": [id((4 << 20) + n % 3), id((5 << 20) + n % 5)], "nick": null, "avatar": null, "banner": null,
            "joined_at": format!("2026-01-{:02}T00:00:00.000000+00:00", n % 28 + 1), "premium_since": null,
            "deaf": false, "mute": false, "flags": 0, "pending": false, "communication_disabled_until": null,
        },
    })
    .to_string()
    .into_bytes()
}

#[test]
fn chained_bodies_come_close_to_a_context_of_their_own() {
    let bodies: Vec<_> = (0..200)
        .map(|n| Dispatch::new(EventKind::MessageCreate, &message(n), Instant::now()))
        .collect();
    let mut context = flate2::Compress::new(flate2::Compression::default(), false);
    let mut theirs = 0;
    for (s, body) in (1..).zip(&bodies) {
        let text = [
            format!(r#"{{"t":"MESSAGE_CREATE","s":{s},"op":0,"d":"#).as_bytes(),
            &body.body,
            b"}",
        ]
        .concat();
        let mut out = Vec::with_capacity(8192);
        context
            .compress_vec(&text, &mut out, flate2::FlushCompress::Sync)
            .unwrap();
        theirs += out.len();
    }
    let mut compressors = Compressors::default();
    let mut of = |compression, chains: bool| -> usize {
        let format = Format {
            encoding: Encoding::Json,
            compression,
        };
        let pairs = (1..).zip(&bodies);
        pairs
            .map(|(s, body)| {
                let after = (chains && s > 1).then(|| &bodies[s - 2]);
                let shape = Shape::new(format, s as u64, after);
                let mut layout = Layout::shaped(shape, [body].into_iter(), &mut compressors);
                frames(layout.numbered(s as u64))[0].1.len()
            })
            .sum()
    };
    let ratio = |ours: usize| ours as f64 / theirs as f64;
    let (alone, chained) = (of(Compression::Zlib, false), of(Compression::Zlib, true));
    let zstd = of(Compression::Zstd, true);
    println!(
        "of a deflate context: alone {:.2}, chained {:.2}, zstd chained {:.2}",
        ratio(alone),
        ratio(chained),
        ratio(zstd)
    );
    assert!(ratio(chained) <= 1.4, "{}", ratio(chained));
    assert!(ratio(zstd) <= 2.2, "{}", ratio(zstd));
}
