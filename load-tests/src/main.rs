//! Load generators in one program: a scenario is a subcommand, and so is each of the processes that
//! a scenario starts beside itself.

mod scenarios;

use anyhow::Result;
use clap::{Parser, Subcommand};
use load_tests::{floor, naive, readers, swarm};

use crate::scenarios::{crowded, delivery, fanout, logins, nodes, pages, post};

/// Measures a cluster of Guildhall. Loopback and a private cluster only.
#[derive(Parser)]
enum Command {
    #[command(flatten)]
    Scenario(Scenario),
    #[command(flatten)]
    Helper(Helper),
}

#[derive(Subcommand)]
enum Scenario {
    Crowded(crowded::Config),
    Delivery(delivery::Config),
    Fanout(fanout::Config),
    Logins(logins::Config),
    Nodes(nodes::Config),
    Pages(pages::Config),
    Post(post::Config),
}

/// Parts of scenarios, which start them.
#[derive(Subcommand)]
enum Helper {
    #[command(hide = true)]
    Floor,
    #[command(hide = true)]
    Naive,
    #[command(hide = true)]
    Readers,
    #[command(hide = true)]
    Swarm,
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Helper(Helper::Floor) => floor::run(),
        Command::Helper(Helper::Naive) => naive::run(),
        Command::Helper(Helper::Readers) => readers::run(),
        Command::Helper(Helper::Swarm) => swarm::run(),
        Command::Scenario(scenario) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(measure(&scenario))
        }
    }
}

async fn measure(scenario: &Scenario) -> Result<()> {
    match scenario {
        Scenario::Crowded(config) => crowded::run(config).await,
        Scenario::Delivery(config) => delivery::run(config).await,
        Scenario::Fanout(config) => fanout::run(config).await,
        Scenario::Logins(config) => logins::run(config).await,
        Scenario::Nodes(config) => nodes::run(config).await,
        Scenario::Pages(config) => pages::run(config).await,
        Scenario::Post(config) => post::run(config).await,
    }
}
