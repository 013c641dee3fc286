//! The edge's side of the links: one connection per owner node, made when it is needed, and closed
//! when it was of no use for a while.
//!
//! A link that breaks is reported to the edge, which subscribes elsewhere at once; the next
//! attempt waits a little longer after each failure. Until one succeeds, or there is another
//! map, no realm is moved there.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use guildhall_shared::cluster_map::MapVersion;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::spawn_local,
    time::{interval, timeout},
};

use super::{
    FrameReader, HANDSHAKE_TIMEOUT, LinkError, PING_INTERVAL, SILENCE_MAX,
    auth::{ClusterKey, Handshake},
    frame::{FRAME_BYTES_MAX, Frame, HELLO_BYTES_MAX, Hello, VERSION},
    outbox::Outbox,
};
use crate::{
    bus::Claimed,
    clock::{self, select},
    node::{map::MapWatch, metrics::Metrics, owner::FromOwner},
};

/// Pause after the first, and longest pause after a further failure.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// A link that served no realm, and that nothing was sent over, for so long is closed: pings and
/// buffers are for those that are of use. Whoever waits for an answer waits less.
const UNUSED_MAX: Duration = Duration::from_secs(60);

/// What the links tell the edge.
pub(crate) enum LinkEvent {
    From(FromOwner),
    /// What became of a claim; `None`: the session is not of that start of the node.
    Claimed(u64, Option<Box<Claimed>>),
    Down,
}

type Listener = Box<dyn Fn(&Rc<str>, LinkEvent)>;

/// All links of this node to owners.
pub(crate) struct Links {
    node: String,
    key: ClusterKey,
    map: Rc<MapWatch>,
    metrics: Metrics,
    links: RefCell<FxHashMap<Rc<str>, Link>>,
    listener: RefCell<Option<Listener>>,
}

struct Link {
    state: State,
    /// Pause after the next failure.
    pause: Duration,
    /// The map under which it failed, unless it has proven itself since.
    failed: Option<MapVersion>,
    /// When something but a ping was sent over it, or it was seen that it is of use.
    used_at: Instant,
}

enum State {
    /// Connecting or connected.
    Up(Rc<Outbox>),
    /// Failed; not tried again before then.
    Down(Instant),
}

impl Links {
    pub(crate) fn new(
        node: String,
        key: ClusterKey,
        map: Rc<MapWatch>,
        metrics: Metrics,
    ) -> Rc<Self> {
        Rc::new(Self {
            node,
            key,
            map,
            metrics,
            links: RefCell::default(),
            listener: RefCell::default(),
        })
    }

    /// Who is told what comes over the links.
    pub(crate) fn listen(&self, listener: impl Fn(&Rc<str>, LinkEvent) + 'static) {
        *self.listener.borrow_mut() = Some(Box::new(listener));
    }

    /// Bytes that wait for the links to owners.
    pub(crate) fn queued_bytes(&self) -> usize {
        let queued = |link: &Link| match &link.state {
            State::Up(outbox) => outbox.bytes(),
            State::Down(_) => 0,
        };
        self.links.borrow().values().map(queued).sum()
    }

    /// Whether what there is much of may be sent to a node now: little waits for it.
    pub(crate) fn has_room(&self, node: &str) -> bool {
        match self.links.borrow().get(node).map(|link| &link.state) {
            Some(State::Up(outbox)) => outbox.has_room(),
            Some(State::Down(_)) | None => true,
        }
    }

    /// Whether it makes sense to send something to a node now.
    pub(crate) fn is_usable(&self, node: &str) -> bool {
        match self.links.borrow().get(node).map(|link| &link.state) {
            Some(State::Up(_)) => true,
            Some(State::Down(until)) if *until > clock::now() => false,
            Some(State::Down(_)) | None => self.map.current().relay_addr(node).is_some(),
        }
    }

    /// Whether realms may be subscribed there: not after a failure under this map.
    pub(crate) fn is_trusted(&self, node: &str) -> bool {
        let map = self.map.current();
        match self.links.borrow().get(node) {
            Some(link) if link.failed == Some(map.version) => false,
            Some(Link {
                state: State::Up(_),
                ..
            }) => true,
            _ => map.relay_addr(node).is_some(),
        }
    }

    /// Whether any of them failed under this map and has not proven itself since.
    pub(crate) fn has_failed(&self, version: MapVersion) -> bool {
        let links = self.links.borrow();
        links.values().any(|link| link.failed == Some(version))
    }

