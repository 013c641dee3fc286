//! Loopback ports that are free now.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};

/// A free port of the loopback interface.
///
/// Another process may take it before it is used; starting a server therefore
/// retries with a new one.
pub fn free() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr().context("no free port")?.port())
}

/// `preferred` if it is free, else any free port not in `taken`.
pub fn preferred(preferred: u16, taken: &[u16]) -> Result<u16> {
    if !taken.contains(&preferred) && TcpListener::bind((Ipv4Addr::LOCALHOST, preferred)).is_ok() {
        return Ok(preferred);
    }
    loop {
        let port = free()?;
        if !taken.contains(&port) {
            return Ok(port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_replaced() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let held = holder.local_addr().unwrap().port();
        let other = preferred(held, &[]).unwrap();
        assert_ne!(other, held);
        assert_ne!(preferred(other, &[other]).unwrap(), other);
    }
}
