//! The processes of one cluster on this machine: where they listen, how they start, in which order they stop.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::http;
use crate::interrupt;
use crate::ports;
use crate::process::{Launch, Service, tail, wait_ready};

const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// For commands that end by themselves: migrations, imports.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
const STOP_GRACE: Duration = Duration::from_secs(15);

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Holds the three binaries.
    pub(crate) programs: PathBuf,
    pub(crate) database_url: String,
    pub(crate) redis_url: String,
    pub(crate) cluster_key: String,
    pub(crate) gateways: u16,
    /// Further settings for every process, such as `RATE_LIMITS=off`.
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) logs: PathBuf,
    /// Where the API keeps uploaded files.
    pub(crate) media: PathBuf,
    /// For pid files; `None`: leave none.
    pub(crate) run: Option<PathBuf>,
}

/// Where everything listens, loopback only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) api: u16,
    pub(crate) coordinator: u16,
    /// Shared by all gateways.
    pub(crate) gateway: u16,
    /// Each gateway's own port and its admin port.
    pub(crate) nodes: Vec<(u16, u16)>,
}

impl Ports {
    /// The usual numbers where they are free.
    pub(crate) fn choose(gateways: u16) -> Result<Self> {
        let mut taken = Vec::new();
        let mut choose = |usual: u16| -> Result<u16> {
            let port = ports::preferred(usual, &taken)?;
            taken.push(port);
            Ok(port)
        };
        let (api, gateway, coordinator) = (choose(8080)?, choose(8081)?, choose(8090)?);
        let nodes = (0..gateways)
            .map(|index| Ok((choose(8082 + index)?, choose(8092 + index)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            api,
            coordinator,
            gateway,
            nodes,
        })
    }
}

/// One process, and where it answers `/ready`.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) service: Service,
    pub(crate) health: SocketAddr,
}

impl Member {
    fn start(launch: &Launch, health: u16) -> Result<Self> {
        Ok(Self {
            service: launch.start()?,
            health: loopback(health),
        })
    }

    /// Waits until it can serve.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        let health = self.health;
        wait_ready(&mut self.service, READY_TIMEOUT, || http::is_ready(health))
    }
}

/// The running processes. Dropping it kills them; [`stop`](Self::stop) is the clean way.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) ports: Ports,
    /// In the order of their stop: gateways, API, coordinator.
    pub(crate) members: Vec<Member>,
}

impl Cluster {
    /// Applies the migrations and waits for the end of it.
    pub(crate) fn migrate(plan: &Plan, ports: &Ports) -> Result<()> {
        Self::run_to_end(plan.api(ports, "migrate"))
    }

    /// Brings a folder's sticker pack in.
    pub(crate) fn import_stickers(plan: &Plan, ports: &Ports, folder: &Path) -> Result<()> {
        let mut launch = plan.api(ports, "sticker-packs");
        let folder = folder.display().to_string();
        launch.arguments.extend(["import".to_owned(), folder]);
        Self::run_to_end(launch)
    }

    fn run_to_end(launch: Launch) -> Result<()> {
        let mut service = launch.start()?;
        let end = std::time::Instant::now() + COMMAND_TIMEOUT;
        loop {
            if let Some(status) = service.wait(Duration::from_millis(100)) {
                if status.success() {
                    return Ok(());
                }
                bail!(
                    "{} failed ({status}):\n{}",
                    service.name(),
                    tail(service.log(), 15)
                );
            }
            interrupt::check()?;
            if std::time::Instant::now() > end {
                bail!(
                    "{} took over {} s:\n{}",
                    service.name(),
                    COMMAND_TIMEOUT.as_secs(),
                    service.log_tail()
                );
            }
        }
    }

    /// Starts all processes at once and waits for each; `progress` is told what became ready.
    pub(crate) fn start(plan: &Plan, ports: Ports, mut progress: impl FnMut(&str)) -> Result<Self> {
        let mut members = Vec::new();
        for index in 0..ports.nodes.len() {
            members.push(Member::start(
                &plan.gateway(&ports, index),
                ports.nodes[index].1,
            )?);
        }
        members.push(Member::start(&plan.api(&ports, "serve"), ports.api)?);
        members.push(Member::start(&plan.coordinator(&ports), ports.coordinator)?);
        let mut cluster = Self { ports, members };
        for index in (0..cluster.members.len()).rev() {
            let waited = cluster.members[index].wait_ready();
            if let Err(error) = waited {
                cluster.stop();
                return Err(error);
            }
            let member = &cluster.members[index];
            progress(&format!(
                "{} (pid {})",
                member.service.name(),
                member.service.pid()
            ));
        }
        Ok(cluster)
    }

