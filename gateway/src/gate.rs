//! How many sockets this process holds, from the moment they are accepted, and how many one
//! address may hold: a client that opens more is closed at once, so that it cannot take the
//! connections of everybody else.
//!
//! Addresses of IPv6 are counted by their /64, which is what one customer gets.

use std::{
    collections::hash_map::Entry,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use rustc_hash::FxHashMap;

/// Addresses remembered before those without sockets are forgotten.
const ADDRESSES_KEPT: usize = 4096;

/// Shared by all listeners of a process. Locked once per accepted socket; sockets that end
/// only drop their [`Pass`].
#[derive(Debug)]
pub(crate) struct Gate {
    /// Of one address; 0: no limit.
    sockets_max: usize,
    all: Arc<()>,
    addresses: Mutex<Addresses>,
}

#[derive(Debug)]
struct Addresses {
    passes: FxHashMap<IpAddr, Arc<()>>,
    forget_at: usize,
}

/// Counts a socket while it lives.
#[derive(Debug)]
pub struct Pass {
    _all: Arc<()>,
    _address: Option<Arc<()>>,
}

impl Gate {
    pub(crate) fn new(sockets_max: u32) -> Self {
        Self {
            sockets_max: sockets_max as usize,
            all: Arc::default(),
            addresses: Mutex::new(Addresses {
                passes: FxHashMap::default(),
                forget_at: ADDRESSES_KEPT,
            }),
        }
    }

    /// Sockets with a pass.
    pub(crate) fn sockets(&self) -> u64 {
        Arc::strong_count(&self.all) as u64 - 1
    }

    /// Lets a socket of this address in; `None` if it has enough of them.
    pub(crate) fn pass(&self, address: IpAddr) -> Option<Pass> {
        let pass = |address| Pass {
            _all: self.all.clone(),
            _address: address,
        };
        if self.sockets_max == 0 {
            return Some(pass(None));
        }
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if addresses.passes.len() >= addresses.forget_at {
            addresses
                .passes
                .retain(|_, passes| Arc::strong_count(passes) > 1);
            addresses.forget_at = ADDRESSES_KEPT.max(addresses.passes.len() * 2);
        }
        match addresses.passes.entry(customer(address)) {
            // One of the references is the map's own.
            Entry::Occupied(known) if Arc::strong_count(known.get()) > self.sockets_max => None,
            Entry::Occupied(known) => Some(pass(Some(known.get().clone()))),
            Entry::Vacant(new) => Some(pass(Some(new.insert(Arc::default()).clone()))),
        }
    }
}

/// What is counted as one address.
fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let network = address.to_bits() & (u128::MAX << 64);
            Ipv6Addr::from_bits(network).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_gets_its_share_and_gets_it_back() {
        let gate = Gate::new(2);
        let first = gate.pass(address("192.0.2.1"));
        let second = gate.pass(address("192.0.2.1"));
        assert!(first.is_some() && second.is_some());
        assert_eq!(gate.sockets(), 2);
        assert!(gate.pass(address("192.0.2.1")).is_none());
        assert!(gate.pass(address("::ffff:192.0.2.1")).is_none());
        assert!(gate.pass(address("192.0.2.2")).is_some());
        drop(first);
        assert!(gate.pass(address("192.0.2.1")).is_some());
    }

    #[test]
    fn a_network_of_ipv6_is_one_customer() {
        let gate = Gate::new(1);
        let _kept = gate.pass(address("2001:db8::1"));
        assert!(gate.pass(address("2001:db8::ffff:1")).is_none());
        assert!(gate.pass(address("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn addresses_that_left_are_forgotten() {
        let gate = Gate::new(1);
        for number in 0..100_000u32 {
            assert!(gate.pass(IpAddr::V4(number.into())).is_some());
        }
        assert!(gate.addresses.lock().unwrap().passes.len() <= ADDRESSES_KEPT);
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let gate = Gate::new(0);
        let passes: Vec<_> = (0..10).map(|_| gate.pass(address("192.0.2.1"))).collect();
        assert!(passes.iter().all(Option::is_some));
        assert_eq!(gate.sockets(), 10);
        assert!(gate.addresses.lock().unwrap().passes.is_empty());
    }
}
