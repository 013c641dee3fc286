//! What the leader writes down in Postgres: how far moves are, each shard's last move, and its
//! own deeds. Placement never waits for it: what cannot be written is lost, and said.

use std::collections::BTreeSet;

use guildhall_shared::cluster_map::MapVersion;
use guildhall_shared::operator::{Cause, LastMove, Move, Progress};
use guildhall_shared::shard::ShardId;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use crate::audit::{self, Deed, signed};
use crate::config::POSTGRES_ANSWER_MAX;
use crate::error::{Error, Result};

pub(crate) struct Journal {
    db: PgPool,
    /// `coordinator/<id>`.
    who: String,
    /// What was written last, and under which term.
    written: Option<(u64, Option<Progress>)>,
    /// Nodes of the last round, once there was one under this term.
    nodes: Option<BTreeSet<String>>,
    frozen: bool,
}

impl Journal {
    pub(crate) fn new(db: PgPool, id: &str) -> Self {
        Self {
            db,
            who: format!("coordinator/{id}"),
            written: None,
            nodes: None,
            frozen: false,
        }
    }

    /// This process no longer leads, or has just begun to.
    pub(crate) fn start_afresh(&mut self) {
        self.written = None;
        self.nodes = None;
        self.frozen = false;
    }

    /// One deed of the coordinator's own.
    pub(crate) async fn note(&self, action: &str, detail: Value, version: MapVersion) {
        self.note_all(vec![(action, detail)], version).await;
    }

    /// Several, in the time of one.
    async fn note_all(&self, deeds: Vec<(&str, Value)>, version: MapVersion) {
        let Some(&(what, _)) = deeds.first() else {
            return;
        };
        let write = async {
            let mut tx = self.db.begin().await?;
            for (action, detail) in deeds {
                let deed = Deed {
                    who: &self.who,
                    action,
                    detail,
                    version,
                };
                audit::record(&mut tx, deed).await?;
            }
            tx.commit().await?;
            Ok(())
        };
        self.said(what, timeout(POSTGRES_ANSWER_MAX, write).await);
    }

    /// Tells which nodes came and went since the last round, and whether placement froze.
    pub(crate) async fn compare(
        &mut self,
        nodes: BTreeSet<String>,
        frozen: bool,
        version: MapVersion,
    ) {
        let mut deeds = Vec::new();
        if frozen != self.frozen {
            let action = if frozen { "freeze" } else { "thaw" };
            deeds.push((action, json!({})));
            self.frozen = frozen;
        }
        if let Some(before) = self.nodes.replace(nodes.clone()) {
            for (action, some, others) in [
                ("node_lost", &before, &nodes),
                ("node_joined", &nodes, &before),
            ] {
                for id in some.difference(others) {
                    deeds.push((action, json!({ "node": id })));
                }
            }
        }
        self.note_all(deeds, version).await;
    }

    /// Writes how far the moves are, if that has changed.
    pub(crate) async fn progress(&mut self, term: u64, progress: Option<&Progress>) {
        let now = (term, progress.cloned());
        if self.written.as_ref() == Some(&now) {
            return;
        }
        let state = match serde_json::to_value(progress) {
            Ok(Value::Null) => None,
            Ok(state) => Some(state),
            Err(error) => return self.said("progress", Ok(Err(error.into()))),
        };
        let write = async {
            sqlx::query!(
                "update cluster_progress set term = $1, state = $2 where term <= $1",
                signed(term),
                state,
            )
            .execute(&self.db)
            .await?;
            Ok(())
        };
        let written = timeout(POSTGRES_ANSWER_MAX, write).await;
        if matches!(written, Ok(Ok(()))) {
            self.written = Some(now);
        }
        self.said("progress", written);
    }

