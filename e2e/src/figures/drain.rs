//! An operator drains a gateway: all of its sessions go on elsewhere and miss nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use guildhall_shared::operator::DrainRequest;
use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::crowd::Crowd;
use super::table::{Op9, Row, Wrong};
use super::town::{Talk, Town};
use crate::chaos::listener::{WentOn, now_ms};
use crate::cluster::{Cluster, Gateway};

/// What is measured. About 50 messages a second, 2 to each session.
const MEASURED: Size = Size {
    people: 48,
    sessions_each: 5,
    over_s: 8,
};
/// Between two messages of a guild, of which each of the people has one.
const PACE_MS: (u64, u64) = (500, 1_500);
const WARM_UP: Duration = Duration::from_secs(3);
/// After the last session has gone.
const AFTER: Duration = Duration::from_secs(2);
/// Its place in the cluster.
pub const DRAINED: usize = 1;

/// How many people with how many sessions each are sent away, and over how long.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub people: usize,
    pub sessions_each: usize,
    /// Seconds.
    pub over_s: u32,
}

/// How it went.
#[derive(Debug)]
pub struct Drained {
    /// That the gateway had.
    pub sessions: usize,
    /// Of them first told RESUMED, at another gateway.
    pub resumed: usize,
    /// Of them told op 9.
    pub anew: usize,
    /// Of them never told anything.
    pub stayed: usize,
    /// Until all had gone on, in seconds.
    pub took_s: f64,
    /// MESSAGE_CREATEs that clients got.
    pub deliveries: u64,
    /// What the checker of chaos found; op 9 is counted above.
    pub wrong: Wrong,
}

/// Drains the gateway [`DRAINED`] by the operators' API while all its people write to each other.
/// It is left drained, and refuses clients.
///
/// Errors: a call failed, or there was no session to send away.
pub async fn drain(cluster: &Cluster, size: Size) -> Result<Drained> {
    let town = Town::make(cluster, size.people, 1).await?;
    let crowd = Crowd::of_town(cluster, &town, size.sessions_each, DRAINED).await?;
    let talk = Talk::start(&town, cluster, PACE_MS);
    sleep(WARM_UP).await;
    let places = crowd.at(DRAINED);
    ensure!(!places.is_empty(), "no session to send away");
    let gateway = &cluster.gateways[DRAINED];
    let (since, began) = (now_ms(), Instant::now());
    let request = DrainRequest {
        over_s: size.over_s,
    };
    cluster
        .operate(Method::POST, &order(gateway, "drain"), Some(&request))
        .await?;
    // As a load balancer once /ready says 503. Sockets that are open stay.
    gateway.proxy.refuse();
    let went = crowd.gone_on(&places, since).await;
    let took_s = began.elapsed().as_secs_f64();
    sleep(AFTER).await;
    let writes = talk.finish().await?;
    let checked = crowd.finish(writes, Op9::Counted).await?;
    let count = |wanted: Option<WentOn>| went.iter().filter(|(_, how)| *how == wanted).count();
    Ok(Drained {
        sessions: went.len(),
        resumed: count(Some(WentOn::Resumed)),
        anew: count(Some(WentOn::Anew)),
        stayed: count(None),
        took_s,
        deliveries: checked.deliveries,
        wrong: checked.wrong,
    })
}

/// The path of an order to a gateway.
fn order(gateway: &Gateway, word: &str) -> String {
    format!("nodes/{}/{word}", gateway.node)
}

pub(super) async fn run(cluster: &Cluster) -> Result<Vec<Row>> {
    let Drained {
        sessions,
        resumed,
        anew,
        stayed,
        took_s,
        deliveries,
        mut wrong,
    } = drain(cluster, MEASURED).await?;
    let gateway = &cluster.gateways[DRAINED];
    gateway.proxy.accept();
    cluster
        .operate(Method::POST, &order(gateway, "undrain"), None::<&Value>)
        .await?;
    cluster.at_rest(cluster.gateways.len()).await;

    let part = 100.0 * resumed as f64 / sessions as f64;
    let over_s = MEASURED.over_s;
    if stayed > 0 {
        wrong.find(format!("{stayed} sessions never went on"));
    }
    Ok(vec![Row {
        figure: "drain",
        what: format!("drain of a gateway with {sessions} sessions over {over_s} s: RESUMED"),
        measured: format!(
            "{part:.1} % ({anew} op 9, {stayed} stayed; {took_s:.0} s; {deliveries} deliveries \
             checked)"
        ),
        numbers: BTreeMap::from([
            ("resumed_percent", part),
            ("sessions", sessions as f64),
            ("anew", anew as f64),
            ("seconds", took_s),
            ("deliveries", deliveries as f64),
        ]),
        aim: "100 %, nothing lost or repeated",
        is_met: resumed == sessions && wrong.count == 0,
        wrong,
    }])
}
