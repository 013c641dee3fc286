//! Sessions that may know the channels of a guild wrongly, and get it again.

use std::ops::Range;

use super::*;
use crate::bus::ClassId;

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

/// A link breaks, or an inbox is full, between a change of views and what it is told by: the next
/// owner's view is no other than the core's, and its replay has the event alone.
#[test]
fn who_was_cut_off_right_behind_a_change_of_views_gets_the_guild_again() {
    let change = || ViewChange {
        channels: vec![(Id::new(5).unwrap(), Some(1))],
        users: vec![(user(), Some(vec![0, 1]))],
    };
    for cut in [true, false] {
        let mut bench = Bench::new(1);
        let client = bench.identified();
        bench.has_guild(&client, 1);
        bench.read(&client);
        bench.tell(ToCore::View {
            realm: shard::realm(guild()),
            change: change(),
        });
        let role = event(EventKind::GuildRoleUpdate, 2);
        let mut replay = Vec::new();
        if cut {
            replay.push(role);
            // Some links break without a word.
            (0..6).for_each(|_| bench.core.tick());
        } else {
            bench.tell(ToCore::Event(role));
            (0..2).for_each(|_| bench.core.tick());
        }
        bench.answered(Subscribed {
            view: change(),
            replay,
            ..answer(2)
        });
        let told: Vec<String> = bench.read(&client).into_iter().map(|(t, _)| t).collect();
        let expected: &[&str] = match cut {
            true => &["GUILD_ROLE_UPDATE", "GUILD_DELETE"],
            false => &["GUILD_ROLE_UPDATE"],
        };
        assert_eq!(told, expected, "cut: {cut}");
    }
}

/// The same, where its client goes to another node before this core has heard anything further.
#[test]
fn who_goes_elsewhere_right_behind_a_change_of_views_gets_the_guild_again() {
    let mut bench = Bench::new(1);
    let client = bench.identified();
    bench.has_guild(&client, 1);
    let (session, s) = bench.reached(&client);
    bench.tell(ToCore::View {
        realm: shard::realm(guild()),
        change: ViewChange {
            channels: vec![(Id::new(5).unwrap(), Some(1))],
            users: vec![(user(), Some(vec![0, 1]))],
        },
    });
    bench.tell(ToCore::Event(event(EventKind::GuildRoleUpdate, 2)));
    bench.tell(ToCore::Claim(Box::new(Claim {
        number: 1,
        session,
        token: Token::parse(model::TOKEN).unwrap().hash(),
        s,
    })));
    let claimed = bench.asked().into_iter().find_map(|request| match request {
        ToNode::Claimed { result, .. } => Some(*result),
        _ => None,
    });
    let session = match claimed {
        Some(Claimed::Session(session)) => *session,
        other => panic!("{other:?}"),
    };
    assert_eq!(session.dispatches.len(), 1);
    let guilds = [(guild(), Reached::Blurred(at(2)))];
    assert_eq!(session.record.guilds, guilds);
}

/// A replay has nothing of a channel that is hidden, and that somebody went there from one which is
/// not is told by what is not numbered.
#[test]
fn who_was_cut_off_when_something_went_out_of_their_sight_gets_the_guild_again() {
    let channel = |id: u64| Id::<Channel>::new(id).unwrap();
    let view = || ViewChange {
        channels: vec![(channel(5), Some(0)), (channel(6), Some(1))],
        users: vec![(user(), Some(vec![0]))],
    };
    for (place, comes) in [(5, false), (5, true), (6, false), (6, true)] {
        let mut bench = Bench::new(1);
        let client = if comes {
            let session = travelling(1);
            let client = bench.resumes((session.record.id, session.s));
            bench.arrived(&client, session);
            client
        } else {
            let client = bench.identified();
            let snapshots = vec![snapshot(bench.session(&client), 1)];
            bench.answered(Subscribed {
                view: view(),
                snapshots,
                ..answer(1)
            });
            client
        };
        bench.read(&client);
        let mut moved = Envelope::clone(&event(EventKind::VoiceStateUpdate, 2));
        moved.vis = Visibility::channel(channel(place), Intents::GUILDS);
        bench.answered(Subscribed {
            view: view(),
            replay: vec![Arc::new(moved)],
            ..answer(2)
        });
        let told = bench.read(&client);
        let is_again = told.iter().any(|(name, _)| name == "GUILD_DELETE");
        assert_eq!(is_again, place == 6, "in {place}, comes: {comes}: {told:?}");
    }
}

