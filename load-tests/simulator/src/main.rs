//! `simulator`: one cluster for hours, or many small ones with a seed each.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use simulator::{Plan, ResumeLog, Sample, Settings, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A small cluster takes less than a second: virtual time may stand still in one that takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs clusters in virtual time and checks the invariants throughout.
#[derive(Debug, Parser)]
#[command(name = "simulator")]
struct Arguments {
    /// Gateways of the cluster
    #[arg(long, default_value_t = 1_000)]
    nodes: usize,
    /// S
    #[arg(long, default_value_t = 16_384)]
    shards: u16,
    #[arg(long, default_value_t = 10_000_000)]
    sessions: u64,
    /// Virtual time
    #[arg(long, default_value_t = 1.0)]
    hours: f64,
    /// Crashes besides the rolling restart
    #[arg(long, default_value_t = 50)]
    crashes: u64,
    /// Guilds that are real, and clients in them, each in two
    #[arg(long, default_value_t = 32)]
    guilds: usize,
    #[arg(long, default_value_t = 1_000)]
    clients: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// So many small clusters with one seed each, from `--seed` on, instead of a large one
    #[arg(long, default_value_t = 0)]
    seeds: u64,
    /// Threads for small clusters
    #[arg(long, default_value_t = 2)]
    threads: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.seeds {
        0 => large(&arguments),
        _ => small(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn large(arguments: &Arguments) -> Result<()> {
    let report = run(&Settings {
        nodes: arguments.nodes,
        shards: arguments.shards,
        sessions: arguments.sessions,
        length_ms: (arguments.hours * 3_600_000.0) as u64,
        seed: arguments.seed,
        plan: Plan::Rolling {
            crashes: arguments.crashes,
        },
        sample: Sample {
            guilds: arguments.guilds,
            clients: arguments.clients,
            write_every_ms: 4_000,
            break_every_ms: 600_000,
            delay_ms_max: 2,
            resume: ResumeLog::Async,
            broken: None,
        },
        tells_minutes: true,
    })?;
    print!("{report}");
    Ok(())
}

/// Prints what all of them come to; a seed that fails can be run again alone.
fn small(arguments: &Arguments) -> Result<()> {
    let next = AtomicU64::new(0);
    let running: Vec<AtomicU64> = (0..arguments.threads.max(1))
        .map(|_| AtomicU64::new(0))
        .collect();
    let worker = |own: &AtomicU64| -> Result<Sum> {
        let mut sum = Sum::default();
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= arguments.seeds {
                own.store(0, Ordering::Relaxed);
                return Ok(sum);
            }
            let seed = arguments.seed + nth;
            own.store(seed, Ordering::Relaxed);
            // Nobody begins another one once a seed has failed.
            let report = run(&Settings::small(seed))
                .inspect_err(|_| next.store(arguments.seeds, Ordering::Relaxed))?;
            let (moves, needed) = report.moves();
            sum.moves += moves;
            sum.needed += needed;
            sum.longest_ms = sum.longest_ms.max(report.no_owner_longest_ms());
        }
    };
    let sums: Result<Vec<Sum>> = thread::scope(|scope| {
        // Dropped once all have ended, by a panic too.
        let (_end, ended) = mpsc::channel();
        scope.spawn({
            let running = &running;
            move || tell_slow(running, &ended)
        });
        let workers: Vec<_> = running
            .iter()
            .map(|own| scope.spawn(move || worker(own)))
            .collect();
        let joined = workers.into_iter();
        let joined = joined.map(|worker| worker.join().expect("a worker does not panic"));
        joined.collect()
    });
    let mut all = Sum::default();
    for sum in sums? {
        all.moves += sum.moves;
        all.needed += sum.needed;
        all.longest_ms = all.longest_ms.max(sum.longest_ms);
    }
    println!(
        "{} small clusters from seed {}: no invariant broken\n\
         shards moved {}, {} of them had to; owner in the map dead for {:.3} s at most",
        arguments.seeds,
        arguments.seed,
        all.moves,
        all.needed,
        all.longest_ms as f64 / 1_000.0
    );
    Ok(())
}

/// Names seeds that do not come to an end, until all have ended.
fn tell_slow(running: &[AtomicU64], ended: &Receiver<()>) {
    let mut before = Vec::new();
    while ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
        let now: Vec<u64> = running
            .iter()
            .map(|seed| seed.load(Ordering::Relaxed))
            .collect();
        for (now, before) in now.iter().zip(&before) {
            if now == before && *now != 0 {
                eprintln!("seed {now} takes more than {PATIENCE:?}");
            }
        }
        before = now;
    }
}

#[derive(Debug, Default)]
struct Sum {
    moves: u64,
    needed: u64,
    longest_ms: u64,
}
