//! What a voice channel is about at the moment. Spec: endpoints › update_voice_channel_status.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    envelope::Visibility,
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild},
    model::{AuditAction, ChannelKind, ChannelSettings, present},
};
use serde::{Deserialize, Serialize};
use sqlx::types::Json as Jsonb;
use utoipa::ToSchema;

use crate::{
    access,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path},
    form::FormErrors,
    text::clean,
};

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = VoiceStatusRequest)]
pub(super) struct SetStatus {
    /// 500 characters at most; null or empty takes it away.
    #[serde(default, deserialize_with = "present")]
    status: Option<Option<String>>,
}

impl Form for SetStatus {
    fn check(&self, form: &mut FormErrors) {
        if let Some(Some(status)) = &self.status {
            form.length("status", status, 0..=500);
        }
    }
}

#[derive(Serialize)]
struct StatusUpdate {
    id: Id<Channel>,
    guild_id: Id<Guild>,
    status: Option<String>,
}

/// Who is not connected there needs MANAGE_CHANNELS too.
///
/// Errors: 10003, 50001, 50013, 50024, 50035.
#[utoipa::path(
    put,
    path = "/channels/{channel_id}/voice-status",
    tag = "Channels",
    responses((status = 204, description = "It is set"))
)]
pub(super) async fn update_voice_channel_status(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    reason: Reason,
    Json(body): Json<SetStatus>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::VIEW_CHANNEL;
    let access = access::channel_for_change(&mut tx, &user, channel_id, needed).await?;
    if access.channel.kind != ChannelKind::VOICE {
        return Err(ErrorCode::InvalidChannelType.into());
    }
    access.require(Permissions::SET_VOICE_CHANNEL_STATUS)?;
    let guild_id = access.guild.id;
    let states =
        guildhall_store::voice::states(&mut *tx, guild_id, Some(user.id), Some(channel_id)).await?;
    if states.is_empty() {
        access.require(Permissions::MANAGE_CHANNELS)?;
    }
    let status = body.status.flatten().map(|status| clean(&status));
    let status = status.filter(|status| !status.is_empty());
    let before = access.channel.settings.status.clone();
    if status == before {
        return Ok(StatusCode::NO_CONTENT);
    }
    let settings = ChannelSettings {
        status: status.clone(),
        ..access.channel.settings
    };
    sqlx::query!(
        "update channel set settings = $2 where channel_id = $1",
        channel_id.to_db(),
        Jsonb(&settings) as Jsonb<&ChannelSettings>,
    )
    .execute(&mut *tx)
    .await?;
    let action = match &status {
        Some(_) => AuditAction::VOICE_CHANNEL_STATUS_CREATE,
        None => AuditAction::VOICE_CHANNEL_STATUS_DELETE,
    };
    let mut entry = Entry::new(guild_id, user.id, action, &reason)
        .target(channel_id)
        .option("channel_id", channel_id);
    if let Some(status) = &status {
        entry = entry.option("status", status);
    }
    let body = StatusUpdate {
        id: channel_id,
        guild_id,
        status,
    };
    let vis = Visibility::channel(channel_id, Intents::GUILDS);
    let kind = EventKind::VoiceChannelStatusUpdate;
    let mut told = vec![events::append(&mut tx, guild_id, kind, vis, &body, None).await?];
    told.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(told);
    Ok(StatusCode::NO_CONTENT)
}
