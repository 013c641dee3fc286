//! The dispatch events of tiers 1 and 2, as `conformance/events.tsv` lists them, and what was
//! proved of each: see [`EventBook`].

use std::{collections::BTreeMap, fmt::Write, sync::LazyLock};

use super::book::Verdict;
use crate::wire::known_to_twilight;

/// One row.
#[derive(Debug, Clone)]
pub struct Event {
    pub name: &'static str,
    pub tier: u8,
    /// Documented for bots; the others are for clients of people alone.
    pub official: bool,
    /// Bits of the intents that ask for it: in guilds the first, in private channels the last.
    pub intents: Vec<u32>,
}

impl Event {
    pub fn find(name: &str) -> Option<&'static Self> {
        EVENTS.iter().find(|event| event.name == name)
    }
}

pub static EVENTS: LazyLock<Vec<Event>> = LazyLock::new(|| {
    let rows = include_str!("../../conformance/events.tsv");
    rows.lines().skip(1).filter_map(parse).collect()
});

fn parse(row: &'static str) -> Option<Event> {
    let columns: Vec<&str> = row.split('\t').collect();
    let &[name, tier, source, _, intents] = columns.as_slice() else {
        return None;
    };
    let bits = intents.split("1<<").skip(1).filter_map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    Some(Event {
        name,
        tier: tier.parse().ok()?,
        official: source == "official",
        intents: bits.collect(),
    })
}

/// The checks of one event.
#[derive(Debug, Clone, Default)]
pub struct EventProof {
    /// Its cause, on real processes, makes it.
    pub emitted: Verdict,
    /// Those who are to get it do, nobody else does.
    pub reaches: Verdict,
    /// twilight and serenity read it as what it is.
    pub typed: Verdict,
}

/// What was proved of the events.
#[derive(Debug, Default)]
pub struct EventBook {
    proofs: BTreeMap<&'static str, EventProof>,
}

/// How many events passed each question, and all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Score {
    of: usize,
    passed: [usize; 3],
    whole: usize,
}

/// Which events a score is of.
type Counts = fn(&Event) -> bool;

const QUESTIONS: [&str; 3] = ["emitted", "reaches", "typed"];

impl EventBook {
    /// The checks of an event; `None` if the list has none of this name.
    pub fn of(&mut self, name: &str) -> Option<&mut EventProof> {
        let event = Event::find(name)?;
        Some(self.proofs.entry(event.name).or_default())
    }

    /// What failed, a line each.
    pub fn faults(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, proof) in &self.proofs {
            let verdicts = [&proof.emitted, &proof.reaches, &proof.typed];
            for (question, verdict) in QUESTIONS.iter().zip(verdicts) {
                let faults = verdict.faults().iter();
                lines.extend(faults.map(|fault| format!("{name} {question}: {fault}")));
            }
        }
        lines
    }

    fn marks(&self, event: &Event) -> [Mark; 3] {
        let proof = self.proofs.get(event.name).cloned().unwrap_or_default();
        let mark = |verdict: &Verdict| match verdict.passed() {
            true => Mark::Yes,
            false => Mark::No,
        };
        let typed = match event.official && known_to_a_library(event.name) {
            true => mark(&proof.typed),
            false => Mark::NotAsked,
        };
        [mark(&proof.emitted), mark(&proof.reaches), typed]
    }

    fn score(&self, counts: Counts) -> Score {
        let mut score = Score::default();
        for event in EVENTS.iter().filter(|event| counts(event)) {
            let marks = self.marks(event);
            score.of += 1;
            for (count, mark) in score.passed.iter_mut().zip(&marks) {
                *count += usize::from(*mark == Mark::Yes);
            }
            score.whole += usize::from(!marks.contains(&Mark::No));
        }
        score
    }

    /// The part of the page about events, in Markdown.
    pub fn page(&self) -> String {
        let mut page = String::from(HEAD);
        let rows: [(&str, Counts); 3] = [
            ("official, tier 1", |event| {
                event.official && event.tier == 1
            }),
            ("official, tier 2", |event| {
                event.official && event.tier == 2
            }),
            ("clients of people", |event| !event.official),
        ];
        for (what, counts) in rows {
            let Score { of, passed, whole } = self.score(counts);
            let [emitted, reaches, typed] = passed;
            let row = format!("| {what} | {of} | {emitted} | {reaches} | {typed} | {whole} |");
            let _ = writeln!(page, "{row}");
        }
        page.push_str(TABLE);
        for event in EVENTS.iter() {
            let [emitted, reaches, typed] = self.marks(event).map(Mark::text);
            let Event { name, tier, .. } = event;
            let _ = writeln!(
                page,
                "| {name} | event | {tier} | {emitted} | {reaches} | {typed} |"
            );
        }
        page
    }

    /// What a page made earlier claims and is no longer so, with what speaks against it.
    pub fn regressions(&self, earlier: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let page = self.page();
        let now: BTreeMap<&str, [bool; 3]> = page.lines().filter_map(read_row).collect();
        for (name, claimed) in earlier.lines().filter_map(read_row) {
            let found = now.get(name).copied().unwrap_or_default();
            for (place, question) in QUESTIONS.iter().enumerate() {
                if claimed[place] && !found[place] {
                    lines.push(format!("{name} is no longer so: {question}"));
                }
            }
        }
        let broken = |fault: &String| {
            let name = fault.split(' ').next();
            lines.iter().any(|line| line.split(' ').next() == name)
        };
        let why: Vec<String> = self.faults().into_iter().filter(broken).collect();
        lines.extend(why);
        lines
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Yes,
    No,
    /// No library has a type for it.
    NotAsked,
}

