//! Commands that only look.

use std::fmt::Write as _;

use guildhall_shared::operator::{
    Cause, GuildsAnswer, History, MapInfo, Move, Moves, NodesAnswer, PlanInfo, Progress, ShardInfo,
    ShardsAnswer, Why,
};

use crate::args::Read;
use crate::client::{Ask, Client};
use crate::error::Result;
use crate::plan;
use crate::print::{
    Column, Output, Table, cores_busy, count, map_version, node_state, or_dash, thousandths, time,
};

pub(crate) async fn run(client: &Client, what: Read, output: Output) -> Result<()> {
    match what {
        Read::Nodes => {
            let nodes: NodesAnswer = client.ask(&Ask::get(["nodes"])).await?;
            output.print(&nodes, nodes_text)
        }
        Read::Map { shards } => {
            let mut ask = Ask::get(["map"]);
            if shards {
                ask = ask.query("shards", "all");
            }
            let map: MapInfo = client.ask(&ask).await?;
            output.print(&map, map_text)
        }
        Read::Shards { hot } => {
            let ask = Ask::get(["shards"]).query("hot", hot);
            let answer: ShardsAnswer = client.ask(&ask).await?;
            output.print(&answer, |answer| shards_text(&answer.shards))
        }
        Read::Guilds { hot } => {
            let ask = Ask::get(["guilds"]).query("hot", hot);
            let answer: GuildsAnswer = client.ask(&ask).await?;
            output.print(&answer, guilds_text)
        }
        Read::Why { guild } => {
            let why: Why = client
                .ask(&Ask::get(["why".to_owned(), guild.to_string()]))
                .await?;
            output.print(&why, why_text)
        }
        Read::History { before, limit } => {
            let mut ask = Ask::get(["history"]).query("limit", limit);
            if let Some(before) = before {
                ask = ask.query("before", before);
            }
            let history: History = client.ask(&ask).await?;
            output.print(&history, history_text)
        }
        Read::Moves => {
            let moves: Moves = client.ask(&Ask::get(["moves"])).await?;
            output.print(&moves, moves_text)
        }
    }
}

fn nodes_text(answer: &NodesAnswer) -> String {
    let mut table = Table::new(&[
        Column::Left("node"),
        Column::Left("state"),
        Column::Right("weight"),
        Column::Right("shards"),
        Column::Right("sessions"),
        Column::Right("dispatches/s"),
        Column::Right("cores busy"),
        Column::Right("lag"),
        Column::Right("heartbeat"),
        Column::Left("map"),
        Column::Left("relay"),
    ]);
    for node in &answer.nodes {
        let status = node.status.as_ref();
        let age = node.heartbeat_age_ms;
        table.row([
            node.id.clone(),
            node_state(node).to_owned(),
            node.weight.to_string(),
            node.shards_owned.to_string(),
            or_dash(status.map(|status| status.sessions)),
            or_dash(status.map(|status| status.dispatches_per_s)),
            or_dash(status.map(|status| cores_busy(&status.cores_busy))),
            or_dash(status.map(|status| format!("{} ms", status.feed_lag_ms))),
            or_dash(age.map(|ms| format!("{:.1} s", ms as f64 / 1_000.0))),
            or_dash(status.map(|status| map_version(status.map))),
            or_dash(status.map(|status| &status.relay_addr)),
        ]);
    }
    table.to_text()
}

fn map_text(map: &MapInfo) -> String {
    let mut text = format!(
        "map {}: {}, {}, {} without owner\nimbalance {} by shards",
        map_version(map.version),
        count(map.shards, "shard"),
        count(map.nodes, "node"),
        map.unowned,
        thousandths(map.imbalance_milli),
    );
    if let Some(milli) = map.load_imbalance_milli {
        let _ = write!(text, ", {} by load", thousandths(milli)); // a String takes it all
    }
    text.push('\n');
    for (node, drain) in &map.drains {
        let _ = writeln!(
            text,
            "{node} sends its sessions away since {}, over {} s",
            time(drain.since_ms),
            drain.over_ms / 1_000,
        );
    }
    if let Some(shards) = &map.assignments {
        text += &shards_text(shards);
    }
    text
}

