//! What requests say about channels: one form for all kinds, which each take what is theirs.
//!
//! Knows no other file of the routes: threads and DMs are changed by the same form.

use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    id::marker::{self, Tag, Target},
    model::{Channel, ChannelKind, ChannelSettings, DefaultReaction, ForumTag, present},
    permissions::{Overwrite, OverwriteKind},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::App,
    error::Result,
    form::{Fault, FormErrors},
    text::clean,
};

/// Minutes after which a thread may archive itself.
pub(crate) const AUTO_ARCHIVE_MINUTES: [u32; 4] = [60, 1440, 4320, 10_080];
const OVERWRITES_MAX: usize = 100;
const TAGS_MAX: usize = 20;
/// Bits per second on a stage.
const STAGE_BITRATE_MAX: u32 = 64_000;

/// Settings that a channel of a kind has from its start.
pub(crate) fn default_settings(kind: ChannelKind) -> ChannelSettings {
    let mut settings = ChannelSettings::default();
    if kind.has_messages() || kind.is_forum() {
        settings.nsfw = Some(false);
        settings.rate_limit_per_user = Some(0);
    }
    if kind.is_voice() {
        settings.bitrate = Some(64_000);
        settings.user_limit = Some(0);
        settings.rtc_region = Some(None);
    } else if kind.holds_threads() {
        settings.topic = Some(None);
        settings.last_pin_timestamp = (!kind.is_forum()).then_some(None);
    }
    if kind.is_forum() {
        settings.available_tags = Some(Vec::new());
        settings.default_reaction_emoji = Some(None);
        settings.default_sort_order = Some(None);
        settings.default_forum_layout = (kind == ChannelKind::FORUM).then_some(0);
    }
    settings
}

/// What a request says about a channel; absent fields stay as they are, null gives a field its
/// first value back.
#[derive(Debug, Serialize, Deserialize, Default, ToSchema)]
#[serde(default)]
#[schema(as = ChannelRequest)]
pub(crate) struct ChannelFields {
    #[serde(rename = "type")]
    pub(crate) kind: Option<ChannelKind>,
    /// 1 to 100 characters; null (no name) in group DMs only.
    #[serde(deserialize_with = "present")]
    pub(crate) name: Option<Option<String>>,
    /// 32767 at most: what is above counts as that.
    pub(crate) position: Option<i32>,
    /// 1024 characters at most, 4096 of a forum.
    #[serde(deserialize_with = "present")]
    pub(crate) topic: Option<Option<String>>,
    /// Bits per second, 64,000 at most on a stage.
    #[serde(deserialize_with = "present")]
    pub(crate) bitrate: Option<Option<u32>>,
    /// 99 at most, 10,000 on a stage.
    #[serde(deserialize_with = "present")]
    pub(crate) user_limit: Option<Option<u32>>,
    #[serde(deserialize_with = "present")]
    pub(crate) nsfw: Option<Option<bool>>,
    #[serde(deserialize_with = "present")]
    pub(crate) rate_limit_per_user: Option<Option<u32>>,
    #[serde(deserialize_with = "present")]
    pub(crate) parent_id: Option<Option<Id<marker::Channel>>>,
    /// 100 at most.
    #[serde(deserialize_with = "present")]
    pub(crate) permission_overwrites: Option<Option<Vec<OverwriteFields>>>,
    #[serde(deserialize_with = "present")]
    pub(crate) rtc_region: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    pub(crate) video_quality_mode: Option<Option<u8>>,
    #[serde(deserialize_with = "present")]
    pub(crate) default_auto_archive_duration: Option<Option<u32>>,
    #[serde(deserialize_with = "present")]
    pub(crate) default_thread_rate_limit_per_user: Option<Option<u32>>,
    #[serde(deserialize_with = "present")]
    pub(crate) flags: Option<Option<u64>>,
    /// Forums; 20 at most. A tag with a known id stays that tag.
    #[serde(deserialize_with = "present")]
    pub(crate) available_tags: Option<Option<Vec<TagFields>>>,
    #[serde(deserialize_with = "present")]
    pub(crate) default_reaction_emoji: Option<Option<DefaultReaction>>,
    /// 0 by latest activity, 1 by creation.
    #[serde(deserialize_with = "present")]
    pub(crate) default_sort_order: Option<Option<u8>>,
    /// 0 unset, 1 list, 2 gallery.
    #[serde(deserialize_with = "present")]
    pub(crate) default_forum_layout: Option<Option<u8>>,
    /// `match_all` or `match_some`.
    #[serde(deserialize_with = "present")]
    pub(crate) default_tag_setting: Option<Option<String>>,
    /// Threads.
    #[serde(deserialize_with = "present")]
    pub(crate) archived: Option<Option<bool>>,
    #[serde(deserialize_with = "present")]
    pub(crate) locked: Option<Option<bool>>,
    #[serde(deserialize_with = "present")]
    pub(crate) invitable: Option<Option<bool>>,
    #[serde(deserialize_with = "present")]
    pub(crate) auto_archive_duration: Option<Option<u32>>,
    #[serde(deserialize_with = "present")]
    pub(crate) applied_tags: Option<Option<Vec<Id<Tag>>>>,
    /// Group DMs: a data URI.
    #[serde(deserialize_with = "present")]
    pub(crate) icon: Option<Option<String>>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = OverwriteRequest)]
