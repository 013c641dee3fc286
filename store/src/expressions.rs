//! Emojis, stickers and sounds, ascending by id: the order they were made in.

use guildhall_shared::{
    id::{Id, marker},
    model::{Emoji, SoundboardSound, Sticker, StickerFormat},
};
use sqlx::PgExecutor;

use crate::{Result, user::creator_of};

/// Whose emojis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmojisOf {
    Guild(Id<marker::Guild>),
    Application(Id<marker::Application>),
}

impl EmojisOf {
    fn columns(self) -> (Option<i64>, Option<i64>) {
        match self {
            Self::Guild(id) => (Some(id.to_db()), None),
            Self::Application(id) => (None, Some(id.to_db())),
        }
    }
}

/// Emojis with who made them; one of them if an id is given.
pub async fn emojis(
    db: impl PgExecutor<'_>,
    of: EmojisOf,
    id: Option<Id<marker::Emoji>>,
) -> Result<Vec<Emoji>> {
    let (guild, application) = of.columns();
    let rows = sqlx::query!(
        r#"select e.emoji_id, e.name, e.roles, e.animated, e.available,
                  a.user_id as "user_id?", a.username as "username?",
                  a.discriminator as "discriminator?", a.global_name, a.avatar, a.banner,
                  a.accent_color, a.bot as "bot?", a.public_flags as "public_flags?"
           from emoji e left join account a on a.user_id = e.creator_id
           where (e.guild_id = $1 or e.application_id = $2)
             and ($3::bigint is null or e.emoji_id = $3)
           order by e.emoji_id"#,
        guild,
        application,
        id.map(Id::to_db),
    )
    .fetch_all(db)
    .await?;
    let emojis = rows.into_iter().map(|row| Emoji {
        id: Id::from_db(row.emoji_id),
        name: row.name,
        roles: crate::ids_from_db(row.roles),
        user: creator_of!(row),
        require_colons: true,
        managed: false,
        animated: row.animated,
        available: row.available,
    });
    Ok(emojis.collect())
}

/// Emojis as guild objects and events carry them: without who made them.
pub async fn guild_emojis(db: impl PgExecutor<'_>, guild: Id<marker::Guild>) -> Result<Vec<Emoji>> {
    let mut emojis = emojis(db, EmojisOf::Guild(guild), None).await?;
    for emoji in &mut emojis {
        emoji.user = None;
    }
    Ok(emojis)
}

/// Stickers of a guild, or the one with this id of any guild, with who made them.
pub async fn stickers(
    db: impl PgExecutor<'_>,
    guild: Option<Id<marker::Guild>>,
    id: Option<Id<marker::Sticker>>,
) -> Result<Vec<Sticker>> {
    // A plan that is kept for all values has no use for an index whose column may be anything.
    macro_rules! select {
        ($place:literal) => {
            sqlx::query!(
                r#"select s.sticker_id, s.guild_id, s.name, s.description, s.tags, s.format,
                          s.available, a.user_id as "user_id?", a.username as "username?",
                          a.discriminator as "discriminator?", a.global_name, a.avatar, a.banner,
                          a.accent_color, a.bot as "bot?", a.public_flags as "public_flags?"
                   from sticker s left join account a on a.user_id = s.creator_id
                   where "#
                    + $place
                    + " and ($1::bigint is null or s.guild_id = $1)
                     and ($2::bigint is null or s.sticker_id = $2)
                   order by s.sticker_id",
                guild.map(Id::to_db),
                id.map(Id::to_db),
            )
            .fetch_all(db)
            .await?
            .into_iter()
            .map(|row| Sticker {
                id: Id::from_db(row.sticker_id),
                name: row.name,
                description: row.description,
                tags: row.tags,
                kind: Sticker::OF_GUILD,
                format_type: StickerFormat(row.format as u8),
                available: row.available,
                guild_id: Id::from_db(row.guild_id),
                user: creator_of!(row),
            })
            .collect()
        };
    }
    Ok(match id {
        Some(_) => select!("s.sticker_id = $2"),
        None => select!("s.guild_id = $1"),
    })
}

/// Stickers as guild objects and events carry them: without who made them.
pub async fn guild_stickers(
    db: impl PgExecutor<'_>,
    guild: Id<marker::Guild>,
) -> Result<Vec<Sticker>> {
    let mut stickers = stickers(db, Some(guild), None).await?;
    for sticker in &mut stickers {
        sticker.user = None;
    }
    Ok(stickers)
}

/// Sounds of a guild with who made them; one of them if an id is given.
pub async fn sounds(
    db: impl PgExecutor<'_>,
    guild: Id<marker::Guild>,
    id: Option<Id<marker::Sound>>,
) -> Result<Vec<SoundboardSound>> {
    let rows = sqlx::query!(
        r#"select s.sound_id, s.guild_id, s.name, s.volume, s.emoji_id, s.emoji_name, s.available,
                  a.user_id as "user_id?", a.username as "username?",
                  a.discriminator as "discriminator?", a.global_name, a.avatar, a.banner,
                  a.accent_color, a.bot as "bot?", a.public_flags as "public_flags?"
           from soundboard_sound s left join account a on a.user_id = s.creator_id
           where s.guild_id = $1 and ($2::bigint is null or s.sound_id = $2)
           order by s.sound_id"#,
        guild.to_db(),
        id.map(Id::to_db),
    )
    .fetch_all(db)
    .await?;
    let sounds = rows.into_iter().map(|row| SoundboardSound {
        sound_id: Id::from_db(row.sound_id),
        name: row.name,
        volume: row.volume,
        emoji_id: row.emoji_id.map(Id::from_db),
        emoji_name: row.emoji_name,
        guild_id: Some(Id::from_db(row.guild_id)),
        available: row.available,
        user: creator_of!(row),
    });
    Ok(sounds.collect())
}

/// Sounds as guild objects and events carry them: without who made them.
pub async fn guild_sounds(
    db: impl PgExecutor<'_>,
    guild: Id<marker::Guild>,
) -> Result<Vec<SoundboardSound>> {
    let mut sounds = sounds(db, guild, None).await?;
    for sound in &mut sounds {
        sound.user = None;
    }
    Ok(sounds)
}
