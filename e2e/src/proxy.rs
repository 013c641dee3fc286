//! A TCP proxy that cuts, stalls and refuses on command. It has its own thread, so it outlives
//! the runtime of the test that started it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
};

const BUFFER_BYTES: usize = 16 * 1024;
/// A throttled connection sends the next bytes at the latest after this.
const THROTTLED_MAX: Duration = Duration::from_secs(1);

/// What the proxy does with its connections now.
#[derive(Debug, Clone, Copy)]
struct Mode {
    /// Connections accepted under a lower number are reset.
    cut: u64,
    /// Whether bytes move.
    flow: bool,
    /// Whether new connections are accepted; refused ones are reset.
    open: bool,
    /// Bytes per second of each connection and direction; 0: all there are.
    bytes_per_s: u32,
    target: SocketAddr,
    /// Ends the proxy.
    stop: bool,
}

/// Listens on a port of its own and forwards to a target.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    mode: watch::Sender<Mode>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    live: AtomicUsize,
    accepted: AtomicUsize,
    /// Bytes that the next connection lets through to its client before it is reset; 0: all.
    next_bytes_max: AtomicUsize,
}

impl Proxy {
    pub fn start(target: SocketAddr) -> io::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST, target)
    }

    /// [`start`](Self::start) at another address of this machine.
    pub fn start_at(addr: Ipv4Addr, target: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((addr, 0))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let (mode, seen) = watch::channel(Mode {
            cut: 0,
            flow: true,
            open: true,
            bytes_per_s: 0,
            target,
            stop: false,
        });
        let counts = Arc::<Counts>::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let counting = Arc::clone(&counts);
        thread::Builder::new()
            .name("proxy".into())
            .spawn(move || runtime.block_on(serve(listener, seen, counting)))?;
        Ok(Self { addr, mode, counts })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections that are open now.
    pub fn live(&self) -> usize {
        self.counts.live.load(Ordering::Relaxed)
    }

    /// Connections ever accepted.
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// Resets every open connection (RST to both ends). New ones are served.
    pub fn cut(&self) {
        self.mode.send_modify(|mode| mode.cut += 1);
    }

    /// Resets the next connection when more than so many bytes would go to its client.
    pub fn cut_next_after(&self, bytes: usize) {
        let next = &self.counts.next_bytes_max;
        next.store(bytes, Ordering::Relaxed);
    }

    /// Bytes stop moving, connections stay open.
    pub fn stall(&self) {
        self.mode.send_modify(|mode| mode.flow = false);
    }

    /// Ends [`stall`](Self::stall).
    pub fn flow(&self) {
        self.mode.send_modify(|mode| mode.flow = true);
    }

    /// Resets new connections at once until [`accept`](Self::accept).
    pub fn refuse(&self) {
        self.mode.send_modify(|mode| mode.open = false);
    }

    /// Resets all connections, new ones as well, until [`accept`](Self::accept).
    pub fn shut(&self) {
        self.refuse();
        self.cut();
    }

    pub fn accept(&self) {
        self.mode.send_modify(|mode| mode.open = true);
    }

    /// How fast each connection is from now on; 0: as fast as it can be.
    pub fn throttle(&self, bytes_per_s: u32) {
        self.mode.send_modify(|mode| mode.bytes_per_s = bytes_per_s);
    }

    /// Leads new connections elsewhere and resets the old ones.
    pub fn retarget(&self, target: SocketAddr) {
        self.mode.send_modify(|mode| {
            mode.target = target;
            mode.cut += 1;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.mode.send_modify(|mode| mode.stop = true);
    }
}

async fn serve(
    listener: std::net::TcpListener,
    mut mode: watch::Receiver<Mode>,
    counts: Arc<Counts>,
) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    let mut stop = mode.clone();
    loop {
        let client = tokio::select! {
            client = listener.accept() => client,
            _ = stop.wait_for(|mode| mode.stop) => return,
        };
        let Ok((client, _)) = client else { continue };
        counts.accepted.fetch_add(1, Ordering::Relaxed);
        if !mode.borrow_and_update().open {
            reset(client);
            continue;
        }
        let down_max = match counts.next_bytes_max.swap(0, Ordering::Relaxed) {
            0 => usize::MAX,
            bytes => bytes,
        };
        let (mode, counts) = (mode.clone(), Arc::clone(&counts));
        tokio::spawn(async move {
            counts.live.fetch_add(1, Ordering::Relaxed);
            forward(client, mode, down_max).await;
            counts.live.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Moves bytes both ways until both ends are done or the connection is cut, at the latest when
/// more than `down_max` bytes would go to the client.
async fn forward(mut client: TcpStream, mode: watch::Receiver<Mode>, down_max: usize) {
    let Mode { cut, target, .. } = *mode.borrow();
    let Ok(mut server) = TcpStream::connect(target).await else {
        return reset(client);
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (mut knife, upward, downward) = (mode.clone(), mode.clone(), mode);
    let broken = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let both = async {
            tokio::try_join!(
                pump(client_read, server_write, upward, usize::MAX),
                pump(server_read, client_write, downward, down_max)
            )
        };
        tokio::select! {
            done = both => done.is_err(),
            _ = knife.wait_for(|mode| mode.cut > cut || mode.stop) => true,
        }
    };
    if broken {
        reset(client);
        reset(server);
    }
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut mode: watch::Receiver<Mode>,
    mut bytes_max: usize,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        // An error means that the proxy is gone; the knife ends this connection then.
        let _ = mode.wait_for(|mode| mode.flow).await;
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        bytes_max = match bytes_max.checked_sub(count) {
            Some(left) => left,
            None => return Err(io::ErrorKind::ConnectionReset.into()),
        };
        let _ = mode.wait_for(|mode| mode.flow).await;
        to.write_all(&buffer[..count]).await?;
        let bytes_per_s = mode.borrow().bytes_per_s;
        if bytes_per_s > 0 {
            let pause = Duration::from_secs_f64(count as f64 / f64::from(bytes_per_s));
            tokio::time::sleep(pause.min(THROTTLED_MAX)).await;
        }
    }
}

/// Closes with RST instead of FIN.
fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cut_connection_is_reset_and_the_next_one_works() {
        let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = Proxy::start(echo.local_addr().unwrap()).unwrap();
        tokio::spawn(async move {
            while let Ok((mut peer, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = peer.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        for _ in 0..2 {
            let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
            let mut answer = [0; 4];
            stream.write_all(b"ping").await.unwrap();
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"ping");
            proxy.cut();
            let error = stream.read(&mut answer).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }
}
