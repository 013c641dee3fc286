//! What moves, kills and revocations cost sessions, measured on real processes against the aims.
//!
//! Each figure is a module that takes a cluster at rest, makes its own people and guilds, and
//! leaves the cluster at rest. Two kinds of clients: an `ear` only listens and notes times; a
//! `crowd` resumes and has every frame checked as chaos does. What they were told is compared
//! with the numbers in Postgres. Aims are printed and never asserted; what must not happen (lost,
//! repeated, reordered, leaked) is counted apart. `docs/figures.md` says what each row means.

mod crowd;
pub mod drain;
mod ear;
mod edge_kill;
mod feed;
mod heard;
mod moves;
mod owner_kill;
mod placement;
mod redis_emptied;
mod revocation;
mod table;
mod town;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::thread;

use anyhow::{Result, bail};
use clap::ValueEnum;
use futures_util::FutureExt;
use tokio::time::Instant;

pub use self::table::{Report, Row, Wrong};
use crate::cluster::{Cluster, Options, bin_dir};

/// One that an operator drains, two that are killed, one that stays.
const GATEWAYS: usize = 3;

/// What is measured, in the order of a whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Figure {
    Placement,
    Move,
    OwnerKill,
    RedisEmptied,
    Revocation,
    Drain,
    EdgeKill,
}

/// The cluster that figures share: one that goes well leaves it as it was.
#[derive(Default)]
struct Grounds {
    /// With its `GATEWAY_RESUME`.
    cluster: Option<(&'static str, Cluster)>,
}

impl Grounds {
    async fn cluster(&mut self, resume: &'static str) -> Result<&Cluster> {
        if self.cluster.as_ref().is_none_or(|(is, _)| *is != resume) {
            self.cluster = None; // not two at once
            let options = Options {
                gateways: GATEWAYS,
                log: Some("warn"),
                resume,
                ..Options::DEFAULT
            };
            self.cluster = Some((resume, Cluster::start(options).await?));
        }
        match &self.cluster {
            Some((_, cluster)) => Ok(cluster),
            None => bail!("there is no cluster"),
        }
    }

    /// The logs stay for whoever wants to see them.
    fn keep_logs(&self) {
        if let Some((_, cluster)) = &self.cluster {
            println!("     logs in {}", cluster.keep_logs().display());
        }
    }
}

/// Measures these, one after the other. One that fails leaves the others their turn.
pub async fn run(figures: &[Figure]) -> Report {
    let began = Instant::now();
    let mut report = Report {
        build: match cfg!(debug_assertions) {
            true => "NOT OPTIMISED, times mean little",
            false => "optimised",
        },
        servers: servers(),
        processors: thread::available_parallelism().map_or(1, usize::from),
        seconds: 0,
        rows: Vec::new(),
        failed: Vec::new(),
    };
    println!(
        "build: {}; servers from {}; {} processors",
        report.build, report.servers, report.processors
    );
    let mut grounds = Grounds::default();
    for figure in figures {
        println!("{:>4} s  {figure:?}", began.elapsed().as_secs());
        let mut rows = Vec::new();
        let measuring = measure(*figure, &mut grounds, &mut rows);
        let failure = match AssertUnwindSafe(measuring).catch_unwind().await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(panic) => Some(said(&*panic)),
        };
        for row in &rows {
            println!("        {}: {}", row.what, row.measured);
        }
        if failure.is_some() || rows.iter().any(|row| row.wrong.count > 0) {
            grounds.keep_logs();
        }
        if let Some(failure) = failure {
            println!("        {failure}");
            report.failed.push(format!("{figure:?}: {failure}"));
            grounds.cluster = None; // nobody knows what state it is in
        }
        report.rows.extend(rows);
    }
    report.seconds = began.elapsed().as_secs();
    report
}

/// Adds the rows of a figure.
async fn measure(figure: Figure, grounds: &mut Grounds, rows: &mut Vec<Row>) -> Result<()> {
    if figure == Figure::Placement {
        rows.extend(placement::run()?);
        return Ok(());
    }
    let cluster = grounds.cluster("async").await?;
    rows.extend(match figure {
        Figure::Placement => Vec::new(),
        Figure::Move => moves::run(cluster).await?,
        Figure::OwnerKill => owner_kill::run(cluster).await?,
        Figure::RedisEmptied => redis_emptied::run(cluster).await?,
        Figure::Revocation => revocation::run(cluster).await?,
        Figure::Drain => drain::run(cluster).await?,
        Figure::EdgeKill => edge_kill::run(cluster, "async").await?,
    });
    if figure == Figure::EdgeKill {
        let cluster = grounds.cluster("sync").await?;
        rows.extend(edge_kill::run(cluster, "sync").await?);
    }
    Ok(())
}

/// Cargo names the folder after the profile.
fn servers() -> String {
    let folder = bin_dir().ok();
    let name = folder.as_ref().and_then(|folder| folder.file_name());
    name.map_or_else(
        || "?".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}