    /// Tries a link that failed again, once its pause is over.
    pub(crate) fn reopen(self: &Rc<Self>, node: &str) {
        if self.is_usable(node) {
            self.outbox(&node.into());
        }
    }

    /// Forgets the links that failed to nodes which are not in the map any more.
    pub(crate) fn forget_gone(&self) {
        let map = self.map.current();
        self.links.borrow_mut().retain(|node, link| {
            matches!(link.state, State::Up(_)) || map.relay_addr(node).is_some()
        });
    }

    /// Closes the links that are of no use. `used`: the nodes that serve realms here or were asked to.
    pub(crate) fn close_unused(&self, now: Instant, used: impl FnOnce() -> FxHashSet<Rc<str>>) {
        let is_quiet = |link: &Link| {
            let quiet_for = now.saturating_duration_since(link.used_at);
            quiet_for >= UNUSED_MAX && matches!(link.state, State::Up(_))
        };
        if !self.links.borrow().values().any(is_quiet) {
            return;
        }
        let used = used();
        self.links.borrow_mut().retain(|node, link| {
            if !is_quiet(link) {
                return true;
            }
            if used.contains(node) {
                link.used_at = now;
                return true;
            }
            if let State::Up(outbox) = &link.state {
                outbox.broken.cancel();
            }
            false
        });
    }

    /// Sends a frame, connecting first if need be; what cannot be sent ends in a
    /// [`LinkEvent::Down`].
    pub(crate) fn send(self: &Rc<Self>, node: &Rc<str>, frame: &Frame) {
        self.outbox(node).push(frame.encode());
    }

    /// Sends a frame only if there is a link: without one there is nothing to end.
    pub(crate) fn send_if_up(&self, node: &str, frame: &Frame) {
        if let Some(Link {
            state: State::Up(outbox),
            used_at,
            ..
        }) = self.links.borrow_mut().get_mut(node)
        {
            *used_at = clock::now();
            outbox.push(frame.encode());
        }
    }

    /// What waits for a node; the link to it is made if there is none.
    fn outbox(self: &Rc<Self>, node: &Rc<str>) -> Rc<Outbox> {
        let now = clock::now();
        let mut links = self.links.borrow_mut();
        let (pause, failed) = match links.get_mut(node) {
            Some(Link {
                state: State::Up(outbox),
                used_at,
                ..
            }) => {
                *used_at = now;
                return outbox.clone();
            }
            Some(link) => (link.pause, link.failed),
            None => (RETRY_FIRST, None),
        };
        let outbox = Outbox::new();
        let link = Link {
            state: State::Up(outbox.clone()),
            pause,
            failed,
            used_at: now,
        };
        links.insert(node.clone(), link);
        spawn_local(self.clone().keep(node.clone(), outbox.clone()));
        outbox
    }

    /// One link from beginning to end.
    async fn keep(self: Rc<Self>, node: Rc<str>, outbox: Rc<Outbox>) {
        let result = select! {
            result = self.run(&node, &outbox) => result,
            () = outbox.broken.cancelled() => Err(LinkError::Silent),
        };
        outbox.broken.cancel();
        {
            let mut links = self.links.borrow_mut();
            let link = links.get_mut(&node).filter(|link| link.is_of(&outbox));
            let Some(link) = link else {
                tracing::debug!(node.id = %node, "link to an owner closed: it was of no use");
                return;
            };
            link.state = State::Down(clock::now() + link.pause);
            link.pause = (link.pause * 2).min(RETRY_LONGEST);
            link.failed = Some(self.map.version());
        }
        if let Err(error) = result {
            tracing::warn!(%error, node.id = %node, "link to an owner ended");
        }
        self.report(&node, LinkEvent::Down);
    }

    async fn run(&self, node: &Rc<str>, outbox: &Rc<Outbox>) -> Result<(), LinkError> {
        let Some(address) = self.map.current().relay_addr(node).map(str::to_owned) else {
            return Err(LinkError::Closed);
        };
        #[cfg(feature = "simulated")]
        if let Some(stream) = crate::simulated::net::connect(&self.node, &address) {
            let (reader, writer) = tokio::io::split(stream?);
            return self.speak(node, outbox, reader, writer).await;
        }
        let stream = match timeout(HANDSHAKE_TIMEOUT, TcpStream::connect(address)).await {
            Ok(stream) => stream?,
            Err(_) => return Err(LinkError::Silent),
        };
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        self.speak(node, outbox, reader, writer).await
    }

