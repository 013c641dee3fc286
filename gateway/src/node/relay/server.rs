//! The owner's side of the links: accepts edges that know the cluster key.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{spawn_local, yield_now},
    time::{sleep, timeout},
};

use super::{
    FrameReader, HANDSHAKE_TIMEOUT, LinkError, SILENCE_MAX,
    auth::{ClusterKey, Handshake},
    frame::{Challenge, FRAME_BYTES_MAX, Frame, HELLO_BYTES_MAX, Sub, VERSION},
    outbox::Outbox,
};
use crate::{
    clock::{self, select},
    node::{
        metrics::Metrics,
        owner::{EdgeId, Owner, Peer},
        travel::claims::Claims,
    },
};

/// Connections at once, proven or not; further ones are closed at once.
const CONNECTIONS_MAX: usize = 2048;
/// Pause after a failed accept (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Of what sessions look at, taken before others on this thread have their turn: after a move all of
/// a guild's comes at once.
const SLICE_WATCHES: usize = 500;

pub(crate) struct Server {
    pub(crate) node: String,
    pub(crate) key: ClusterKey,
    pub(crate) owner: Rc<Owner>,
    pub(crate) claims: Rc<Claims>,
    pub(crate) metrics: Metrics,
}

impl Server {
    /// Accepts as long as the task lives.
    pub(crate) async fn run(self: Rc<Self>, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    if let Ok(place) = room.clone().try_acquire_owned() {
                        let server = self.clone();
                        spawn_local(async move {
                            server.serve(stream, from).await;
                            drop(place);
                        });
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "relay connection not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(&self, stream: TcpStream, from: SocketAddr) {
        match self.link(stream).await {
            Ok(()) | Err(LinkError::Closed) => {}
            Err(error) => tracing::warn!(%error, %from, "link of an edge ended"),
        }
    }

    async fn link(&self, stream: TcpStream) -> Result<(), LinkError> {
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        self.speak(reader, writer).await
    }

    /// Over a connection that stands.
    pub(crate) async fn speak(
        &self,
        reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
    ) -> Result<(), LinkError> {
        let mut reader = FrameReader::new(reader);
        let prove = self.prove(&mut reader, &mut writer);
        let node = match timeout(HANDSHAKE_TIMEOUT, prove).await {
            Ok(node) => node?,
            Err(_) => return Err(LinkError::Silent),
        };
        let outbox = Outbox::new();
        let edge = self
            .owner
            .edge_up(node.clone(), Peer::Remote(outbox.clone()));
        tracing::info!(node.id = %node, "an edge linked");
        let _linked = self.metrics.linked();
        let read = async {
            let mut watches: usize = 0;
            loop {
                match reader.next(FRAME_BYTES_MAX, SILENCE_MAX).await? {
                    Frame::Sub(subs) => self.subscribe(edge, subs, &outbox).await,
                    Frame::Unsub {
                        realm,
                        users,
                        moved,
                    } => self.owner.unsubscribe(edge, realm, &users, moved),
                    Frame::Presence(changes) => self.owner.presence(edge, changes),
                    Frame::Watch(change) => {
                        // Answered later, and as far as there is room.
                        self.owner.watch(edge, *change);
                        watches += 1;
                        if watches.is_multiple_of(SLICE_WATCHES) {
                            yield_now().await;
                        }
                    }
                    Frame::Ask(ask) => {
                        // An answer can be large.
                        outbox.room().await;
                        self.owner.ask(edge, *ask);
                    }
                    Frame::Claim(wanted) => {
                        let (claims, outbox) = (self.claims.clone(), outbox.clone());
                        spawn_local(async move {
                            let number = wanted.claim.number;
                            let result = claims.of_others(wanted).await.map(Box::new);
                            // A session brings what its client has missed.
                            outbox.room().await;
                            outbox.push(Frame::Claimed { number, result }.encode());
                        });
                    }
                    Frame::Ping => outbox.push(Frame::Pong.encode()),
                    _ => return Err(LinkError::Unexpected),
                }
            }
        };
        let link = async {
            select! {
                result = read => result,
                result = outbox.write_to(&mut writer) => result.map_err(LinkError::from),
                () = outbox.broken.cancelled() => Ok(()),
            }
        };
        let result: Result<(), LinkError> = outbox.attend(link).await;
        self.owner.edge_gone(edge);
        result
    }

    /// Snapshots are large and wait for the link; a change of owner is not, and does not.
    async fn subscribe(&self, edge: EdgeId, subs: Vec<Sub>, outbox: &Outbox) {
        let (large, small): (Vec<Sub>, Vec<Sub>) = subs
            .into_iter()
            .partition(|sub| sub.users.iter().any(|user| !user.snapshots.is_empty()));
        self.owner.subscribe(edge, small);
        for sub in large {
            outbox.room().await;
            self.owner.subscribe(edge, vec![sub]);
        }
    }

    /// The edge's node id, once it has proven itself with its one frame.
    async fn prove(
        &self,
        reader: &mut FrameReader<impl AsyncRead + Unpin>,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Result<String, LinkError> {
        let challenge = Challenge {
            node: self.node.clone(),
            nonce: clock::random(),
            version: VERSION,
        };
        writer
            .write_all(&Frame::Challenge(challenge.clone()).encode())
            .await?;
        let Frame::Hello(hello) = reader.next(HELLO_BYTES_MAX, SILENCE_MAX).await? else {
            return Err(LinkError::Unexpected);
        };
        let handshake = Handshake::of(&challenge, &hello);
        let Some(proven) = handshake.proven(&self.key, &hello.proof) else {
            return Err(LinkError::Unproven);
        };
        if !proven.is_current {
            tracing::info!(node.id = %hello.node, "an edge has another CLUSTER_KEY, which is accepted");
        }
        let proof = handshake.listener_proof(proven);
        writer.write_all(&Frame::Proof(proof).encode()).await?;
        Ok(hello.node)
    }
}
