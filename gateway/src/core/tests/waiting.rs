//! What a core keeps for a node that takes nothing.

use super::*;

#[test]
fn of_what_clients_want_changed_the_newest_alone_waits_for_the_node() {
    let mut session = travelling(1);
    session.record.bot = false;
    let id = session.record.id;
    let mut bench = Bench::new(1);
    let client = bench.resumes((id, session.s));
    bench.arrived(&client, session);
    bench.answered(answer(1));
    bench.asked();
    let ended = || ToNode::Ended {
        core: 0,
        session: id,
    };
    while bench.core.node.try_send(ended()).is_ok() {}
    for number in 1..=30 {
        let d = json!({"guild_id": guild(), "channels": {(number.to_string()): [[0, 99]]}});
        bench.say(&client, &json!({"op": 14, "d": d}).to_string());
        let d = json!({
            "guild_id": guild(),
            "channel_id": number.to_string(),
            "self_mute": false,
            "self_deaf": false,
        });
        bench.say(&client, &json!({"op": 4, "d": d}).to_string());
    }
    for status in ["idle", "dnd"] {
        let d = json!({"status": status, "activities": [], "since": null, "afk": false});
        bench.say(&client, &json!({"op": 3, "d": d}).to_string());
    }
    // Another session of the user's has left, which was not in the guild.
    let own = shard::realm(user());
    bench.core.tell_presence(user(), vec![own]);
    let mut asked = Vec::new();
    while !bench.core.outbox.is_empty() {
        asked.extend(bench.asked());
    }
    asked.extend(bench.asked());
    let channel = Id::new(30).unwrap();
    let (mut watches, mut voices, mut presences) = (Vec::new(), Vec::new(), Vec::new());
    for request in asked {
        match request {
            ToNode::Watch(change) => watches.extend(change.watch),
            ToNode::Voice { request, .. } => voices.push(request.command.channel),
            ToNode::Presence {
                realms, sessions, ..
            } => presences.push((realms, sessions)),
            _ => {}
        }
    }
    let watch = Watch {
        channels: vec![(channel, vec![0])],
        members: Vec::new(),
    };
    assert_eq!(watches, [watch]);
    assert_eq!(voices, [Some(channel)]);
    let [(realms, sessions)] = &presences[..] else {
        panic!("{presences:?}");
    };
    let mut both = [own, shard::realm(guild())];
    both.sort_unstable();
    let realms: Vec<_> = realms.iter().map(|(realm, _)| *realm).collect();
    assert_eq!(realms, both);
    assert_eq!(sessions[0].status, Status::Dnd);
}
