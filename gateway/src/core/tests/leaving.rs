//! What a core does that is to end, or whose clients are to go.

use std::{cell::RefCell, time::Duration};

use tokio::{
    task::{LocalSet, spawn_local},
    time::sleep,
};

use super::*;
use crate::{core::live, server::STOP_OVER, session::lifecycle::Lifecycle};

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
        node.send(ToCore::Drain { over: STOP_OVER }).unwrap();
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
    let ended = || ToNode::Ended { core: 0, session };
    while bench.core.node.try_send(ended()).is_ok() {}
    bench
        .core
        .dispatch_body(slot, EventKind::GuildUpdate, b"{}");
    bench.tell(ToCore::Drain { over: STOP_OVER });
    bench.core.connection_ended(client.connection);
    bench.core.flush();
    assert!(!bench.core.is_drained());
    bench.asked();
    let left = bench.asked();
    let mut left = left.iter();
    assert!(left.any(|request| matches!(request, ToNode::Delivered { .. })));
    assert!(bench.core.is_drained());
}

#[test]
fn clients_of_a_core_that_ends_have_the_time_that_was_set() {
    for (over, gone) in [(STOP_OVER, 20), (Duration::from_secs(600), 1)] {
        let mut bench = Bench::new(1);
        let clients: Vec<Client> = (0..20).map(|_| bench.identified()).collect();
        bench.tell(ToCore::Drain { over });
        let closing = |client: &&Client| bench.core.is_closing(client.connection);
        // The others wait for their turn.
        assert_eq!(clients.iter().filter(closing).count(), gone, "{over:?}");
    }
}

/// Their handshakes were under way, or another core has sent them.
#[test]
fn who_comes_to_a_drained_core_is_greeted_and_sent_away() {
    let mut bench = Bench::new(1);
    let before = bench.identified();
    let reached = bench.reached(&before);
    bench.tell(ToCore::Drain { over: STOP_OVER });
    bench.core.connection_ended(before.connection);
    let client = bench.connect();
    let Socket::Script(script) = &*client.socket else {
        panic!("no script");
    };
    let mut bytes = script.take();
    let mut said = Vec::new();
    while let Some((_, payload)) = model::next_frame(&mut bytes) {
        let payload: Option<Value> = serde_json::from_slice(&payload).ok();
        said.extend(payload.and_then(|payload| payload["op"].as_u64()));
    }
    assert_eq!(said, [10, 7]);
    assert!(bench.core.is_closing(client.connection));
    let life = Lifecycle::new(clock::now());
    let resume = Resume {
        token: Token::parse(model::TOKEN).unwrap(),
        session_id: reached.0.to_string(),
        seq: reached.1,
    };
    let (socket, format) = (client.socket.clone(), Format::default());
    let key = bench.core.connection_resumes(socket, format, life, resume);
    assert!(bench.core.is_closing(key));
    let asked = bench.asked();
    let mut asked = asked.iter();
    assert!(!asked.any(|request| matches!(request, ToNode::Stay { .. })));
    for key in [client.connection, key] {
        bench.core.connection_ended(key);
    }
    assert!(bench.core.is_drained());
}
