//! What is read of the bodies of events, besides whole objects.

use guildhall_shared::{
    Id, Timestamp,
    id::marker,
    model::{MessageKind, Role},
};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub(super) struct WithId {
    pub(super) id: Id<marker::Any>,
}

#[derive(Deserialize)]
pub(super) struct OfChannel {
    pub(super) id: Id<marker::Message>,
    pub(super) channel_id: Id<marker::Channel>,
    #[serde(rename = "type", default)]
    pub(super) kind: MessageKind,
}

/// MESSAGE_DELETE has one `id`, MESSAGE_DELETE_BULK all of them in `ids`.
#[derive(Deserialize)]
pub(super) struct Deleted {
    pub(super) channel_id: Option<Id<marker::Channel>>,
    pub(super) id: Option<Id<marker::Message>>,
    #[serde(default)]
    pub(super) ids: Vec<Id<marker::Message>>,
}

#[derive(Deserialize)]
pub(super) struct WithPins {
    pub(super) channel_id: Id<marker::Channel>,
    pub(super) last_pin_timestamp: Option<Timestamp>,
}

#[derive(Deserialize)]
pub(super) struct WithRole {
    pub(super) role: Role,
}

#[derive(Deserialize)]
pub(super) struct WithRoleId {
    pub(super) role_id: Id<marker::Role>,
}

#[derive(Deserialize)]
pub(super) struct WithUser {
    pub(super) user: WithId,
}

#[derive(Deserialize)]
pub(super) struct WithEmojis {
    pub(super) emojis: Vec<Value>,
}

#[derive(Deserialize)]
pub(super) struct WithStickers {
    pub(super) stickers: Vec<Value>,
}

#[derive(Deserialize)]
pub(super) struct WithSoundId {
    pub(super) sound_id: Id<marker::Any>,
}

#[derive(Deserialize)]
pub(super) struct WithStatus {
    pub(super) id: Id<marker::Channel>,
    pub(super) status: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct WithStartTime {
    pub(super) id: Id<marker::Channel>,
    pub(super) voice_start_time: Option<i64>,
}

#[derive(Deserialize)]
pub(super) struct WithSounds {
    pub(super) soundboard_sounds: Vec<Value>,
}