fn shards_text(shards: &[ShardInfo]) -> String {
    let mut table = Table::new(&[
        Column::Left("shard"),
        Column::Left("owner"),
        Column::Left("standby"),
        Column::Right("load/min"),
        Column::Left("pinned to"),
    ]);
    for shard in shards {
        table.row([
            shard.shard.to_string(),
            or_dash(shard.owner.as_ref()),
            or_dash(shard.standby.as_ref()),
            or_dash(shard.load),
            or_dash(shard.pin.as_ref()),
        ]);
    }
    table.to_text()
}

fn guilds_text(answer: &GuildsAnswer) -> String {
    let mut table = Table::new(&[
        Column::Left("guild"),
        Column::Left("shard"),
        Column::Left("owner"),
        Column::Right("load/min"),
        Column::Right("online"),
    ]);
    for guild in &answer.guilds {
        table.row([
            guild.guild.to_string(),
            guild.shard.to_string(),
            guild.owner.clone(),
            guild.load.to_string(),
            guild.online.to_string(),
        ]);
    }
    table.to_text()
}

fn why_text(why: &Why) -> String {
    let shard = &why.shard;
    let mut lines = vec![format!(
        "guild {} is in shard {}, map {}",
        why.guild,
        shard.shard,
        map_version(why.map),
    )];
    lines.push(match (&shard.owner, &shard.standby) {
        (Some(owner), Some(standby)) => format!("served by {owner}, standby {standby}"),
        (Some(owner), None) => format!("served by {owner}, no standby"),
        (None, _) => {
            "without an owner, for no node takes it: each gateway serves it by itself".to_owned()
        }
    });
    if let Some(moved) = &why.last_move {
        lines.push(format!(
            "there since {} (map {}), from {}, because {}",
            time(moved.at_ms),
            map_version(moved.version),
            moved.from.as_deref().unwrap_or("nowhere"),
            cause(moved.cause),
        ));
    } else if shard.owner.is_some() {
        lines.push("how it came there is not recorded".to_owned());
    }
    if let Some(pin) = &shard.pin {
        lines.push(format!("pinned to {pin}"));
    }
    if let (Some(load), Some(online)) = (why.load, why.online) {
        let online = count(online, "member");
        lines.push(format!("load {load}/min, {online} online"));
    } else if shard.owner.is_some() {
        lines.push("not among its node's busiest guilds".to_owned());
    }
    if why.edges_total > 0 {
        lines.push(format!(
            "heard at {}: {}",
            count(why.edges_total, "node"),
            edges(&why.edges, why.edges_total),
        ));
    }
    if let Some(node) = &why.node {
        let status = node.status.as_ref();
        let lag = status.map(|status| format!(", lag {} ms", status.feed_lag_ms));
        lines.push(format!(
            "{} is {}, weight {}, with {}{}",
            node.id,
            node_state(node),
            node.weight,
            count(node.shards_owned, "shard"),
            lag.unwrap_or_default(),
        ));
    }
    lines.join("\n") + "\n"
}

/// Those that are named, and how many are not.
fn edges(named: &[String], total: u32) -> String {
    let text = named.join(", ");
    match (total as usize).saturating_sub(named.len()) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// As the end of a sentence that begins with "because".
pub(crate) fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Unowned => "it had no owner",
        Cause::OwnerLost => "its owner was lost",
        Cause::OwnerStopping => "its owner was stopping",
        Cause::Drain => "its owner drains",
        Cause::Pin => "of a pin",
        Cause::Move => "an operator moved it",
        Cause::Share => "its owner had more than its share",
        Cause::Load => "its owner was too loaded",
    }
}

