//! Commands of clients, and the JSON reader under them against serde_json.

use guildhall_gateway::codec::{Command, parse};
use guildhall_shared::gateway::CloseCode;
use serde_json::Value;
use simd_json::prelude::{ValueAsScalar, ValueObjectAccess};

/// Brackets of a text that serde_json is asked about: it gives up at a depth of 128.
const BRACKETS_MAX: usize = 127;

/// Any bytes give a command or a close code, and only those that serde_json too takes for
/// an object with an opcode are anything but a decode error.
pub(crate) fn command(bytes: &[u8]) {
    let command = parse(&mut bytes.to_vec());
    let again = parse(&mut bytes.to_vec());
    assert_eq!(format!("{command:?}"), format!("{again:?}"), "twice");
    if matches!(command, Err(CloseCode::DecodeError)) {
        return;
    }
    let theirs: Value = serde_json::from_slice(bytes).expect("serde_json calls this no JSON");
    assert!(theirs.is_object(), "no object");
    // Where a key is said twice, the two readers take different ones.
    let value = simd_json::to_owned_value(&mut bytes.to_vec()).expect("it was read above");
    let op = value.get("op").and_then(ValueAsScalar::as_u64);
    let op = op.expect("an opcode");
    let seq = value.get("d").and_then(|d| d.get("seq"));
    let is_of = match &command {
        Ok(Command::Heartbeat(_)) => matches!(op, 1 | 40),
        Ok(Command::Identify(_)) => op == 2,
        Ok(Command::Presence(_)) => op == 3,
        Ok(Command::Voice(_)) => op == 4,
        // Who never had a sequence says `null`, or nothing.
        Ok(Command::Resume(resume)) => {
            op == 6 && seq.and_then(ValueAsScalar::as_u64).unwrap_or(0) == resume.seq
        }
        Ok(Command::Watch(_)) => matches!(op, 14 | 37),
        Ok(Command::Sounds(_)) => op == 31,
        Ok(Command::Members(_)) => matches!(op, 8 | 35),
        Ok(Command::Ask(..)) => matches!(op, 36 | 39 | 43),
        Ok(Command::Unfit(_)) => matches!(op, 2 | 6),
        // Only who has not identified is told otherwise first.
        Ok(Command::Malformed(_)) => !matches!(op, 1 | 2 | 6 | 40),
        Ok(_) | Err(_) => true,
    };
    assert!(is_of, "op {op} read as another");
}

/// simd-json and serde_json agree on what is JSON and on what it says, but for numbers that
/// no command has: those beyond 64 bits and fractions.
pub(crate) fn readers(bytes: &[u8]) {
    let brackets = bytes.iter().filter(|byte| matches!(byte, b'[' | b'{'));
    if brackets.count() > BRACKETS_MAX {
        return;
    }
    let ours: Result<Value, _> = simd_json::serde::from_slice(&mut bytes.to_vec());
    let theirs: Result<Value, _> = serde_json::from_slice(bytes);
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => assert!(same(&ours, &theirs), "{ours} is not {theirs}"),
        (Err(_), Err(_)) => {}
        (Ok(ours), Err(theirs)) => panic!("taken as {ours}: {theirs}"),
        (Err(ours), Ok(theirs)) => assert!(has_odd_number(&theirs), "{theirs} refused: {ours}"),
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(_), Value::Number(b)) if b.is_f64() => true,
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let known = |(key, a): (&String, &Value)| b.get(key).is_some_and(|b| same(a, b));
            a.len() == b.len() && a.iter().all(known)
        }
        _ => a == b,
    }
}

fn has_odd_number(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(list) => list.iter().any(has_odd_number),
        Value::Object(object) => object.values().any(has_odd_number),
        _ => false,
    }
}
