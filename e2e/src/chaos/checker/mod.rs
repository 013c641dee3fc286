//! Compares what sessions were told with what Postgres holds.
//!
//! Pure: a [`History`] goes in, a [`Verdict`] comes out. It knows the protocol and the rules of
//! `realm_event`'s numbers, and nothing of how the servers work.
//!
//! Where a session's start in a guild lies is not told to clients. It is found by what the snapshot
//! shows: the newest messages, topics, roles and members of a READY or GUILD_CREATE are right at
//! some numbers of the log only, and the events after the last of these must follow. What a
//! snapshot cannot show (an edit) may lie on either side of it.

mod guild;
mod history;
mod session;
#[cfg(test)]
mod tests;
mod timeline;
mod verdict;
mod writes;

pub use guild::{channel_of, number, role_of};
pub use history::{
    Base, Body, Channel, GuildHistory, History, Logged, Millis, Overwrite, Picture, Record, Role,
    Seen, SessionHistory, Touches, Trouble, What, Write, fingerprint,
};
pub use verdict::{Finding, Kind, Verdict};

use std::collections::{BTreeMap, HashMap};

use guild::Guild;

/// All guilds, and where their events are by what they say.
struct Logs {
    guilds: HashMap<u64, Guild>,
    /// Guild → fingerprint → numbers.
    index: HashMap<u64, HashMap<u64, Vec<u64>>>,
}

/// What the sessions of the evidence saw around it, for a person to read.
pub fn trace(history: &History, verdict: &Verdict) -> String {
    const BEFORE: Millis = 90_000;
    const AFTER: Millis = 3_000;
    let mut windows: BTreeMap<&str, (Millis, Millis)> = BTreeMap::new();
    for finding in &verdict.evidence {
        let window = windows.entry(&finding.whose);
        let (first, last) = window.or_insert((finding.at, finding.at));
        (*first, *last) = ((*first).min(finding.at), (*last).max(finding.at));
    }
    let mut lines = Vec::new();
    for session in &history.sessions {
        let Some((first, last)) = windows.get(session.name.as_str()) else {
            continue;
        };
        lines.push(format!("=== {} user {}", session.name, session.user));
        let is_near = |record: &&Record| record.at + BEFORE >= *first && record.at <= *last + AFTER;
        for record in session.records.iter().filter(is_near) {
            let what = match &record.what {
                What::Dispatch { s, said } => {
                    let body = history.bodies.get(said);
                    let (t, d) = body.map_or(("?", ""), |body| (&body.t, &body.d));
                    format!("{s} {t} {d}")
                }
                other => format!("{other:?}"),
            };
            lines.push(format!("{} {what}", record.at));
        }
    }
    lines.join("\n")
}

/// Checks a run.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let mut logs = Logs {
        guilds: HashMap::new(),
        index: HashMap::new(),
    };
    for of in &history.guilds {
        let guild = Guild::new(of);
        for (expected, found) in &guild.holes {
            let text = format!("guild {}: number {found} where {expected} was due", of.id);
            verdict.find(Kind::NotDense, "the log", text);
        }
        for text in &guild.unreadable {
            verdict.find(Kind::Unknown, "the log", text.clone());
        }
        verdict.events += guild.events.len() as u64;
        let mut index = HashMap::new();
        guild.index(&mut index);
        logs.index.insert(of.id, index);
        logs.guilds.insert(of.id, guild);
    }
    for session in &history.sessions {
        session::check(session, history, &logs, &mut verdict);
    }
    writes::check(history, &logs, &mut verdict);
    verdict.sessions = history.sessions.len() as u64;
    verdict.writes = history.writes.len() as u64;
    verdict.faults = history.troubles.len() as u64;
    verdict
}
