//! Shards move from one gateway to another while their guilds are written to: what that adds to
//! the way of an event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use guildhall_shared::operator::MoveRequest;
use guildhall_shared::shard::ShardId;
use reqwest::Method;
use serde_json::Value;
use tokio::time::sleep;

use super::ear::now_us;
use super::feed::Feed;
use super::heard::{Posted, compare};
use super::table::{Row, ms, quantile};
use super::town::Town;
use crate::cluster::Cluster;

const PEOPLE: usize = 36;
const GUILDS_EACH: usize = 5;
const EVENTS_PER_S: usize = 1_000;
/// Until the first quiet time counts.
const WARM_UP: Duration = Duration::from_secs(3);
/// Between two rounds of moves.
const QUIET: Duration = Duration::from_secs(4);
const ROUNDS: usize = 4;
/// For the coordinator to heed a pause: it looks every second.
const PAUSE: Duration = Duration::from_millis(1_500);
/// Shards that an operator moves in one round; placement moves about as many back, so that the
/// nodes stay even.
const SHARDS: usize = 8;
const AIM_MS: f64 = 10.0;

/// A time in which shards moved, or none did.
struct Window {
    from_us: i64,
    to_us: i64,
    moved: BTreeSet<ShardId>,
}

impl Window {
    fn holds(&self, at_us: i64) -> bool {
        (self.from_us..self.to_us).contains(&at_us)
    }
}

pub(super) async fn run(cluster: &Cluster) -> Result<Vec<Row>> {
    let town = Town::make(cluster, PEOPLE, GUILDS_EACH).await?;
    let gateways = cluster.gateways.len();
    // Neighbours share guilds: every event goes to two nodes.
    let ears = town.listen(cluster, |person| person % gateways).await?;
    let since_us = now_us();
    let feed = Feed::start(cluster, &town, EVENTS_PER_S).await?;
    sleep(WARM_UP).await;
    let (mut quiet, mut moving) = (Vec::new(), Vec::new());
    // Nothing moves by itself, for its load, while it is to be quiet.
    order(cluster, "pause").await?;
    for round in 0..ROUNDS {
        sleep(PAUSE).await;
        let calm = async || -> Result<()> {
            sleep(QUIET).await;
            Ok(())
        };
        quiet.push(watch(cluster, calm).await?);
        let (from, to) = (round % gateways, (round + 1) % gateways);
        let shards = some_shards(cluster, &town, from).await?;
        let request = MoveRequest {
            shards,
            guild: None,
            to: cluster.gateways[to].node.clone(),
        };
        let round = async || -> Result<()> {
            let asked = cluster.operate(Method::POST, "moves", Some(&request));
            asked.await?;
            order(cluster, "resume").await?;
            cluster.moved().await;
            order(cluster, "pause").await
        };
        moving.push(watch(cluster, round).await?);
    }
    order(cluster, "resume").await?;
    let rate = feed.finish().await?;
    let db = cluster.db().await?;
    let told = compare(&db, &town, since_us, ears).await?;
    cluster.at_rest(gateways).await;

    // A round of the coordinator that had begun before the pause may have moved something.
    quiet.retain(|window| window.moved.is_empty());
    let shard_of: BTreeMap<u64, ShardId> = town
        .guilds
        .iter()
        .map(|guild| (guild.id, guild.shard))
        .collect();
    let is_quiet = |one: &Posted| quiet.iter().any(|window| window.holds(one.at_us));
    let moves = |one: &Posted| {
        let shard = shard_of.get(&one.guild);
        let of = |window: &Window| {
            window.holds(one.at_us) && shard.is_some_and(|shard| window.moved.contains(shard))
        };
        moving.iter().any(of)
    };
    let meanwhile = |one: &Posted| moving.iter().any(|window| window.holds(one.at_us));
    let p99 = |mut delays: Vec<i64>| (delays.len(), ms(quantile(&mut delays, 0.99)));
    let (calm_count, calm) = p99(told.delays(is_quiet));
    let (moved_count, moved) = p99(told.delays(moves));
    let (_, all) = p99(told.delays(meanwhile));
    let shards: usize = moving.iter().map(|window| window.moved.len()).sum();
    ensure!(calm_count > 0 && moved_count > 0, "nothing was measured");
    let added = moved - calm;
    Ok(vec![Row {
        figure: "move",
        what: format!(
            "{shards} planned moves of shards at {rate:.0} events/s: p99 of their guilds' events"
        ),
        measured: format!(
            "{added:+.1} ms ({moved:.1} ms while they move, {calm:.1} ms while nothing does; \
             all guilds meanwhile {all:.1} ms)"
        ),
        numbers: BTreeMap::from([
            ("added_p99_ms", added),
            ("moving_p99_ms", moved),
            ("quiet_p99_ms", calm),
            ("all_guilds_p99_ms", all),
            ("moves", shards as f64),
            ("events_per_s", rate),
            ("deliveries_moving", moved_count as f64),
            ("deliveries_quiet", calm_count as f64),
        ]),
        aim: "<= 10 ms more",
        is_met: added <= AIM_MS,
        wrong: told.wrong,
    }])
}

/// One without a body.
async fn order(cluster: &Cluster, path: &str) -> Result<()> {
    cluster.operate(Method::POST, path, None::<&Value>).await?;
    Ok(())
}

/// Does something; when, and the shards that have another owner afterwards.
async fn watch(cluster: &Cluster, deed: impl AsyncFnOnce() -> Result<()>) -> Result<Window> {
    let (before, from_us) = (cluster.map().await?, now_us());
    deed().await?;
    let (to_us, after) = (now_us(), cluster.map().await?);
    let shards = (0..cluster.shards()).map(ShardId);
    Ok(Window {
        from_us,
        to_us,
        moved: shards
            .filter(|shard| before.owner(*shard) != after.owner(*shard))
            .collect(),
    })
}

/// Shards of a gateway in which there are guilds.
async fn some_shards(cluster: &Cluster, town: &Town, gateway: usize) -> Result<Vec<ShardId>> {
    let (map, node) = (cluster.map().await?, &cluster.gateways[gateway].node);
    let lived_in: BTreeSet<ShardId> = town.guilds.iter().map(|guild| guild.shard).collect();
    let of_node = lived_in
        .into_iter()
        .filter(|shard| map.owner(*shard) == Some(node.as_str()));
    Ok(of_node.take(SHARDS).collect())
}
