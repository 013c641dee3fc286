//! Who gets a guild anew when some of its events are lost.

use super::*;

fn deleted() -> (String, Value) {
    let d = json!({"id": guild(), "unavailable": true});
    ("GUILD_DELETE".to_owned(), d)
}

/// A client that goes on here with a session that had the guild up to a number, perhaps with channels
/// that it may know wrongly.
fn returns(bench: &mut Bench, seq: u64, blurred: bool) -> Client {
    let mut session = travelling(seq);
    if blurred {
        session.record.guilds = vec![(guild(), Reached::Blurred(at(seq)))];
    }
    let client = bench.resumes((session.record.id, session.s));
    bench.arrived(&client, session);
    bench.read(&client);
    client
}

/// From where the guild's events are asked for.
fn froms(bench: &mut Bench) -> Vec<Option<Position>> {
    let asked = bench.subscriptions().into_iter();
    let of_guild = asked.filter(|one| one.realm == shard::realm(guild()));
    let froms = of_guild.map(|one| one.from);
    froms.filter(Option::is_some).collect()
}

#[test]
fn of_those_who_return_only_they_get_the_guild_anew_whose_events_are_lost() {
    for (listens, blurred) in [(false, false), (true, false), (false, true)] {
        let mut bench = Bench::new(1);
        let stays = listens.then(|| {
            let client = bench.identified();
            bench.has_guild(&client, 10_000);
            client
        });
        let far = returns(&mut bench, 1, false);
        let near = returns(&mut bench, 9_000, blurred);
        if let Some(stays) = &stays {
            bench.read(stays);
        }
        assert_eq!(froms(&mut bench).first(), Some(&Some(at(1))));
        bench.answered(Subscribed {
            lost: Some(at(8_000)),
            ..answer(10_000)
        });
        assert_eq!(bench.read(&far), [deleted()]);
        assert!(bench.read(&near).is_empty());
        assert_eq!(froms(&mut bench), [Some(at(9_000))]);

        let snapshots = vec![snapshot(bench.session(&far), 10_000)];
        bench.answered(Subscribed {
            replay: vec![event(EventKind::GuildEmojisUpdate, 9_001)],
            snapshots,
            ..answer(10_000)
        });
        let replay = (9_002..=10_000).map(|seq| event(EventKind::GuildEmojisUpdate, seq));
        assert_eq!(froms(&mut bench), [Some(at(9_001))]);
        bench.answered(Subscribed {
            replay: replay.collect(),
            ..answer(10_000)
        });
        assert_eq!(names(bench.read(&far)), ["GUILD_CREATE"]);
        let mut told = bench.read(&near);
        let again = told.split_off(1000);
        assert!(told.iter().all(|(name, _)| name == "GUILD_EMOJIS_UPDATE"));
        // What it may know wrongly it may still.
        let wrong = if blurred { vec![deleted()] } else { Vec::new() };
        assert_eq!(again, wrong, "{listens} {blurred}");
        if let Some(stays) = &stays {
            assert!(bench.read(stays).is_empty());
        }
    }
}

/// The core lacks a little, and its question is one with that of who returns.
#[test]
fn who_lacks_what_can_be_had_asks_for_it_again() {
    let mut bench = Bench::new(1);
    let stays = bench.identified();
    bench.has_guild(&stays, 10_000);
    let far = returns(&mut bench, 1, false);
    bench.tell(ToCore::Event(event(EventKind::GuildEmojisUpdate, 10_002)));
    bench.read(&stays);
    bench.subscriptions();
    bench.answered(Subscribed {
        lost: Some(at(8_000)),
        ..answer(10_002)
    });
    assert_eq!(bench.read(&far), [deleted()]);
    assert!(bench.read(&stays).is_empty());
    assert_eq!(froms(&mut bench), [Some(at(10_000))]);
    bench.answered(Subscribed {
        replay: vec![
            event(EventKind::GuildEmojisUpdate, 10_001),
            event(EventKind::GuildEmojisUpdate, 10_002),
        ],
        ..answer(10_002)
    });
    assert_eq!(names(bench.read(&stays)), ["GUILD_EMOJIS_UPDATE"; 2]);
}

/// A client whose session had the guild up to a position of the next era.
fn returns_later(bench: &mut Bench, seq: u64) -> Client {
    let mut session = travelling(seq);
    let position = Position { era: 2, seq };
    session.record.guilds = vec![(guild(), Reached::Position(position))];
    let client = bench.resumes((session.record.id, session.s));
    bench.arrived(&client, session);
    bench.read(&client);
    client
}

#[test]
fn of_another_era_nothing_can_be_had() {
    let mut bench = Bench::new(1);
    let before = returns(&mut bench, 5, false);
    let after = returns_later(&mut bench, 3);
    bench.subscriptions();
    bench.answered(Subscribed {
        position: Position { era: 2, seq: 4 },
        lost: Some(Position { era: 2, seq: 0 }),
        ..answer(4)
    });
    assert_eq!(bench.read(&before), [deleted()]);
    assert!(bench.read(&after).is_empty());
    assert_eq!(froms(&mut bench), [Some(Position { era: 2, seq: 3 })]);
}

#[test]
fn who_is_of_another_era_takes_no_events_of_this_one() {
    let mut bench = Bench::new(1);
    let before = returns(&mut bench, 5, false);
    let after = returns_later(&mut bench, 3);
    let position = Position { era: 2, seq: 4 };
    let next = Envelope {
        durability: Durability::Durable(position),
        ..Envelope::clone(&event(EventKind::GuildEmojisUpdate, 4))
    };
    bench.answered(Subscribed {
        position,
        replay: vec![Arc::new(next)],
        ..answer(4)
    });
    assert_eq!(names(bench.read(&after)), ["GUILD_EMOJIS_UPDATE"]);
    assert!(bench.read(&before).is_empty());
    bench.answered(Subscribed {
        position,
        lost: Some(Position { era: 2, seq: 0 }),
        ..answer(4)
    });
    assert_eq!(bench.read(&before), [deleted()]);
    assert!(bench.read(&after).is_empty());
}
