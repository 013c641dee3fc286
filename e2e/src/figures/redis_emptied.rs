//! Redis forgets everything, or is killed and comes back empty, while people write: how late
//! messages are.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::ear::now_us;
use super::heard::{Told, compare};
use super::table::{Row, ms, quantile};
use super::town::{Talk, Town};
use crate::chaos::checker::Write;
use crate::cluster::Cluster;

const PEOPLE: usize = 24;
const GUILDS_EACH: usize = 2;
/// About 100 messages a second.
const PACE_MS: (u64, u64) = (300, 600);
const WARM_UP: Duration = Duration::from_secs(3);
const FLUSHES: usize = 5;
/// After each.
const FLUSH_PAUSE: Duration = Duration::from_millis(1_700);
const KILLS: usize = 2;
const AWAY: Duration = Duration::from_secs(3);
const BACK: Duration = Duration::from_secs(4);
const AIM_MS: f64 = 1_200.0;

pub(super) async fn run(cluster: &Cluster) -> Result<Vec<Row>> {
    let town = Town::make(cluster, PEOPLE, GUILDS_EACH).await?;
    let flush = async || -> Result<()> {
        for _ in 0..FLUSHES {
            cluster.flush_redis().await?;
            sleep(FLUSH_PAUSE).await;
        }
        Ok(())
    };
    let kill = async || -> Result<()> {
        for _ in 0..KILLS {
            cluster.kill_redis().await?;
            sleep(AWAY).await;
            cluster.restart_redis().await?;
            sleep(BACK).await;
        }
        Ok(())
    };
    Ok(vec![
        measure(cluster, &town, "FLUSHALL", flush).await?,
        measure(
            cluster,
            &town,
            "Redis killed and back empty 3 s later",
            kill,
        )
        .await?,
    ])
}

async fn measure(
    cluster: &Cluster,
    town: &Town,
    fault: &str,
    strike: impl AsyncFnOnce() -> Result<()>,
) -> Result<Row> {
    let gateways = cluster.gateways.len();
    let ears = town.listen(cluster, |person| person % gateways).await?;
    let since_us = now_us();
    let talk = Talk::start(town, cluster, PACE_MS);
    sleep(WARM_UP).await;
    let struck_us = now_us();
    strike().await?;
    let writes = talk.finish().await?;
    let db = cluster.db().await?;
    let mut told = compare(&db, town, since_us, ears).await?;
    unstored(&mut told, &writes);
    cluster.at_rest(gateways).await;

    let mut before = told.delays(|one| one.at_us < struck_us);
    let mut delays = told.delays(|one| one.at_us >= struck_us);
    ensure!(!delays.is_empty(), "nothing was measured");
    let count = told.posted.len();
    let (p99, longest) = (
        ms(quantile(&mut delays, 0.99)),
        ms(quantile(&mut delays, 1.0)),
    );
    let usual = ms(quantile(&mut before, 1.0));
    Ok(Row {
        figure: "redis-emptied",
        what: format!("{fault}, {count} messages meanwhile: longest delay"),
        measured: format!("{longest:.0} ms (p99 {p99:.0} ms; longest before it {usual:.0} ms)"),
        numbers: BTreeMap::from([
            ("delay_max_ms", longest),
            ("delay_p99_ms", p99),
            ("delay_max_before_ms", usual),
            ("messages", count as f64),
        ]),
        aim: "<= 1.2 s, none lost",
        is_met: longest <= AIM_MS && told.wrong.count == 0,
        wrong: told.wrong,
    })
}

/// What got a 2xx and has no event.
fn unstored(told: &mut Told, writes: &[Write]) {
    for write in writes {
        if let Write::Created { id, content } = write
            && !told.posted.iter().any(|one| one.is(*id))
        {
            told.wrong.find(format!(
                "message {id} {content:?} got a 2xx and has no event"
            ));
        }
    }
}
