//! A private Redis (or Valkey): one port, one random password, nothing on disk.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::binaries::Binaries;
use super::scratch::scratch_folder;
use super::secrets::{random_secret, write_private};
use crate::interrupt;
use crate::ports;
use crate::process::{Launch, Service, wait_ready};

const START_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_GRACE: Duration = Duration::from_secs(5);
const START_ATTEMPTS: u32 = 3;
/// Where it writes what it knows, if told to, and looks at its start.
const DUMP: &str = "dump.rdb";

/// Slots of a Redis Cluster.
const SLOTS: u32 = 16_384;
/// A member of a Redis Cluster that does not answer for so long counts as dead.
const MEMBER_TIMEOUT_MS: u32 = 2_000;

/// How a [`Redis`] is set up.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// For its configuration; made if missing. The data is in memory only.
    pub folder: PathBuf,
    /// `None`: a free one.
    pub port: Option<u16>,
    pub password: String,
    pub log: PathBuf,
    pub pid_file: Option<PathBuf>,
    /// See [`Launch::dies_with_parent`]: only for callers whose starting thread lives on.
    pub dies_with_parent: bool,
    /// A member of a Redis Cluster, see [`form_cluster`]; it keeps its place in it when it is
    /// started again.
    pub cluster: bool,
    /// It listens with TLS as well, at a port of its own; members of a cluster then also speak
    /// to each other by it.
    pub tls: Option<RedisTls>,
}

/// What a [`Redis`] with TLS shows. Files in PEM.
#[derive(Debug, Clone)]
pub struct RedisTls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The certificate of who signed the other one.
    pub authority: PathBuf,
}

/// A running private Redis. Dropping it stops it.
#[derive(Debug)]
pub struct Redis {
    program: PathBuf,
    options: RedisOptions,
    port: u16,
    /// For the other members of a cluster; 0 outside of one.
    bus_port: u16,
    /// 0 without TLS.
    tls_port: u16,
    service: Option<Service>,
    remove_folder: bool,
}

impl Redis {
    /// An empty server for a test; its folder is removed when dropped.
    pub fn temporary(binaries: &Binaries) -> Result<Self> {
        Self::temporary_with(binaries, false)
    }

    /// The same for a command of `xtask`: ends with it even by kill -9.
    pub(crate) fn temporary_with(binaries: &Binaries, dies_with_parent: bool) -> Result<Self> {
        let folder = scratch_folder("redis")?;
        let options = RedisOptions {
            log: folder.join("redis.log"),
            folder: folder.clone(),
            port: None,
            password: random_secret()?,
            pid_file: Some(folder.join("redis.pid")),
            dies_with_parent,
            cluster: false,
            tls: None,
        };
        match Self::start(&binaries.redis, options) {
            Ok(mut server) => {
                server.remove_folder = true;
                Ok(server)
            }
            Err(error) => {
                let _ = fs::remove_dir_all(folder);
                Err(error)
            }
        }
    }

    /// Starts an empty server; returns when it answers.
    pub fn start(program: &Path, options: RedisOptions) -> Result<Self> {
        fs::create_dir_all(&options.folder)
            .with_context(|| format!("cannot make {}", options.folder.display()))?;
        let mut server = Self {
            program: program.to_owned(),
            options,
            port: 0,
            bus_port: 0,
            tls_port: 0,
            service: None,
            remove_folder: false,
        };
        server.run()?;
        Ok(server)
    }

    /// `redis://` address with the password in it.
    pub fn url(&self) -> String {
        format!("redis://:{}@127.0.0.1:{}", self.options.password, self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens with TLS; 0: nowhere.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// While it runs.
    pub fn pid(&self) -> Option<u32> {
        self.service.as_ref().map(Service::pid)
    }

    pub fn log(&self) -> &Path {
        &self.options.log
    }

    /// The process, for a supervisor.
    pub fn service(&mut self) -> Option<&mut Service> {
        self.service.as_mut()
    }

    /// Clean stop; everything in it is gone. Does nothing if stopped.
    pub fn stop(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.stop(STOP_GRACE);
        }
    }

    /// kill -9; everything in it is gone.
    pub fn kill(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.kill();
        }
    }

    /// Starts it again, empty, with the same port and password.
    pub fn start_again(&mut self) -> Result<()> {
        self.kill();
        self.options.port = Some(self.port);
        self.run()
    }

