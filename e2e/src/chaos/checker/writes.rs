//! What writers were promised against what Postgres holds (I2, I15).

use std::collections::{HashMap, HashSet};

use super::{History, Kind, Logs, Verdict, Write};

pub(super) fn check(history: &History, logs: &Logs, verdict: &mut Verdict) {
    let guilds = || logs.guilds.values();
    let texts: HashSet<(u64, &str)> = guilds()
        .flat_map(|guild| &guild.texts)
        .map(|(id, content)| (*id, content.as_str()))
        .collect();
    let deleted: HashSet<u64> = guilds().flat_map(|guild| &guild.deleted).copied().collect();
    let mut newest: HashMap<u64, &str> = HashMap::new();
    for write in &history.writes {
        match write {
            Write::Created { id, content } => {
                if !texts.contains(&(*id, content.as_str())) {
                    let text = format!("message {id} {content:?} has no event");
                    verdict.find(Kind::Unstored, "a writer", text);
                }
                newest.entry(*id).or_insert(content);
            }
            Write::Edited { id, content } => {
                if !texts.contains(&(*id, content.as_str())) {
                    let text = format!("edit of {id} to {content:?} has no event");
                    verdict.find(Kind::Unstored, "a writer", text);
                }
                newest.insert(*id, content);
            }
            Write::Deleted { id } => {
                if !deleted.contains(id) || history.stored.contains_key(id) {
                    let text = format!("message {id} was deleted and is there");
                    verdict.find(Kind::Unstored, "a writer", text);
                }
            }
            Write::Marked { kind, mark } => {
                if !guilds().any(|guild| guild.marks.contains(&(*kind, mark.clone()))) {
                    let text = format!("{kind} with {mark:?} has no event");
                    verdict.find(Kind::Unstored, "a writer", text);
                }
            }
        }
    }
    for (id, content) in newest {
        // An edit may be in Postgres whose answer was lost: then it has an event of its own.
        let stored = history.stored.get(&id);
        let is_there = stored
            .is_some_and(|stored| stored == content || texts.contains(&(id, stored.as_str())));
        if !is_there && !deleted.contains(&id) {
            let text = format!("message {id} {content:?} is stored as {stored:?}");
            verdict.find(Kind::Unstored, "a writer", text);
        }
    }
    for (content, count) in guilds().flat_map(|guild| &guild.created) {
        if *count > 1 {
            let text = format!("{count} messages say {content:?}");
            verdict.find(Kind::Doubled, "the log", text);
        }
    }
}
