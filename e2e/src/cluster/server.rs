//! One server process, and the thread that starts all of them.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use tokio::time::Instant;
use xtask::process::{Launch, Service, Signal};

use crate::wait::{LOOK, NEVER};

/// One server process that can be killed and started again.
#[derive(Debug)]
pub struct Server {
    launch: Launch,
    ready_url: String,
    service: Mutex<Option<Service>>,
}

impl Server {
    pub(crate) async fn start(&self) -> Result<()> {
        let launch = self.launch.clone();
        let service = on_launcher(move || launch.start()).await?;
        *lock(&self.service) = Some(service);
        Ok(())
    }

    /// Waits for 200 from `/ready`.
    ///
    /// Errors: the process ended, or it never was ready; with the end of its log.
    pub async fn ready(&self) -> Result<()> {
        let http = reqwest::Client::new();
        let end = Instant::now() + NEVER;
        loop {
            if let Ok(reply) = http.get(&self.ready_url).send().await
                && reply.status().is_success()
            {
                return Ok(());
            }
            let ended = lock(&self.service).as_mut().and_then(Service::ended);
            ensure!(
                ended.is_none() && Instant::now() < end,
                "{} is not ready (ended: {ended:?})\n{}",
                self.launch.name,
                self.log_tail(),
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Starts it (again) and waits until it is ready.
    pub async fn restart(&self) -> Result<()> {
        self.kill();
        self.start().await?;
        self.ready().await
    }

    /// kill -9.
    pub fn kill(&self) {
        if let Some(mut service) = lock(&self.service).take() {
            service.kill();
        }
    }

    /// The file of its standard output and error.
    pub fn log(&self) -> &Path {
        &self.launch.log
    }

    pub fn name(&self) -> &str {
        &self.launch.name
    }

    /// SIGTERM, then waits. True: it ended by itself.
    pub async fn stop(&self) -> bool {
        let Some(mut service) = lock(&self.service).take() else {
            return true;
        };
        tokio::task::spawn_blocking(move || service.stop(NEVER))
            .await
            .unwrap_or(false)
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(service) = lock(&self.service).as_mut() {
            service.signal(signal);
        }
    }

    /// `None`: not running.
    pub fn pid(&self) -> Option<u32> {
        let mut service = lock(&self.service);
        let service = service.as_mut()?;
        service.ended().is_none().then(|| service.pid())
    }

    /// Resident memory in bytes.
    pub fn memory_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
        let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kilobytes * 1024)
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        const SHOWN: usize = 40;
        let text = fs::read(&self.launch.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN)..].join("\n")
    }

    /// The body of `/metrics`.
    pub async fn metrics(&self) -> Result<String> {
        let reply = reqwest::get(self.url("/metrics")).await?;
        let reply = reply.error_for_status()?;
        Ok(reply.text().await?)
    }

    /// Of a path where its probes are.
    pub(super) fn url(&self, path: &str) -> String {
        self.ready_url.replace("/ready", path)
    }

    /// Everything this run of it has logged.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.launch.log).unwrap_or_default()).into_owned()
    }
}

impl Server {
    pub(crate) fn new(launch: Launch, http: SocketAddr) -> Self {
        Self {
            launch,
            ready_url: format!("http://{http}/ready"),
            service: Mutex::new(None),
        }
    }
}

/// Runs on the one thread that starts processes. Children end with the *thread* that started
/// them, and threads of tests end with their test; this one lasts as long as the process.
pub(crate) async fn on_launcher<T: Send + 'static>(
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    type Job = Box<dyn FnOnce() + Send>;
    static JOBS: Mutex<Option<mpsc::Sender<Job>>> = Mutex::new(None);

    let (done, result) = tokio::sync::oneshot::channel();
    let job: Job = Box::new(move || {
        let _ = done.send(job()); // nobody waits if the test has failed
    });
    {
        let mut jobs = lock(&JOBS);
        let sender = match &mut *jobs {
            Some(sender) => sender,
            empty => {
                let (sender, receiver) = mpsc::channel::<Job>();
                thread::Builder::new()
                    .name("launcher".into())
                    .spawn(move || receiver.into_iter().for_each(|job| job()))?;
                empty.insert(sender)
            }
        };
        sender
            .send(job)
            .map_err(|_| anyhow!("the launcher is gone"))?;
    }
    result.await.context("the launcher dropped a job")?
}

pub(crate) async fn run_to_end(launch: Launch) -> Result<()> {
    let (name, log) = (launch.name.clone(), launch.log.clone());
    let mut service = on_launcher(move || launch.start()).await?;
    let status = tokio::task::spawn_blocking(move || service.wait(NEVER)).await?;
    ensure!(
        status.is_some_and(|status| status.success()),
        "{name} failed ({status:?}):\n{}",
        fs::read_to_string(log).unwrap_or_default(),
    );
    Ok(())
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
