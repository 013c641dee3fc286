//! A way to a server that can be cut and opened again.

use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::*;

/// While it is cut connections are made and say nothing.
pub(super) struct Way {
    gate: Arc<TcpListener>,
    to: SocketAddr,
    open: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Way {
    pub(super) async fn to(to: SocketAddr) -> Self {
        let gate = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut way = Self {
            gate: Arc::new(gate),
            to,
            open: None,
        };
        way.open();
        way
    }

    /// Where it begins.
    pub(super) fn addr(&self) -> SocketAddr {
        self.gate.local_addr().unwrap()
    }

    pub(super) fn open(&mut self) {
        let (gate, to, cut) = (self.gate.clone(), self.to, CancellationToken::new());
        let is_cut = cut.clone();
        let task = tokio::spawn(async move {
            let mut links = JoinSet::new();
            while let Some(Ok((mut one, _))) = is_cut.run_until_cancelled(gate.accept()).await {
                links.spawn(async move {
                    if let Ok(mut other) = TcpStream::connect(to).await {
                        let _ = tokio::io::copy_bidirectional(&mut one, &mut other).await;
                    }
                });
            }
            links.shutdown().await;
        });
        self.open = Some((cut, task));
    }

    /// Returns when all connections are closed.
    pub(super) async fn cut(&mut self) {
        if let Some((cut, task)) = self.open.take() {
            cut.cancel();
            task.await.unwrap();
        }
    }
}
