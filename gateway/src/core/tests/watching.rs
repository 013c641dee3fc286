//! What sessions look at.

use super::*;
use crate::{
    ask::{Answers, Question},
    session::limit::{BLOCKS_MAX, BLOCKS_WINDOW},
};

#[test]
fn who_looks_at_more_than_may_be_shown_at_once_is_shown_the_newest_later() {
    let mut session = travelling(1);
    session.record.bot = false;
    let mut bench = Bench::new(1);
    let client = bench.resumes((session.record.id, session.s));
    bench.arrived(&client, session);
    bench.answered(answer(1));
    let say = |bench: &mut Bench, channels: Value| {
        let d = json!({"guild_id": guild(), "channels": channels});
        bench.say(&client, &json!({"op": 14, "d": d}).to_string());
    };
    let all: serde_json::Map<String, Value> = (1..=10)
        .map(|channel: u64| (channel.to_string(), json!([[0, 499]])))
        .collect();
    say(&mut bench, Value::Object(all.clone()));
    let told = bench.watches().into_iter().flatten();
    let told: Vec<usize> = told.map(|watch| watch.blocks()).collect();
    assert_eq!(told, [BLOCKS_MAX as usize]);
    let one = |channel: u64| Watch {
        channels: vec![(Id::new(channel).unwrap(), vec![0])],
        members: Vec::new(),
    };
    say(&mut bench, json!({"11": [[0, 99]]}));
    say(&mut bench, json!({"12": [[0, 99]]}));
    bench.core.tick();
    assert!(bench.watches().is_empty());
    clock::forward(BLOCKS_WINDOW / BLOCKS_MAX);
    bench.core.tick();
    assert_eq!(bench.watches(), [Some(one(12))]);
    // Who looks away is heard at once, and that is the end of it.
    say(&mut bench, Value::Object(all));
    assert!(bench.watches().is_empty());
    let nothing = json!({"op": 37, "d": {"subscriptions": {(guild().to_string()): {}}}});
    bench.say(&client, &nothing.to_string());
    assert_eq!(bench.watches(), [None]);
    clock::forward(BLOCKS_WINDOW);
    bench.core.tick();
    assert!(bench.watches().is_empty());
    assert!(bench.core.looking.is_empty());
    // It may look again.
    say(&mut bench, json!({"11": [[0, 99]]}));
    assert_eq!(bench.watches(), [Some(one(11))]);
}

#[test]
fn what_a_session_looks_at_is_bounded_and_what_it_named_last_counts() {
    let guilds: Vec<Id<Guild>> = (1..=110).map(|n| Id::new(n << 22).unwrap()).collect();
    let many: Vec<u64> = (1..=200).collect();
    for (d, looks, kept) in [
        (json!({"channels": {"6": [[0, 99]]}}), 105, 100),
        (json!({"members": many}), 8, 5),
    ] {
        let mut session = travelling(1);
        session.record.bot = false;
        let reached = Reached::Position(at(1));
        session.record.guilds = guilds.iter().map(|&guild| (guild, reached)).collect();
        let mut bench = Bench::new(1);
        let client = bench.resumes((session.record.id, session.s));
        bench.arrived(&client, session);
        for guild in &guilds[..looks] {
            let mut d = d.clone();
            d["guild_id"] = json!(guild);
            bench.say(&client, &json!({"op": 14, "d": d}).to_string());
        }
        let slot = bench.session(&client).slot as usize;
        let watched = bench.core.sessions[slot].watches.iter();
        let watched: Vec<Id<Guild>> = watched.map(|(guild, _)| *guild).collect();
        assert_eq!(watched, guilds[looks - kept..looks]);
    }
}

#[test]
fn a_session_of_a_person_asks_for_a_guilds_threads_once() {
    let numbers = |bench: &mut Bench| -> Vec<u32> {
        let asked = bench.asked().into_iter();
        let asks = asked.filter_map(|request| match request {
            ToNode::Ask(ask) if ask.question == Question::Threads => Some(ask.number),
            _ => None,
        });
        asks.collect()
    };
    for (bot, times) in [(false, 1), (true, 0)] {
        let mut session = travelling(1);
        session.record.bot = bot;
        let mut bench = Bench::new(1);
        let client = bench.resumes((session.record.id, session.s));
        bench.arrived(&client, session);
        bench.answered(answer(1));
        let one = json!({"guild_id": guild(), "typing": true, "threads": true});
        let of_guild = json!({"typing": true, "threads": true});
        let nothing = json!({"subscriptions": {(guild().to_string()): {}}});
        let again = json!({"subscriptions": {(guild().to_string()): of_guild}});
        bench.say(&client, &json!({"op": 14, "d": one}).to_string());
        let asked = numbers(&mut bench);
        assert_eq!(asked.len(), times, "bot: {bot}");
        for number in asked {
            let session = bench.session(&client);
            let answers = Answers {
                number,
                ends: Vec::new(),
            };
            bench.tell(ToCore::Tell {
                session,
                answers: Some(answers),
                dispatches: vec![(EventKind::ThreadListSync, Bytes::from_static(b"{}"))],
            });
        }
        let mut told = names(bench.read(&client));
        told.retain(|name| name == "THREAD_LIST_SYNC");
        assert_eq!(told.len(), times, "bot: {bot}");
        for d in [nothing, again] {
            bench.say(&client, &json!({"op": 37, "d": d}).to_string());
            assert!(numbers(&mut bench).is_empty(), "bot: {bot}");
        }
    }
}
