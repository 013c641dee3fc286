//! The event log as it is stored: who each event is for, and what goes to whom.

use guildhall_shared::{
    Id,
    envelope::{Envelope, Visibility},
    gateway::EventKind,
    shard::Position,
};
use sqlx::PgPool;

use crate::harness::TestApp;

/// Every event of a realm, decoded as a gateway would.
pub(crate) async fn all<T>(db: &PgPool, realm: Id<T>) -> Vec<Envelope> {
    let start = Position { era: 1, seq: 0 };
    guildhall_store::events::since(db, realm.cast(), start, 10_000)
        .await
        .unwrap()
}

/// All but those of the audit log, which come with nearly every change.
pub(crate) async fn envelopes<T>(db: &PgPool, realm: Id<T>) -> Vec<Envelope> {
    let mut events = all(db, realm).await;
    events.retain(|event| event.kind != EventKind::GuildAuditLogEntryCreate);
    events
}

/// The newest of them: its name and audience.
pub(crate) async fn newest<T>(app: &TestApp, realm: Id<T>) -> (&'static str, Visibility) {
    let newest = envelopes(&app.db, realm).await.pop().unwrap();
    (newest.kind.name(), newest.vis)
}
