//! Events on their way to the gateways.

use std::time::Duration;

use guildhall_shared::{envelope::Envelope, keys, shard::ShardId};
use serde_json::json;
use sqlx::PgPool;

use crate::{
    harness::{TestApp, redis_connection},
    log,
};

/// Id and fields of a stream's entry.
type Entry = (String, Vec<(String, Vec<u8>)>);

#[sqlx::test(migrations = "../migrations")]
async fn a_stored_event_reaches_its_shards_stream_as_stored(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    app.patch(&alice, "/users/@me", json!({ "bio": "hello" }))
        .await
        .expect(200);
    let stored = log::envelopes(&app.db, alice.id).await;

    let mut redis = redis_connection().await;
    let stream = keys::shard_events(ShardId::of(alice.id, 4096));
    let found = async {
        loop {
            let entries: Vec<Entry> = redis::cmd("XRANGE")
                .arg(&stream)
                .arg("-")
                .arg("+")
                .query_async(&mut redis)
                .await
                .unwrap();
            let envelopes = entries.into_iter().map(|(_, mut fields)| {
                let (name, bytes) = fields.remove(0);
                assert_eq!(name, keys::STREAM_FIELD);
                Envelope::decode(bytes.into()).unwrap()
            });
            let own: Vec<_> = envelopes
                .filter(|event| event.realm == alice.id.cast())
                .collect();
            if !own.is_empty() {
                return own;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(10), found)
        .await
        .unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].position(), stored[0].position());
    assert_eq!(
        (&found[0].body, &found[0].vis),
        (&stored[0].body, &stored[0].vis)
    );
    assert_ne!(found[0].trace, 0);
}
