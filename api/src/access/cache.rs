//! What was read of places, for the writer of messages.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use guildhall_shared::{
    Id,
    id::marker::{self, User},
};
use rustc_hash::FxHashMap;
use sqlx::PgPool;

use super::{Place, place_unchecked};
use crate::{caller::CurrentUser, error::Result};

/// What users could do at places, as read at some `state_seq`.
///
/// Entries may be out of date: only for writers that compare `state_seq` under the head's
/// lock (`message_writer`), and forget the entry when it differs.
#[derive(Debug, Default)]
pub(crate) struct AccessCache(Mutex<Entries>);

type Entries = FxHashMap<Key, Arc<Place>>;

/// Who, where, and whether with a second factor: no guild's `state_seq` tells that that changed.
type Key = (Id<User>, Id<marker::Channel>, bool);

const CACHE_ENTRIES_MAX: usize = 8192;

impl AccessCache {
    /// From memory, else from the database. Errors: 10003, 50001 for who is no member.
    pub(crate) async fn place(
        &self,
        db: &PgPool,
        user: &CurrentUser,
        channel: Id<marker::Channel>,
    ) -> Result<Arc<Place>> {
        let key = Self::key(user, channel);
        if let Some(access) = self.lock().get(&key) {
            return Ok(Arc::clone(access));
        }
        let asked = async {
            let mut db = db.acquire().await?;
            place_unchecked(&mut db, user.id, channel).await
        };
        let access = Arc::new(Box::pin(asked).await?);
        let mut entries = self.lock();
        if entries.len() >= CACHE_ENTRIES_MAX {
            entries.clear();
        }
        entries.insert(key, Arc::clone(&access));
        Ok(access)
    }

    pub(crate) fn forget(&self, user: &CurrentUser, channel: Id<marker::Channel>) {
        self.lock().remove(&Self::key(user, channel));
    }

    fn key(user: &CurrentUser, channel: Id<marker::Channel>) -> Key {
        (user.id, channel, user.account.user.mfa_enabled)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
