//! What belongs to one person alone: relationships, settings, notes, read states.

use std::collections::BTreeMap;

use guildhall_shared::{
    Timestamp,
    id::{Id, marker},
    model::{Relationship, RelationshipKind, StoredGuildSettings, UserGuildSettings, UserSettings},
};
use sqlx::{PgConnection, PgExecutor, types::Json};

use crate::{
    Result,
    read_state::{self, ReadStates},
    user_of,
};

/// What READY shows of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Personal {
    pub relationships: Vec<Relationship>,
    pub settings: UserSettings,
    pub guild_settings: Vec<UserGuildSettings>,
    pub notes: BTreeMap<Id<marker::User>, String>,
    pub read_states: ReadStates,
}

/// All of it, in the caller's snapshot.
pub async fn all(db: &mut PgConnection, user: Id<marker::User>) -> Result<Personal> {
    Ok(Personal {
        relationships: relationships(&mut *db, user).await?,
        settings: settings(&mut *db, user).await?,
        guild_settings: guild_settings(&mut *db, user).await?,
        notes: notes(&mut *db, user).await?,
        read_states: read_state::of_user(&mut *db, user).await?,
    })
}

/// By the other one's id.
pub async fn relationships(
    db: impl PgExecutor<'_>,
    user: Id<marker::User>,
) -> Result<Vec<Relationship>> {
    relationships_to(db, user, None).await
}

/// People who see when these come and go: friends, and partners in DMs and group DMs that
/// they list, none of whom has blocked the other. `(user, who sees them)`.
pub async fn companions(
    db: impl PgExecutor<'_>,
    users: &[Id<marker::User>],
) -> Result<Vec<(Id<marker::User>, Id<marker::User>)>> {
    let rows = sqlx::query!(
        r#"select seen.user_id as "user_id!", seen.other_id as "other_id!" from (
             select user_id, other_id from relationship
             where user_id = any($1) and kind = 1
             union
             select own.user_id, other.user_id from private_recipient own
             join private_recipient other
               on other.channel_id = own.channel_id and other.user_id <> own.user_id
             where own.user_id = any($1) and not other.closed
           ) seen
           join account a on a.user_id = seen.other_id and not a.bot
           where not exists (
             select from relationship r
             where r.kind = 2 and (r.user_id, r.other_id) in
               ((seen.user_id, seen.other_id), (seen.other_id, seen.user_id)))"#,
        &crate::ids_to_db(users),
    )
    .fetch_all(db)
    .await?;
    let pairs = rows
        .into_iter()
        .map(|row| (Id::from_db(row.user_id), Id::from_db(row.other_id)));
    Ok(pairs.collect())
}

/// Those of `others` who have blocked a person.
pub async fn blockers(
    db: impl PgExecutor<'_>,
    user: Id<marker::User>,
    others: &[Id<marker::User>],
) -> Result<Vec<Id<marker::User>>> {
    let users = sqlx::query_scalar!(
        "select user_id from relationship where other_id = $1 and user_id = any($2) and kind = 2",
        user.to_db(),
        &crate::ids_to_db(others),
    )
    .fetch_all(db)
    .await?;
    Ok(crate::ids_from_db(users))
}

/// To one other.
pub async fn relationship(
    db: impl PgExecutor<'_>,
    user: Id<marker::User>,
    other: Id<marker::User>,
) -> Result<Option<Relationship>> {
    let found = relationships_to(db, user, Some(other)).await?;
    Ok(found.into_iter().next())
}

async fn relationships_to(
    db: impl PgExecutor<'_>,
    user: Id<marker::User>,
    other: Option<Id<marker::User>>,
) -> Result<Vec<Relationship>> {
    let rows = sqlx::query!(
        "select r.kind, r.nickname, r.since, a.user_id, a.username, a.discriminator,
                a.global_name, a.avatar, a.banner, a.accent_color, a.bot, a.public_flags
         from relationship r join account a on a.user_id = r.other_id
         where r.user_id = $1 and ($2::bigint is null or r.other_id = $2)
         order by r.other_id",
        user.to_db(),
        other.map(Id::to_db),
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            Some(Relationship {
                id: Id::from_db(row.user_id),
                kind: RelationshipKind::try_from(row.kind as u8).ok()?,
                nickname: row.nickname,
                is_spam_request: false,
                stranger_request: false,
                user_ignored: false,
                since: Timestamp(row.since),
                user: user_of!(row),
            })
        })
        .collect())
}

/// A user's settings, with the defaults for what they never set.
pub async fn settings(db: impl PgExecutor<'_>, user: Id<marker::User>) -> Result<UserSettings> {
    let row = sqlx::query!(
        r#"select a.locale, s.settings as "settings?: Json<UserSettings>"
           from account a left join user_settings s using (user_id) where a.user_id = $1"#,
        user.to_db(),
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = row else {
        return Ok(UserSettings::default());
    };
    let settings = row.settings.map(|json| json.0).unwrap_or_default();
    // The account's own column: it is also shown elsewhere.
    Ok(UserSettings {
        locale: row.locale,
        ..settings
    })
}

/// Of direct messages first, then by guild.
pub async fn guild_settings(
    db: impl PgExecutor<'_>,
    user: Id<marker::User>,
) -> Result<Vec<UserGuildSettings>> {
    let rows = sqlx::query!(
        r#"select guild_id, settings as "settings: Json<StoredGuildSettings>"
           from user_guild_settings where user_id = $1 order by guild_id"#,
        user.to_db(),
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let guild = (row.guild_id != 0).then(|| Id::from_db(row.guild_id));
            row.settings.0.into_wire(guild)
        })
        .collect())
}

/// By whom they are about.
pub async fn notes(
    db: impl PgExecutor<'_>,
    user: Id<marker::User>,
) -> Result<BTreeMap<Id<marker::User>, String>> {
    let rows = sqlx::query!(
        "select about_id, note from user_note where user_id = $1",
        user.to_db(),
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (Id::from_db(row.about_id), row.note))
        .collect())
}