impl Mark {
    fn text(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "-",
            Self::NotAsked => "no type",
        }
    }
}

/// Name and marks of a row of the page.
fn read_row(row: &str) -> Option<(&str, [bool; 3])> {
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    match cells.as_slice() {
        ["", name, "event", _, emitted, reaches, typed, ""] => {
            Some((name, [emitted, reaches, typed].map(|mark| *mark == "yes")))
        }
        _ => None,
    }
}

/// Official events that serenity 0.12 has no type for.
const UNKNOWN_TO_SERENITY: [&str; 4] = [
    "CHANNEL_INFO",
    "RATE_LIMITED",
    "VOICE_CHANNEL_EFFECT_SEND",
    "VOICE_CHANNEL_START_TIME_UPDATE",
];

pub(super) fn known_to_serenity(name: &str) -> bool {
    Event::find(name).is_some_and(|event| event.official) && !UNKNOWN_TO_SERENITY.contains(&name)
}

fn known_to_a_library(name: &str) -> bool {
    known_to_serenity(name) || known_to_twilight(name)
}

const HEAD: &str = "
## Events

An event of tier 1 or 2 is **emitted** if its cause makes it, **reaches** those who are to get it and nobody
else (with and without the intent, without VIEW_CHANNEL, outside of the guild, on the other bot shard, in
another account), and is **typed** if twilight-model and serenity read every one sent as what it is. Some have no
type in either library.

| events | of | emitted | reach | typed | all that is asked |
|---|---|---|---|---|---|
";

const TABLE: &str = "
| event | | tier | emitted | reaches | typed |
|---|---|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_read() {
        let official = EVENTS.iter().filter(|event| event.official);
        assert_eq!((official.count(), EVENTS.len()), (73, 97));
        let bits = |name| Event::find(name).map(|event| event.intents.clone());
        assert_eq!(bits("MESSAGE_CREATE"), Some(vec![9, 12]));
        assert_eq!(bits("READY"), Some(Vec::new()));
        assert_eq!(bits("MESSAGE_POLL_VOTE_ADD"), Some(vec![24, 25]));
    }

    #[test]
    fn rows_of_the_page_read_back() {
        let book = EventBook::default();
        let page = book.page();
        assert_eq!(page.lines().filter_map(read_row).count(), EVENTS.len());
        assert!(book.regressions(&page).is_empty());
        let claims = page.replacen("| - |", "| yes |", 1);
        assert_eq!(book.regressions(&claims).len(), 1);
    }
}
