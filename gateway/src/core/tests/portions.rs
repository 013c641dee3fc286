//! What a session lacks, where it is more than goes on its way at once.

use super::*;
use crate::{core::travel::TRAVELLING_BYTES_MAX, session::BOT_UNSENT_BYTES_MAX};

#[test]
fn who_lacks_more_than_one_answer_holds_gets_the_rest_by_the_next() {
    let session = travelling(1);
    let id = session.record.id;
    let mut bench = Bench::new(1);
    let client = bench.resumes((id, session.s));
    bench.arrived(&client, session);
    bench.read(&client);
    let froms = |bench: &mut Bench| -> Vec<_> {
        let asked = bench.subscriptions().into_iter();
        let of_guild = asked.filter(|one| one.realm == shard::realm(guild()));
        of_guild.map(|one| one.from).collect()
    };
    assert_eq!(froms(&mut bench), [Some(at(1))]);
    let update = |seq| event(EventKind::GuildEmojisUpdate, seq);
    bench.answered(Subscribed {
        replay: vec![update(2), update(3)],
        ..answer(5)
    });
    assert_eq!(names(bench.read(&client)), ["GUILD_EMOJIS_UPDATE"; 2]);
    assert_eq!(froms(&mut bench), [Some(at(3))]);
    // What happens meanwhile is in the next answer.
    bench.tell(ToCore::Event(update(6)));
    assert!(bench.read(&client).is_empty());
    let (_, s) = bench.reached(&client);
    match bench.history.at(id, s) {
        Found::At(record) => assert_eq!(record.guilds, [(guild(), Reached::Position(at(3)))]),
        found => panic!("{found:?}"),
    }
    bench.answered(Subscribed {
        replay: vec![update(4), update(5), update(6)],
        ..answer(6)
    });
    assert_eq!(names(bench.read(&client)), ["GUILD_EMOJIS_UPDATE"; 3]);
    bench.tell(ToCore::Event(update(7)));
    assert_eq!(names(bench.read(&client)), ["GUILD_EMOJIS_UPDATE"]);
    assert!(froms(&mut bench).is_empty());

    // A core that is behind as a whole asks in the same way.
    bench.tell(ToCore::Event(update(10)));
    assert_eq!(froms(&mut bench), [Some(at(7))]);
    bench.answered(Subscribed {
        replay: vec![update(8)],
        ..answer(10)
    });
    assert_eq!(froms(&mut bench), [Some(at(8))]);
    bench.answered(Subscribed {
        replay: vec![update(9), update(10)],
        ..answer(10)
    });
    assert_eq!(names(bench.read(&client)), ["GUILD_EMOJIS_UPDATE"; 3]);
}

#[test]
fn all_who_lack_some_of_a_realm_are_served_by_one_answer_after_the_other() {
    let mut bench = Bench::new(1);
    let clients: Vec<Client> = [1, 2, 3]
        .into_iter()
        .map(|seq| {
            let session = travelling(seq);
            let client = bench.resumes((session.record.id, session.s));
            bench.arrived(&client, session);
            bench.read(&client);
            client
        })
        .collect();
    bench.subscriptions();
    let update = |seq| event(EventKind::GuildEmojisUpdate, seq);
    let mut answered = |from: u64, position| {
        bench.answered(Subscribed {
            replay: vec![update(from + 1), update(from + 2)],
            ..answer(position)
        });
        let told: Vec<usize> = clients
            .iter()
            .map(|client| bench.read(client).len())
            .collect();
        let asked = bench.subscriptions().into_iter();
        let of_guild = asked.filter(|one| one.realm == shard::realm(guild()));
        let froms: Vec<_> = of_guild.map(|one| one.from).collect();
        (told, froms)
    };
    assert_eq!(answered(1, 7), (vec![2, 1, 0], vec![Some(at(3))]));
    assert_eq!(answered(3, 7), (vec![2, 2, 2], vec![Some(at(5))]));
    assert_eq!(answered(5, 7), (vec![2, 2, 2], vec![]));
}

#[test]
fn a_slow_client_that_lacks_a_lot_is_told_more_when_it_has_read() {
    let session = travelling(1);
    let mut bench = Bench::new(1);
    let client = bench.connect_with_room(0);
    bench.says_resume(&client, (session.record.id, session.s));
    bench.arrived(&client, session);
    bench.subscriptions();
    let large = |seq| {
        let d = json!({"id": guild(), "pad": "x".repeat(BOT_UNSENT_BYTES_MAX / 3)});
        Arc::new(Envelope {
            body: d.to_string().into(),
            ..Envelope::clone(&event(EventKind::GuildEmojisUpdate, seq))
        })
    };
    bench.answered(Subscribed {
        replay: vec![large(2)],
        ..answer(3)
    });
    assert!(bench.subscriptions().is_empty());
    bench.core.tick();
    assert!(bench.subscriptions().is_empty());
    let Socket::Script(script) = &*client.socket else {
        panic!("no script");
    };
    script.add_room(usize::MAX);
    bench.core.write_more(client.connection);
    bench.core.tick();
    let asked = bench.subscriptions();
    assert!(asked.iter().any(|one| one.from == Some(at(2))), "{asked:?}");
    bench.answered(Subscribed {
        replay: vec![large(3)],
        ..answer(3)
    });
    let told = names(bench.read(&client));
    assert_eq!(
        told,
        ["RESUMED", "GUILD_EMOJIS_UPDATE", "GUILD_EMOJIS_UPDATE"]
    );
}

#[test]
fn a_session_with_more_than_a_link_takes_stays_where_it_is() {
    for (bytes, goes) in [
        (TRAVELLING_BYTES_MAX, true),
        (TRAVELLING_BYTES_MAX + 1, false),
    ] {
        let mut bench = Bench::new(1);
        let client = bench.identified();
        let (session, s) = bench.reached(&client);
        let key = bench.session(&client);
        let token = bench.core.sessions[key.slot as usize].token;
        // It is not written before its turn comes.
        let body = vec![b'x'; bytes];
        let core = &mut bench.core;
        core.dispatch_body(key.slot, EventKind::GuildUpdate, &body);
        core.claimed(Claim {
            number: 1,
            session,
            token,
            s,
        });
        let claimed = bench.asked().into_iter().find_map(|request| match request {
            ToNode::Claimed { result, .. } => Some(*result),
            _ => None,
        });
        match claimed.unwrap() {
            Claimed::Session(_) => assert!(goes),
            other => assert_eq!((other, goes), (Claimed::Gone, false)),
        }
        assert_eq!(bench.core.sessions.is_empty(), goes);
    }
}