    /// Starts it again with what it knew when [`save`](Self::save) was called; empty without that.
    pub fn start_from_save(&mut self) -> Result<()> {
        self.kill();
        let (saved, dump) = (self.saved(), self.options.folder.join(DUMP));
        let restored = fs::copy(saved, &dump).is_ok();
        let started = self.start_again();
        if restored {
            fs::remove_file(&dump).context("cannot remove the dump")?;
        }
        started
    }

    /// Writes what it knows beside its data, for [`start_from_save`](Self::start_from_save).
    pub fn save(&self) -> Result<()> {
        self.expect("SAVE", "+OK\r\n+OK")?;
        let dump = self.options.folder.join(DUMP);
        fs::rename(dump, self.saved()).context("no dump of Redis")
    }

    fn saved(&self) -> PathBuf {
        self.options.folder.join("saved.rdb")
    }

    /// Follows another one of the same password at this port; `None`: nobody any more.
    pub fn replicate(&self, port: Option<u16>) -> Result<()> {
        match port {
            Some(port) => self.expect(&format!("REPLICAOF 127.0.0.1 {port}"), "+OK\r\n+OK"),
            None => self.expect("REPLICAOF NO ONE", "+OK\r\n+OK"),
        }
    }

    fn expect(&self, command: &str, wanted: &str) -> Result<()> {
        let reply = self
            .command(command)
            .with_context(|| format!("redis did not answer {command}"))?;
        anyhow::ensure!(
            reply.contains(wanted),
            "redis answered {reply:?} to {command}"
        );
        Ok(())
    }

    /// FLUSHALL: everything in it is gone, connections stay.
    pub fn flush(&self) -> Result<()> {
        self.expect("FLUSHALL", "+OK\r\n+OK")
    }

    fn run(&mut self) -> Result<()> {
        let mut attempt = 1;
        loop {
            let fixed = self.options.port;
            self.port = fixed.map_or_else(ports::free, Ok)?;
            if self.options.cluster && (fixed.is_none() || self.bus_port == 0) {
                self.bus_port = ports::free()?;
            }
            if self.options.tls.is_some() && (fixed.is_none() || self.tls_port == 0) {
                self.tls_port = ports::free()?;
            }
            let configuration = self.options.folder.join("redis.conf");
            write_private(&configuration, &self.configuration())?;
            let mut launch = Launch::new("redis", &self.program, &self.options.log);
            launch.arguments = vec![configuration.display().to_string()];
            launch.folder.clone_from(&self.options.folder);
            launch.pid_file.clone_from(&self.options.pid_file);
            launch.dies_with_parent = self.options.dies_with_parent;
            let mut service = launch.start()?;
            match wait_ready(&mut service, START_TIMEOUT, || {
                self.command("PING")
                    .is_ok_and(|reply| reply.contains("+PONG"))
            }) {
                Ok(()) => {
                    self.service = Some(service);
                    return Ok(());
                }
                Err(_) if attempt < START_ATTEMPTS && !interrupt::requested() => attempt += 1, // the port was taken
                Err(error) => return Err(error),
            }
        }
    }

    fn configuration(&self) -> String {
        let mut lines = format!(
            "bind 127.0.0.1\nport {}\nrequirepass {}\nmasterauth {}\ndaemonize no\nsave \"\"\n\
             appendonly no\nmaxmemory-policy noeviction\nrepl-diskless-sync-delay 0\n",
            self.port, self.options.password, self.options.password,
        );
        if self.options.cluster {
            lines.push_str(&format!(
                "cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-port {}\n\
                 cluster-node-timeout {MEMBER_TIMEOUT_MS}\ncluster-require-full-coverage no\n",
                self.bus_port,
            ));
        }
        if let Some(tls) = &self.options.tls {
            lines.push_str(&format!(
                "tls-port {}\ntls-cert-file \"{}\"\ntls-key-file \"{}\"\n\
                 tls-ca-cert-file \"{}\"\ntls-auth-clients no\n",
                self.tls_port,
                tls.certificate.display(),
                tls.key.display(),
                tls.authority.display(),
            ));
            if self.options.cluster {
                // Or members would not tell clients with TLS the ports for them.
                lines.push_str("tls-cluster yes\ntls-replication yes\n");
            }
        }
        lines
    }

