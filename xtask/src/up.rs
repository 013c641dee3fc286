//! `cargo xtask up`: a cluster with a demo guild, from nothing, until Ctrl-C.

use std::env;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::cargo::{self, Profile};
use crate::cluster::{Cluster, Plan, Ports};
use crate::install;
use crate::interrupt::{self, Interrupted};
use crate::layout::Layout;
use crate::process::tail;
use crate::seed::{self, Demo};
use crate::servers::{Postgres, PostgresOptions, Redis, RedisOptions, checkout};

const GATEWAYS: u16 = 2;
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Who lives this long starts again without a pause the next time.
const STABLE_AFTER: Duration = Duration::from_secs(60);
const LOG_LINES: usize = 15;

/// Runs until Ctrl-C, which is its success.
pub(crate) fn run(fresh: bool, release: bool) -> Result<ExitCode> {
    let started = Instant::now();
    println!("Guildhall: starting a cluster on this machine");
    let own_postgres = given("DATABASE_URL").is_none();
    install::servers(own_postgres, given("REDIS_URL").is_none())?;
    let layout = Layout::take(own_postgres)?;
    for name in layout.stop_leftovers() {
        println!("  stopped {name}, left over from a run that was killed");
    }
    let mut stack = Stack::default();
    let outcome = start(&layout, &mut stack, fresh, release).and_then(|demo| {
        announce(&stack, &demo, &layout, started.elapsed());
        supervise(&mut stack)
    });
    interrupt::stopping();
    stack.stop();
    match outcome {
        Err(error) if error.is::<Interrupted>() => Ok(ExitCode::SUCCESS),
        other => other,
    }
}

/// Everything that runs; databases only if they are ours.
#[derive(Debug, Default)]
struct Stack {
    cluster: Option<Cluster>,
    redis: Option<Redis>,
    postgres: Option<Postgres>,
}

impl Stack {
    /// Gateways, API, coordinator; then Redis, then Postgres.
    fn stop(&mut self) {
        if self.cluster.is_none() && self.redis.is_none() && self.postgres.is_none() {
            return;
        }
        println!("\nStopping; Ctrl-C again kills what is left");
        if let Some(mut cluster) = self.cluster.take() {
            cluster.stop();
            println!("  gateways, API and coordinator have stopped");
        }
        if let Some(mut redis) = self.redis.take() {
            redis.stop();
            println!("  Redis has stopped");
        }
        if let Some(mut postgres) = self.postgres.take() {
            postgres.stop();
            println!("  Postgres has stopped; its data is kept");
        }
    }
}

fn start(layout: &Layout, stack: &mut Stack, fresh: bool, release: bool) -> Result<Demo> {
    let database_url = given("DATABASE_URL");
    let redis_url = given("REDIS_URL");
    if fresh {
        if database_url.is_some() {
            bail!(
                "--fresh empties the private database only; DATABASE_URL is set, empty that one yourself"
            );
        }
        layout.empty()?;
        println!("  emptied the private database and removed uploaded files");
    }
    let profile = if release {
        Profile::Release
    } else {
        Profile::Debug
    };
    println!("  building (the first time takes some minutes)");
    match profile {
        Profile::Release => cargo::build_release(&cargo::SERVERS)?,
        // `cargo xtask test` then finds the dependencies built.
        Profile::Debug => cargo::finish_build(cargo::build_like_tests(&cargo::SERVERS))?,
    }
    interrupt::check()?;

    let database_url = match database_url {
        Some(url) => {
            println!("  Postgres: the one of DATABASE_URL");
            url
        }
        None => {
            let postgres = private_postgres(layout)?;
            println!(
                "  Postgres on port {}, data in {}",
                postgres.port(),
                postgres.data_folder().display()
            );
            let url = postgres.url("guildhall");
            stack.postgres = Some(postgres);
            url
        }
    };
    let redis_url = match redis_url {
        Some(url) => {
            println!("  Redis: the one of REDIS_URL");
            url
        }
        None => {
            let redis = private_redis(layout)?;
            println!("  Redis on port {}", redis.port());
            let url = redis.url();
            stack.redis = Some(redis);
            url
        }
    };

    let plan = Plan {
        programs: profile.folder(),
        database_url,
        redis_url,
        cluster_key: layout.secret("cluster_key", 2)?,
        gateways: GATEWAYS,
        settings: Vec::new(),
        logs: layout.logs(),
        media: layout.media(),
        run: Some(layout.run()),
    };
    let ports = Ports::choose(plan.gateways)?;
    let own = stack.postgres.is_some();
    Cluster::migrate(&plan, &ports).map_err(|error| {
        match own.then(|| advice(&error.to_string())).flatten() {
            Some(advice) => anyhow!("{error}\n{advice}"),
            None => error,
        }
    })?;
    println!("  migrations applied");
    Cluster::import_stickers(&plan, &ports, &checkout().join("sticker-packs/hello"))?;
    let cluster = Cluster::start(&plan, ports, |ready| println!("  {ready} is ready"))?;
    let api = cluster.api();
    stack.cluster = Some(cluster);
    let demo = seed::seed(api, layout.demo())?;
    println!("  demo guild is there");
    Ok(demo)
}

