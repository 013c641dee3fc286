//! What clients make of a gateway's bytes: zlib, zstd and ETF, by decoders that are none of ours.

use std::{collections::HashMap, io::Cursor};

use eetf::{Atom, BigInteger, Binary, FixInteger, Float, List, Map, Term};
use flate2::{Decompress, FlushDecompress, Status};
use serde_json::{Value, json};
use zstd_safe::{DCtx, InBuffer, OutBuffer};

/// What a connection's compressed messages have come to so far.
pub struct Stream {
    zlib: Decompress,
    zstd: DCtx<'static>,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            zlib: Decompress::new(true),
            zstd: DCtx::create(),
        }
    }
}

impl Stream {
    /// The payload of the next message of a zlib-stream.
    ///
    /// # Panics
    /// If it does not end with a flush, or is no continuation of the ones before.
    pub fn zlib(&mut self, message: &[u8]) -> Vec<u8> {
        assert!(message.ends_with(&[0, 0, 0xFF, 0xFF]), "no flush");
        inflate(&mut self.zlib, message)
    }

    /// The payload of the next message of a zstd-stream.
    ///
    /// # Panics
    /// If it is no continuation of the ones before.
    pub fn zstd(&mut self, message: &[u8]) -> Vec<u8> {
        unzstd(&mut self.zstd, message).expect("zstd reads it")
    }
}

/// All of what `bytes` hold; of a stream, what came of it so far.
///
/// # Panics
/// If zlib does not read them.
pub fn inflate(decompress: &mut Decompress, mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    while !bytes.is_empty() || out.len() == out.capacity() {
        out.reserve(4096);
        let before = decompress.total_in();
        decompress
            .decompress_vec(bytes, &mut out, FlushDecompress::Sync)
            .expect("zlib reads it");
        bytes = &bytes[(decompress.total_in() - before) as usize..];
    }
    out
}

/// A payload that is compressed by itself.
///
/// # Panics
/// If zlib does not read it to its end, where its checksum is.
pub fn inflate_whole(bytes: &[u8]) -> Vec<u8> {
    let mut whole = Decompress::new(true);
    let text = inflate(&mut whole, bytes);
    assert_eq!(whole.total_in(), bytes.len() as u64);
    let status = whole.decompress_vec(b"", &mut Vec::with_capacity(1), FlushDecompress::Finish);
    assert!(matches!(status, Ok(Status::StreamEnd)), "{status:?}");
    text
}

/// All of what `bytes` hold, or what zstd has against them.
pub fn unzstd(decoder: &mut DCtx<'_>, bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    let (mut out, mut room) = (Vec::new(), vec![0; 1 << 17]);
    let mut input = InBuffer::around(bytes);
    loop {
        let mut output = OutBuffer::around(&mut room[..]);
        decoder
            .decompress_stream(&mut output, &mut input)
            .map_err(zstd_safe::get_error_name)?;
        out.extend_from_slice(output.as_slice());
        if input.pos() == bytes.len() && output.pos() < 1 << 17 {
            return Ok(out);
        }
    }
}

/// How integers of more than 32 bits read.
#[derive(Debug, Clone, Copy)]
pub enum Big {
    /// As the numbers they are.
    Numbers,
    /// As JSON has ids.
    Texts,
}

/// What an ETF term says.
///
/// # Panics
/// If `bytes` are no term, more than one, or one that JSON has no like of.
pub fn from_etf(bytes: &[u8], big: Big) -> Value {
    let mut cursor = Cursor::new(bytes);
    let term = Term::decode(&mut cursor).expect("a term");
    assert_eq!(cursor.position(), bytes.len() as u64);
    from_term(&term, big)
}

fn from_term(term: &Term, big: Big) -> Value {
    match term {
        Term::Atom(atom) => match &*atom.name {
            "nil" => Value::Null,
            "true" => json!(true),
            "false" => json!(false),
            other => panic!("atom {other}"),
        },
        Term::FixInteger(integer) => json!(integer.value),
        Term::BigInteger(integer) => {
            let digits = integer.value.to_string();
            match big {
                Big::Numbers => serde_json::from_str(&digits).expect("a number"),
                Big::Texts => json!(digits),
            }
        }
        Term::Float(float) => json!(float.value),
        Term::Binary(binary) => {
            json!(std::str::from_utf8(&binary.bytes).expect("a text"))
        }
        Term::List(list) => {
            let elements = list.elements.iter();
            elements.map(|element| from_term(element, big)).collect()
        }
        Term::Map(map) => {
            let entries = map
                .map
                .iter()
                .map(|(key, value)| match from_term(key, big) {
                    Value::String(key) => (key, from_term(value, big)),
                    key => panic!("key {key}"),
                });
            Value::Object(entries.collect())
        }
        other => panic!("{other:?}"),
    }
}

/// A term as a client of Elixir or erlpack makes it.
///
/// # Panics
/// If a number is none that JSON has.
pub fn to_term(value: &Value) -> Term {
    let binary = |text: &str| Term::from(Binary::from(text.as_bytes()));
    match value {
        Value::Null => Atom::from("nil").into(),
        Value::Bool(value) => Atom::from(value.to_string()).into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            // eetf writes lists of small negative integers as strings of bytes.
            (Some(integer), ..) if (0..=i64::from(i32::MAX)).contains(&integer) => {
                FixInteger::from(integer as i32).into()
            }
            (Some(integer), ..) => BigInteger::from(integer).into(),
            (None, Some(integer), _) => BigInteger::from(integer).into(),
            (None, None, float) => {
                let float = float.expect("a number of JSON");
                Float::try_from(float).expect("a finite one").into()
            }
        },
        Value::String(text) => binary(text),
        Value::Array(list) => List::from(list.iter().map(to_term).collect::<Vec<_>>()).into(),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| (binary(key), to_term(value)));
            Map::from(entries.collect::<HashMap<_, _>>()).into()
        }
    }
}

/// The bytes of [`to_term`].
pub fn to_etf(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let written = to_term(value).encode(&mut out);
    written.expect("a vector takes all");
    out
}
