//! Who is online in the guilds served here, written to Redis: the API counts by it, and the
//! next owner learns from it who vanished together with this one.
//!
//! Best effort: without Redis there are no counts, and nothing else is lacking.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use guildhall_shared::{
    Id,
    id::marker::Realm as RealmMarker,
    keys,
    model::{Platforms, Presence},
    online,
    shard::ShardId,
};
use redis::RedisResult;
use tokio::{task::yield_now, time::sleep};

use super::{Owner, presence::SETTLE, realm::Realm};
use crate::clock;

/// Time between looks for guilds to write.
const INTERVAL: Duration = Duration::from_secs(2);
/// Bytes of entries encoded before they are sent and others have their turn.
const BATCH_BYTES: usize = 256 * 1024;
/// Deletes an entry unless another owner has written since.
const FORGET: &str = "if redis.call('GETRANGE', KEYS[1], 5, 8) == ARGV[1] then
    return redis.call('DEL', KEYS[1]) end return 0";

impl Owner {
    /// Writes what has changed, as long as the task lives.
    pub(crate) async fn keep_online(self: Rc<Self>) {
        loop {
            sleep(INTERVAL).await;
            let now = clock::now();
            let due: Vec<Id<RealmMarker>> = {
                let state = self.state.borrow();
                let open = state.realms.iter();
                let open = open.filter_map(|(&id, entry)| Some((id, entry.realm.as_ref()?)));
                let due = open.filter(|(_, realm)| {
                    let presences = &realm.presences;
                    let (version, count) = (presences.version(), presences.count());
                    !realm.is_own() && realm.noted.is_due(now, version, count)
                });
                due.map(|(id, _)| id).collect()
            };
            let mut due = due.into_iter().peekable();
            while due.peek().is_some() {
                let mut pipeline = redis::pipe();
                let mut bytes = 0;
                while bytes < BATCH_BYTES
                    && let Some(id) = due.next()
                {
                    bytes += self.note_online(now, id, &mut pipeline);
                }
                let mut commands = self.feed.commands();
                if let Err(error) = pipeline.query_async::<()>(&mut commands).await {
                    tracing::debug!(%error, "who is online was not written");
                }
                yield_now().await;
            }
        }
    }

    fn note_online(
        &self,
        now: Instant,
        id: Id<RealmMarker>,
        pipeline: &mut redis::Pipeline,
    ) -> usize {
        let key = keys::online(ShardId::of(id, self.shards), id.cast());
        let mut state = self.state.borrow_mut();
        let entry = state.realms.get_mut(&id);
        let Some(realm) = entry.and_then(|entry| entry.realm.as_mut()) else {
            return 0;
        };
        let presences = &realm.presences;
        realm.noted.written = Some((presences.version(), now));
        let count = presences.count();
        if count == 0 {
            let writer = self.number.to_le_bytes();
            let command = pipeline.cmd("EVAL").arg(FORGET).arg(1).arg(&key);
            command.arg(&writer[..]).ignore();
            return key.len();
        }
        let users = presences.online();
        let users = users.map(|(user, presence)| (user, presence.platforms()));
        let entry = online::encode(self.number, count, users);
        let command = pipeline.cmd("SET").arg(&key).arg(&entry[..]);
        command.arg("PX").arg(online::TTL_MS).ignore();
        entry.len()
    }

    /// A guild was opened here: whoever the owner before told was online and is not, once all
    /// edges had time to come, is gone.
    pub(super) async fn recall_online(self: Rc<Self>, id: Id<RealmMarker>) {
        let key = keys::online(ShardId::of(id, self.shards), id.cast());
        let opened = self.with_open(id, |realm| realm.opened);
        let mut commands = self.feed.commands();
        let entry: RedisResult<Option<Vec<u8>>> =
            redis::cmd("GET").arg(&key).query_async(&mut commands).await;
        let known: Vec<(Id<_>, Platforms)> = match entry {
            Ok(entry) => online::users(&entry.unwrap_or_default()),
            Err(error) => {
                tracing::debug!(%error, "who was online was not read");
                Vec::new()
            }
        };
        self.with_open(id, |realm| realm.noted.recalled = true);
        if known.is_empty() {
            return;
        }
        sleep(SETTLE).await;
        self.with_open(id, |realm| {
            if Some(realm.opened) == opened {
                let known = known.into_iter();
                let told = known.map(|(user, on)| (user, Presence::of_platforms(on)));
                realm.presences.recall(told);
            }
        });
        self.presences_may_be_due(id);
    }

    fn with_open<T>(&self, id: Id<RealmMarker>, act: impl FnOnce(&mut Realm) -> T) -> Option<T> {
        let mut state = self.state.borrow_mut();
        let realm = state.realms.get_mut(&id)?.realm.as_mut()?;
        Some(act(realm))
    }
}
