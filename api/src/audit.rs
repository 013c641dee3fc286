//! The audit log: who did what in a guild, and why. Spec: limits-and-errors › Audit log.
//!
//! Whoever changes a guild appends an [`Entry`] in the transaction of the change, while the
//! guild's head is locked. Never decides what is worth an entry: the handlers do.

use std::{collections::BTreeMap, fmt::Display};

use axum::{extract::FromRequestParts, http::request::Parts};
use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::{Envelope, Scope, Visibility},
    gateway::{EventKind, Intents},
    id::marker::{Any, Guild, User},
    model::{AuditAction, AuditChange, AuditEntry, audit_changes},
};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, PgPool, types::Json as Jsonb};
use time::Duration;

use crate::{
    app::App,
    error::{Error, Result},
    events,
    form::{Fault, FormErrors},
    snowflakes::first_id_at,
};

const REASON_LENGTH_MAX: usize = 512;
const REASON_HEADER: &str = "x-audit-log-reason";
/// Entries are kept this long.
const KEEP: Duration = Duration::days(45);
/// The same deed within this time counts up one entry.
const COUNTED_WITHIN: Duration = Duration::minutes(5);
/// Entries forgotten by one statement.
const FORGET_BATCH: i64 = 1000;
/// Statements of one round of housekeeping.
const FORGET_BATCHES_MAX: u32 = 50;

/// Why the caller does it: `X-Audit-Log-Reason`, percent-encoded UTF-8.
///
/// Errors: 50035 at `reason` above 512 characters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reason(pub(crate) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for Reason {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self> {
        let Some(value) = parts.headers.get(REASON_HEADER) else {
            return Ok(Self(None));
        };
        Self::decode(value.as_bytes())
    }
}

impl Reason {
    fn decode(value: &[u8]) -> Result<Self> {
        let decoded = percent_encoding::percent_decode(value).decode_utf8_lossy();
        let reason = decoded.replace('\0', "").trim().to_owned();
        if reason.chars().count() > REASON_LENGTH_MAX {
            let fault = Fault::BadLength {
                min: 0,
                max: REASON_LENGTH_MAX,
            };
            return Err(FormErrors::one("reason", fault));
        }
        Ok(Self(Some(reason).filter(|reason| !reason.is_empty())))
    }
}

/// An entry to be appended.
#[derive(Debug)]
pub(crate) struct Entry {
    guild: Id<Guild>,
    action: AuditAction,
    actor: Option<Id<User>>,
    target: Option<Id<Any>>,
    changes: Vec<AuditChange>,
    options: BTreeMap<String, String>,
    reason: Option<String>,
    /// Whether it is left out when nothing differs.
    needs_changes: bool,
}

impl Entry {
    pub(crate) fn new(
        guild: Id<Guild>,
        actor: Id<User>,
        action: AuditAction,
        reason: &Reason,
    ) -> Self {
        Self {
            guild,
            action,
            actor: Some(actor),
            target: None,
            changes: Vec::new(),
            options: BTreeMap::new(),
            reason: reason.0.clone(),
            needs_changes: false,
        }
    }

    pub(crate) fn target<T>(mut self, target: Id<T>) -> Self {
        self.target = Some(target.cast());
        self
    }

    /// What differs between two states of an object. No difference: no entry, unless there
    /// are changes or options of another kind.
    pub(crate) fn changed(self, before: &impl Serialize, after: &impl Serialize) -> Result<Self> {
        let before = serde_json::to_value(before)?;
        Ok(self.differing(&before, &serde_json::to_value(after)?))
    }

    /// All that an object starts with.
    pub(crate) fn created(self, object: &impl Serialize) -> Result<Self> {
        Ok(self.differing(&Value::Null, &serde_json::to_value(object)?))
    }

    /// All that an object ended with.
    pub(crate) fn deleted(self, object: &impl Serialize) -> Result<Self> {
        Ok(self.differing(&serde_json::to_value(object)?, &Value::Null))
    }