    /// Waits for an answer to a command.
    fn wait_for(&mut self, command: &str, is_so: impl Fn(&str) -> bool) -> Result<()> {
        let (port, password) = (self.port, self.options.password.clone());
        let service = self.service.as_mut().context("a member stopped")?;
        wait_ready(service, START_TIMEOUT, || {
            command_at(port, &password, command).is_ok_and(|reply| is_so(&reply))
        })
    }

    /// This member's name in its cluster.
    fn member_id(&self) -> Result<String> {
        let reply = self.command("CLUSTER MYID")?;
        let mut lines = reply.lines().map(str::trim);
        let id = lines.find(|line| line.len() == 40);
        Ok(id.context("no id of a member")?.to_owned())
    }

    /// AUTH and one command; the raw replies.
    fn command(&self, command: &str) -> std::io::Result<String> {
        command_at(self.port, &self.options.password, command)
    }
}

/// Makes a Redis Cluster of new, empty members: the first ones are primaries of about as many slots
/// each, the others follow them in turn; returns when all of them know it.
pub fn form_cluster(members: &mut [Redis], primaries: usize) -> Result<()> {
    let count = primaries as u32;
    for (number, member) in (0..).zip(&*members) {
        if number < count {
            let slots = (SLOTS * number / count, SLOTS * (number + 1) / count - 1);
            let add = format!("CLUSTER ADDSLOTSRANGE {} {}", slots.0, slots.1);
            member.expect(&add, "+OK\r\n+OK")?;
        }
        let epoch = format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1);
        member.expect(&epoch, "+OK\r\n+OK")?;
    }
    for other in &members[1..] {
        let meet = format!("CLUSTER MEET 127.0.0.1 {} {}", other.port, other.bus_port);
        members[0].expect(&meet, "+OK\r\n+OK")?;
    }
    let known = format!("cluster_known_nodes:{}\r\n", members.len());
    for member in &mut *members {
        // Each knows all slots of all.
        let wanted = [&known, "cluster_slots_ok:16384\r\n", "cluster_state:ok"];
        member.wait_for("CLUSTER INFO", |reply| {
            wanted.iter().all(|wanted| reply.contains(wanted))
        })?;
    }
    let (leaders, followers) = members.split_at_mut(primaries);
    for (follower, leader) in followers.iter_mut().zip(leaders.iter().cycle()) {
        let replicate = format!("CLUSTER REPLICATE {}", leader.member_id()?);
        follower.expect(&replicate, "+OK\r\n+OK")?;
        follower.wait_for("INFO replication", |reply| {
            reply.contains("master_link_status:up")
        })?;
    }
    for leader in leaders {
        // Or it would not help a follower of another one to take its place.
        let is_follower = |line: &str| line.contains(" slave ");
        let all = followers.len();
        leader.wait_for("CLUSTER NODES", |reply| {
            reply.lines().filter(|line| is_follower(line)).count() == all
        })?;
    }
    Ok(())
}

/// Gives a slot to another member, as `redis-cli --cluster reshard` does, but for its keys: they
/// are lost.
pub fn move_slot(members: &[Redis], slot: u16, from: usize, to: usize) -> Result<()> {
    let id = members[to].member_id()?;
    let (from_id, set) = (
        members[from].member_id()?,
        format!("CLUSTER SETSLOT {slot}"),
    );
    members[to].expect(&format!("{set} IMPORTING {from_id}"), "+OK\r\n+OK")?;
    members[from].expect(&format!("{set} MIGRATING {id}"), "+OK\r\n+OK")?;
    // Whoever writes to a key that is not there is sent to the other one from now on.
    let keys = format!("CLUSTER GETKEYSINSLOT {slot} 10000");
    let keys = members[from].command(&keys)?;
    for key in keys.lines().map(str::trim) {
        if !key.is_empty() && !key.starts_with(['+', '*', '$']) {
            members[from].command(&format!("DEL {key}"))?;
        }
    }
    for member in [to, from] {
        members[member].expect(&format!("{set} NODE {id}"), "+OK\r\n+OK")?;
    }
    Ok(())
}

/// AUTH and one command; the raw replies.
fn command_at(port: u16, password: &str, command: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(socket, "AUTH {password}\r\n{command}\r\nQUIT\r\n")?;
    let mut reply = String::new();
    socket.read_to_string(&mut reply)?;
    Ok(reply)
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
        if self.remove_folder {
            let _ = fs::remove_dir_all(&self.options.folder);
        }
    }
}
