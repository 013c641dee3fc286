//! Commands that change something at once.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use guildhall_shared::operator::{
    Accepted, Change, DrainRequest, MoveRequest, PinRequest, PlanInfo, WeightRequest,
};
use reqwest::Method;
use serde::Serialize;

use crate::args::{Order, over_s};
use crate::client::{Ask, Client};
use crate::error::{Error, Result};
use crate::follow;
use crate::plan;
use crate::print::Output;

/// Whether somebody should think before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weighty {
    /// Moves shards or sends sessions away.
    Yes,
    No,
}

/// How a change was made.
#[derive(Serialize)]
#[serde(untagged)]
enum Made {
    /// By itself.
    Alone(Accepted),
    /// As the plan that was shown: it is refused if that is not what would happen any more.
    AsShown(Box<PlanInfo>),
}

pub(crate) async fn run(client: &Client, order: Order, output: Output) -> Result<()> {
    let mut wait = false;
    let (change, consent, weighty) = match order {
        Order::Pause => {
            let text = "paused: only shards whose owner is gone move now\n";
            return accept(client, &Ask::post(["pause"]), text, output).await;
        }
        Order::Resume => {
            let text = "resumed: moves go on\n";
            return accept(client, &Ask::post(["resume"]), text, output).await;
        }
        Order::Abort { yes } => {
            if !yes {
                somebody_to_ask()?;
                confirm("End the plan that runs and the single moves?")?;
            }
            let text = "aborted: what has moved stays where it is\n";
            return accept(client, &Ask::post(["abort"]), text, output).await;
        }
        Order::Cordon { node, consent } => (Change::Cordon { node }, consent, Weighty::No),
        Order::Uncordon { node, consent } => (Change::Uncordon { node }, consent, Weighty::No),
        Order::Undrain { node, consent } => (Change::Undrain { node }, consent, Weighty::No),
        Order::Drain {
            node,
            over,
            wait: wanted,
            consent,
        } => {
            wait = wanted;
            let over_s = over_s(over);
            (Change::Drain { node, over_s }, consent, Weighty::Yes)
        }
        Order::Weight {
            node,
            weight,
            consent,
        } => (Change::Weight { node, weight }, consent, Weighty::Yes),
        Order::Pin {
            shard,
            node,
            consent,
        } => (Change::Pin { shard, node }, consent, Weighty::Yes),
        Order::Unpin { shard, consent } => (Change::Unpin { shard }, consent, Weighty::Yes),
        Order::Move {
            shards,
            guild,
            to,
            consent,
        } => (Change::Move { shards, guild, to }, consent, Weighty::Yes),
    };
    let one = || vec![change.clone()];
    if consent.dry_run {
        let plan = plan::dry_run(client, one()).await?;
        return output.print(&plan, plan::plan_text);
    }
    let made = if weighty == Weighty::Yes && !consent.yes {
        somebody_to_ask()?;
        let plan = plan::dry_run(client, one()).await?;
        eprint!("{}", plan::summary(&plan));
        confirm("Do it?")?;
        Made::AsShown(Box::new(plan::carry_out(client, plan.id).await?))
    } else {
        Made::Alone(client.ask(&request(&change)?).await?)
    };
    if let (true, Change::Drain { node, .. }) = (wait, &change) {
        follow::drain(client, node).await?;
        return output.print(&made, |_| format!("{node} is empty\n"));
    }
    output.print(&made, |made| match made {
        Made::Alone(accepted) => {
            let (what, id) = (plan::change_text(&change), accepted.audit_id);
            let waits = waits(*accepted);
            format!("{what}: accepted, entry {id} of the history\n{waits}")
        }
        Made::AsShown(plan) => plan::applied_text(plan),
    })
}

/// How a change is asked for by itself.
fn request(change: &Change) -> Result<Ask> {
    let of_node = |node: &str, what: &str| Ask::post(["nodes", node, what]);
    let of_pin = |method, shard: u16| Ask::new(method, ["pins".to_owned(), shard.to_string()]);
    match change {
        Change::Cordon { node } => Ok(of_node(node, "cordon")),
        Change::Uncordon { node } => Ok(of_node(node, "uncordon")),
        Change::Undrain { node } => Ok(of_node(node, "undrain")),
        Change::Drain { node, over_s } => {
            of_node(node, "drain").body(&DrainRequest { over_s: *over_s })
        }
        Change::Weight { node, weight } => {
            let ask = Ask::new(Method::PUT, ["nodes", node, "weight"]);
            ask.body(&WeightRequest { weight: *weight })
        }
        Change::Pin { shard, node } => {
            let node = node.clone();
            of_pin(Method::PUT, shard.0).body(&PinRequest { node })
        }
        Change::Unpin { shard } => Ok(of_pin(Method::DELETE, shard.0)),
        Change::Move { shards, guild, to } => Ask::post(["moves"]).body(&MoveRequest {
            shards: shards.clone(),
            guild: *guild,
            to: to.clone(),
        }),
    }
}

async fn accept(client: &Client, ask: &Ask, text: &str, output: Output) -> Result<()> {
    let accepted: Accepted = client.ask(ask).await?;
    output.print(&accepted, |accepted| format!("{text}{}", waits(*accepted)))
}

/// A line where what was accepted is not done within a second or two.
fn waits(accepted: Accepted) -> String {
    match accepted.led {
        true => String::new(),
        false => format!("{}: it waits until one does\n", plan::NO_LEADER),
    }
}

/// Fails unless a question can be asked.
pub(crate) fn somebody_to_ask() -> Result<()> {
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        Ok(())
    } else {
        Err(Error::NobodyToAsk)
    }
}

/// Asks on stderr; anything but yes is a no.
pub(crate) fn confirm(question: &str) -> Result<()> {
    eprint!("{question} [y/N] ");
    io::stderr().flush().map_err(Error::Output)?;
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.map_err(Error::Terminal)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Error::NotConfirmed),
    }
}
