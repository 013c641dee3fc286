//! Guild channels as they are stored: new ones, changed ones, and where there is room for one.
//!
//! Knows no other resource.

use guildhall_shared::{
    Id,
    envelope::{Envelope, Visibility},
    gateway::{EventKind, Intents},
    id::marker,
    model::{Channel, ChannelKind, ChannelSettings},
    permissions::Overwrite,
};
use sqlx::{PgConnection, types::Json as Jsonb};

use crate::{
    error::Result,
    events,
    form::{Fault, FormErrors},
};

pub(super) const CHANNELS_MAX: usize = 500;
pub(crate) const CATEGORY_CHANNELS_MAX: usize = 50;
/// Of one guild.
pub(crate) const CATEGORIES_MAX: usize = 50;
/// Code and message of the fault.
pub(crate) const CATEGORY_FULL: (&str, &str) = (
    "CHANNEL_PARENT_MAX_CHANNELS",
    "Maximum number of channels in category reached (50)",
);
/// The same of the fault at the `type` of one category too many.
pub(crate) const TOO_MANY_CATEGORIES: (&str, &str) = (
    "GUILD_MAX_CATEGORIES",
    "Maximum number of categories in guild reached (50)",
);

/// Stores a new channel. The caller numbers its event.
pub(crate) async fn insert(db: &mut PgConnection, channel: &Channel) -> Result<()> {
    sqlx::query!(
        "insert into channel (channel_id, guild_id, kind, name, position, parent_id, overwrites,
                              settings)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        channel.id.to_db(),
        channel.guild_id.to_db(),
        i16::from(channel.kind.0),
        channel.name,
        channel.position,
        channel.parent_id.map(Id::to_db),
        Jsonb(&channel.permission_overwrites) as Jsonb<&Vec<Overwrite>>,
        Jsonb(&channel.settings) as Jsonb<&ChannelSettings>,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Stores a changed channel and numbers its CHANNEL_UPDATE.
pub(crate) async fn store(db: &mut PgConnection, channel: &Channel) -> Result<Envelope> {
    sqlx::query!(
        "update channel set kind = $2, name = $3, position = $4, parent_id = $5, overwrites = $6,
                            settings = $7
         where channel_id = $1",
        channel.id.to_db(),
        i16::from(channel.kind.0),
        channel.name,
        channel.position,
        channel.parent_id.map(Id::to_db),
        Jsonb(&channel.permission_overwrites) as Jsonb<&Vec<Overwrite>>,
        Jsonb(&channel.settings) as Jsonb<&ChannelSettings>,
    )
    .execute(&mut *db)
    .await?;
    append(db, EventKind::ChannelUpdate, channel).await
}

pub(super) async fn append(
    db: &mut PgConnection,
    kind: EventKind,
    channel: &Channel,
) -> Result<Envelope> {
    let vis = Visibility::channel(channel.id, Intents::GUILDS);
    events::append(db, channel.guild_id, kind, vis, channel, None).await
}

/// The overwrites of the category that a channel is in; none if it is in none.
pub(super) async fn overwrites_above(
    db: &mut PgConnection,
    channel: &Channel,
) -> Result<Vec<Overwrite>> {
    let Some(parent) = channel.parent_id else {
        return Ok(Vec::new());
    };
    let above = sqlx::query_scalar!(
        r#"select overwrites as "overwrites: Jsonb<Vec<Overwrite>>" from channel
           where guild_id = $1 and channel_id = $2"#,
        channel.guild_id.to_db(),
        parent.to_db(),
    )
    .fetch_optional(db)
    .await?;
    Ok(above.map(|above| above.0).unwrap_or_default())
}

/// Adds what the access check does not read.
pub(super) async fn add_last_message(db: &mut PgConnection, channel: &mut Channel) -> Result<()> {
    // Of a forum it is its newest post.
    let last = if channel.kind.is_forum() {
        sqlx::query_scalar!(
            "select max(thread_id) from thread where parent_id = $1",
            channel.id.to_db(),
        )
        .fetch_one(db)
        .await?
    } else if channel.kind.has_messages() {
        sqlx::query_scalar!(
            "select max(message_id) from message where channel_id = $1",
            channel.id.to_db(),
        )
        .fetch_one(db)
        .await?
    } else {
        return Ok(());
    };
    channel.last_message_id = Some(last.map(Id::from_db));
    Ok(())
}

/// Before another category comes to these channels. Errors: 50035.
pub(super) fn require_room_for_category(channels: &[Channel]) -> Result<()> {
    let categories = channels.iter();
    let categories = categories.filter(|channel| channel.kind == ChannelKind::CATEGORY);
    if categories.count() >= CATEGORIES_MAX {
        let (code, message) = TOO_MANY_CATEGORIES;
        return Err(FormErrors::one("type", Fault::Other(code, message.into())));
    }
    Ok(())
}

/// The category that a channel of `kind` (`own`, if it exists) is to be in.
///
/// Errors: 50035 if it is none of the guild, or full.
pub(super) fn category(
    channels: &[Channel],
    parent: Id<marker::Channel>,
    kind: ChannelKind,
    own: Option<Id<marker::Channel>>,
) -> Result<&Channel> {
    let fault = |code, message: &'static str| {
        FormErrors::one("parent_id", Fault::Other(code, message.into()))
    };
    let found = channels
        .iter()
        .find(|channel| channel.id == parent && channel.kind == ChannelKind::CATEGORY)
        .filter(|_| kind != ChannelKind::CATEGORY)
        .ok_or_else(|| fault("CHANNEL_PARENT_INVALID", "Not a category of this guild"))?;
    let inside = channels
        .iter()
        .filter(|channel| channel.parent_id == Some(parent) && Some(channel.id) != own);
    if inside.count() >= CATEGORY_CHANNELS_MAX {
        let (code, message) = CATEGORY_FULL;
        return Err(fault(code, message));
    }
    Ok(found)
}
