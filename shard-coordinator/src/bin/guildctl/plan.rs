//! Plans: made, printed, applied.

use guildhall_shared::operator::{Change, Outcome, PlanInfo, PlanRequest, PlanState};

use crate::args::{ApplyArgs, PlanArgs};
use crate::change::{confirm, somebody_to_ask};
use crate::client::{Ask, Client};
use crate::error::Result;
use crate::print::{Output, count, thousandths, time};
use crate::{follow, read};

pub(crate) const NO_LEADER: &str = "no coordinator leads";

/// `guildctl plan`.
pub(crate) async fn make(client: &Client, flags: PlanArgs, output: Output) -> Result<()> {
    let plan = dry_run(client, flags.changes.into_changes()).await?;
    output.print(&plan, plan_text)
}

/// Makes a plan of these changes; nothing else changes.
pub(crate) async fn dry_run(client: &Client, changes: Vec<Change>) -> Result<PlanInfo> {
    let ask = Ask::post(["plan"]).body(&PlanRequest { changes })?;
    client.ask(&ask).await
}

/// `guildctl apply`.
pub(crate) async fn apply(client: &Client, what: ApplyArgs, output: Output) -> Result<()> {
    let id = what.plan;
    if !what.yes {
        somebody_to_ask()?;
        let ask = Ask::get(["plan".to_owned(), id.to_string()]);
        let plan: PlanInfo = client.ask(&ask).await?;
        eprint!("{}", summary(&plan));
        confirm(&format!("Apply plan {id}?"))?;
    }
    let mut plan = carry_out(client, id).await?;
    if what.wait {
        plan = follow::plan(client, plan).await?;
    }
    output.print(&plan, applied_text)
}

/// Makes the changes of a plan.
pub(crate) async fn carry_out(client: &Client, id: i64) -> Result<PlanInfo> {
    let id = id.to_string();
    client.ask(&Ask::post(["plan", &id, "apply"])).await
}

/// What came of a plan that was applied.
pub(crate) fn applied_text(plan: &PlanInfo) -> String {
    match plan.state {
        PlanState::Done => format!("plan {} is done\n", plan.id),
        _ => format!(
            "plan {} runs; `guildctl moves` shows how far it is\n",
            plan.id
        ),
    }
}

/// The whole plan.
pub(crate) fn plan_text(plan: &PlanInfo) -> String {
    let mut text = summary(plan);
    if !plan.outcome.moves.is_empty() {
        text += &read::shard_moves(&plan.outcome.moves);
    }
    if plan.state == PlanState::Draft {
        text += &format!(
            "nothing has changed; do it with: guildctl apply {}\n",
            plan.id
        );
    }
    text
}

/// What it changes and leads to, without every move.
pub(crate) fn summary(plan: &PlanInfo) -> String {
    let state = match plan.state {
        PlanState::Draft => "a draft",
        PlanState::Applying => "being applied",
        PlanState::Done => "done",
        PlanState::Aborted => "aborted",
    };
    let mut text = format!(
        "plan {} of {}, {}, {state}\n",
        plan.id,
        plan.made_by,
        time(plan.made_at_ms),
    );
    for change in &plan.changes {
        text += &format!("  {}\n", change_text(change));
    }
    text + &outcome_text(&plan.outcome)
}

fn outcome_text(outcome: &Outcome) -> String {
    let moves = u64::try_from(outcome.moves.len()).unwrap_or(u64::MAX);
    let steps = match outcome.steps {
        0 => "at once".to_owned(), // nothing is open in them
        steps => format!("in {}", count(steps, "step")),
    };
    let mut text = format!(
        "  moves: {} {steps}, about {} s\n  imbalance {} before, {} after, by shards\n",
        count(moves, "shard"),
        outcome.seconds,
        thousandths(outcome.imbalance_before_milli),
        thousandths(outcome.imbalance_after_milli),
    );
    if let (Some(before), Some(after)) = (
        outcome.load_imbalance_before_milli,
        outcome.load_imbalance_after_milli,
    ) {
        let (before, after) = (thousandths(before), thousandths(after));
        text += &format!("  imbalance {before} before, {after} after, by load\n");
    }
    if outcome.stuck > 0 {
        text += &format!(
            "  stuck: {}, for no other node takes any; it does not end before one does\n",
            count(outcome.stuck, "shard"),
        );
    }
    text + &format!(
        "  sessions sent to other nodes: {}; event copies/s in the shards that move: {}\n",
        outcome.sessions, outcome.events_per_s,
    )
}

/// A change in words.
pub(crate) fn change_text(change: &Change) -> String {
    match change {
        Change::Cordon { node } => format!("cordon {node}"),
        Change::Uncordon { node } => format!("uncordon {node}"),
        Change::Drain { node, over_s } => format!("drain {node} over {over_s} s"),
        Change::Undrain { node } => format!("undrain {node}"),
        Change::Weight { node, weight } => format!("weight {node} {weight}"),
        Change::Pin { shard, node } => format!("pin shard {shard} to {node}"),
        Change::Unpin { shard } => format!("unpin shard {shard}"),
        Change::Move { shards, guild, to } => {
            let mut what: Vec<String> = shards
                .iter()
                .map(|shard| format!("shard {shard}"))
                .collect();
            what.extend(
                guild
                    .iter()
                    .map(|guild| format!("the shard of guild {guild}")),
            );
            format!("move {} to {to}", what.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use guildhall_shared::operator::{Cause, Move};
    use guildhall_shared::shard::ShardId;

    use super::*;

    #[test]
    fn a_plan_says_what_it_leads_to_and_how_to_do_it() {
        let mut plan = PlanInfo {
            id: 17,
            state: PlanState::Draft,
            changes: vec![Change::Drain {
                node: "gateway-1".to_owned(),
                over_s: 60,
            }],
            made_at_ms: 1_767_323_045_678,
            made_by: "alice".to_owned(),
            applied_at_ms: None,
            applied_by: None,
            ended_at_ms: None,
            outcome: Outcome {
                moves: vec![Move {
                    shard: ShardId(7),
                    from: Some("gateway-1".to_owned()),
                    to: Some("gateway-2".to_owned()),
                    cause: Cause::Drain,
                }],
                imbalance_before_milli: 1_024,
                imbalance_after_milli: 1_000,
                load_imbalance_before_milli: None,
                load_imbalance_after_milli: None,
                sessions: 42,
                stuck: 0,
                events_per_s: 3,
                steps: 1,
                seconds: 61,
            },
        };
        let expected = "\
plan 17 of alice, 2026-01-02 03:04:05Z, a draft
  drain gateway-1 over 60 s
  moves: 1 shard in 1 step, about 61 s
  imbalance 1.024 before, 1.000 after, by shards
  sessions sent to other nodes: 42; event copies/s in the shards that move: 3
shard  from       to         because
0007   gateway-1  gateway-2  its owner drains
nothing has changed; do it with: guildctl apply 17
";
        assert_eq!(plan_text(&plan), expected);
        plan.outcome.stuck = 128;
        let stuck = "  stuck: 128 shards, for no other node takes any; it does not end before";
        assert!(plan_text(&plan).contains(stuck), "{}", plan_text(&plan));
    }
}
