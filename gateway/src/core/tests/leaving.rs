//! What a core does that is to end, or whose clients are to go.

use std::{cell::RefCell, time::Duration};

use tokio::{
    task::{LocalSet, spawn_local},
    time::sleep,
};

use super::*;
use crate::core::live;

#[test]
fn who_was_not_sent_away_before_the_drain_was_undone_stays() {
    let mut bench = Bench::new(1);
    let clients: Vec<Client> = (0..20).map(|_| bench.identified()).collect();
    let Bench {
        core,
        requests: _requests,
        ..
    } = bench;
    let core = Rc::new(RefCell::new(core));
    core.borrow_mut().this = Rc::downgrade(&core);
    let left = || {
        let core = core.borrow();
        let mut left = 0;
        for client in &clients {
            left += usize::from(!core.is_closing(client.connection));
        }
        left
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let over = Duration::from_secs(2);
        core.borrow_mut().on_message(ToCore::SendAway { over });
        while left() == clients.len() {
            sleep(Duration::from_millis(10)).await;
        }
        core.borrow_mut().on_message(ToCore::KeepClients);
        let kept = left();
        assert!(kept > 0);
        sleep(Duration::from_millis(400)).await;
        assert_eq!(left(), kept);

        let over = Duration::ZERO;
        core.borrow_mut().on_message(ToCore::SendAway { over });
        while left() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn the_loop_of_a_drained_core_ends_once_its_last_client_has_gone() {
    let mut bench = Bench::new(1);
    let client = bench.identified();
    let Bench {
        mut core,
        requests: _requests,
        ..
    } = bench;
    let (node, inbox) = bus::inbox();
    core.bell = inbox.bell.clone();
    let core = Rc::new(RefCell::new(core));
    core.borrow_mut().this = Rc::downgrade(&core);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let living = spawn_local(live(core.clone(), inbox));
        node.send(ToCore::Drain).unwrap();
        while !core.borrow().is_closing(client.connection) {
            sleep(Duration::from_millis(10)).await;
        }
        core.borrow_mut().connection_ended(client.connection);
        living.await.unwrap();
    });
}

/// The end of its delivery log is among it.
#[test]
fn a_drained_core_stays_until_the_node_has_taken_what_it_leaves() {
    let mut bench = Bench::new(1);
    let client = bench.identified();
    let ((session, _), slot) = (bench.reached(&client), bench.session(&client).slot);
    bench.asked();
    while bench.core.node.try_send(ToNode::Ended(session)).is_ok() {}
    bench
        .core
        .dispatch_body(slot, EventKind::GuildUpdate, b"{}");
    bench.tell(ToCore::Drain);
    bench.core.connection_ended(client.connection);
    bench.core.flush();
    assert!(!bench.core.is_drained());
    bench.asked();
    let left = bench.asked();
    let mut left = left.iter();
    assert!(left.any(|request| matches!(request, ToNode::Delivered { .. })));
    assert!(bench.core.is_drained());
}
