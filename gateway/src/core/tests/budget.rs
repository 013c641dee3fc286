//! What sessions keep for RESUME that is theirs alone, where it is more than a core may keep.

use super::*;
use crate::session::replay::RESUME_WINDOW;

const BYTES_MAX: usize = 1 << 20;
/// Of one answer.
const ANSWER_BYTES: usize = BYTES_MAX / 8;

fn bench() -> Bench {
    let mut bench = Bench::new(1);
    bench.core.config.own_bytes_max = BYTES_MAX;
    bench
}

/// A client of some user, whose socket takes so many bytes.
fn of_user(bench: &mut Bench, user: u64, room: usize) -> Client {
    let client = bench.connect_with_room(room);
    let mut answer = bench.identifies_over(&client);
    if let ToCore::Identified {
        result: Ok(identity),
        ..
    } = &mut answer
    {
        identity.user.user.id = Id::new(user).unwrap();
        identity.guilds.clear();
    }
    bench.tell(answer);
    client
}

/// A client is told something that nobody else is.
fn is_answered(bench: &mut Bench, client: &Client) {
    let slot = bench.session(client).slot;
    let body = json!({"pad": "x".repeat(ANSWER_BYTES)}).to_string();
    let core = &mut bench.core;
    core.dispatch_body(slot, EventKind::GuildMembersChunk, body.as_bytes());
    core.flush();
}

/// Bytes that sessions have for themselves, which is what is counted.
fn counted(bench: &Bench) -> usize {
    let sessions = bench.core.sessions.iter();
    let held: usize = sessions
        .map(|(_, session)| session.replay.own_bytes())
        .sum();
    assert_eq!(bench.core.budget.tally.bytes(), held);
    held
}

/// What a client is told that goes on with a session from an `s`; nothing if it gets op 9.
fn resumes_from(bench: &mut Bench, session: SessionId, s: u64) -> Vec<String> {
    let client = bench.resumes((session, s));
    let stay = bench.asked().into_iter().find_map(|request| match request {
        ToNode::Stay {
            connection, resume, ..
        } => Some(ToCore::Stays { connection, resume }),
        _ => None,
    });
    bench.tell(stay.unwrap());
    names(bench.read(&client))
}

#[test]
fn who_holds_most_loses_the_oldest_of_it_and_nobody_else_does() {
    let mut bench = bench();
    let holds_little = of_user(&mut bench, 5, usize::MAX);
    is_answered(&mut bench, &holds_little);
    let hold_much = [(); 2].map(|()| of_user(&mut bench, 6, usize::MAX));
    for _ in 0..20 {
        for client in &hold_much {
            is_answered(&mut bench, client);
            assert!(counted(&bench) <= BYTES_MAX);
        }
    }
    assert!(counted(&bench) > BYTES_MAX / 2);

    let (session, _) = bench.reached(&holds_little);
    bench.core.connection_ended(holds_little.connection);
    let told = resumes_from(&mut bench, session, 1);
    assert_eq!(told, ["GUILD_MEMBERS_CHUNK", "RESUMED"]);
    for client in hold_much {
        assert_eq!(bench.read(&client).len(), 21, "with READY");
        let (session, last) = bench.reached(&client);
        bench.core.connection_ended(client.connection);
        assert!(resumes_from(&mut bench, session, 1).is_empty());
        let told = resumes_from(&mut bench, session, last - 1);
        assert_eq!(told, ["GUILD_MEMBERS_CHUNK", "RESUMED"]);
    }
    counted(&bench);
}

#[test]
fn of_those_who_take_nothing_of_it_who_holds_most_is_closed() {
    let mut bench = bench();
    // HELLO, READY and the beginning of an answer.
    let [slow, slowest] = [5, 6].map(|user| of_user(&mut bench, user, 16 << 10));
    let (session, ready) = bench.reached(&slowest);
    is_answered(&mut bench, &slow);
    let mut answers = 0;
    while !bench.core.is_closing(slowest.connection) {
        is_answered(&mut bench, &slowest);
        answers += 1;
        assert!(counted(&bench) <= BYTES_MAX + ANSWER_BYTES);
        assert!(answers < 12, "it is closed for what it holds");
    }
    assert!(counted(&bench) <= BYTES_MAX);
    assert!(!bench.core.is_closing(slow.connection));
    assert_eq!(bench.core.config.metrics.slow_readers.get(), 1);
    // The session is there, but not all that its client lacks.
    assert!(resumes_from(&mut bench, session, ready).is_empty());
    let told = resumes_from(&mut bench, session, ready + answers);
    assert_eq!(told, ["RESUMED"]);
}

#[test]
fn what_a_session_has_for_itself_is_counted_until_it_goes() {
    let mut bench = bench();
    let client = bench.identified();
    bench.has_guild(&client, 1);
    let own = counted(&bench);
    assert!(own > 0);
    // This is everybody's.
    bench.tell(ToCore::Event(event(EventKind::GuildUpdate, 2)));
    assert_eq!(counted(&bench), own);

    // Its client has it.
    let (session, s) = bench.reached(&client);
    for _ in 0..2 {
        bench.say(&client, &json!({"op": 1, "d": s}).to_string());
    }
    assert_eq!(counted(&bench), 0);

    // It goes to another core, with what its client has not got.
    is_answered(&mut bench, &client);
    assert!(counted(&bench) > ANSWER_BYTES);
    let token = bench.core.sessions[bench.session(&client).slot as usize].token;
    let claim = Claim {
        number: 1,
        session,
        token,
        s,
    };
    bench.tell(ToCore::Claim(Box::new(claim)));
    assert_eq!(counted(&bench), 0);
    let given = bench.asked().into_iter().find_map(|request| match request {
        ToNode::Claimed { result, .. } => Some(*result),
        _ => None,
    });
    let travels = match given {
        Some(Claimed::Session(session)) => *session,
        other => panic!("{other:?}"),
    };
    let mut there = Bench::new(2);
    let client = there.resumes((session, s));
    there.arrived(&client, travels);
    assert_eq!(
        names(there.read(&client)),
        ["GUILD_MEMBERS_CHUNK", "RESUMED"]
    );
    assert!(counted(&there) > ANSWER_BYTES);

    // It is over.
    there.core.connection_ended(client.connection);
    assert!(counted(&there) > ANSWER_BYTES);
    clock::forward(RESUME_WINDOW + Duration::from_secs(1));
    there.core.tick();
    assert!(there.core.sessions.is_empty());
    assert_eq!(counted(&there), 0);
}
