//! DMs and group DMs.

use std::collections::BTreeMap;

use guildhall_shared::{
    id::{Id, marker},
    model::{ChannelKind, ChannelSettings, GroupFields, PrivateChannel, User},
};
use sqlx::{PgConnection, PgExecutor, types::Json};

use crate::{Result, ids_to_db, user::UserRow};

/// The private channels that a user lists, newest first.
pub async fn open_ids(
    db: impl PgExecutor<'_>,
    user: Id<marker::User>,
) -> Result<Vec<Id<marker::Channel>>> {
    let ids = sqlx::query_scalar!(
        "select channel_id from private_recipient where user_id = $1 and not closed
         order by channel_id desc",
        user.to_db(),
    )
    .fetch_all(db)
    .await?;
    Ok(crate::ids_from_db(ids))
}

/// These private channels as `viewer` sees them, in the order of `ids`; those that do not
/// exist are left out. Whether the viewer is in them is the caller's to know.
pub async fn by_ids(
    db: &mut PgConnection,
    viewer: Id<marker::User>,
    ids: &[Id<marker::Channel>],
) -> Result<Vec<PrivateChannel>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        r#"select c.channel_id, c.kind, c.name, c.icon, c.owner_id,
                  c.settings as "settings: Json<ChannelSettings>",
                  (select array_agg(r.user_id order by r.user_id) from private_recipient r
                   where r.channel_id = c.channel_id and r.user_id <> $2) as recipients,
                  (select m.message_id from message m where m.channel_id = c.channel_id
                   order by m.message_id desc limit 1) as last_message_id
           from unnest($1::bigint[]) with ordinality as wanted (id, place)
           join channel c on c.channel_id = wanted.id and c.guild_id is null
           order by wanted.place"#,
        &ids_to_db(ids),
        viewer.to_db(),
    )
    .fetch_all(&mut *db)
    .await?;
    let mut people: Vec<i64> = rows
        .iter()
        .flat_map(|row| row.recipients.iter().flatten().copied())
        .collect();
    people.sort_unstable();
    people.dedup();
    let people = users(db, &people).await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let kind = ChannelKind(row.kind as u8);
            let settings = row.settings.0;
            let group = row.owner_id.filter(|_| kind == ChannelKind::GROUP_DM);
            PrivateChannel {
                id: Id::from_db(row.channel_id),
                kind,
                last_message_id: row.last_message_id.map(Id::from_db),
                last_pin_timestamp: settings.last_pin_timestamp.flatten(),
                flags: settings.flags,
                recipients: row
                    .recipients
                    .unwrap_or_default()
                    .iter()
                    .filter_map(|user| people.get(user).cloned())
                    .collect(),
                group: group.map(|owner| GroupFields {
                    name: row.name,
                    icon: row.icon,
                    owner_id: Id::from_db(owner),
                    managed: false,
                }),
            }
        })
        .collect())
}

async fn users(db: &mut PgConnection, ids: &[i64]) -> Result<BTreeMap<i64, User>> {
    let rows = sqlx::query_as!(
        UserRow,
        "select a.user_id, a.username, a.discriminator, a.global_name, a.avatar, a.banner,
                a.accent_color, a.bot, a.public_flags
         from account a where a.user_id = any($1)",
        ids,
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.user_id, User::from(row)))
        .collect())
}
