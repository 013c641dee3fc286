//! Sessions that may know the channels of a guild wrongly, and get it again.

use std::ops::Range;

use super::*;

/// A replay comes in portions, and each is an answer from the owner.
#[test]
fn who_hears_a_guild_gets_it_again_once_while_another_session_of_theirs_comes_home() {
    let mut bench = Bench::new(1);
    let stays = bench.identified();
    bench.has_guild(&stays, 9);
    let session = travelling(1);
    let comes = bench.resumes((session.record.id, session.s));
    bench.arrived(&comes, session);
    bench.read(&stays);
    bench.read(&comes);
    let portion = |bench: &mut Bench, view: ViewChange, seqs: Range<u64>| {
        bench.answered(Subscribed {
            view,
            replay: seqs
                .map(|seq| event(EventKind::GuildRoleUpdate, seq))
                .collect(),
            ..answer(9)
        });
        (names(bench.read(&stays)), names(bench.read(&comes)))
    };
    let updates = ["GUILD_ROLE_UPDATE"; 2].map(str::to_owned).to_vec();
    let nothing = Vec::<String>::new();

    // What one has missed the other one has heard.
    let told = portion(&mut bench, answer(9).view, 2..4);
    assert_eq!(told, (nothing.clone(), updates.clone()));

    // What both see is another, and nothing has told of it before the next answer.
    let view = || ViewChange {
        channels: vec![(Id::new(5).unwrap(), Some(1))],
        users: vec![(user(), Some(vec![0, 1]))],
    };
    bench.tell(ToCore::View {
        realm: shard::realm(guild()),
        change: view(),
    });
    let told = portion(&mut bench, view(), 4..6);
    assert_eq!(told, (vec!["GUILD_DELETE".to_owned()], updates.clone()));
    let snapshots = vec![snapshot(bench.session(&stays), 9)];
    bench.answered(Subscribed {
        view: view(),
        snapshots,
        ..answer(9)
    });
    assert_eq!(names(bench.read(&stays)), ["GUILD_CREATE"]);

    let told = portion(&mut bench, view(), 6..8);
    assert_eq!(told, (nothing.clone(), updates.clone()));
    let mut last = updates;
    last.push("GUILD_DELETE".to_owned());
    assert_eq!(portion(&mut bench, view(), 8..10), (nothing, last));
}
