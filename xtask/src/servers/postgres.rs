//! A private Postgres: one data folder, one port, one superuser with a random password.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::binaries::{Binaries, POSTGRES_VARIABLE, version};
use super::scratch::{make_owned, postgres_account, scratch_folder};
use super::secrets::{random_secret, write_private};
use crate::interrupt;
use crate::ports;
use crate::process::{Account, Launch, Service, Signal, exists, wait_ready};

/// Bytes decide the order of text, Unicode what its letters and capitals are: a search
/// without it finds no "Ö" by "ö".
const CHARACTERS: &str = if cfg!(target_os = "macos") {
    "--lc-ctype=UTF-8"
} else {
    "--lc-ctype=C.UTF-8"
};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_GRACE: Duration = Duration::from_secs(20);
const START_ATTEMPTS: u32 = 3;

/// How a [`Postgres`] is set up.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Everything of this server is below it. Made if missing; kept when the server stops.
    pub folder: PathBuf,
    /// `None`: a free one.
    pub port: Option<u16>,
    /// Of the superuser `postgres`. Set when the data folder is made, kept afterwards.
    pub password: String,
    /// fsync and synchronous commit. Off only where the data is thrown away anyway.
    pub durable: bool,
    pub connections_max: u16,
    pub log: PathBuf,
    pub pid_file: Option<PathBuf>,
    /// See [`Launch::dies_with_parent`]: only for callers whose starting thread lives on.
    pub dies_with_parent: bool,
}

/// A running private Postgres. Dropping it stops it (cleanly if possible).
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    options: PostgresOptions,
    account: Option<Account>,
    port: u16,
    service: Option<Service>,
    remove_folder: bool,
}

impl Postgres {
    /// An empty server for a test: not durable, folder removed when dropped.
    pub fn temporary(binaries: &Binaries) -> Result<Self> {
        Self::temporary_with(binaries, false, false)
    }

    /// The same for a command of `xtask`: ends with it even by kill -9; durable where that is measured.
    pub(crate) fn temporary_with(
        binaries: &Binaries,
        durable: bool,
        dies_with_parent: bool,
    ) -> Result<Self> {
        let folder = scratch_folder("postgres")?;
        let options = PostgresOptions {
            log: folder.join("postgres.log"),
            folder: folder.clone(),
            port: None,
            password: random_secret()?,
            durable,
            connections_max: 500,
            pid_file: Some(folder.join("postgres.pid")),
            dies_with_parent,
        };
        // The log and the folder around the data stay ours; only the data is given away.
        let started = Self::start(&binaries.postgres, options);
        match started {
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

    /// Starts the server of `options.folder`, first making its data if there is none,
    /// with an empty database `guildhall` in it. Returns when it takes connections.
    /// `programs` is the folder of `postgres` and `initdb`; data of another major version is
    /// served by the programs of that version, if this machine has them.
    ///
    /// As root it runs as the user `postgres`, which must be able to enter the folder.
    pub fn start(programs: &Path, options: PostgresOptions) -> Result<Self> {
        let account = postgres_account()?;
        let mut server = Self {
            programs: programs.to_owned(),
            account,
            port: 0,
            service: None,
            remove_folder: false,
            options,
        };
        if !server.data_folder().join("PG_VERSION").is_file() {
            server.make_data()?;
        }
        server.choose_version()?;
        server.settle_stale_pid()?;
        server.run()?;
        Ok(server)
    }

    /// `postgres://` address with the password in it, for one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres:{}@127.0.0.1:{}/{database}",
            self.options.password, self.port
        )
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The postmaster's, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.service.as_ref().map(Service::pid)
    }

    pub fn data_folder(&self) -> PathBuf {
        self.options.folder.join("data")
    }

    pub fn log(&self) -> &Path {
        &self.options.log
    }