    /// Over a connection that stands.
    async fn speak(
        &self,
        node: &Rc<str>,
        outbox: &Rc<Outbox>,
        reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
    ) -> Result<(), LinkError> {
        let mut reader = FrameReader::new(reader);
        match timeout(
            HANDSHAKE_TIMEOUT,
            self.prove(node, &mut reader, &mut writer),
        )
        .await
        {
            Ok(result) => result?,
            Err(_) => return Err(LinkError::Silent),
        }
        if let Some(link) = self.links.borrow_mut().get_mut(node) {
            link.pause = RETRY_FIRST;
            link.failed = None;
        }
        tracing::info!(node.id = %node, "linked to an owner");
        let _linked = self.metrics.linked();
        let read = async {
            loop {
                let frame = reader.next(FRAME_BYTES_MAX, SILENCE_MAX).await?;
                let message = match frame {
                    Frame::Claimed { number, result } => {
                        self.report(node, LinkEvent::Claimed(number, result));
                        continue;
                    }
                    Frame::SubOk(ok) => FromOwner::SubOk(ok),
                    Frame::Refused { id, realm } => FromOwner::Refused { id, realm },
                    Frame::Ev(event) => FromOwner::Event(event),
                    Frame::Evs(events) => FromOwner::Events(events),
                    Frame::View { realm, change } => FromOwner::View { realm, change },
                    Frame::TellAll { to, kind, body } => FromOwner::TellAll { to, kind, body },
                    Frame::Tell(tell) => FromOwner::Tell(tell),
                    Frame::Pong => continue,
                    _ => return Err(LinkError::Unexpected),
                };
                self.report(node, LinkEvent::From(message));
            }
        };
        let ping = async {
            let mut tick = interval(PING_INTERVAL);
            loop {
                tick.tick().await;
                outbox.push(Frame::Ping.encode());
            }
        };
        let link = async {
            select! {
                result = read => result,
                () = ping => Ok(()),
                result = outbox.write_to(&mut writer) => result.map_err(LinkError::from),
            }
        };
        outbox.attend(link).await
    }

    async fn prove(
        &self,
        node: &str,
        reader: &mut FrameReader<impl AsyncRead + Unpin>,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), LinkError> {
        let Frame::Challenge(challenge) = reader.next(HELLO_BYTES_MAX, SILENCE_MAX).await? else {
            return Err(LinkError::Unexpected);
        };
        if challenge.node != node {
            return Err(LinkError::Unproven);
        }
        if challenge.version != VERSION {
            return Err(LinkError::Version(challenge.version));
        }
        let mut hello = Hello {
            node: self.node.clone(),
            nonce: clock::random(),
            proof: [0; 32],
        };
        hello.proof = Handshake::of(&challenge, &hello).connector_proof(&self.key);
        writer
            .write_all(&Frame::Hello(hello.clone()).encode())
            .await?;
        let Frame::Proof(proof) = reader.next(HELLO_BYTES_MAX, SILENCE_MAX).await? else {
            return Err(LinkError::Unexpected);
        };
        if Handshake::of(&challenge, &hello).is_listener(&self.key, &proof) {
            Ok(())
        } else {
            Err(LinkError::Unproven)
        }
    }

    fn report(&self, node: &Rc<str>, event: LinkEvent) {
        if let Some(listener) = &*self.listener.borrow() {
            listener(node, event);
        }
    }
}

