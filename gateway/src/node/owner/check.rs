//! Asks Postgres for what never came: a publisher may die between commit and publish.

use std::{rc::Rc, time::Duration};

use tokio::time::sleep;

use super::Owner;
use crate::{
    broken::{self, Broken},
    clock,
    status::Status,
};

/// Time between checks while Redis carries the events.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same for shards whose events it does not carry: chat goes on, slower.
const INTERVAL_ALONE: Duration = Duration::from_millis(100);
/// How far a check looks back. Transactions are cut off after 3 s, so nothing slips through
/// between two of them.
const WINDOW: Duration = Duration::from_secs(10);
/// As far back as the log reaches.
const WINDOW_MAX: Duration = Duration::from_secs(30 * 60);

/// Checks as long as the task lives; also says whether the database answers.
pub(crate) async fn run(owner: Rc<Owner>, status: std::sync::Arc<Status>) {
    let mut last = clock::now();
    let mut next = last;
    loop {
        let started = clock::now();
        let window = (clock::now().duration_since(last) + WINDOW).min(WINDOW_MAX);
        let mut shards = owner.open_shards();
        let is_for_all = started >= next;
        if is_for_all {
            next = started + INTERVAL;
        } else {
            shards = owner.feed.not_brought(shards);
        }
        match owner.stored.newer_in_shards(&shards, window).await {
            Ok(heads) => {
                if is_for_all {
                    last = started;
                }
                status.set_database(true);
                for head in heads {
                    if broken::is(Broken::PostgresCheck) {
                        break;
                    }
                    owner.know(head.realm, head.position);
                }
            }
            Err(error) => {
                status.set_database(false);
                tracing::warn!(%error, "check for missed events failed");
            }
        }
        let alone = !owner.feed.is_up();
        sleep(if alone { INTERVAL_ALONE } else { INTERVAL }).await;
    }
}
