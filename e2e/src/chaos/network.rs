//! What the processes are connected by: a network namespace each where this machine lets us make
//! them, else its loopback interface.
//!
//! On loopback a process can only be cut off by the proxies before it; in a namespace its cable
//! can be pulled as well, which nobody is told either.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result, ensure};
use xtask::process::Launch;

/// Bytes a process may be behind while its packets are dropped; less makes TCP stand still.
const QUEUE_BYTES: &str = "6000";

/// Where processes run.
#[derive(Debug)]
pub(super) enum Network {
    Loopback,
    /// A bridge of ours, by its name, and the first three bytes of its addresses.
    Namespaces {
        bridge: String,
        net: [u8; 3],
    },
}

/// A process's end of the network.
#[derive(Debug)]
pub(super) enum Place {
    Loopback,
    /// The namespace, and the name of its cable's end at the bridge.
    Namespace {
        name: String,
        cable: String,
        addr: Ipv4Addr,
    },
}

/// What is wrong with a cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cable {
    Whole,
    Pulled,
    /// Drops packets.
    Bad,
}

impl Network {
    /// Namespaces if they can be had.
    pub(super) fn choose() -> Self {
        if std::env::var_os("CHAOS_LOOPBACK").is_some() {
            return Self::Loopback;
        }
        remove_leftovers();
        let id = std::process::id();
        let bridge = format!("ghb{id}");
        let net = [10, 100 + (id % 100) as u8, (id / 100 % 250) as u8];
        let network = Self::Namespaces {
            bridge: bridge.clone(),
            net,
        };
        let address = format!("{}/24", Ipv4Addr::new(net[0], net[1], net[2], 1));
        let made = ip(&["link", "add", &bridge, "type", "bridge"])
            .and_then(|()| ip(&["address", "add", &address, "dev", &bridge]))
            .and_then(|()| ip(&["link", "set", &bridge, "up"]))
            .and_then(|()| network.place().map(drop));
        match made {
            Ok(()) => network,
            Err(error) => {
                println!("no network namespaces here: {error:#}");
                drop(network);
                Self::Loopback
            }
        }
    }

    /// Where processes find us and the proxies.
    pub(super) fn addr(&self) -> Ipv4Addr {
        match self {
            Self::Loopback => Ipv4Addr::LOCALHOST,
            Self::Namespaces { net, .. } => Ipv4Addr::new(net[0], net[1], net[2], 1),
        }
    }

    /// A place for one more process.
    pub(super) fn place(&self) -> Result<Place> {
        static NEXT: AtomicU8 = AtomicU8::new(2);
        let Self::Namespaces { bridge, net } = self else {
            return Ok(Place::Loopback);
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let addr = Ipv4Addr::new(net[0], net[1], net[2], number);
        let name = format!("guildhall-{}-{number}", std::process::id());
        let cable = format!("gh{}n{number}", std::process::id());
        let inside = format!("{addr}/24");
        ip(&["netns", "add", &name])?;
        let place = Place::Namespace {
            name: name.clone(),
            cable: cable.clone(),
            addr,
        };
        ip(&[
            "link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &name,
        ])?;
        ip(&["link", "set", &cable, "master", bridge])?;
        ip(&["link", "set", &cable, "up"])?;
        ip(&["-n", &name, "address", "add", &inside, "dev", "eth0"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        Ok(place)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Self::Namespaces { bridge, .. } = self {
            let _ = ip(&["link", "delete", bridge]);
        }
    }
}

impl Place {
    pub(super) fn addr(&self) -> Ipv4Addr {
        match self {
            Self::Loopback => Ipv4Addr::LOCALHOST,
            Self::Namespace { addr, .. } => *addr,
        }
    }

    /// Makes a process start here.
    pub(super) fn settle(&self, launch: &mut Launch) {
        if let Self::Namespace { name, .. } = self {
            let program = launch.program.display().to_string();
            let words = ["netns", "exec", name, &program].map(str::to_owned);
            launch.arguments.splice(0..0, words);
            launch.program = "ip".into();
        }
    }

    /// False: there is no cable here.
    pub(super) fn set_cable(&self, state: Cable) -> Result<bool> {
        let Self::Namespace { cable, .. } = self else {
            return Ok(false);
        };
        match state {
            Cable::Pulled => ip(&["link", "set", cable, "down"])?,
            Cable::Bad => {
                let lossy = ["qdisc", "add", "dev", cable, "root", "netem", "loss", "20%"];
                if run("tc", &lossy).is_err() {
                    // Without netem: a short queue that overflows.
                    let mut narrow = vec!["qdisc", "add", "dev", cable, "root", "tbf"];
                    narrow.extend(["rate", "400kbit", "burst", "3000", "limit", QUEUE_BYTES]);
                    run("tc", &narrow)?;
                }
            }
            Cable::Whole => {
                let _ = run("tc", &["qdisc", "del", "dev", cable, "root"]); // there may be none
                ip(&["link", "set", cable, "up"])?;
            }
        }
        Ok(true)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Namespace { name, cable, .. } = self {
            let _ = ip(&["link", "delete", cable]);
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

/// Removes what runs left that were killed.
fn remove_leftovers() {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in names {
        let name = name.file_name().to_string_lossy().into_owned();
        let Some(pid) = name
            .strip_prefix("guildhall-")
            .and_then(|rest| rest.split('-').next())
        else {
            continue;
        };
        if !fs::exists(format!("/proc/{pid}")).unwrap_or(true) {
            let _ = ip(&["netns", "delete", &name]);
            let _ = ip(&["link", "delete", &format!("ghb{pid}")]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("no program {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        errors.trim()
    );
    Ok(())
}
