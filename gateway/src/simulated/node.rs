//! One gateway: a process that can be started, killed, stopped like by SIGSTOP, and asked to leave.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
};

use guildhall_shared::cluster_map::ClusterMap;
use prometheus::Registry;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, LocalSet, spawn_local},
    time::{sleep, timeout},
};

use super::{
    net::{self, Stream},
    setup::Setup,
};
use crate::{
    bus::{self, CoreHandle, Inbox, ToCore},
    connection,
    core::{self, Core, CoreConfig},
    gate::Gate,
    node::{REQUESTS_MAX, simulated::Node},
    server::{LEAVING_NOTICE, STAY_MAX, STOP_OVER},
    telemetry::CoreMetrics,
    wire::MESSAGE_BYTES_MAX,
};

/// See the module. Dropped, it ends at once, as by SIGKILL.
pub struct Gateway {
    process: Rc<Process>,
    task: JoinHandle<()>,
    maps: watch::Sender<Rc<ClusterMap>>,
    node: Rc<Node>,
    leaves: watch::Sender<bool>,
}

#[derive(Default)]
struct Process {
    stands_still: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    has_left: Cell<bool>,
}

impl Gateway {
    /// Starts one. To be called on a `LocalSet`.
    pub fn start(setup: Setup) -> Self {
        let process = Rc::new(Process::default());
        let (maps, new_maps) = watch::channel(Rc::default());
        let (leaves, leaving) = watch::channel(false);
        let local = LocalSet::new();
        let (core, inbox) = bus::inbox();
        let node = Rc::new(Node::new(&setup, core.clone()));
        let (of_process, of_node) = (process.clone(), node.clone());
        local.spawn_local(async move {
            live(setup, of_node, (core, inbox), new_maps, leaving).await;
            of_process.has_left.set(true);
        });
        let mut local = Box::pin(local);
        let watched = process.clone();
        let task = spawn_local(poll_fn(move |context| {
            if watched.stands_still.get() {
                *watched.waker.borrow_mut() = Some(context.waker().clone());
                return Poll::Pending;
            }
            local.as_mut().poll(context)
        }));
        Self {
            process,
            task,
            maps,
            node,
            leaves,
        }
    }

    /// SIGSTOP: it does nothing until [`Self::go_on`], and does not know of it afterwards.
    pub fn stand_still(&self) {
        self.process.stands_still.set(true);
    }

    pub fn go_on(&self) {
        self.process.stands_still.set(false);
        if let Some(waker) = self.process.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// It has read a map.
    pub fn read_map(&self, map: Rc<ClusterMap>) {
        self.maps.send_replace(map);
    }

    /// SIGTERM: it sends its clients away, and has shipped its log when they are gone. It serves
    /// realms until it is dropped.
    pub fn leave(&self) {
        self.leaves.send_replace(true);
    }

    /// It was asked to leave, and its clients are gone and its log is shipped.
    pub fn has_left(&self) -> bool {
        self.process.has_left.get()
    }

    /// Realms that are on their way to another owner.
    pub fn realms_moving(&self) -> usize {
        self.node.realms_moving()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn live(
    setup: Setup,
    node: Rc<Node>,
    (core, inbox): (CoreHandle, Inbox),
    mut maps: watch::Receiver<Rc<ClusterMap>>,
    mut leaving: watch::Receiver<bool>,
) {
    let listen = |address: &str| net::with(|net| net.listen(&setup.id, address));
    let (Some(links), Some(clients)) = (
        listen(&setup.relay_addr),
        listen(&format!("{}:clients", setup.id)),
    ) else {
        return;
    };
    let (to_node, requests) = mpsc::channel(REQUESTS_MAX);
    let metrics = CoreMetrics::new(&Registry::new()).expect("a registry of its own");
    let config = CoreConfig {
        id: 0,
        boot: setup.boot,
        resume_url: "ws://gateway".into(),
        peers: Arc::new([core.clone()]),
        metrics: Arc::new(metrics),
        resume: setup.resume,
        message_bytes_max: MESSAGE_BYTES_MAX,
        own_bytes_max: usize::MAX,
        #[cfg(feature = "echo")]
        echo: false,
    };
    let running = Core::shared(config, inbox.bell.clone(), to_node);
    node.start(requests, links);
    let accepting = spawn_local(accept(running.clone(), clients));
    let living = spawn_local(core::live(running, inbox));
    spawn_local({
        let node = node.clone();
        async move {
            while maps.changed().await.is_ok() {
                let map = maps.borrow_and_update().clone();
                node.read_map(map);
            }
        }
    });
    // As `server` does it.
    if leaving.wait_for(|&leaves| leaves).await.is_err() {
        return;
    }
    sleep(LEAVING_NOTICE).await;
    accepting.abort();
    let _ = core.send(ToCore::Drain { over: STOP_OVER });
    let _ = timeout(STOP_OVER + STAY_MAX, living).await;
    node.ship().await;
}

async fn accept(core: Rc<RefCell<Core>>, mut clients: mpsc::UnboundedReceiver<Stream>) {
    let gate = Gate::new(0);
    while let Some(stream) = clients.recv().await {
        if let Some(pass) = gate.pass(IpAddr::V4(Ipv4Addr::LOCALHOST)) {
            connection::serve_simulated(core.clone(), stream, pass);
        }
    }
}
