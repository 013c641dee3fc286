//! Emojis, stickers and sounds. Spec: objects.md › Emoji, Sticker, Soundboard sound.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::User;
use crate::id::{Id, marker};

/// An emoji of a guild or of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Emoji {
    pub id: Id<marker::Emoji>,
    pub name: String,
    /// Only members with one of these may use it; empty: everybody.
    pub roles: Vec<Id<marker::Role>>,
    /// Who made it, for those who manage expressions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    pub require_colons: bool,
    pub managed: bool,
    pub animated: bool,
    pub available: bool,
}

/// A sticker of a guild.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sticker {
    pub id: Id<marker::Sticker>,
    pub name: String,
    pub description: Option<String>,
    /// By convention the name of a unicode emoji.
    pub tags: String,
    /// 2: of a guild.
    #[serde(rename = "type")]
    pub kind: u8,
    pub format_type: StickerFormat,
    pub available: bool,
    pub guild_id: Id<marker::Guild>,
    /// Who made it, for those who manage expressions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
}

impl Sticker {
    /// `type` of a guild's sticker.
    pub const OF_GUILD: u8 = 2;
}

/// A sticker of a pack that comes with the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StandardSticker {
    pub id: Id<marker::Sticker>,
    pub pack_id: Id<marker::StickerPack>,
    pub name: String,
    pub description: Option<String>,
    /// By convention the name of a unicode emoji.
    pub tags: String,
    /// 1: of a pack.
    #[serde(rename = "type")]
    pub kind: u8,
    pub format_type: StickerFormat,
    pub available: bool,
    /// Place in its pack, from 0.
    pub sort_value: i32,
}

impl StandardSticker {
    /// `type` of a pack's sticker.
    pub const KIND: u8 = 1;
}

/// 1 PNG, 2 animated PNG, 3 Lottie, 4 GIF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct StickerFormat(pub u8);

impl StickerFormat {
    pub const PNG: Self = Self(1);
    pub const APNG: Self = Self(2);
    pub const LOTTIE: Self = Self(3);
    pub const GIF: Self = Self(4);
}

/// A sound of a guild.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SoundboardSound {
    pub sound_id: Id<marker::Sound>,
    pub name: String,
    /// 0 to 1.
    pub volume: f64,
    pub emoji_id: Option<Id<marker::Emoji>>,
    pub emoji_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guild_id: Option<Id<marker::Guild>>,
    pub available: bool,
    /// Who made it, for those who manage expressions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
}
