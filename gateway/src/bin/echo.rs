//! `guildhall-gateway-echo [address]`: see the library's module `echo`. Prints the address it
//! listens on, 127.0.0.1 and a free port if none is given.

use std::{
    io::{self, Write},
    net::SocketAddr,
};

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1);
    let address = address.as_deref().unwrap_or("127.0.0.1:0");
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    guildhall_gateway::echo::run(address, |bound| {
        let mut stdout = io::stdout();
        // Whoever started us and does not listen does not need to know.
        let _ = writeln!(stdout, "{bound}").and_then(|()| stdout.flush());
    })
}