/// What to do where a migration of the private database fails and its words help nobody.
fn advice(error: &str) -> Option<&'static str> {
    if error.contains("was previously applied but") {
        Some(
            "the private database has migrations of another checkout: go back to that one, or \
             start empty (--fresh)",
        )
    } else if error.contains("password authentication failed") {
        Some(
            "the private database was made with another .guildhall/secrets.json: bring that back, \
             or start empty (--fresh)",
        )
    } else {
        None
    }
}

/// A setting that is set and not empty.
fn given(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn private_postgres(layout: &Layout) -> Result<Postgres> {
    let options = PostgresOptions {
        folder: layout.postgres.clone(),
        port: None,
        password: layout.secret("postgres_password", 1)?,
        durable: true,
        connections_max: 200,
        log: layout.logs().join("postgres.log"),
        pid_file: Some(layout.run().join("postgres.pid")),
        dies_with_parent: true,
    };
    Postgres::start(&install::postgres()?, options)
}

fn private_redis(layout: &Layout) -> Result<Redis> {
    let options = RedisOptions {
        folder: layout.redis(),
        port: None,
        password: layout.secret("redis_password", 1)?,
        log: layout.logs().join("redis.log"),
        pid_file: Some(layout.run().join("redis.pid")),
        dies_with_parent: true,
        cluster: false,
        tls: None,
    };
    Redis::start(&install::redis()?, options)
}

fn announce(stack: &Stack, demo: &Demo, layout: &Layout, took: Duration) {
    let Some(cluster) = &stack.cluster else {
        return;
    };
    let api = format!("http://{}", cluster.api());
    let ports = &cluster.ports;
    let gateway = format!("ws://127.0.0.1:{}", ports.gateway);
    let nodes: Vec<String> = ports
        .nodes
        .iter()
        .map(|(own, _)| format!("ws://127.0.0.1:{own}"))
        .collect();
    println!(
        "
Guildhall is up after {took:.0?}.

  API base      {api}/api/v10
  gateway       {gateway}  (one of {nodes})
  coordinator   http://127.0.0.1:{coordinator}
  logs          {logs}

  demo guild    {guild}, text channel {channel}
  alice         {alice}
  bob           {bob}
  bot           {bot}

Point a bot at it:

  discord.js    new Client({{ intents, rest: {{ api: \"{api}/api\", version: \"10\" }} }}).login(TOKEN)
  serenity      ClientBuilder::new_with_http(HttpBuilder::new(TOKEN).proxy(\"{api}\").ratelimiter_disabled(true).build(), intents)
  discord.py    discord.http.Route.BASE = \"{api}/api/v10\"; discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(\"{gateway}\")

Say something as alice:

  curl -s {api}/api/v10/channels/{channel}/messages -H 'Authorization: {alice}' -H 'Content-Type: application/json' -d '{{\"content\":\"!ping\"}}'

Ctrl-C stops everything.",
        nodes = nodes.join(", "),
        coordinator = ports.coordinator,
        logs = layout.logs().display(),
        guild = demo.guild,
        channel = demo.channel,
        alice = demo.alice,
        bob = demo.bob,
        bot = demo.bot,
    );
}

/// When a process that ended may start again.
#[derive(Debug)]
struct Patient {
    name: String,
    pause: Duration,
    started: Instant,
    /// `Some`: it is down, and this is when it starts.
    due: Option<Instant>,
}

impl Patient {
    fn new(name: &str, now: Instant) -> Self {
        Self {
            name: name.to_owned(),
            pause: BACKOFF_MIN,
            started: now,
            due: None,
        }
    }

    /// It was found ended. Returns how long to wait; the wait doubles with each early end.
    fn ended(&mut self, now: Instant) -> Duration {
        if now.duration_since(self.started) >= STABLE_AFTER {
            self.pause = BACKOFF_MIN;
        }
        let pause = self.pause;
        self.due = Some(now + pause);
        self.pause = (pause * 2).min(BACKOFF_MAX);
        pause
    }

    /// It did not start. Returns as [`Self::ended`]; however long it ran before, that was no
    /// stable time.
    fn failed(&mut self, now: Instant) -> Duration {
        self.started = now;
        self.ended(now)
    }

    fn restarted(&mut self, now: Instant) {
        self.started = now;
        self.due = None;
    }
}

/// Watches all processes and starts again what ends, until a stop is asked for.
fn supervise(stack: &mut Stack) -> Result<ExitCode> {
    let now = Instant::now();
    let mut patients: Vec<Patient> = names(stack)
        .iter()
        .map(|name| Patient::new(name, now))
        .collect();
    loop {
        interrupt::sleep(Duration::from_millis(200))?;
        for patient in &mut patients {
            let now = Instant::now();
            match patient.due {
                None => {
                    if let Some((status, log)) = stack.ended(&patient.name) {
                        let pause = patient.ended(now).as_secs();
                        let name = &patient.name;
                        println!(
                            "\n{name} ended unexpectedly ({status}); it is started again in {pause} s. Its last words:\n{log}"
                        );
                    }
                }
                Some(due) if now >= due => match stack.start_again(&patient.name) {
                    Ok(()) => {
                        patient.restarted(Instant::now());
                        println!("{} was started again", patient.name);
                    }
                    Err(error) if error.is::<Interrupted>() => return Err(error),
                    Err(error) => {
                        let pause = patient.failed(Instant::now());
                        println!(
                            "{} does not start, next attempt in {} s: {error:#}",
                            patient.name,
                            pause.as_secs()
                        );
                    }
                },
                Some(_) => {}
            }
        }
    }
}

fn names(stack: &Stack) -> Vec<String> {
    let databases = [
        ("postgres", stack.postgres.is_some()),
        ("redis", stack.redis.is_some()),
    ];
    let ours = databases
        .iter()
        .filter(|(_, ours)| *ours)
        .map(|(name, _)| (*name).to_owned());
    let members = stack.cluster.iter().flat_map(|cluster| &cluster.members);
    ours.chain(members.map(|member| member.service.name().to_owned()))
        .collect()
}

impl Stack {
    /// How a process ended, with its log's tail; `None`: it runs.
    fn ended(&mut self, name: &str) -> Option<(ExitStatus, String)> {
        let service = match name {
            "postgres" => self.postgres.as_mut()?.service()?,
            "redis" => self.redis.as_mut()?.service()?,
            _ => {
                &mut self
                    .cluster
                    .as_mut()?
                    .members
                    .iter_mut()
                    .find(|one| one.service.name() == name)?
                    .service
            }
        };
        let status = service.ended()?;
        Some((status, tail(service.log(), LOG_LINES)))
    }

    fn start_again(&mut self, name: &str) -> Result<()> {
        match name {
            "postgres" => self.postgres.as_mut().map_or(Ok(()), Postgres::start_again),
            "redis" => self.redis.as_mut().map_or(Ok(()), Redis::start_again),
            _ => {
                let members = self
                    .cluster
                    .iter_mut()
                    .flat_map(|cluster| &mut cluster.members);
                for member in members.filter(|member| member.service.name() == name) {
                    member.service = member.service.launch().clone().start()?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_limit_and_forgets_after_a_stable_time() {
        let t0 = Instant::now();
        let mut patient = Patient::new("api", t0);
        let pauses: Vec<u64> = (0..7).map(|_| patient.ended(t0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        patient.restarted(t0);
        assert_eq!(patient.ended(t0 + STABLE_AFTER), BACKOFF_MIN);
    }

    #[test]
    fn what_ran_for_long_and_does_not_start_any_more_is_tried_ever_less_often() {
        let mut patient = Patient::new("redis", Instant::now());
        let later = Instant::now() + STABLE_AFTER;
        let mut pauses = vec![patient.ended(later).as_secs()];
        pauses.extend((0..6).map(|_| patient.failed(later).as_secs()));
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_database_that_does_not_fit_is_told_from_other_failures() {
        for (error, what) in [
            (
                "migration 46 was previously applied but is missing in the resolved migrations",
                Some("another checkout"),
            ),
            (
                "migration 3 was previously applied but has been modified",
                Some("another checkout"),
            ),
            (
                r#"FATAL: password authentication failed for user "postgres""#,
                Some("secrets.json"),
            ),
            ("No space left on device", None),
        ] {
            let advice = advice(error);
            assert_eq!(advice.is_some(), what.is_some(), "{error}");
            assert!(advice.unwrap_or("").contains(what.unwrap_or("")), "{error}");
        }
    }
}
