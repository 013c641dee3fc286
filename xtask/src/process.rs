//! One child process with its log file: start, look, stop, kill.
//!
//! Children run in a process group of their own, so a Ctrl-C at the terminal
//! reaches `xtask` alone and the children stop in the order it chooses.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, test_kill_process};

use crate::interrupt::{self, POLL_INTERVAL};

/// A user of this machine, by numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

/// What to start and how it is to be stopped.
#[derive(Debug, Clone)]
pub struct Launch {
    /// In messages, and the stem of the log and pid file.
    pub name: String,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub folder: PathBuf,
    /// Receives stdout and stderr; the one of the run before is kept as `.log.1`.
    pub log: PathBuf,
    /// Asks for a clean stop.
    pub stop_signal: Signal,
    /// Another user than ours; only root can.
    pub account: Option<Account>,
    /// Where to leave the pid for a later run that finds us killed.
    pub pid_file: Option<PathBuf>,
    /// Send `stop_signal` when the *thread* that starts it ends, even by kill -9
    /// (Linux with util-linux's setpriv; elsewhere the pid file is all there is).
    pub dies_with_parent: bool,
}

impl Launch {
    /// A process as we are, in the folder of its log, stopped by SIGTERM.
    pub fn new(name: &str, program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        let log = log.into();
        Self {
            name: name.to_owned(),
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: log.parent().unwrap_or(Path::new("/")).to_owned(),
            log,
            stop_signal: Signal::TERM,
            account: None,
            pid_file: None,
            dies_with_parent: false,
        }
    }

    fn command(&self) -> Command {
        let wrapper = if self.dies_with_parent {
            setpriv()
        } else {
            None
        };
        let mut command = match wrapper {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command
                    .args(["--pdeathsig", signal_name(self.stop_signal), "--"])
                    .arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
            .current_dir(&self.folder)
            .process_group(0)
            .stdin(Stdio::null());
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    /// Starts it. That it is *ready* is for the caller to find out.
    pub fn start(&self) -> Result<Service> {
        let mut before = self.log.clone().into_os_string();
        before.push(".1");
        let _ = fs::rename(&self.log, before); // there may be none
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let errors = log.try_clone().context("cannot share the log file")?;
        let child = self
            .command()
            .stdout(log)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {} ({})", self.name, self.program.display()))?;
        // From here on an error ends it.
        let service = Service {
            launch: self.clone(),
            child,
            ended: None,
        };
        if let Some(pid_file) = &self.pid_file {
            let pid = service.pid();
            let record = format!("{pid} {}\n", started_at(pid).unwrap_or_default());
            fs::write(pid_file, record)
                .with_context(|| format!("cannot write {}", pid_file.display()))?;
        }
        Ok(service)
    }
}

/// A started child. Dropping it kills it.
#[derive(Debug)]
pub struct Service {
    launch: Launch,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Service {
    pub fn name(&self) -> &str {
        &self.launch.name
    }

    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.launch.log
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
            if self.ended.is_some() {
                self.forget();
            }
        }
        self.ended
    }

    /// Sends a signal to the process, not to its children.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none()
            && let Some(pid) = Pid::from_raw(self.child.id().cast_signed())
        {
            let _ = kill_process(pid, signal); // it may end at this very moment
        }
    }

    /// Asks for a clean stop; kills it when `grace` has passed, or when Ctrl-C is pressed once more.
    /// True: it stopped by itself.
    pub fn stop(&mut self, grace: Duration) -> bool {
        self.stop_unless(interrupt::hurried, grace)
    }

    /// As [`stop`](Self::stop), with what ends the waiting.
    fn stop_unless(&mut self, hurried: impl Fn() -> bool, grace: Duration) -> bool {
        self.signal(self.launch.stop_signal);
        let end = Instant::now() + grace;
        while self.ended().is_none() && Instant::now() < end && !hurried() {
            thread::sleep(POLL_INTERVAL / 2);
        }
        let clean = self.ended().is_some();
        if !clean {
            self.kill();
        }
        clean
    }