    /// Writes each shard's last move.
    pub(crate) async fn moved(&self, moves: &[Move], version: MapVersion) {
        if moves.is_empty() {
            return;
        }
        let shards: Vec<i32> = moves.iter().map(|go| i32::from(go.shard.0)).collect();
        let from: Vec<Option<String>> = moves.iter().map(|go| go.from.clone()).collect();
        let to: Vec<Option<String>> = moves.iter().map(|go| go.to.clone()).collect();
        let causes: Vec<String> = moves.iter().map(|go| word(go.cause).to_owned()).collect();
        let write = async {
            sqlx::query!(
                "insert into cluster_shard_move
                   (shard, at, from_node, to_node, cause, term, version)
                 select shard, now(), from_node, to_node, cause, $5, $6
                 from unnest($1::int[], $2::text[], $3::text[], $4::text[])
                   as moved (shard, from_node, to_node, cause)
                 on conflict (shard) do update
                 set at = excluded.at, from_node = excluded.from_node,
                     to_node = excluded.to_node, cause = excluded.cause,
                     term = excluded.term, version = excluded.version",
                &shards,
                &from as &[Option<String>],
                &to as &[Option<String>],
                &causes,
                signed(version.term),
                signed(version.version),
            )
            .execute(&self.db)
            .await?;
            Ok(())
        };
        self.said("moves", timeout(POSTGRES_ANSWER_MAX, write).await);
    }

    fn said(&self, what: &str, written: std::result::Result<Result<()>, Elapsed>) {
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(what, %error, "not written down"),
            Err(_) => {
                let error = Error::Silent("Postgres");
                tracing::warn!(what, %error, "not written down");
            }
        }
    }
}

/// As the leader wrote it last.
pub(crate) async fn read_progress(db: &PgPool) -> Result<Option<Progress>> {
    let state = sqlx::query_scalar!("select state from cluster_progress")
        .fetch_optional(db)
        .await?
        .flatten();
    Ok(state.map(serde_json::from_value).transpose()?)
}

/// How a shard came to where it is, if that is recorded.
pub(crate) async fn last_move(db: &PgPool, shard: ShardId) -> Result<Option<LastMove>> {
    let row = sqlx::query!(
        r#"select (extract(epoch from at) * 1000)::bigint as "at_ms!",
             from_node, to_node, cause, term, version
           from cluster_shard_move where shard = $1"#,
        i32::from(shard.0),
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    Ok(Some(LastMove {
        at_ms: row.at_ms.unsigned_abs(),
        from: row.from_node,
        to: row.to_node,
        cause: serde_json::from_value(Value::String(row.cause))?,
        version: audit::version(row.term, row.version),
    }))
}

/// As in JSON.
fn word(cause: Cause) -> &'static str {
    match cause {
        Cause::Unowned => "unowned",
        Cause::OwnerLost => "owner_lost",
        Cause::OwnerStopping => "owner_stopping",
        Cause::Drain => "drain",
        Cause::Pin => "pin",
        Cause::Move => "move",
        Cause::Share => "share",
        Cause::Load => "load",
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use sqlx::postgres::PgPoolOptions;

    use super::*;

    #[tokio::test]
    async fn the_loss_of_many_nodes_is_not_waited_for_longer_than_that_of_one() {
        let patience = Duration::from_millis(300);
        let nobody = PgPoolOptions::new()
            .acquire_timeout(patience)
            .connect_lazy("postgres://nobody@127.0.0.1:1/none")
            .unwrap();
        let mut journal = Journal::new(nobody, "one");
        let all: BTreeSet<String> = (0..10).map(|node| node.to_string()).collect();
        journal.compare(all, false, MapVersion::default()).await;
        let lost = Instant::now();
        let none = BTreeSet::new();
        journal.compare(none, false, MapVersion::default()).await;
        assert!(lost.elapsed() < 3 * patience);
    }

    #[test]
    fn a_cause_is_stored_as_the_word_of_its_json() {
        for cause in [
            Cause::Unowned,
            Cause::OwnerLost,
            Cause::OwnerStopping,
            Cause::Drain,
            Cause::Pin,
            Cause::Move,
            Cause::Share,
            Cause::Load,
        ] {
            assert_eq!(serde_json::to_value(cause).unwrap(), word(cause));
        }
    }
}
