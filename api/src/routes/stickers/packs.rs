//! Standard stickers, in packs of the operator's. Spec: objects.md › Sticker.
//!
//! Read only: `guildhall-api sticker-packs` changes them.

use axum::extract::State;
use guildhall_shared::{
    Id,
    error_code::ErrorCode,
    id::marker,
    model::{StandardSticker, StickerFormat},
};
use serde::Serialize;
use sqlx::PgExecutor;
use utoipa::ToSchema;

use crate::{
    app::App,
    auth::CurrentUser,
    error::Result,
    extract::{Json, Path},
};

/// Packs of a server at most; imports stop there, so that a list needs no pages.
pub(crate) const PACKS_MAX: usize = 100;

#[derive(Serialize, ToSchema)]
pub(super) struct StickerPacks {
    sticker_packs: Vec<StickerPack>,
}

/// Stickers that come with the server.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StickerPack {
    pub(crate) id: Id<marker::StickerPack>,
    /// Nothing is sold here: the pack's own id.
    sku_id: Id<marker::StickerPack>,
    pub(crate) name: String,
    /// Never null: libraries read no pack without it.
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cover_sticker_id: Option<Id<marker::Sticker>>,
    /// No pack has a banner here, but libraries read none without: the pack's own id.
    banner_asset_id: Id<marker::StickerPack>,
    pub(crate) stickers: Vec<StandardSticker>,
}

/// All packs, or one of them, each with its stickers in their order.
pub(crate) async fn packs(
    db: impl PgExecutor<'_> + Copy,
    id: Option<Id<marker::StickerPack>>,
) -> Result<Vec<StickerPack>> {
    let rows = sqlx::query!(
        "select pack_id, name, description, cover_sticker_id from sticker_pack
         where $1::bigint is null or pack_id = $1 order by pack_id",
        id.map(Id::to_db),
    )
    .fetch_all(db)
    .await?;
    let mut packs: Vec<StickerPack> = rows
        .into_iter()
        .map(|row| StickerPack {
            id: Id::from_db(row.pack_id),
            sku_id: Id::from_db(row.pack_id),
            name: row.name,
            description: row.description.unwrap_or_default(),
            cover_sticker_id: row.cover_sticker_id.map(Id::from_db),
            banner_asset_id: Id::from_db(row.pack_id),
            stickers: Vec::new(),
        })
        .collect();
    for sticker in stickers(db, id, None).await? {
        let pack = packs.iter_mut().find(|pack| pack.id == sticker.pack_id);
        if let Some(pack) = pack {
            pack.stickers.push(sticker);
        }
    }
    Ok(packs)
}

/// Stickers of one pack or all, or the one with this id, in their order.
async fn stickers(
    db: impl PgExecutor<'_>,
    pack: Option<Id<marker::StickerPack>>,
    id: Option<Id<marker::Sticker>>,
) -> Result<Vec<StandardSticker>> {
    let rows = sqlx::query!(
        "select sticker_id, pack_id, name, description, tags, format, sort_value
         from pack_sticker
         where ($1::bigint is null or pack_id = $1) and ($2::bigint is null or sticker_id = $2)
         order by pack_id, sort_value",
        pack.map(Id::to_db),
        id.map(Id::to_db),
    )
    .fetch_all(db)
    .await?;
    let stickers = rows.into_iter().map(|row| StandardSticker {
        id: Id::from_db(row.sticker_id),
        pack_id: Id::from_db(row.pack_id),
        name: row.name,
        description: row.description,
        tags: row.tags,
        kind: StandardSticker::KIND,
        format_type: StickerFormat(row.format as u8),
        available: true,
        sort_value: row.sort_value,
    });
    Ok(stickers.collect())
}

pub(super) async fn find(
    db: impl PgExecutor<'_>,
    id: Id<marker::Sticker>,
) -> Result<Option<StandardSticker>> {
    Ok(stickers(db, None, Some(id)).await?.pop())
}

/// For everybody, without a token too.
#[utoipa::path(
    get,
    path = "/sticker-packs",
    tag = "Stickers",
    security(()),
    responses((status = 200, body = StickerPacks))
)]
pub(super) async fn list_sticker_packs(State(app): State<App>) -> Result<Json<StickerPacks>> {
    let sticker_packs = packs(&app.db, None).await?;
    Ok(Json(StickerPacks { sticker_packs }))
}

/// Errors: 10061.
#[utoipa::path(
    get,
    path = "/sticker-packs/{pack_id}",
    tag = "Stickers",
    responses((status = 200, body = StickerPack))
)]
pub(super) async fn get_sticker_pack(
    State(app): State<App>,
    _user: CurrentUser,
    Path(pack_id): Path<Id<marker::StickerPack>>,
) -> Result<Json<StickerPack>> {
    let found = packs(&app.db, Some(pack_id)).await?.pop();
    Ok(Json(found.ok_or(ErrorCode::UnknownStickerPack)?))
}