    fn differing(mut self, before: &Value, after: &Value) -> Self {
        self.changes.extend(audit_changes(before, after));
        self.needs_changes = true;
        self
    }

    /// One change of a key that is no field (`$add`).
    pub(crate) fn change(mut self, key: &str, old: Option<Value>, new: Option<Value>) -> Self {
        self.changes.push(AuditChange {
            key: key.to_owned(),
            old_value: old,
            new_value: new,
        });
        self
    }

    /// Leaves fields out that have entries of their own.
    pub(crate) fn without(mut self, keys: &[&str]) -> Self {
        self.changes
            .retain(|change| !keys.contains(&change.key.as_str()));
        self
    }

    pub(crate) fn option(mut self, key: &str, value: impl Display) -> Self {
        self.options.insert(key.to_owned(), value.to_string());
        self
    }
}

/// Body of GUILD_AUDIT_LOG_ENTRY_CREATE.
#[derive(Serialize)]
struct EntryEvent<'a> {
    guild_id: Id<Guild>,
    #[serde(flatten)]
    entry: &'a AuditEntry,
}

/// Stores an entry and numbers its event, for those who may read the log. None if nothing
/// changed, or if an entry that is there counts it (deleted messages, moves).
///
/// The guild's head is locked. Publish what it returns after the commit.
pub(crate) async fn append(
    app: &App,
    db: &mut PgConnection,
    entry: Entry,
) -> Result<Option<Envelope>> {
    if entry.needs_changes && entry.changes.is_empty() {
        return Ok(None);
    }
    if entry.action.is_counted() && count_up(db, &entry).await? {
        return Ok(None);
    }
    let guild = entry.guild;
    let stored = store(app, &mut *db, entry).await?;
    announce(db, guild, &stored).await.map(Some)
}

/// The entry of something done in several transactions: it is in the log from the first of them
/// on and kept up by each, whatever becomes of the next; its event comes at the end.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    guild: Id<Guild>,
    entry: AuditEntry,
}

impl Running {
    /// In the first transaction, the guild's head locked.
    pub(crate) async fn begin(app: &App, db: &mut PgConnection, entry: Entry) -> Result<Self> {
        let guild = entry.guild;
        let entry = store(app, db, entry).await?;
        Ok(Self { guild, entry })
    }

    /// In each further one: an option says something else.
    pub(crate) async fn set(
        &mut self,
        db: &mut PgConnection,
        key: &str,
        value: impl Display,
    ) -> Result<()> {
        let options = &mut self.entry.options;
        options.insert(key.to_owned(), value.to_string());
        sqlx::query!(
            "update audit_entry set options = $2 where entry_id = $1",
            self.entry.id.to_db(),
            Jsonb(&*options) as Jsonb<&BTreeMap<String, String>>,
        )
        .execute(db)
        .await?;
        Ok(())
    }

    /// Numbers its event, the guild's head locked.
    pub(crate) async fn end(&self, db: &mut PgConnection) -> Result<Envelope> {
        announce(db, self.guild, &self.entry).await
    }
}

async fn store(app: &App, db: &mut PgConnection, entry: Entry) -> Result<AuditEntry> {
    let guild = entry.guild;
    let mut stored = AuditEntry {
        id: app.snowflakes.next()?,
        action_type: entry.action,
        user_id: entry.actor,
        target_id: entry.target,
        changes: entry.changes,
        options: entry.options,
        reason: entry.reason,
    };
    if entry.action.is_counted() {
        stored.options.insert("count".to_owned(), "1".to_owned());
    }
    sqlx::query!(
        "insert into audit_entry (entry_id, guild_id, action, user_id, target_id, changes,
                                  options, reason)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        stored.id.to_db(),
        guild.to_db(),
        stored.action_type.0 as i16,
        stored.user_id.map(Id::to_db),
        stored.target_id.map(Id::to_db),
        Jsonb(&stored.changes) as Jsonb<&Vec<AuditChange>>,
        Jsonb(&stored.options) as Jsonb<&BTreeMap<String, String>>,
        stored.reason,
    )
    .execute(db)
    .await?;
    Ok(stored)
}