pub(crate) struct OverwriteFields {
    pub(super) id: Id<Target>,
    #[serde(default, rename = "type")]
    pub(super) kind: Option<OverwriteKind>,
    #[serde(default)]
    pub(super) allow: Permissions,
    #[serde(default)]
    pub(super) deny: Permissions,
}

impl OverwriteFields {
    pub(super) fn of_kind(&self, kind: OverwriteKind) -> Overwrite {
        Overwrite {
            id: self.id,
            kind,
            allow: self.allow,
            // What is both allowed and denied would be allowed anyway.
            deny: self.deny - self.allow,
        }
    }
}

/// A tag as a request names it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = ForumTagRequest)]
pub(crate) struct TagFields {
    #[serde(default, deserialize_with = "empty_is_none")]
    id: Option<Id<Tag>>,
    /// 1 to 20 characters.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    moderated: Option<bool>,
    #[serde(default)]
    emoji_id: Option<Id<marker::Any>>,
    #[serde(default)]
    emoji_name: Option<String>,
}

/// A custom emoji by its id, another by its characters: libraries read neither both nor a blank.
fn one_emoji(
    id: Option<Id<marker::Any>>,
    name: Option<&str>,
) -> (Option<Id<marker::Any>>, Option<String>) {
    let name = name.filter(|_| id.is_none()).map(clean);
    (id, name.filter(|name| !name.is_empty()))
}

/// Some clients name tags that are new by an empty string or a number they made up.
fn empty_is_none<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Id<Tag>>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

impl ChannelFields {
    /// The name, if one is given.
    pub(super) fn given_name(&self) -> Option<&str> {
        self.name.as_ref().and_then(Option::as_deref)
    }

    pub(super) fn check(&self, form: &mut FormErrors) {
        if let Some(name) = self.given_name() {
            form.length("name", name, 1..=100);
        }
        if let Some(Some(region)) = &self.rtc_region {
            form.length("rtc_region", region, 0..=100);
        }
        self.check_forum(form);
        self.check_thread(form);
        for (path, value, allowed) in [
            (
                "position",
                self.position.map(i64::from),
                0..=i64::from(i32::MAX),
            ),
            (
                "bitrate",
                self.bitrate.flatten().map(i64::from),
                8000..=96_000,
            ),
            (
                "rate_limit_per_user",
                self.rate_limit_per_user.flatten().map(i64::from),
                0..=21_600,
            ),
            (
                "default_thread_rate_limit_per_user",
                self.default_thread_rate_limit_per_user
                    .flatten()
                    .map(i64::from),
                0..=21_600,
            ),
            (
                "video_quality_mode",
                self.video_quality_mode.flatten().map(i64::from),
                1..=2,
            ),
        ] {
            if let Some(value) = value {
                form.range(path, value, allowed);
            }
        }
        if let Some(Some(minutes)) = self.default_auto_archive_duration
            && ![60, 1440, 4320, 10_080].contains(&minutes)
        {
            let choices = Fault::Choices("(60, 1440, 4320, 10080)");
            form.add("default_auto_archive_duration", choices);
        }
        if let Some(Some(overwrites)) = &self.permission_overwrites
            && overwrites.len() > OVERWRITES_MAX
        {
            let fault = Fault::BadLength {
                min: 0,
                max: OVERWRITES_MAX,
            };
            form.add("permission_overwrites", fault);
        }
    }

