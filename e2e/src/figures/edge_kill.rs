//! kill -9 of a gateway with sessions, under load: how many go on by RESUME, each exactly.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::crowd::Crowd;
use super::table::{Op9, Row};
use super::town::{Talk, Town};
use crate::chaos::listener::{WentOn, now_ms};
use crate::cluster::Cluster;

const PEOPLE: usize = 48;
const SESSIONS_EACH: usize = 5;
/// About 50 messages a second, 2 to each session: what the design reckons with.
const PACE_MS: (u64, u64) = (500, 1_500);
const WARM_UP: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(2);
/// Gateways killed, one after the other.
const KILLS: usize = 3;
/// Where all sessions begin.
const FIRST: usize = 1;

/// `resume`: `GATEWAY_RESUME` of the cluster.
pub(super) async fn run(cluster: &Cluster, resume: &str) -> Result<Vec<Row>> {
    let gateways = cluster.gateways.len();
    let (aim, aim_percent) = match resume {
        "sync" => ("100 %, 0 wrong", 100.0),
        _ => (">= 95 %, 0 wrong", 95.0),
    };
    let town = Town::make(cluster, PEOPLE, 1).await?;
    let crowd = Crowd::of_town(cluster, &town, SESSIONS_EACH, FIRST).await?;
    let talk = Talk::start(&town, cluster, PACE_MS);
    let (mut sessions, mut resumed, mut stayed) = (0, 0, 0);
    let mut each = Vec::new();
    let mut unexplained = Vec::new();
    for _ in 0..KILLS {
        sleep(WARM_UP).await;
        // Those of the last one have gone to another.
        let busiest = (0..gateways).max_by_key(|gateway| crowd.at(*gateway).len());
        let victim = busiest.unwrap_or(FIRST);
        let (here, all) = (crowd.at(victim), crowd.listeners.len());
        ensure!(!here.is_empty(), "no session to lose its gateway");
        cluster.gateways[victim].server.kill();
        let since = now_ms();
        let went = crowd.gone_on(&here, since).await;
        sleep(AFTER).await;
        let count = |wanted: Option<WentOn>| went.iter().filter(|(_, how)| *how == wanted).count();
        let exact = count(Some(WentOn::Resumed));
        sessions += went.len();
        resumed += exact;
        stayed += count(None);
        each.push(format!("{exact} of {}", went.len()));
        for place in (0..all).filter(|place| !here.contains(place)) {
            if crowd.listeners[place].went_on(since) == Some(WentOn::Anew) {
                unexplained.push(place);
            }
        }
        cluster.map_of(gateways - 1).await;
        cluster.gateways[victim].server.restart().await?;
        cluster.map_of(gateways).await;
    }
    let writes = talk.finish().await?;
    let checked = crowd.finish(writes, Op9::Counted).await?;
    cluster.at_rest(gateways).await;

    let part = 100.0 * resumed as f64 / sessions as f64;
    let mut wrong = checked.wrong;
    if stayed > 0 {
        wrong.find(format!("{stayed} sessions never went on"));
    }
    for place in unexplained {
        wrong.find(format!("client {place} got op 9 while its gateway lived"));
    }
    Ok(vec![Row {
        figure: "edge-kill",
        what: format!("kill -9 of gateways with {sessions} sessions, {resume}: resumed exactly"),
        measured: format!(
            "{part:.1} % ({}; {} deliveries checked)",
            each.join(", "),
            checked.deliveries
        ),
        numbers: BTreeMap::from([
            ("resumed_percent", part),
            ("sessions", sessions as f64),
            ("kills", KILLS as f64),
            ("deliveries", checked.deliveries as f64),
        ]),
        aim,
        is_met: part >= aim_percent && wrong.count == 0,
        wrong,
    }])
}