async fn announce(
    db: &mut PgConnection,
    guild: Id<Guild>,
    stored: &AuditEntry,
) -> Result<Envelope> {
    let scope = Scope::Permissions {
        any_of: Permissions::VIEW_AUDIT_LOG,
        channel: None,
    };
    let vis = Visibility::of(scope, Intents::GUILD_MODERATION);
    let body = EntryEvent {
        guild_id: guild,
        entry: stored,
    };
    let kind = EventKind::GuildAuditLogEntryCreate;
    events::append(db, guild, kind, vis, &body, None).await
}

/// Adds to the count of the actor's newest entry, if it is young and says the same.
async fn count_up(db: &mut PgConnection, entry: &Entry) -> Result<bool> {
    // The entries' ids say when they were made.
    let since = Timestamp::now().0 - COUNTED_WITHIN;
    let counted = sqlx::query!(
        r#"update audit_entry set options = jsonb_set(
             options, '{count}', to_jsonb(((options ->> 'count')::bigint + 1)::text))
           where entry_id = (
             select entry_id from audit_entry
             where guild_id = $1 and user_id is not distinct from $2 and entry_id > $3
             order by entry_id desc limit 1)
             and action = $4 and target_id is not distinct from $5
             and reason is not distinct from $6
             and options - 'count' = $7 and options ? 'count'"#,
        entry.guild.to_db(),
        entry.actor.map(Id::to_db),
        first_id_at(since),
        entry.action.0 as i16,
        entry.target.map(Id::to_db),
        entry.reason,
        Jsonb(&entry.options) as Jsonb<&BTreeMap<String, String>>,
    )
    .execute(db)
    .await?;
    Ok(counted.rows_affected() > 0)
}

/// Deletes entries past their time, in small steps.
pub(crate) async fn forget_old(db: &PgPool) -> Result<()> {
    let oldest = first_id_at(Timestamp::now().0 - KEEP);
    for _ in 0..FORGET_BATCHES_MAX {
        let forgotten = sqlx::query!(
            "delete from audit_entry where entry_id in (
               select entry_id from audit_entry where entry_id < $1 order by entry_id limit $2)",
            oldest,
            FORGET_BATCH,
        )
        .execute(db)
        .await?;
        if forgotten.rows_affected() < FORGET_BATCH as u64 {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(header: &str) -> Option<String> {
        Reason::decode(header.as_bytes()).unwrap().0
    }

    #[test]
    fn reasons_are_percent_encoded_utf8() {
        assert_eq!(reason("spam%20und%20M%C3%BCll").unwrap(), "spam und Müll");
        assert_eq!(reason("100%").unwrap(), "100%");
        assert_eq!(reason("Müll").unwrap(), "Müll");
        assert_eq!(reason("%00 "), None);
        let long = "%C3%BC".repeat(512);
        assert_eq!(reason(&long).unwrap().chars().count(), 512);
        assert!(Reason::decode(format!("{long}x").as_bytes()).is_err());
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn entries_go_after_45_days(db: PgPool) {
        let day = |days| first_id_at(Timestamp::now().0 - Duration::days(days));
        for days in [44, 46, 100] {
            sqlx::query!(
                "insert into audit_entry (entry_id, guild_id, action) values ($1, 1, 1)",
                day(days),
            )
            .execute(&db)
            .await
            .unwrap();
        }
        forget_old(&db).await.unwrap();
        let left = sqlx::query_scalar!("select entry_id from audit_entry");
        assert!(left.fetch_one(&db).await.unwrap() > day(45));
    }
}
