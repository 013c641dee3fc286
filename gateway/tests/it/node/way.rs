//! A way to a server that can be cut and opened again.

use std::sync::Mutex;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
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
    trap: Trap,
}

/// What a connection breaks at: once, and before it is asked for.
type Trap = Arc<Mutex<Option<&'static str>>>;

impl Way {
    pub(super) async fn to(to: SocketAddr) -> Self {
        let gate = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut way = Self {
            gate: Arc::new(gate),
            to,
            open: None,
            trap: Trap::default(),
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
        let (is_cut, trap) = (cut.clone(), self.trap.clone());
        let task = tokio::spawn(async move {
            let mut links = JoinSet::new();
            while let Some(Ok((one, _))) = is_cut.run_until_cancelled(gate.accept()).await {
                let trap = trap.clone();
                links.spawn(async move {
                    if let Ok(other) = TcpStream::connect(to).await {
                        carry(one, other, &trap).await;
                    }
                });
            }
            links.shutdown().await;
        });
        self.open = Some((cut, task));
    }

    /// The next connection that asks for this breaks.
    pub(super) fn break_at(&self, word: &'static str) {
        *self.trap.lock().unwrap() = Some(word);
    }

    /// Returns when all connections are closed.
    pub(super) async fn cut(&mut self) {
        if let Some((cut, task)) = self.open.take() {
            cut.cancel();
            task.await.unwrap();
        }
    }
}

/// Until either side ends, or asks for what the trap is set for.
async fn carry(mut one: TcpStream, mut other: TcpStream, trap: &Trap) {
    let (mut asked, mut told) = one.split();
    let (mut answers, mut asks) = other.split();
    let there = async {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count @ 1..) = asked.read(&mut bytes).await {
            let bytes = &bytes[..count];
            if springs(trap, bytes) || asks.write_all(bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => {}
        _ = tokio::io::copy(&mut answers, &mut told) => {}
    }
}

fn springs(trap: &Trap, bytes: &[u8]) -> bool {
    let has = |word: &mut &str| {
        bytes
            .windows(word.len())
            .any(|part| part == word.as_bytes())
    };
    trap.lock().unwrap().take_if(has).is_some()
}