impl Link {
    /// Whether it is up, and this waits for it.
    fn is_of(&self, outbox: &Rc<Outbox>) -> bool {
        matches!(&self.state, State::Up(own) if Rc::ptr_eq(own, outbox))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use guildhall_shared::cluster_map::ClusterMap;
    use tokio::{io::AsyncWriteExt, net::TcpListener, task::LocalSet, time::sleep};

    use super::*;
    use crate::node::relay::frame::Challenge;

    /// A map with a node that nobody is at.
    fn map(version: u64) -> ClusterMap {
        ClusterMap {
            version: MapVersion { term: 1, version },
            nodes: vec!["b".to_owned()],
            relay_addrs: vec!["127.0.0.1:1".to_owned()],
            ..ClusterMap::default()
        }
    }

    /// Of node `a`, under the first map.
    fn links() -> (Rc<MapWatch>, Rc<Links>) {
        let watch = Rc::new(MapWatch::new(0));
        assert!(watch.offer(map(1)));
        let links = Links::new(
            "a".to_owned(),
            ClusterKey::new("key").unwrap(),
            watch.clone(),
            Metrics::register(&prometheus::Registry::new()).unwrap(),
        );
        (watch, links)
    }

    #[tokio::test]
    async fn a_node_that_left_the_map_is_forgotten() {
        let (watch, links) = links();
        let test = async {
            links.send(&"b".into(), &Frame::Ping);
            while links.is_trusted("b") {
                sleep(Duration::from_millis(1)).await;
            }
            links.forget_gone();
            assert_eq!(links.links.borrow().len(), 1);
            assert!(watch.offer(ClusterMap {
                version: map(2).version,
                ..ClusterMap::default()
            }));
            links.forget_gone();
            assert!(links.links.borrow().is_empty());
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_node_that_failed_is_trusted_again_under_another_map() {
        let (watch, links) = links();
        let test = async {
            assert!(links.is_trusted("b"));
            links.send(&"b".into(), &Frame::Ping);
            assert!(links.is_trusted("b"));
            while links.is_trusted("b") {
                sleep(Duration::from_millis(1)).await;
            }
            sleep(RETRY_FIRST).await;
            links.reopen("b");
            assert!(links.is_usable("b") && !links.is_trusted("b"));
            assert!(watch.offer(map(2)));
            assert!(links.is_trusted("b"));
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_link_of_no_use_is_closed_and_another_is_made_when_it_is_needed() {
        let test = async {
            // Lets links in and says nothing.
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (watch, links) = links();
            assert!(watch.offer(ClusterMap {
                relay_addrs: vec![listener.local_addr().unwrap().to_string()],
                ..map(2)
            }));
            let downs = Rc::new(Cell::new(0));
            let counted = downs.clone();
            links.listen(move |_, event| {
                if matches!(event, LinkEvent::Down) {
                    counted.set(counted.get() + 1);
                }
            });
            let node: Rc<str> = "b".into();
            let first = links.outbox(&node);
            let now = clock::now();
            links.close_unused(now, FxHashSet::default);
            let serves = || FxHashSet::from_iter([node.clone()]);
            links.close_unused(now + UNUSED_MAX * 2, serves);
            assert!(!first.broken.is_cancelled());
            links.close_unused(now + UNUSED_MAX * 4, FxHashSet::default);
            assert!(first.broken.is_cancelled());
            let second = links.outbox(&node);
            // Until its task has ended.
            while Rc::strong_count(&first) > 1 {
                sleep(Duration::from_millis(1)).await;
            }
            assert!(links.is_trusted("b") && !second.broken.is_cancelled());
            assert_eq!(downs.get(), 0);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_link_that_is_reset_counts_no_longer() {
        let test = async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let watch = Rc::new(MapWatch::new(0));
            assert!(watch.offer(ClusterMap {
                relay_addrs: vec![address.to_string()],
                ..map(1)
            }));
            let key = ClusterKey::new("key").unwrap();
            let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
            let links = Links::new("a".to_owned(), key.clone(), watch, metrics.clone());
            links.send(&"b".into(), &Frame::Ping);
            let (reader, mut writer) = listener.accept().await.unwrap().0.into_split();
            let challenge = Challenge {
                node: "b".to_owned(),
                nonce: [1; 32],
                version: VERSION,
            };
            let frame = Frame::Challenge(challenge.clone());
            writer.write_all(&frame.encode()).await.unwrap();
            let hello = FrameReader::new(reader)
                .next(HELLO_BYTES_MAX, SILENCE_MAX)
                .await;
            let Ok(Frame::Hello(hello)) = hello else {
                panic!("no hello");
            };
            let handshake = Handshake::of(&challenge, &hello);
            let proven = handshake.proven(&key, &hello.proof).unwrap();
            let frame = Frame::Proof(handshake.listener_proof(proven));
            writer.write_all(&frame.encode()).await.unwrap();
            while metrics.links.get() == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            // As when more waits for it than may.
            links.outbox(&"b".into()).broken.cancel();
            while links.is_trusted("b") {
                sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(metrics.links.get(), 0);
        };
        LocalSet::new().run_until(test).await;
    }
}
