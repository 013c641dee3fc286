//! Which slot of a cluster a key is in, and which key a command is about.

use redis::{Arg, Cmd};

/// Slots of every cluster.
pub(crate) const SLOTS: usize = 16_384;

/// The slot of a key: of what stands between its first braces, should it have some.
pub(crate) fn slot_of(key: &[u8]) -> u16 {
    crc16(tag(key)) % SLOTS as u16
}

fn tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else {
        return key;
    };
    let inner = &key[open + 1..];
    match inner.iter().position(|&byte| byte == b'}') {
        Some(close) if close > 0 => &inner[..close],
        _ => key,
    }
}

/// CRC16 in its XMODEM form.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)]
    })
}

const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Who is to get a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// The primary that has this key. Further keys of the command are in the same slot: our
    /// names see to it.
    Key(&'a [u8]),
    /// Anybody.
    Any,
    /// Everybody.
    All,
}

/// Knows the commands that we use; of others the first argument counts as the key, as it is of
/// nearly all.
pub(crate) fn target(command: &Cmd) -> Target<'_> {
    let mut words = command.args_iter().map(|word| match word {
        Arg::Simple(word) => word,
        _ => b"0",
    });
    let name = words.next().unwrap_or_default().to_ascii_uppercase();
    let key = match &name[..] {
        b"SCRIPT" | b"FLUSHALL" | b"FLUSHDB" => return Target::All,
        b"PING" | b"INFO" | b"CLUSTER" | b"CONFIG" => return Target::Any,
        // Script, number of keys, first key.
        b"EVAL" | b"EVALSHA" => words.nth(2),
        // What it looks for has a tag.
        b"SCAN" => words
            .skip_while(|word| !word.eq_ignore_ascii_case(b"MATCH"))
            .nth(1),
        _ => words.next(),
    };
    key.map_or(Target::Any, Target::Key)
}

#[cfg(test)]
mod tests {
    use redis::cmd;

    use super::*;

    /// As `CLUSTER KEYSLOT` says.
    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        for (key, slot) in [
            ("foo", 12182),
            ("{foo}:bar", 12182),
            ("bar", 5061),
            ("{}foo", slot_of(b"{}foo")),
            ("", 0),
        ] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(tag(b"{}foo"), b"{}foo");
        assert_eq!(tag(b"a{b}{c}"), b"b");
        assert_eq!(tag(b"a{b"), b"a{b");
    }

    #[test]
    fn commands_go_where_their_key_is() {
        let key = Target::Key(b"k");
        assert_eq!(target(cmd("GET").arg("k")), key);
        assert_eq!(target(cmd("eval").arg("x").arg(1).arg("k").arg("a")), key);
        let scan = &mut cmd("SCAN");
        assert_eq!(
            target(scan.arg(0).arg("MATCH").arg("k").arg("COUNT").arg(9)),
            key
        );
        assert_eq!(target(cmd("SCRIPT").arg("LOAD").arg("x")), Target::All);
        assert_eq!(target(&cmd("PING")), Target::Any);
    }
}
