//! The client of the model: reads its frames, and knows what it should have got.

use guildhall_shared::envelope::Envelope;
use serde_json::Value;

use super::*;

/// What the client knows.
#[derive(Default)]
pub(super) struct Client {
    pub(super) connection: Option<(SessionKey, Rc<Socket>)>,
    /// Written by the core, but no whole frame yet.
    pub(super) bytes: Vec<u8>,
    session: Option<String>,
    pub(super) s: u64,
    /// Whether it knows of its guild.
    pub(super) in_guild: bool,
    /// Where its guild's snapshot was taken, and what came since.
    pub(super) since: Option<u64>,
    pub(super) got: Vec<u64>,
    /// As above, of snapshots that were replaced.
    pub(super) before: Vec<(u64, Vec<u64>)>,
    /// Whether the hidden channel is in its list.
    pub(super) shown: bool,
    /// What there is to say once the payload is read, and pings to answer.
    pub(super) say: Vec<String>,
    pub(super) pings: Vec<Vec<u8>>,
}

impl Client {
    fn forget(&mut self) {
        *self = Self {
            connection: self.connection.take(),
            bytes: std::mem::take(&mut self.bytes),
            ..Self::default()
        };
    }

    /// Reads what was written; false once the server has closed.
    pub(super) fn read(&mut self) -> bool {
        let Some((_, socket)) = &self.connection else {
            return false;
        };
        let Socket::Script(script) = &**socket else {
            return false;
        };
        let is_shut = script.is_shut();
        self.bytes.extend(script.take());
        while let Some((opcode, payload)) = next_frame(&mut self.bytes) {
            match opcode {
                0x1 => self.payload(&serde_json::from_slice(&payload).unwrap()),
                0x8 => {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    // Each of these leaves the session for a RESUME.
                    assert!(matches!(code, 4000 | 4008 | 4009), "closed with {code}");
                }
                0x9 => self.pings.push(payload),
                0xA => {}
                other => panic!("opcode {other}"),
            }
        }
        !is_shut
    }

    fn payload(&mut self, payload: &Value) {
        match payload["op"].as_u64() {
            Some(10) => self.say.push(match &self.session {
                None => identify(),
                Some(session) => json!({
                    "op": 6,
                    "d": {"token": TOKEN, "session_id": session, "seq": self.s},
                })
                .to_string(),
            }),
            Some(9) => {
                assert_eq!(payload["d"], false);
                self.forget();
                self.say.push(identify());
            }
            Some(11) => {}
            Some(0) => self.dispatch(payload),
            other => panic!("op {other:?}"),
        }
    }

    fn dispatch(&mut self, payload: &Value) {
        let (s, d) = (payload["s"].as_u64().unwrap(), &payload["d"]);
        assert_eq!(s, self.s + 1, "s grows by one (I5)");
        self.s = s;
        match payload["t"].as_str() {
            Some("READY") => {
                assert!(self.session.is_none(), "a second READY");
                self.session = Some(d["session_id"].as_str().unwrap().to_owned());
                self.in_guild = d["guilds"] != json!([]);
            }
            Some("GUILD_CREATE") => {
                assert!(self.since.is_none(), "a second snapshot");
                self.since = d["position"].as_u64();
                self.shown = d["shown"].as_bool().unwrap();
            }
            Some("GUILD_DELETE") => {
                if d["unavailable"] != true {
                    assert!(self.in_guild, "the end of its guild a second time");
                    self.in_guild = false;
                }
                let got = std::mem::take(&mut self.got);
                self.before
                    .extend(self.since.take().map(|since| (since, got)));
            }
            Some("CHANNEL_CREATE") => self.shown = true,
            Some("CHANNEL_DELETE") => self.shown = false,
            Some("CHANNEL_UPDATE") => {}
            Some("MESSAGE_CREATE") if d["id"] == hidden_channel().to_string() => {}
            Some("MESSAGE_CREATE") => self.got.push(d["seq"].as_u64().unwrap()),
            Some("RESUMED") => {}
            other => panic!("{other:?}"),
        }
    }

    /// What it should have got, if it has everything.
    pub(super) fn expected(&self, log: &[(Kind, Arc<Envelope>)]) -> Vec<u64> {
        self.since
            .map_or_else(Vec::new, |since| seen_since(since, log))
    }
}

pub(super) fn seen_since(since: u64, log: &[(Kind, Arc<Envelope>)]) -> Vec<u64> {
    let numbered = (1u64..).zip(log);
    numbered
        .filter(|(seq, (kind, _))| *seq > since && *kind == Kind::Seen)
        .map(|(seq, _)| seq)
        .collect()
}
