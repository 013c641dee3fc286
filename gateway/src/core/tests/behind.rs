//! Owners that know less than what was heard of the ones before them.

use std::{cell::RefCell, time::Duration};

use tokio::{task::LocalSet, time::sleep};

use super::*;

/// From where the guild is asked for, and how many times.
fn asked(requests: &mut mpsc::Receiver<ToNode>) -> Vec<Option<Position>> {
    let mut froms = Vec::new();
    while let Ok(request) = requests.try_recv() {
        if let ToNode::Subscribe { subscriptions, .. } = request {
            let of_guild = subscriptions.iter();
            let of_guild = of_guild.filter(|one| one.realm == shard::realm(guild()));
            froms.extend(of_guild.map(|one| one.from));
        }
    }
    froms.sort();
    froms
}

#[test]
fn an_owner_that_is_behind_is_not_asked_as_often_as_it_answers() {
    let mut bench = Bench::new(1);
    let stays = bench.identified();
    bench.has_guild(&stays, 9);
    let waits = bench.identified();
    let session = travelling(1);
    let returns = bench.resumes((session.record.id, session.s));
    bench.arrived(&returns, session);
    bench.subscriptions();
    let waiting = bench.session(&waits);
    let Bench {
        core, mut requests, ..
    } = bench;
    let core = Rc::new(RefCell::new(core));
    core.borrow_mut().this = Rc::downgrade(&core);
    let answered = |seq: u64| {
        let mut core = core.borrow_mut();
        core.on_message(ToCore::Subscribed(Box::new(Subscribed {
            replay: (2..=seq)
                .map(|seq| event(EventKind::GuildEmojisUpdate, seq))
                .collect(),
            snapshots: vec![snapshot(waiting, seq)],
            ..answer(seq)
        })));
        core.flush();
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        for _ in 0..2 {
            answered(8);
            assert_eq!(asked(&mut requests), []);
            let mut again = Vec::new();
            while again.is_empty() {
                sleep(Duration::from_millis(10)).await;
                again = asked(&mut requests);
            }
            // Who waits for the guild, and who lacks some of it.
            assert_eq!(again, [None, Some(at(1))]);
        }
        answered(9);
        sleep(Duration::from_millis(100)).await;
        assert_eq!(asked(&mut requests), []);
    });
}
