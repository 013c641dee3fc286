//! Emojis as requests name them, and the custom ones that somebody may name.

use guildhall_shared::{
    Id,
    error_code::ErrorCode,
    id::marker::{Emoji, Guild, User},
    model::PartialEmoji,
};
use sqlx::PgConnection;

use crate::error::Result;

/// An emoji as a path names it: `👍` or `name:id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReactionEmoji {
    Unicode(String),
    Custom(Id<Emoji>),
}

impl ReactionEmoji {
    /// Errors: 10014 (400) for what is no emoji.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if let Some((name, id)) = text.trim_matches(['<', '>']).rsplit_once(':') {
            let name = name.trim_start_matches("a:").trim_start_matches(':');
            let is_name = !name.is_empty()
                && name.chars().count() <= 32
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            return match id.parse() {
                Ok(id) if is_name => Ok(Self::Custom(id)),
                _ => Err(ErrorCode::InvalidEmoji.into()),
            };
        }
        match is_unicode_emoji(text) {
            true => Ok(Self::Unicode(text.to_owned())),
            false => Err(ErrorCode::InvalidEmoji.into()),
        }
    }

    /// As `reaction.emoji` keeps it.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Unicode(text) => text.replace('\u{FE0F}', ""),
            Self::Custom(id) => id.to_string(),
        }
    }
}

/// Whether a text is exactly one unicode emoji, with or without variation selectors.
pub(crate) fn is_unicode_emoji(text: &str) -> bool {
    emojis::get(text).is_some() || emojis::get(&text.replace('\u{FE0F}', "")).is_some()
}

/// A custom emoji that exists.
#[derive(Debug)]
pub(crate) struct CustomEmoji {
    pub(crate) emoji: PartialEmoji,
    /// `None`: an application's.
    pub(crate) guild: Option<Id<Guild>>,
}

/// A custom emoji by its id. `None` also if it is for roles of which the user, owner or not, has
/// none.
pub(crate) async fn custom_emoji(
    db: &mut PgConnection,
    user: Id<User>,
    id: Id<Emoji>,
) -> Result<Option<CustomEmoji>> {
    let row = sqlx::query!(
        "select e.name, e.animated, e.guild_id from emoji e
         where e.emoji_id = $1 and e.available
           and (e.roles = '{}' or exists (
             select from member m
             where m.guild_id = e.guild_id and m.user_id = $2
               and (m.roles && e.roles or m.guild_id = any(e.roles))))",
        id.to_db(),
        user.to_db(),
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| CustomEmoji {
        emoji: PartialEmoji {
            id: Some(id),
            name: Some(row.name),
            animated: row.animated,
        },
        guild: row.guild_id.map(Id::from_db),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emoji_is_unicode_or_a_name_with_an_id() {
        for unicode in ["👍", "❤", "❤️", "👍🏽", "🇩🇪", "1️⃣", "👨‍👩‍👧"]
        {
            assert!(
                matches!(ReactionEmoji::parse(unicode), Ok(ReactionEmoji::Unicode(_))),
                "{unicode}"
            );
        }
        assert_eq!(
            ReactionEmoji::parse("❤").unwrap().key(),
            ReactionEmoji::parse("❤️").unwrap().key()
        );
        let custom = ReactionEmoji::Custom(Id::new(7).unwrap());
        for text in ["blob:7", "a:blob:7", "<:blob:7>", "<a:blob:7>"] {
            assert_eq!(ReactionEmoji::parse(text).unwrap(), custom, "{text}");
        }
        for wrong in [
            "", "x", "👍👍", "blob", "blob:", ":7", "bl ob:7", "blob:0", "\0",
        ] {
            assert!(ReactionEmoji::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = ReactionEmoji::parse(&text);
        }
    }
}