    /// What is too much for one kind of channel and not for another.
    pub(super) fn check_for(&self, kind: ChannelKind, form: &mut FormErrors) {
        if let Some(Some(topic)) = &self.topic {
            let max = if kind.is_forum() { 4096 } else { 1024 };
            form.length("topic", topic, 0..=max);
        }
        if let Some(Some(limit)) = self.user_limit {
            let max = if kind == ChannelKind::STAGE {
                10_000
            } else {
                99
            };
            form.range("user_limit", i64::from(limit), 0..=max);
        }
    }

    /// Errors: 30052.
    pub(super) fn check_bitrate(&self, kind: ChannelKind) -> Result<()> {
        match self.bitrate.flatten() {
            Some(bitrate) if kind == ChannelKind::STAGE && bitrate > STAGE_BITRATE_MAX => {
                Err(ErrorCode::BitrateTooHigh.into())
            }
            _ => Ok(()),
        }
    }

    fn check_forum(&self, form: &mut FormErrors) {
        if let Some(Some(tags)) = &self.available_tags {
            if tags.len() > TAGS_MAX {
                let (min, max) = (0, TAGS_MAX);
                form.add("available_tags", Fault::BadLength { min, max });
            }
            for (index, tag) in tags.iter().enumerate().take(TAGS_MAX) {
                let path = format!("available_tags.{index}.name");
                if let Some(name) = form.required(&path, &tag.name) {
                    form.length(&path, name, 1..=20);
                }
                if let Some(emoji) = &tag.emoji_name {
                    let path = format!("available_tags.{index}.emoji_name");
                    form.length(&path, emoji, 0..=100);
                }
            }
        }
        if let Some(Some(DefaultReaction {
            emoji_name: Some(name),
            ..
        })) = &self.default_reaction_emoji
        {
            form.length("default_reaction_emoji.emoji_name", name, 0..=100);
        }
        if let Some(Some(order)) = self.default_sort_order {
            form.range("default_sort_order", i64::from(order), 0..=1);
        }
        if let Some(Some(layout)) = self.default_forum_layout {
            form.range("default_forum_layout", i64::from(layout), 0..=2);
        }
        if let Some(Some(setting)) = &self.default_tag_setting
            && !["match_all", "match_some"].contains(&setting.as_str())
        {
            let shown = setting.chars().take(100).collect();
            form.add("default_tag_setting", Fault::NotEnum(shown));
        }
    }

    fn check_thread(&self, form: &mut FormErrors) {
        if self
            .auto_archive_duration
            .flatten()
            .is_some_and(|minutes| !AUTO_ARCHIVE_MINUTES.contains(&minutes))
        {
            let choices = Fault::Choices("(60, 1440, 4320, 10080)");
            form.add("auto_archive_duration", choices);
        }
        if let Some(Some(tags)) = &self.applied_tags
            && tags.len() > 5
        {
            form.add("applied_tags", Fault::BadLength { min: 0, max: 5 });
        }
    }

    /// The tags a forum is to have; new ones get an id.
    ///
    /// Errors: 40061.
    pub(super) fn tags(&self, app: &App, before: &[ForumTag]) -> Result<Option<Vec<ForumTag>>> {
        let Some(wanted) = &self.available_tags else {
            return Ok(None);
        };
        let wanted = wanted.as_deref().unwrap_or_default();
        let mut tags: Vec<ForumTag> = Vec::with_capacity(wanted.len());
        for fields in wanted {
            let known = before.iter().find(|tag| Some(tag.id) == fields.id);
            let id = match known {
                Some(tag) => tag.id,
                None => app.snowflakes.next()?,
            };
            let name = clean(fields.name.as_deref().unwrap_or_default());
            if tags.iter().any(|tag| tag.name == name || tag.id == id) {
                return Err(ErrorCode::TagNamesUnique.into());
            }
            let (emoji_id, emoji_name) = one_emoji(fields.emoji_id, fields.emoji_name.as_deref());
            tags.push(ForumTag {
                id,
                name,
                moderated: fields.moderated.unwrap_or_default(),
                emoji_id,
                emoji_name,
            });
        }
        Ok(Some(tags))
    }

