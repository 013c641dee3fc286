//! An operator drains a gateway: all of its sessions go on elsewhere and miss nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use guildhall_shared::operator::DrainRequest;
use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::crowd::Crowd;
use super::table::{Op9, Row};
use super::town::{Talk, Town};
use crate::chaos::listener::{WentOn, now_ms};
use crate::cluster::Cluster;

const PEOPLE: usize = 48;
const SESSIONS_EACH: usize = 5;
/// About 50 messages a second, 2 to each session.
const PACE_MS: (u64, u64) = (500, 1_500);
const WARM_UP: Duration = Duration::from_secs(3);
const OVER_S: u32 = 8;
/// After the last session has gone.
const AFTER: Duration = Duration::from_secs(2);
const DRAINED: usize = 1;

pub(super) async fn run(cluster: &Cluster) -> Result<Vec<Row>> {
    let town = Town::make(cluster, PEOPLE, 1).await?;
    let crowd = Crowd::of_town(cluster, &town, SESSIONS_EACH, DRAINED).await?;
    let talk = Talk::start(&town, cluster, PACE_MS);
    sleep(WARM_UP).await;
    let places = crowd.at(DRAINED);
    ensure!(!places.is_empty(), "no session to send away");
    let gateway = &cluster.gateways[DRAINED];
    let path = |word: &str| format!("nodes/{}/{word}", gateway.node);
    let (since, began) = (now_ms(), Instant::now());
    let request = DrainRequest { over_s: OVER_S };
    cluster
        .operate(Method::POST, &path("drain"), Some(&request))
        .await?;
    // As a load balancer once /ready says 503. Sockets that are open stay.
    gateway.proxy.refuse();
    let went = crowd.gone_on(&places, since).await;
    let took_s = began.elapsed().as_secs_f64();
    sleep(AFTER).await;
    let writes = talk.finish().await?;
    let checked = crowd.finish(writes, Op9::Counted).await?;
    gateway.proxy.accept();
    cluster
        .operate(Method::POST, &path("undrain"), None::<&Value>)
        .await?;
    cluster.at_rest(cluster.gateways.len()).await;

    let count = |wanted: Option<WentOn>| went.iter().filter(|(_, how)| *how == wanted).count();
    let (resumed, anew) = (count(Some(WentOn::Resumed)), count(Some(WentOn::Anew)));
    let (sessions, stayed) = (went.len(), count(None));
    let part = 100.0 * resumed as f64 / sessions as f64;
    let mut wrong = checked.wrong;
    if stayed > 0 {
        wrong.find(format!("{stayed} sessions never went on"));
    }
    Ok(vec![Row {
        figure: "drain",
        what: format!("drain of a gateway with {sessions} sessions over {OVER_S} s: RESUMED"),
        measured: format!(
            "{part:.1} % ({anew} op 9, {stayed} stayed; {took_s:.0} s; {} deliveries checked)",
            checked.deliveries
        ),
        numbers: BTreeMap::from([
            ("resumed_percent", part),
            ("sessions", sessions as f64),
            ("anew", anew as f64),
            ("seconds", took_s),
            ("deliveries", checked.deliveries as f64),
        ]),
        aim: "100 %, nothing lost or repeated",
        is_met: resumed == sessions && wrong.count == 0,
        wrong,
    }])
}