/// Its user left and came again: the snapshot of before was on its way, and its owner told nobody of
/// what changed until they were subscribed anew.
#[test]
fn who_came_again_to_other_channels_than_the_snapshot_has_gets_the_guild_again() {
    for (seen, is_again) in [(vec![0], false), (vec![0, 1], true)] {
        let mut bench = Bench::new(1);
        let client = bench.identified();
        bench.has_guild(&client, 1);
        bench.read(&client);
        bench.answered(Subscribed {
            view: ViewChange {
                channels: vec![(Id::new(5).unwrap(), Some(1))],
                users: vec![(user(), Some(seen))],
            },
            complete: false,
            ..answer(1)
        });
        let told: Vec<String> = bench.read(&client).into_iter().map(|(t, _)| t).collect();
        assert_eq!(told == ["GUILD_DELETE"], is_again, "{told:?}");
    }
}

/// Its user's own realm tells of both, but its owner cannot be reached as soon as the guild's can.
#[test]
fn who_was_kicked_and_came_again_before_they_return_gets_the_guild_again() {
    let other = Id::new(user().get() + 1).unwrap();
    for (comes, is_again) in [(user(), true), (other, false)] {
        let mut bench = Bench::new(1);
        let session = travelling(1);
        let client = bench.resumes((session.record.id, session.s));
        bench.arrived(&client, session);
        bench.read(&client);
        let mut added = Envelope::clone(&event(EventKind::GuildMemberAdd, 3));
        let body = json!({"guild_id": guild(), "user": {"id": comes}});
        added.body = body.to_string().into();
        bench.answered(Subscribed {
            replay: vec![event(EventKind::GuildEmojisUpdate, 2), Arc::new(added)],
            ..answer(3)
        });
        // Whoever was away has seen nothing of what happened meanwhile, wherever it was told.
        let expected: &[&str] = match is_again {
            true => &["GUILD_DELETE"],
            false => &["GUILD_EMOJIS_UPDATE", "GUILD_MEMBER_ADD"],
        };
        assert_eq!(names(bench.read(&client)), expected, "{comes}");
    }
}

/// Others here lack what it lacks, and more than one answer holds: what its user sees is known from
/// the first one on.
#[test]
fn who_returns_to_a_guild_that_is_caught_up_gets_it_again_where_the_view_moved() {
    for (kind, is_again) in [
        (EventKind::ChannelUpdate, true),
        (EventKind::GuildEmojisUpdate, false),
    ] {
        let mut bench = Bench::new(1);
        let stays = bench.identified();
        bench.has_guild(&stays, 9);
        bench.tell(ToCore::Event(event(EventKind::GuildEmojisUpdate, 20)));
        let sees = |classes: Vec<ClassId>| ViewChange {
            channels: Vec::new(),
            users: vec![(user(), Some(classes))],
        };
        bench.tell(ToCore::View {
            realm: shard::realm(guild()),
            change: sees(vec![0, 1]),
        });
        let session = travelling(12);
        let client = bench.resumes((session.record.id, session.s));
        bench.arrived(&client, session);
        bench.read(&client);
        let answered = |bench: &mut Bench, replay: Vec<Arc<Envelope>>| {
            bench.answered(Subscribed {
                view: sees(vec![0, 1]),
                replay,
                ..answer(16)
            });
            names(bench.read(&client))
        };
        let update = |seq| event(EventKind::GuildEmojisUpdate, seq);
        let told = answered(&mut bench, (10..=13).map(update).collect());
        assert_eq!(told, ["GUILD_EMOJIS_UPDATE"]);
        let told = answered(&mut bench, vec![update(14), event(kind, 15), update(16)]);
        assert_eq!(told.len(), 3 + usize::from(is_again), "{told:?}");
        assert_eq!(told.ends_with(&["GUILD_DELETE".to_owned()]), is_again);
    }
}