    /// Puts what fits the channel's kind into it, without parent, overwrites and tags.
    pub(super) fn apply(&self, channel: &mut Channel) {
        let kind = channel.kind;
        if let Some(name) = self.given_name() {
            channel.name = clean_name(name, kind);
        }
        if let Some(position) = self.position {
            channel.position = position.min(Channel::POSITION_MAX);
        }
        let first = default_settings(kind);
        let settings = &mut channel.settings;
        let keep = |wanted: &Option<Option<String>>| -> Option<Option<String>> {
            wanted
                .as_ref()
                .map(|text| text.as_deref().map(clean).filter(|text| !text.is_empty()))
        };
        if kind.has_messages() || kind.is_forum() {
            set(&mut settings.nsfw, self.nsfw, first.nsfw);
            let seconds = self.rate_limit_per_user;
            let first = first.rate_limit_per_user;
            set(&mut settings.rate_limit_per_user, seconds, first);
        }
        if kind.is_voice() {
            set(&mut settings.bitrate, self.bitrate, first.bitrate);
            set(&mut settings.user_limit, self.user_limit, first.user_limit);
            settings.rtc_region = keep(&self.rtc_region).or(settings.rtc_region.take());
            let quality = self.video_quality_mode;
            set(&mut settings.video_quality_mode, quality, None);
        } else if kind.holds_threads() {
            settings.topic = keep(&self.topic).or(settings.topic.take());
            let minutes = self.default_auto_archive_duration;
            set(&mut settings.default_auto_archive_duration, minutes, None);
            let seconds = self.default_thread_rate_limit_per_user;
            let field = &mut settings.default_thread_rate_limit_per_user;
            set(field, seconds, None);
        }
        if kind.is_forum() {
            if let Some(emoji) = &self.default_reaction_emoji {
                let emoji = emoji.as_ref().and_then(|emoji| {
                    let (emoji_id, emoji_name) =
                        one_emoji(emoji.emoji_id, emoji.emoji_name.as_deref());
                    let is_one = emoji_id.is_some() || emoji_name.is_some();
                    is_one.then_some(DefaultReaction {
                        emoji_id,
                        emoji_name,
                    })
                });
                settings.default_reaction_emoji = Some(emoji);
            }
            if let Some(order) = self.default_sort_order {
                settings.default_sort_order = Some(order);
            }
            if let Some(setting) = &self.default_tag_setting {
                settings.default_tag_setting = Some(setting.clone());
            }
            if kind == ChannelKind::FORUM {
                let (layout, first) = (self.default_forum_layout, first.default_forum_layout);
                set(&mut settings.default_forum_layout, layout, first);
            }
            if let Some(flags) = self.flags {
                let mut settable = ChannelSettings::FLAG_REQUIRE_TAG;
                if kind == ChannelKind::MEDIA {
                    settable |= ChannelSettings::FLAG_HIDE_MEDIA_DOWNLOADS;
                }
                settings.flags = settings.flags & !settable | flags.unwrap_or(0) & settable;
            }
        }
    }
}

/// Sets a field that is given, by null to its `first` value.
fn set<T>(field: &mut Option<T>, wanted: Option<Option<T>>, first: Option<T>) {
    if let Some(wanted) = wanted {
        *field = wanted.or(first);
    }
}

/// Text channels are lower case with dashes.
pub(crate) fn clean_name(name: &str, kind: ChannelKind) -> String {
    let name = clean(name);
    if kind == ChannelKind::TEXT || kind == ChannelKind::ANNOUNCEMENT {
        let words: Vec<&str> = name.split_whitespace().collect();
        words.join("-").to_lowercase()
    } else {
        name
    }
}
