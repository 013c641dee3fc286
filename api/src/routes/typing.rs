//! Typing indicators: ephemeral, never stored. Spec: endpoints › trigger_typing_indicator.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions, Timestamp,
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild, User},
    model::Member,
};
use serde::Serialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::{self, Place},
    app::App,
    auth::CurrentUser,
    error::Result,
    extract::Path,
    routes::dms,
};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(trigger_typing_indicator))
}

#[derive(Serialize)]
struct TypingStart {
    channel_id: Id<Channel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guild_id: Option<Id<Guild>>,
    user_id: Id<User>,
    /// Unix seconds.
    timestamp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<Member>,
}

/// Errors: 10003, 50001, 50007, 50008, 50013, 50278.
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
    let mut db = app.db.acquire().await?;
    let place = access::place(&mut db, &user, channel_id, Permissions::VIEW_CHANNEL).await?;
    if let Place::Private(access) = &place {
        dms::require_let(&mut db, access).await?;
    }
    drop(db);
    if !place.kind().has_messages() {
        return Err(ErrorCode::NonTextChannel.into());
    }
    place.require(place.sending())?;
    let member = place.member().map(|member| Member {
        user: Some(user.user().clone()),
        ..member.clone()
    });
    let body = TypingStart {
        channel_id,
        guild_id: place.guild_id(),
        user_id: user.id,
        timestamp: Timestamp::now().0.unix_timestamp(),
        member,
    };
    let intents = Intents::GUILD_MESSAGE_TYPING;
    place.publish_ephemeral(&app.publisher, EventKind::TypingStart, intents, &body)?;
    Ok(StatusCode::NO_CONTENT)
}
