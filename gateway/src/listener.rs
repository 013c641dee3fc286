//! The accept path: one task takes every connection and hands it to the core that has fewest.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::{
    bus::{Accepted, CoreHandle, ToCore},
    gate::Gate,
};

/// Connections the kernel keeps for us while we are busy. The usual 128 lose SYNs in a
/// reconnect storm, and each lost one costs its client a second.
const BACKLOG: i32 = 4096;
/// Pause after accept failed, most likely for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Binds an address that other gateways of this machine may share.
///
/// # Errors
/// If the address is taken by something else, or not ours.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Hands connections to cores until dropped. While the node holds `connections_max`, new ones
/// stay in the kernel's queue; those of an address that has too many are closed.
pub(crate) async fn accept(
    listener: TcpListener,
    cores: Arc<[CoreHandle]>,
    gate: Arc<Gate>,
    connections_max: u64,
) {
    // Cores report what they hold once a second; what was handed out since counts here.
    let mut handed: Vec<u64> = vec![0; cores.len()];
    let mut reported: Vec<u64> = vec![0; cores.len()];
    loop {
        for ((core, handed), reported) in cores.iter().zip(&mut handed).zip(&mut reported) {
            let now = core.connections();
            if now != *reported {
                *reported = now;
                *handed = 0;
            }
        }
        let load = |place: usize| reported[place] + handed[place];
        if gate.sockets() >= connections_max {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "accept failed; waiting");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(pass) = gate.pass(from.ip()) else {
            continue;
        };
        // Frames are written whole; waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        let Some(place) = (0..cores.len()).min_by_key(|&place| load(place)) else {
            return;
        };
        handed[place] += 1;
        if let Ok(socket) = stream.into_std() {
            // A core that is behind by a whole inbox takes no more clients: this one tries again.
            let _ = cores[place].send(ToCore::Socket(Accepted { socket, pass }));
        }
    }
}

/// The connection broke before it was accepted; the next one may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
