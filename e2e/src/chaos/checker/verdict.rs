//! What the checker found.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::Millis;

/// Evidence kept per kind; all are counted.
const EVIDENCE_MAX: usize = 12;

/// Ways to be wrong. None may be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Kind {
    /// An event that a session should have got never came (I3, I4, I6).
    Lost,
    /// An event came twice, or although the session's snapshot had it (I3, I6).
    Repeated,
    /// An event came after a later one of its guild (I3).
    Reordered,
    /// An event came to somebody who might not see it (I7).
    Leaked,
    /// `s` left numbers out (I5).
    SilentGap,
    /// `s` went back or stood (I5).
    WrongS,
    /// A snapshot that the guild never looked like (I6).
    Torn,
    /// A dispatch that says what no event of the log says.
    Unknown,
    /// A session lacks a guild that its user is in, or has one that the user is not in.
    WrongGuilds,
    /// A session has a channel that its user does not see, or lacks one that they see.
    WrongChannels,
    /// A write got a 2xx and is not in Postgres (I2).
    Unstored,
    /// Two messages for one nonce (I15).
    Doubled,
    /// The numbers of the log have a hole (I1).
    NotDense,
    /// op 9 in answer to RESUME, and no fault explains it.
    UnexplainedRefusal,
    /// A close code after which libraries give up.
    GivenUp,
    /// A frame that is not laid out as documented.
    Malformed,
}

impl Kind {
    pub const ALL: [Self; 16] = [
        Self::Lost,
        Self::Repeated,
        Self::Reordered,
        Self::Leaked,
        Self::SilentGap,
        Self::WrongS,
        Self::Torn,
        Self::Unknown,
        Self::WrongGuilds,
        Self::WrongChannels,
        Self::Unstored,
        Self::Doubled,
        Self::NotDense,
        Self::UnexplainedRefusal,
        Self::GivenUp,
        Self::Malformed,
    ];

    pub fn words(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Repeated => "repeated",
            Self::Reordered => "reordered",
            Self::Leaked => "leaked",
            Self::SilentGap => "silent gap in s",
            Self::WrongS => "wrong s",
            Self::Torn => "snapshot of no position",
            Self::Unknown => "not in the log",
            Self::WrongGuilds => "wrong guilds at the end",
            Self::WrongChannels => "wrong channels at the end",
            Self::Unstored => "2xx not in Postgres",
            Self::Doubled => "two messages for a nonce",
            Self::NotDense => "hole in the log",
            Self::UnexplainedRefusal => "op 9 without a fault",
            Self::GivenUp => "fatal close code",
            Self::Malformed => "malformed frame",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    pub kind: Kind,
    pub whose: String,
    /// When it was noticed; 0 if that is not known.
    pub at: Millis,
    pub text: String,
}

/// Everything found, and how much was looked at.
#[derive(Debug, Default, Serialize)]
pub struct Verdict {
    pub faults: u64,
    pub sessions: u64,
    pub writes: u64,
    /// Numbered events of all guilds.
    pub events: u64,
    /// Dispatches that sessions got.
    pub deliveries: u64,
    /// Those that were found in the log.
    pub matched: u64,
    /// READY and GUILD_CREATE pictures whose position was found.
    pub snapshots: u64,
    pub readies: u64,
    pub resumed: u64,
    /// op 7.
    pub sent_away: u64,
    /// Of them from gateways that were being drained.
    pub drained: u64,
    /// Of those whose client next got RESUMED, and at another gateway.
    pub drained_resumed: u64,
    /// op 9 in answer to RESUME.
    pub refused: u64,
    /// The same by the fault that explains it.
    pub refused_by: BTreeMap<String, u64>,
    /// Close codes; 0: none came.
    pub ends: BTreeMap<u16, u64>,
    pub counts: BTreeMap<Kind, u64>,
    pub evidence: Vec<Finding>,
}

impl Verdict {
    pub(super) fn find(&mut self, kind: Kind, whose: &str, text: String) {
        self.find_at(kind, whose, 0, text);
    }

    pub(super) fn find_at(&mut self, kind: Kind, whose: &str, at: Millis, text: String) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= EVIDENCE_MAX as u64 {
            self.evidence.push(Finding {
                kind,
                whose: whose.to_owned(),
                at,
                text,
            });
        }
    }

    pub fn count(&self, kind: Kind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.counts.values().all(|count| *count == 0)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.evidence {
            writeln!(
                f,
                "{}: {}: {}",
                finding.kind.words(),
                finding.whose,
                finding.text
            )?;
        }
        if !self.evidence.is_empty() {
            writeln!(f)?;
        }
        let figures = [
            ("faults", self.faults),
            ("sessions", self.sessions),
            ("writes with a 2xx", self.writes),
            ("events in the log", self.events),
            ("dispatches received", self.deliveries),
            ("of them found in the log", self.matched),
            ("snapshots placed", self.snapshots),
            ("READY", self.readies),
            ("RESUMED", self.resumed),
            ("op 7", self.sent_away),
            ("of them by a drain", self.drained),
            ("of those RESUMED elsewhere", self.drained_resumed),
            ("op 9 to RESUME", self.refused),
        ];
        writeln!(f, "| figure | |\n|---|---|")?;
        for (what, figure) in figures {
            writeln!(f, "| {what} | {figure} |")?;
        }
        for (by, count) in &self.refused_by {
            writeln!(f, "| op 9 explained by: {by} | {count} |")?;
        }
        for (code, count) in &self.ends {
            match code {
                0 => writeln!(f, "| sockets that broke | {count} |")?,
                code => writeln!(f, "| closed with {code} | {count} |")?,
            }
        }
        writeln!(f, "\n| must be 0 | |\n|---|---|")?;
        for kind in Kind::ALL {
            writeln!(f, "| {} | {} |", kind.words(), self.count(kind))?;
        }
        Ok(())
    }
}