fn history_text(history: &History) -> String {
    let mut table = Table::new(&[
        Column::Right("id"),
        Column::Left("time"),
        Column::Left("map"),
        Column::Left("who"),
        Column::Left("what"),
        Column::Left("detail"),
    ]);
    for entry in &history.entries {
        let detail = match &entry.detail {
            serde_json::Value::Null => String::new(),
            detail => shortened(&detail.to_string()),
        };
        table.row([
            entry.id.to_string(),
            time(entry.at_ms),
            map_version(entry.version),
            entry.who.clone(),
            entry.action.clone(),
            detail,
        ]);
    }
    let mut text = table.to_text();
    if let Some(before) = history.next_before {
        let _ = writeln!(text, "older: guildctl history --before {before}");
    }
    text
}

/// A detail may name thousands of shards; all of it is in the JSON.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 120;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn moves_text(moves: &Moves) -> String {
    let mut text = String::new();
    if !moves.led {
        text += &format!("{}: nothing moves until one does\n", plan::NO_LEADER);
    }
    if let Some(pause) = &moves.paused {
        text += &format!("paused since {} by {}\n", time(pause.since_ms), pause.by);
    }
    if let Some(plan) = &moves.plan {
        text += &running(plan);
    }
    for wanted in &moves.requested {
        text += &format!("requested: shard {} to {}\n", wanted.shard, wanted.to);
    }
    match &moves.progress {
        Some(progress) => text += &progress_text(progress),
        None if text.is_empty() => text += "nothing is under way\n",
        None => {}
    }
    text
}

fn running(plan: &PlanInfo) -> String {
    let changes: Vec<String> = plan.changes.iter().map(plan::change_text).collect();
    format!(
        "plan {} of {} runs since {}: {}\n",
        plan.id,
        plan.applied_by.as_deref().unwrap_or(&plan.made_by),
        time(plan.applied_at_ms.unwrap_or(plan.made_at_ms)),
        changes.join(", "),
    )
}

fn progress_text(progress: &Progress) -> String {
    let moving = u32::try_from(progress.in_motion.len()).unwrap_or(u32::MAX);
    let mut text = format!(
        "step {} since {}: {} moved, {moving} in motion, {} left\n",
        progress.step,
        time(progress.step_started_at_ms),
        progress.done,
        progress.left,
    );
    if progress.timed_out > 0 {
        text += &format!(
            "{} did not settle in time\n",
            count(progress.timed_out, "step")
        );
    }
    if !progress.in_motion.is_empty() {
        text += &shard_moves(&progress.in_motion);
    }
    text
}

/// A table of moves.
pub(crate) fn shard_moves(moves: &[Move]) -> String {
    let mut table = Table::new(&[
        Column::Left("shard"),
        Column::Left("from"),
        Column::Left("to"),
        Column::Left("because"),
    ]);
    for moved in moves {
        table.row([
            moved.shard.to_string(),
            or_dash(moved.from.as_ref()),
            or_dash(moved.to.as_ref()),
            cause(moved.cause).to_owned(),
        ]);
    }
    table.to_text()
}

#[cfg(test)]
mod tests {
    use guildhall_shared::Id;
    use guildhall_shared::cluster_map::MapVersion;
    use guildhall_shared::shard::ShardId;

    use super::*;

    #[test]
    fn why_says_who_serves_a_guild_whose_shard_has_no_owner() {
        let why = Why {
            guild: Id::new(1_180_000_000_000_000_002).unwrap(),
            shard: ShardInfo {
                shard: ShardId(7),
                owner: None,
                standby: None,
                pin: None,
                load: None,
            },
            load: None,
            online: None,
            edges: Vec::new(),
            edges_total: 0,
            last_move: None,
            node: None,
            map: MapVersion {
                term: 3,
                version: 9,
            },
        };
        let expected = "\
guild 1180000000000000002 is in shard 0007, map 3.9
without an owner, for no node takes it: each gateway serves it by itself
";
        assert_eq!(why_text(&why), expected);
    }
}
