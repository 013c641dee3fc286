//! What sessions look at.

use super::*;

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