    /// kill -9, and waits for the end.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
            self.forget();
        }
    }

    /// Waits at most `timeout` for its end.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + timeout;
        loop {
            let ended = self.ended();
            if ended.is_some() || Instant::now() >= end {
                return ended;
            }
            thread::sleep(POLL_INTERVAL / 2);
        }
    }

    /// The last lines of its log, indented, for an error message.
    pub fn log_tail(&self) -> String {
        tail(&self.launch.log, 15)
    }

    fn forget(&self) {
        if let Some(pid_file) = &self.launch.pid_file {
            let _ = fs::remove_file(pid_file);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `ready` says yes.
///
/// Errors: the child ended (with its log's tail), `timeout` passed, or a stop was asked for.
pub fn wait_ready(
    service: &mut Service,
    timeout: Duration,
    mut ready: impl FnMut() -> bool,
) -> Result<()> {
    let end = Instant::now() + timeout;
    loop {
        if ready() {
            return Ok(());
        }
        let name = service.name().to_owned();
        if let Some(status) = service.ended() {
            bail!(
                "{name} ended at its start ({status}):\n{}",
                service.log_tail()
            );
        }
        if Instant::now() >= end {
            let waited = timeout.as_secs();
            bail!(
                "{name} was not ready after {waited} s:\n{}",
                service.log_tail()
            );
        }
        interrupt::sleep(POLL_INTERVAL)?;
    }
}

/// Stops the process a pid file of an earlier run names, if it still is that process.
///
/// A pid alone proves nothing, it may have been given out again: the start time
/// written beside it must agree. Returns whether a process was stopped.
pub(crate) fn stop_leftover(pid_file: &Path, signal: Signal, grace: Duration) -> bool {
    let record = fs::read_to_string(pid_file).unwrap_or_default();
    let _ = fs::remove_file(pid_file);
    let Some((number, started)) = record.trim().split_once(' ') else {
        return false;
    };
    let Some(pid) = number.parse().ok().and_then(Pid::from_raw) else {
        return false;
    };
    let is_ours = || {
        let now = number.parse().ok().and_then(started_at);
        !started.is_empty() && now.as_deref() == Some(started)
    };
    if !is_ours() {
        return false;
    }
    let _ = kill_process(pid, signal);
    let end = Instant::now() + grace;
    while Instant::now() < end && is_ours() {
        thread::sleep(POLL_INTERVAL);
    }
    if is_ours() {
        let _ = kill_process(pid, Signal::KILL);
    }
    true
}

/// SIGTERM to a child that has no [`Service`], and its end; kill -9 after ten seconds.
pub(crate) fn ask_to_stop(child: &mut Child) {
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(POLL_INTERVAL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Is there a process with this pid (perhaps of another user)?
pub(crate) fn exists(pid: u32) -> bool {
    Pid::from_raw(pid.cast_signed())
        .is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// When a process started, in an unnamed unit: only good for comparing. `None`: no such process.
fn started_at(pid: u32) -> Option<String> {
    if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The name in parentheses may hold spaces; the start time is field 22. A zombie counts as ended.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        return if fields.first() == Some(&"Z") {
            None
        } else {
            fields.get(19).map(|s| (*s).to_owned())
        };
    }
    let ps = Command::new("ps")
        .args(["-o", "lstart=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&ps.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// The last `lines` lines of a file, each behind `  | `.
pub(crate) fn tail(file: &Path, lines: usize) -> String {
    const TAIL_BYTES: u64 = 16 * 1024;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(file)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    let last = &all[all.len().saturating_sub(lines)..];
    let shown: Vec<String> = last.iter().map(|line| format!("  | {line}")).collect();
    format!("{}\n  (log: {})", shown.join("\n"), file.display())
}

/// The first program of that name in `PATH`.
pub(crate) fn in_path(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program.as_ref()))
        .find(|candidate| candidate.is_file())
}

/// util-linux's setpriv, if it knows `--pdeathsig` (busybox's does not).
fn setpriv() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let setpriv = in_path("setpriv")?;
            let works = Command::new(&setpriv)
                .args(["--pdeathsig", "TERM", "--", "true"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            works
                .is_ok_and(|status| status.success())
                .then_some(setpriv)
        })
        .as_deref()
}

fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::INT => "INT",
        Signal::QUIT => "QUIT",
        _ => "TERM",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("guildhall-xtask-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_child_that_ignores_the_request_is_killed() {
        let folder = scratch("stubborn");
        let mut launch = Launch::new("stubborn", "/bin/sh", folder.join("log"));
        launch.arguments = vec![
            "-c".into(),
            "trap '' TERM; echo up; while :; do sleep 0.1; done".into(),
        ];
        let mut child = launch.start().unwrap();
        wait_ready(&mut child, Duration::from_secs(10), || {
            tail(&folder.join("log"), 1).contains("up")
        })
        .unwrap();
        assert!(!child.stop(Duration::from_millis(200)));
        assert!(child.ended().is_some());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn nobody_waits_for_a_child_once_haste_is_asked_for() {
        let folder = scratch("hurried");
        let mut launch = Launch::new("patient", "/bin/sleep", folder.join("log"));
        launch.arguments = vec!["600".into()];
        launch.stop_signal = Signal::CONT; // it does not end by that
        let mut child = launch.start().unwrap();
        assert!(!child.stop_unless(|| true, Duration::from_secs(600)));
        assert!(child.ended().is_some());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_start_that_fails_shows_the_log() {
        let folder = scratch("fails");
        let mut launch = Launch::new("faulty", "/bin/sh", folder.join("log"));
        launch.arguments = vec!["-c".into(), "echo no such setting; exit 3".into()];
        let mut child = launch.start().unwrap();
        let error = wait_ready(&mut child, Duration::from_secs(10), || false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("no such setting"), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_child_whose_pid_file_cannot_be_written_does_not_go_on() {
        let folder = scratch("no-pid-file");
        let said = folder.join("said");
        let mut launch = Launch::new("orphan", "/bin/sh", folder.join("log"));
        launch.arguments = vec!["-c".into(), "sleep 0.5; echo alive > said".into()];
        launch.pid_file = Some(folder.join("missing/orphan.pid"));
        assert!(launch.start().is_err());
        thread::sleep(Duration::from_secs(1));
        assert!(!said.exists());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_leftover_is_stopped_only_if_its_start_time_agrees() {
        let folder = scratch("leftover");
        let pid_file = folder.join("sleeper.pid");
        let mut launch = Launch::new("sleeper", "/bin/sleep", folder.join("log"));
        launch.arguments = vec!["60".into()];
        launch.pid_file = Some(pid_file.clone());
        let mut child = launch.start().unwrap();

        fs::write(&pid_file, format!("{} 1\n", child.pid())).unwrap();
        assert!(!stop_leftover(
            &pid_file,
            Signal::TERM,
            Duration::from_secs(5)
        ));
        assert!(child.ended().is_none());

        let started = started_at(child.pid()).unwrap();
        fs::write(&pid_file, format!("{} {started}\n", child.pid())).unwrap();
        assert!(stop_leftover(
            &pid_file,
            Signal::TERM,
            Duration::from_secs(5)
        ));
        assert!(child.wait(Duration::from_secs(5)).is_some());
        fs::remove_dir_all(folder).unwrap();
    }
}
