//! kill -9 of gateways that own guilds whose sessions are at another one: how long these wait.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::ear::now_us;
use super::feed::Feed;
use super::heard::compare;
use super::table::{Row, ms, quantile};
use super::town::Town;
use crate::cluster::Cluster;

const PEOPLE: usize = 36;
const GUILDS_EACH: usize = 5;
const EVENTS_PER_S: usize = 1_000;
const WARM_UP: Duration = Duration::from_secs(2);
/// The first event of a guild that is stored within this time of the kill counts.
const AFTER: Duration = Duration::from_secs(3);
const AIM_MS: f64 = 1_000.0;

/// One gateway's end.
struct Kill {
    from_us: i64,
    to_us: i64,
    owned: BTreeSet<u64>,
}

pub(super) async fn run(cluster: &Cluster) -> Result<Vec<Row>> {
    let gateways = cluster.gateways.len();
    ensure!(gateways > 2, "two gateways are to die");
    let town = Town::make(cluster, PEOPLE, GUILDS_EACH).await?;
    let ears = town.listen(cluster, |_| 0).await?; // the one that stays
    let since_us = now_us();
    let feed = Feed::start(cluster, &town, EVENTS_PER_S).await?;
    let mut kills = Vec::new();
    for victim in 1..gateways {
        sleep(WARM_UP).await;
        let gateway = &cluster.gateways[victim];
        let owned = town.owned(&cluster.map().await?, &gateway.node);
        gateway.server.kill();
        let from_us = now_us();
        sleep(AFTER).await;
        kills.push(Kill {
            from_us,
            to_us: now_us(),
            owned,
        });
        cluster.map_of(gateways - victim).await;
    }
    let rate = feed.finish().await?;
    let db = cluster.db().await?;
    let told = compare(&db, &town, since_us, ears).await?;
    for gateway in &cluster.gateways[1..] {
        gateway.server.restart().await?;
    }
    cluster.at_rest(gateways).await;

    let mut pauses = Vec::new();
    for kill in &kills {
        let mut first: BTreeMap<u64, i64> = BTreeMap::new();
        for one in &told.posted {
            let counts = (kill.from_us..kill.to_us).contains(&one.at_us);
            // One that nobody got is found by the comparison.
            if let Some(delay) = one.delay_us()
                && counts
                && kill.owned.contains(&one.guild)
            {
                first.entry(one.guild).or_insert(delay);
            }
        }
        pauses.extend(first.into_values());
    }
    ensure!(!pauses.is_empty(), "nothing was measured");
    let guilds = pauses.len();
    let (p50, p99) = (
        ms(quantile(&mut pauses, 0.5)),
        ms(quantile(&mut pauses, 0.99)),
    );
    let longest = ms(quantile(&mut pauses, 1.0));
    Ok(vec![Row {
        figure: "owner-kill",
        what: format!(
            "kill -9 of the owners of {guilds} guilds: pause of sessions at another gateway, p99"
        ),
        measured: format!("{p99:.0} ms (p50 {p50:.0} ms, longest {longest:.0} ms)"),
        numbers: BTreeMap::from([
            ("pause_p99_ms", p99),
            ("pause_p50_ms", p50),
            ("pause_max_ms", longest),
            ("guilds", guilds as f64),
            ("events_per_s", rate),
        ]),
        aim: "<= 1 s",
        is_met: p99 <= AIM_MS,
        wrong: told.wrong,
    }])
}