    /// A client program of the same installation (`psql`, `pgbench`, `createdb`), if it has it.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        let program = self.programs.join(name);
        program.is_file().then_some(program)
    }

    /// The process, for a supervisor.
    pub fn service(&mut self) -> Option<&mut Service> {
        self.service.as_mut()
    }

    /// Clean shutdown: connections are cut, what is committed is on disk. Does nothing if stopped.
    pub fn stop(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.stop(STOP_GRACE);
        }
    }

    /// kill -9 of the postmaster. Its children notice and end too, within moments.
    pub fn kill(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.kill();
        }
    }

    /// Starts it again after [`stop`](Self::stop), [`kill`](Self::kill) or a crash: same port and data.
    pub fn start_again(&mut self) -> Result<()> {
        self.kill();
        self.options.port = Some(self.port);
        self.settle_stale_pid()?;
        self.run()
    }

    /// Makes the data folder and the database in it. It has another name until it is complete, so
    /// what a killed run leaves behind is never taken for data.
    fn make_data(&self) -> Result<()> {
        let (data, fresh) = (self.data_folder(), self.options.folder.join("data.new"));
        fs::create_dir_all(&self.options.folder)
            .with_context(|| format!("cannot make {}", self.options.folder.display()))?;
        for unfinished in [&data, &fresh] {
            let _ = fs::remove_dir_all(unfinished);
        }
        make_owned(&fresh, self.account)?;
        let secret = self.options.folder.join("initial-password");
        write_private(&secret, &self.options.password)?;
        if let Some(account) = self.account {
            chown(&secret, Some(account.uid), Some(account.gid))
                .context("cannot hand over the password")?;
        }
        let made = self
            .initdb(&secret, &fresh)
            .and_then(|()| self.create_database(&fresh))
            .and_then(|()| {
                fs::rename(&fresh, &data).with_context(|| format!("cannot make {}", data.display()))
            });
        let _ = fs::remove_file(&secret);
        if made.is_err() {
            let _ = fs::remove_dir_all(&fresh);
        }
        made
    }

    fn initdb(&self, secret: &Path, data: &Path) -> Result<()> {
        let mut command = self.command("initdb");
        command
            .args([
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
                CHARACTERS,
                "--auth=scram-sha-256",
                "--no-instructions",
            ])
            .arg(format!("--pwfile={}", secret.display()))
            .arg("--pgdata")
            .arg(data);
        if !self.options.durable {
            command.arg("--no-sync");
        }
        run_quietly(command, "")
    }

    /// In single-user mode, so that no client program is needed.
    fn create_database(&self, data: &Path) -> Result<()> {
        let mut command = self.command("postgres");
        command.args(["--single", "-D"]).arg(data).arg("postgres");
        run_quietly(command, "create database guildhall\n")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command
            .current_dir("/")
            .env_remove("PGDATA")
            .env("LC_ALL", "C");
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    /// Data of another major version cannot be opened; Postgres' own words for it help nobody.
    fn choose_version(&mut self) -> Result<()> {
        let made_by = fs::read_to_string(self.data_folder().join("PG_VERSION"))
            .context("cannot read PG_VERSION")?;
        let made_by = made_by.trim();
        let wanted: Option<u32> = made_by.parse().ok();
        if version(&self.programs.join("postgres")) == wanted {
            return Ok(());
        }
        let Some(programs) = wanted.and_then(Binaries::find_postgres_of) else {
            bail!(
                "{} was made by Postgres {made_by}, and {} is of another version; install that \
                 one (if it is installed, name its folder in {POSTGRES_VARIABLE}) or start empty \
                 (--fresh)",
                self.data_folder().display(),
                self.programs.display(),
            );
        };
        self.programs = programs;
        Ok(())
    }

    /// Postgres refuses to start over a `postmaster.pid` whose pid is alive, even if that is
    /// some other program by now; and it must never be removed while the owner does live.
    fn settle_stale_pid(&self) -> Result<()> {
        let file = self.data_folder().join("postmaster.pid");
        let Ok(text) = fs::read_to_string(&file) else {
            return Ok(());
        };
        let Some(pid) = text
            .lines()
            .next()
            .and_then(|line| line.trim().parse::<u32>().ok())
        else {
            return Ok(()); // postgres says what it thinks of it
        };
        let is_postgres = |pid: u32| match fs::read_to_string(format!("/proc/{pid}/cmdline")) {
            Ok(line) => line
                .split('\0')
                .any(|word| Path::new(word) == self.data_folder()),
            Err(_) => !Path::new("/proc/self").exists() && exists(pid),
        };
        if is_postgres(pid) {
            bail!(
                "a Postgres (pid {pid}) already runs on {}; stop it first: kill -INT {pid}",
                self.data_folder().display(),
            );
        }
        fs::remove_file(&file)
            .with_context(|| format!("cannot remove the stale {}", file.display()))
    }

    fn run(&mut self) -> Result<()> {
        let mut attempt = 1;
        loop {
            let fixed = self.options.port;
            self.port = fixed.map_or_else(ports::free, Ok)?;
            let mut service = self.launch().start()?;
            let port = self.port;
            match wait_ready(&mut service, START_TIMEOUT, || accepts_sessions(port)) {
                Ok(()) => {
                    self.service = Some(service);
                    return Ok(());
                }
                // The port was taken meanwhile, or children of a killed server hold its memory a moment longer.
                Err(_) if attempt < START_ATTEMPTS && !interrupt::requested() => {
                    attempt += 1;
                    interrupt::sleep(Duration::from_millis(500))?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn launch(&self) -> Launch {
        let mut launch = Launch::new(
            "postgres",
            self.programs.join("postgres"),
            &self.options.log,
        );
        let mut settings = vec![
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            "unix_socket_directories=".to_owned(),
            format!("max_connections={}", self.options.connections_max),
            "password_encryption=scram-sha-256".to_owned(),
        ];
        if !self.options.durable {
            settings.extend(
                [
                    "fsync=off",
                    "synchronous_commit=off",
                    "full_page_writes=off",
                ]
                .map(str::to_owned),
            );
        }
        launch.arguments = vec!["-D".to_owned(), self.data_folder().display().to_string()];
        for setting in settings {
            launch.arguments.extend(["-c".to_owned(), setting]);
        }
        launch.environment = vec![("LC_ALL".to_owned(), "C".to_owned())];
        launch.folder = PathBuf::from("/");
        launch.stop_signal = Signal::INT; // "fast": does not wait for clients to leave
        launch.account = self.account;
        launch.pid_file = self.options.pid_file.clone();
        launch.dies_with_parent = self.options.dies_with_parent;
        launch
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
        if self.remove_folder {
            let _ = fs::remove_dir_all(&self.options.folder);
        }
    }
}

/// Sends a start-up message: an authentication request means ready, an error means not yet.
fn accepts_sessions(port: u16) -> bool {
    const PROTOCOL: u32 = 196_608; // 3.0
    const PARAMETERS: &[u8] = b"user\0postgres\0database\0postgres\0\0";
    let ask = || -> std::io::Result<u8> {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let length = u32::try_from(8 + PARAMETERS.len()).unwrap_or(u32::MAX);
        let mut message = length.to_be_bytes().to_vec();
        message.extend(PROTOCOL.to_be_bytes());
        message.extend(PARAMETERS);
        socket.write_all(&message)?;
        let mut kind = [0];
        socket.read_exact(&mut kind)?;
        Ok(kind[0])
    };
    ask().is_ok_and(|kind| kind == b'R')
}

/// Runs to the end; its output is shown only in the error.
fn run_quietly(mut command: Command, input: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes()); // if it ended early, its status says why
    }
    let output = child
        .wait_with_output()
        .with_context(|| format!("lost {program}"))?;
    if !output.status.success() {
        interrupt::check()?; // Ctrl-C reaches it, too
        bail!(
            "{program} failed ({}):\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
    }
    Ok(())
}
