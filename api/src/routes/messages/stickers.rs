//! Stickers that messages show.

use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    id::marker::{Sticker, User},
};
use guildhall_store::ids_to_db;
use serde_json::{Value, json};
use sqlx::PgExecutor;

use crate::{access::Place, error::Result};

/// Stickers as messages show them, in the order asked for. Errors: 50081 for one that is not there.
pub(super) async fn items(db: impl PgExecutor<'_>, ids: &[Id<Sticker>]) -> Result<Vec<Value>> {
    let rows = sqlx::query!(
        r#"select sticker_id as "sticker_id!", name as "name!", format as "format!"
           from (select sticker_id, name, format from sticker where available
                 union all
                 select sticker_id, name, format from pack_sticker) s
           where sticker_id = any($1)"#,
        &ids_to_db(ids),
    )
    .fetch_all(db)
    .await?;
    let items = ids.iter().map(|id| {
        let row = rows.iter().find(|row| row.sticker_id == id.to_db());
        let row = row.ok_or(ErrorCode::InvalidSticker)?;
        Ok(json!({ "id": id, "name": row.name, "format_type": row.format }))
    });
    items.collect()
}

/// Whether somebody may send these here: those of packs and of this guild always, those of
/// another guild if they are in it and may use external stickers.
///
/// Errors: 50013, 50600.
pub(super) async fn check(
    db: impl PgExecutor<'_>,
    place: &Place,
    author: Id<User>,
    ids: &[Id<Sticker>],
) -> Result<()> {
    let foreign = sqlx::query_scalar!(
        r#"select exists (select from member m
                          where m.guild_id = s.guild_id and m.user_id = $2) as "is_in!"
           from sticker s where sticker_id = any($1) and guild_id is distinct from $3"#,
        &ids_to_db(ids),
        author.to_db(),
        place.guild_id().map(Id::to_db),
    )
    .fetch_all(db)
    .await?;
    if !foreign.iter().all(|&is_in| is_in) {
        return Err(ErrorCode::CannotSendSticker.into());
    }
    if !foreign.is_empty() {
        place.require(Permissions::USE_EXTERNAL_STICKERS)?;
    }
    Ok(())
}
