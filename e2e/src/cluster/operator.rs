//! What operators do, by the coordinator's API.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use guildhall_shared::{
    cluster_map::{ClusterMap, MapVersion},
    operator::{Moves, NodesAnswer, PREFIX, Scope},
};
use reqwest::Method;
use serde::Serialize;
use serde_json::Value;

use super::Cluster;
use crate::wait;

/// Of a token made for one call.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Placement that changes nothing for so long is at rest: a heartbeat, a round, and some slack.
const REST: Duration = Duration::from_millis(3_500);

impl Cluster {
    /// One call as an operator who may do everything; `path` as in `guildhall_shared::operator`.
    ///
    /// Errors: no answer, or another than a success.
    pub async fn operate(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Value> {
        let now = SystemTime::now();
        let token = self
            .admin
            .sign("e2e", Scope::Operate, TOKEN_LIFETIME, now)?;
        let url = self.coordinator.url(&format!("{PREFIX}/{path}"));
        let mut request = reqwest::Client::new()
            .request(method, url)
            .timeout(ANSWER_MAX)
            .bearer_auth(token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let reply = request.send().await.with_context(|| path.to_owned())?;
        let status = reply.status();
        let text = reply.text().await?;
        ensure!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).with_context(|| format!("{path}: {text}"))
    }

    /// What placement is at.
    pub async fn moves(&self) -> Result<Moves> {
        let moves = self.operate(Method::GET, "moves", None::<&Value>).await?;
        Ok(serde_json::from_value(moves)?)
    }

    /// Waits until nothing that an operator asked for is left to move, and no step is under way.
    ///
    /// # Panics
    /// If that never happens.
    pub async fn moved(&self) {
        wait::until("the end of the moves", async || {
            let moves = self.moves().await.ok()?;
            is_over(&moves).then_some(())
        })
        .await;
    }

    /// Waits until a gateway has neither shards nor sessions, as `guildctl drain --wait` does.
    ///
    /// # Panics
    /// If that never happens.
    pub async fn emptied(&self, gateway: usize) {
        let id = &self.gateways[gateway].node;
        let what = format!("{id} without shards and sessions");
        wait::until(&what, async || {
            let answer = self.operate(Method::GET, "nodes", None::<&Value>).await;
            let NodesAnswer { nodes } = serde_json::from_value(answer.ok()?).ok()?;
            let node = nodes.into_iter().find(|node| node.id == *id)?;
            let sessions = node.status?.sessions;
            (node.shards_owned == 0 && sessions == 0).then_some(())
        })
        .await;
    }

    /// Waits until so many nodes own all shards, and placement has nothing to change for a while.
    ///
    /// # Panics
    /// If that never happens.
    pub async fn at_rest(&self, nodes: usize) -> ClusterMap {
        let mut still: Option<(MapVersion, tokio::time::Instant)> = None;
        let end = tokio::time::Instant::now() + 2 * wait::NEVER;
        loop {
            let map = self.map_of(nodes).await;
            let over = self.moves().await.is_ok_and(|moves| is_over(&moves));
            let now = tokio::time::Instant::now();
            match still {
                Some((version, since)) if over && version == map.version => {
                    if now - since >= REST {
                        return map;
                    }
                }
                _ => still = over.then_some((map.version, now)),
            }
            assert!(now < end, "placement never comes to rest");
            tokio::time::sleep(4 * wait::LOOK).await;
        }
    }
}

fn is_over(moves: &Moves) -> bool {
    moves.plan.is_none() && moves.requested.is_empty() && moves.progress.is_none()
}
