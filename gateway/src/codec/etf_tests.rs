use eetf::{Binary, Float, Term as Oracle};
use guildhall_spec::encodings::{Big, from_etf, to_etf, to_term};
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// As another implementation reads it.
fn read_by_oracle(term: &[u8]) -> serde_json::Value {
    from_etf(term, Big::Numbers)
}

fn term(value: &serde_json::Value) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_json(&mut out, value.to_string().as_bytes()).unwrap();
    out
}

fn values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|value| json!(value)),
        any::<u8>().prop_map(|value| json!(value)),
        any::<i32>().prop_map(|value| json!(value)),
        any::<i64>().prop_map(|value| json!(value)),
        any::<u64>().prop_map(|value| json!(value)),
        // Never whole: those may come back as integers.
        any::<i32>().prop_map(|value| json!(f64::from(value) + 0.5)),
        any::<String>().prop_map(|value| json!(value)),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        let key = "[a-z_]{0,6}";
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::Array),
            prop::collection::hash_map(key, inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

fn as_json(value: &OwnedValue) -> serde_json::Value {
    serde_json::to_value(value).unwrap()
}

proptest! {
    #[test]
    fn what_we_write_another_reads(value in values()) {
        prop_assert_eq!(read_by_oracle(&term(&value)), value);
    }

    #[test]
    fn what_another_writes_we_read(json in values()) {
        let read = value(&to_etf(&json)).unwrap();
        prop_assert_eq!(as_json(&read), json);
    }

    #[test]
    fn what_we_write_we_read(json in values()) {
        prop_assert_eq!(as_json(&value(&term(&json)).unwrap()), json);
    }

    #[test]
    fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = value(&bytes);
        bytes.insert(0, VERSION);
        let _ = parse(&bytes);
    }

    #[test]
    fn a_term_with_one_wrong_byte_never_panics(json in values(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = term(&json);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = value(&bytes);
        let _ = value(&bytes[..at]);
    }
}

#[test]
fn ids_are_integers_but_not_what_people_name_so() {
    let value = json!({
        "id": "1100000000000000123",
        "channel_id": "1100000000000000124",
        "guild_id": null,
        "user_ids": ["1100000000000000125", "7"],
        "roles": ["1100000000000000126", {"id": "1100000000000000127"}],
        "custom_id": "1100000000000000128",
        "session_id": "1100000000000000129",
        "content": "1100000000000000130",
        "parent_id": "01100000000000000131",
        "application_id": "99",
    });
    let read = read_by_oracle(&term(&value));
    assert_eq!(read["id"], json!(1_100_000_000_000_000_123u64));
    assert_eq!(read["channel_id"], json!(1_100_000_000_000_000_124u64));
    assert_eq!(read["guild_id"], json!(null));
    assert_eq!(read["user_ids"], json!([1_100_000_000_000_000_125u64, "7"]));
    assert_eq!(
        read["roles"],
        json!([1_100_000_000_000_000_126u64, {"id": 1_100_000_000_000_000_127u64}])
    );
    for key in [
        "custom_id",
        "session_id",
        "content",
        "parent_id",
        "application_id",
    ] {
        assert_eq!(read[key], value[key], "{key}");
    }
}

#[test]
fn activities_and_their_parties_have_ids_that_are_texts() {
    let snowflake = "1100000000000000123";
    let activity = json!({
        "id": "1234567890123456", "name": "chess", "type": 0, "application_id": snowflake,
        "party": {"id": "12345678901", "size": [1, 2]}, "emoji": {"id": snowflake, "name": "x"},
    });
    let presence = json!({"user": {"id": snowflake}, "activities": [activity, activity]});
    let value = json!({"presences": [presence], "party": {"id": snowflake}});
    let read = read_by_oracle(&term(&value));
    let number = json!(1_100_000_000_000_000_123u64);
    let presence = &read["presences"][0];
    assert_eq!(presence["user"]["id"], number);
    for place in 0..2 {
        let told = &presence["activities"][place];
        assert_eq!(told["id"], activity["id"]);
        assert_eq!(told["party"]["id"], activity["party"]["id"]);
        assert_eq!(told["party"]["size"], json!([1, 2]));
        assert_eq!(told["application_id"], number);
        assert_eq!(told["emoji"]["id"], number);
    }
    assert_eq!(read["party"]["id"], number);
}

#[test]
fn an_identify_reads_as_its_json_does() {
    let identify = |shard: Oracle, intents: Oracle| {
        let d = json!({"token": "MQ.b.c", "properties": {"os": "linux"}, "compress": true});
        let Oracle::Map(mut d) = to_term(&d) else {
            unreachable!()
        };
        let key = |name: &str| Oracle::from(Binary::from(name.as_bytes()));
        d.map.insert(key("shard"), shard);
        d.map.insert(key("intents"), intents);
        let Oracle::Map(mut payload) = to_term(&json!({"op": 2})) else {
            unreachable!()
        };
        payload.map.insert(key("d"), d.into());
        let mut out = Vec::new();
        Oracle::from(payload).encode(&mut out).unwrap();
        match parse(&out) {
            Ok(Command::Identify(identify)) => identify,
            other => panic!("{other:?}"),
        }
    };
    // As erlpack writes numbers, and as Erlang writes short lists of small ones.
    let shard = Oracle::from(eetf::ByteList::from(&[0, 2]));
    let command = identify(shard, Float::try_from(513.0).unwrap().into());
    assert_eq!(command.shard, Some((0, 2)));
    assert_eq!(command.intents.map(|intents| intents.bits()), Some(513));
    let command = identify(to_term(&json!([1, 2])), to_term(&json!(513)));
    assert_eq!(command.shard, Some((1, 2)));
    assert!(matches!(
        parse(&term(&json!({"op": 1, "d": null}))),
        Ok(Command::Heartbeat(_))
    ));
}

#[test]
fn hostile_terms_are_refused() {
    let of = |bytes: &[u8]| parse(bytes).err();
    let decode_error = Some(CloseCode::DecodeError);
    for bytes in [
        &b""[..],
        b"{\"op\":1}",
        &[VERSION],
        // Lengths far beyond what is there.
        &[VERSION, tag::LIST, 0xFF, 0xFF, 0xFF, 0xFF],
        &[VERSION, tag::MAP, 0xFF, 0xFF, 0xFF, 0xFF],
        &[VERSION, tag::BINARY, 0xFF, 0xFF, 0xFF, 0xFF, b'x'],
        &[VERSION, tag::LARGE_BIG, 0xFF, 0xFF, 0xFF, 0xFF, 0],
        &[VERSION, tag::LARGE_TUPLE, 0xFF, 0xFF, 0xFF, 0xFF],
        // A compressed term.
        &[VERSION, 80, 0, 0, 0, 9, 0x78, 0x9C],
        // Not an object; a number of 72 bits; not a number; an improper list.
        &[VERSION, tag::SMALL_INTEGER, 1],
        &[VERSION, tag::SMALL_BIG, 9, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        &[VERSION, tag::NEW_FLOAT, 0x7F, 0xF8, 0, 0, 0, 0, 0, 0],
        &[
            VERSION,
            tag::LIST,
            0,
            0,
            0,
            1,
            tag::NIL,
            tag::SMALL_INTEGER,
            1,
        ],
        // %{op: 1}, with an atom for its key; something behind the term.
        &[
            VERSION,
            tag::MAP,
            0,
            0,
            0,
            1,
            tag::SMALL_ATOM_UTF8,
            2,
            b'o',
            b'p',
            tag::SMALL_INTEGER,
            1,
        ],
        &[
            VERSION,
            tag::MAP,
            0,
            0,
            0,
            1,
            tag::BINARY,
            0,
            0,
            0,
            2,
            b'o',
            b'p',
            tag::SMALL_INTEGER,
            1,
            0,
        ],
    ] {
        assert_eq!(of(bytes), decode_error, "{bytes:?}");
    }
    let mut deep = vec![VERSION];
    for _ in 0..800 {
        deep.extend([tag::LIST, 0, 0, 0, 1]);
    }
    assert_eq!(of(&deep), decode_error);
    assert_eq!(
        of(&term(&json!({"op": 99, "d": {}}))),
        Some(CloseCode::UnknownOpcode)
    );
    // Fewer bytes than it says, but zeros above.
    let padded = [
        VERSION,
        tag::MAP,
        0,
        0,
        0,
        1,
        tag::BINARY,
        0,
        0,
        0,
        2,
        b'o',
        b'p',
        tag::SMALL_BIG,
        10,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    assert!(matches!(parse(&padded), Ok(Command::Heartbeat(_))));
}
