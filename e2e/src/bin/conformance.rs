//! Runs all conformance cases and prints what failed and the score; see `cargo xtask conformance`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use e2e::{cluster::Cluster, conformance};

/// `conformance [PAGE]`: writes the page to a file as well. Exit code 1 if anything failed.
#[tokio::main]
async fn main() -> Result<ExitCode> {
    let cluster = Cluster::start(conformance::OPTIONS).await?;
    let book = conformance::run(&cluster).await;
    let page = book.page();
    if let Some(file) = std::env::args_os().nth(1).map(PathBuf::from) {
        std::fs::write(file, &page)?;
    }
    let faults = book.faults();
    for fault in &faults {
        println!("{fault}");
    }
    for table in ["| operations", "| events"] {
        let scores = page.lines().skip_while(|line| !line.starts_with(table));
        for line in scores.take_while(|line| !line.is_empty()) {
            println!("{line}");
        }
    }
    Ok(ExitCode::from(u8::from(!faults.is_empty())))
}
