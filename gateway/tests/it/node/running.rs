//! A node that runs beside its test.

use std::thread::JoinHandle;

use guildhall_gateway::{
    bus::{self, CoreHandle, Subscribed, ViewChange},
    config::{RateLimits, ResumeLog},
    identity::{IdentifyRequest, Identity, Refused},
    names::CoreId,
    node::{self, ClusterKey},
    status::Status,
};
use guildhall_shared::{gateway::CloseCode, voice::VoiceSettings};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;

/// A node with two cores, which are the test; most tests use the first only.
pub(super) struct Node {
    pub(super) id: String,
    pub(super) requests: mpsc::Sender<ToNode>,
    pub(super) inbox: Inbox,
    pub(super) second: Inbox,
    pub(super) status: Arc<Status>,
    registry: prometheus::Registry,
    pub(super) shutdown: CancellationToken,
    thread: Option<JoinHandle<Result<(), node::Error>>>,
}

/// Each node of a test has one of its own.
pub(super) fn boot_of(id: &str) -> u32 {
    id.bytes().map(u32::from).sum()
}

impl Node {
    pub(super) fn start(world: &World, id: &str) -> Self {
        Self::start_with(world, id, &world.redis_url, "key")
    }

    /// One where people have to wait between two IDENTIFYs.
    pub(super) fn start_limited(world: &World, id: &str, redis_url: &str) -> Self {
        Self::launch(world, (id, boot_of(id)), redis_url, "key", RateLimits::On)
    }

    /// Another start under the name of one that runs.
    pub(super) fn start_namesake(world: &World, id: &str) -> Self {
        let boot = boot_of(id) + 1_000_000;
        let redis_url = &world.redis_url;
        Self::launch(world, (id, boot), redis_url, "key", RateLimits::Off)
    }

    pub(super) fn start_with(world: &World, id: &str, redis_url: &str, key: &str) -> Self {
        Self::launch(world, (id, boot_of(id)), redis_url, key, RateLimits::Off)
    }

    fn launch(
        world: &World,
        (id, boot): (&str, u32),
        redis_url: &str,
        key: &str,
        rate_limits: RateLimits,
    ) -> Self {
        let (handle, inbox): (CoreHandle, Inbox) = bus::inbox();
        let (second_handle, second) = bus::inbox();
        let (requests, receiver) = mpsc::channel(64);
        let (status, registry) = (Arc::new(Status::default()), prometheus::Registry::new());
        let shutdown = CancellationToken::new();
        let config = node::Config {
            node_id: id.to_owned(),
            boot,
            resume: ResumeLog::Async,
            database_url: world.url.clone().into(),
            redis_url: redis_url.to_owned().into(),
            relay_listen: "127.0.0.1:0".parse().unwrap(),
            relay_advertise: None,
            relay_public: false,
            gateway_url: "ws://127.0.0.1".into(),
            cluster_key: ClusterKey::new(key).unwrap(),
            shards: SHARDS,
            identify_concurrency: 1,
            rate_limits,
            db_connections_max: 4,
            voice: VoiceSettings::new(Some("voice.test:443".to_owned()), "a key"),
            status: status.clone(),
            registry: registry.clone(),
        };
        let stop = shutdown.clone();
        let thread = std::thread::spawn(move || {
            node::run(config, vec![handle, second_handle], receiver, stop)
        });
        let node = Self {
            id: id.to_owned(),
            requests,
            inbox,
            second,
            status,
            registry,
            shutdown,
            thread: Some(thread),
        };
        let started = Instant::now();
        while node.status.relay_addr().is_none() {
            assert!(started.elapsed() < PATIENCE, "the node does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        node
    }

    pub(super) fn relay(&self) -> SocketAddr {
        self.status.relay_addr().unwrap()
    }

    pub(super) async fn subscribe(&self, subscription: Subscription) {
        self.subscribe_core(0, subscription).await;
    }

    pub(super) async fn subscribe_core(&self, core: CoreId, subscription: Subscription) {
        let subscribe = ToNode::Subscribe {
            core,
            subscriptions: vec![subscription],
        };
        self.requests.send(subscribe).await.unwrap();
    }

    /// Subscribes; what that is answered with.
    pub(super) async fn enter(&self, subscription: Subscription) -> Subscribed {
        self.subscribe(subscription).await;
        self.subscribed().await
    }

    /// Identifies as people do.
    pub(super) async fn identify(&self, token: &Token) {
        self.identify_as(session(3), token, None).await;
    }

    pub(super) async fn identify_as(
        &self,
        session: SessionKey,
        token: &Token,
        intents: Option<Intents>,
    ) {
        self.identify_with(session, token, intents, None).await;
    }

    /// Identifies with something that is no shard, or no intents.
    pub(super) async fn identify_with(
        &self,
        session: SessionKey,
        token: &Token,
        intents: Option<Intents>,
        unfit: Option<CloseCode>,
    ) {
        let request = IdentifyRequest {
            token: token.clone(),
            intents,
            shard: (0, 1),
            unfit,
        };
        let identify = ToNode::Identify {
            core: 0,
            session,
            request,
        };
        self.requests.send(identify).await.unwrap();
    }

    /// What an IDENTIFY came to.
    pub(super) async fn identified(&self) -> Result<Box<Identity>, Refused> {
        match self.next().await {
            ToCore::Identified { result, .. } => result,
            other => panic!("not identified, but {other:?}"),
        }
    }

    pub(super) async fn next_within(&self, time: Duration) -> Option<ToCore> {
        next_within(&self.inbox, time).await
    }

    pub(super) async fn next(&self) -> ToCore {
        next(&self.inbox).await
    }

    pub(super) async fn subscribed(&self) -> Subscribed {
        match self.next().await {
            ToCore::Subscribed(subscribed) => *subscribed,
            other => panic!("not subscribed, but {other:?}"),
        }
    }

    pub(super) async fn event(&self) -> Arc<Envelope> {
        match self.next().await {
            ToCore::Event(event) => event,
            other => panic!("no event, but {other:?}"),
        }
    }

    /// The next events have these numbers.
    pub(super) async fn gets(&self, seqs: impl IntoIterator<Item = u64>) {
        for expected in seqs {
            assert_eq!(seq(&*self.event().await), expected);
        }
    }

    pub(super) async fn view(&self) -> ViewChange {
        match self.next().await {
            ToCore::View { change, .. } => change,
            other => panic!("no view, but {other:?}"),
        }
    }

    pub(super) async fn quiet(&self) {
        if let Some(message) = self.next_within(QUIET).await {
            panic!("unexpected {message:?}");
        }
    }

    /// A metric of this node without labels.
    pub(super) fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metric = &family.expect("a metric of this name").get_metric()[0];
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    }

    pub(super) async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        until(what, async || is(self).then_some(())).await;
    }

    pub(super) fn stop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn next_within(inbox: &Inbox, time: Duration) -> Option<ToCore> {
    let deadline = Instant::now() + time;
    loop {
        if let Ok(message) = inbox.messages.try_recv() {
            return Some(message);
        }
        if Instant::now() > deadline {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What a core is told next.
pub(super) async fn next(inbox: &Inbox) -> ToCore {
    next_within(inbox, PATIENCE).await.expect("a message")
}
