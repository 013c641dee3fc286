//! Typing indicators: ephemeral, never stored. Spec: endpoints › trigger_typing_indicator.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::Visibility,
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild, User},
    model::Member,
};
use serde::Serialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{access, app::App, auth::CurrentUser, error::Result, extract::Path};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(trigger_typing_indicator))
}

#[derive(Serialize)]
struct TypingStart {
    channel_id: Id<Channel>,
    guild_id: Id<Guild>,
    user_id: Id<User>,
    /// Unix seconds.
    timestamp: i64,
    member: Member,
}

/// Errors: 10003, 50001, 50008, 50013.
#[utoipa::path(
    post,
    path = "/channels/{channel_id}/typing",
    tag = "Channels",
    responses((status = 204, description = "Those who may see the channel were told"))
)]
async fn trigger_typing_indicator(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
) -> Result<StatusCode> {
    let access = access::channel(&app.db, &user, channel_id, Permissions::VIEW_CHANNEL).await?;
    if !access.channel.kind.has_messages() {
        return Err(ErrorCode::NonTextChannel.into());
    }
    access.require(Permissions::SEND_MESSAGES)?;
    let guild_id = access.guild.id;
    let body = TypingStart {
        channel_id,
        guild_id,
        user_id: user.id,
        timestamp: Timestamp::now().0.unix_timestamp(),
        member: Member {
            user: Some(user.user().clone()),
            ..access.guild.member
        },
    };
    let vis = Visibility::channel(channel_id, Intents::GUILD_MESSAGE_TYPING);
    app.publisher
        .publish_ephemeral(guild_id, EventKind::TypingStart, vis, &body)?;
    Ok(StatusCode::NO_CONTENT)
}