    /// The process of that name.
    pub(crate) fn pid(&self, name: &str) -> Option<u32> {
        self.members
            .iter()
            .find(|member| member.service.name() == name)
            .map(|member| member.service.pid())
    }

    pub(crate) fn api(&self) -> SocketAddr {
        loopback(self.ports.api)
    }

    /// Gateways together, so that they drain at the same time, then the API, then the coordinator.
    pub(crate) fn stop(&mut self) {
        let (gateways, others): (Vec<_>, Vec<_>) = self
            .members
            .drain(..)
            .partition(|member| member.service.name().starts_with("gateway"));
        let mut gateways = gateways;
        for member in &mut gateways {
            let signal = member.service.launch().stop_signal;
            member.service.signal(signal);
        }
        for mut member in gateways.into_iter().chain(others) {
            let name = member.service.name().to_owned();
            if !member.service.stop(STOP_GRACE) {
                let grace = STOP_GRACE.as_secs();
                match interrupt::hurried() {
                    true => println!("  {name} was killed"),
                    false => println!("  {name} did not stop within {grace} s and was killed"),
                }
            }
        }
    }
}

impl Plan {
    fn launch(
        &self,
        name: &str,
        binary: &str,
        command: Option<&str>,
        settings: Vec<(&str, String)>,
    ) -> Launch {
        let mut launch = Launch::new(
            name,
            self.programs.join(binary),
            self.logs.join(name).with_extension("log"),
        );
        launch.arguments = command.map(str::to_owned).into_iter().collect();
        launch.environment = self.settings.clone();
        let common = [
            ("DATABASE_URL", self.database_url.clone()),
            ("REDIS_URL", self.redis_url.clone()),
            ("CLUSTER_KEY", self.cluster_key.clone()),
            ("NO_COLOR", "1".to_owned()), // its log is a file
        ];
        launch.environment.extend(
            common
                .into_iter()
                .chain(settings)
                .map(|(name, value)| (name.to_owned(), value)),
        );
        launch.pid_file = self
            .run
            .as_ref()
            .map(|run| run.join(name).with_extension("pid"));
        launch.dies_with_parent = true;
        launch
    }

    fn api(&self, ports: &Ports, command: &str) -> Launch {
        let name = if command == "serve" { "api" } else { command };
        let settings = vec![
            ("API_LISTEN", loopback(ports.api).to_string()),
            ("API_PUBLIC_URL", format!("http://{}", loopback(ports.api))),
            ("GATEWAY_URL", format!("ws://{}", loopback(ports.gateway))),
            ("MEDIA_DIR", self.media.display().to_string()),
        ];
        self.launch(name, "guildhall-api", Some(command), settings)
    }

    fn gateway(&self, ports: &Ports, index: usize) -> Launch {
        let (own, admin) = ports.nodes[index];
        let name = format!("gateway-{}", index + 1);
        let settings = vec![
            ("NODE_ID", name.clone()),
            (
                "GATEWAY_LISTEN",
                format!("{},{}", loopback(own), loopback(ports.gateway)),
            ),
            ("GATEWAY_PUBLIC_URL", format!("ws://{}", loopback(own))),
            ("GATEWAY_URL", format!("ws://{}", loopback(ports.gateway))),
            ("GATEWAY_ADMIN_LISTEN", loopback(admin).to_string()),
            ("RELAY_LISTEN", loopback(0).to_string()),
        ];
        self.launch(&name, "guildhall-gateway", None, settings)
    }

    fn coordinator(&self, ports: &Ports) -> Launch {
        let settings = vec![
            ("COORDINATOR_ID", "coordinator-1".to_owned()),
            (
                "COORDINATOR_LISTEN",
                loopback(ports.coordinator).to_string(),
            ),
        ];
        self.launch("coordinator", "shard-coordinator", Some("serve"), settings)
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_out_twice() {
        let ports = Ports::choose(2).unwrap();
        let mut all = vec![ports.api, ports.coordinator, ports.gateway];
        all.extend(ports.nodes.iter().flat_map(|(own, admin)| [*own, *admin]));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
