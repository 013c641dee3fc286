//! Loopback ports that are free now.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// Below the ports that systems hand out by themselves (from 32768 on Linux, 49152 on macOS):
/// no outgoing connection and no `bind` of port 0 takes one of these before its server does,
/// nor while the server is down between two starts.
const RANGE: Range<u16> = 15_000..32_000;

/// Where this process looks next; it never gives the same port twice before all were given.
/// Other processes begin elsewhere.
static NEXT: Mutex<Option<u16>> = Mutex::new(None);

/// A free port of the loopback interface, which nobody else is given by chance.
pub fn free() -> Result<u16> {
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut port = next.unwrap_or_else(random);
    for _ in RANGE {
        let candidate = port;
        port = if port + 1 < RANGE.end {
            port + 1
        } else {
            RANGE.start
        };
        if is_free(candidate) {
            *next = Some(port);
            return Ok(candidate);
        }
    }
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|addr| addr.port())
        .context("no free port")
}

/// `preferred` if it is free, else any free port not in `taken`.
pub fn preferred(preferred: u16, taken: &[u16]) -> Result<u16> {
    if !taken.contains(&preferred) && is_free(preferred) {
        return Ok(preferred);
    }
    loop {
        let port = free()?;
        if !taken.contains(&port) {
            return Ok(port);
        }
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn random() -> u16 {
    let random = RandomState::new().hash_one(std::process::id());
    let width = u64::from(RANGE.end - RANGE.start);
    RANGE.start + (random % width) as u16
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_taken_port_is_replaced() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let held = holder.local_addr().unwrap().port();
        let other = preferred(held, &[]).unwrap();
        assert_ne!(other, held);
        assert_ne!(preferred(other, &[other]).unwrap(), other);
    }

    #[test]
    fn no_port_is_given_twice_or_by_the_system() {
        let ports: BTreeSet<u16> = (0..50).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 50);
        assert!(ports.iter().all(|port| RANGE.contains(port)));
    }
}
