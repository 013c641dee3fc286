//! Channels moved: bulk_update_guild_channels.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    id::marker::{self, Guild},
    model::{AuditAction, Channel, present},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    overwrites,
    stored::{CHANNELS_MAX, category, store},
};
use crate::{
    access::{self, ChannelAccess},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
};

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = ChannelPositionRequest)]
struct Move {
    #[serde(default)]
    id: Option<Id<marker::Channel>>,
    #[serde(default)]
    position: Option<i32>,
    /// Whether the overwrites become the new category's.
    #[serde(default)]
    lock_permissions: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    parent_id: Option<Option<Id<marker::Channel>>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(transparent)]
pub(super) struct Moves(Vec<Move>);

impl Form for Moves {
    fn check(&self, form: &mut FormErrors) {
        if self.0.len() > CHANNELS_MAX {
            let (min, max) = (0, CHANNELS_MAX);
            form.add("", Fault::BadLength { min, max });
        }
        for (index, one) in self.0.iter().enumerate() {
            form.required(&format!("{index}.id"), &one.id);
            if let Some(position) = one.position {
                let allowed = 0..=i64::from(i32::MAX);
                form.range(&format!("{index}.position"), i64::from(position), allowed);
            }
        }
    }
}

/// At most one channel moves to another category. Channels that stay as they are make no event.
///
/// Errors: 10003, 10004, 40009, 50001, 50013, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/channels",
    tag = "Channels",
    responses((status = 204, description = "They are moved"))
)]
pub(super) async fn bulk_update_guild_channels(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(Moves(moves)): Json<Moves>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_CHANNELS;
    let access = access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let mut channels = guildhall_store::guild::channels(&mut *tx, guild_id).await?;
    let before = channels.clone();
    let mut moved_parents = 0;
    for one in &moves {
        let index = channels
            .iter()
            .position(|channel| Some(channel.id) == one.id)
            .ok_or(ErrorCode::UnknownChannel)?;
        let mut channel = channels[index].clone();
        let own = ChannelAccess {
            guild: access.clone(),
            channel: channel.clone(),
        };
        own.require(Permissions::MANAGE_CHANNELS)?;
        if let Some(position) = one.position {
            channel.position = position.min(Channel::POSITION_MAX);
        }
        if let Some(parent) = one.parent_id.filter(|&parent| parent != channel.parent_id) {
            moved_parents += 1;
            if moved_parents > 1 {
                return Err(ErrorCode::OneParentAtATime.into());
            }
            let parent = parent
                .map(|parent| category(&channels, parent, channel.kind, Some(channel.id)))
                .transpose()?;
            channel.parent_id = parent.map(|parent| parent.id);
        }
        if one.lock_permissions == Some(true)
            && let Some(parent) = channels
                .iter()
                .find(|other| Some(other.id) == channel.parent_id)
        {
            let wanted = parent.permission_overwrites.clone();
            if wanted != channel.permission_overwrites {
                // They are those of the category that it will be in.
                overwrites::check_overwrites(&own, &wanted, &wanted)?;
                channel.permission_overwrites = wanted;
            }
        }
        channels[index] = channel;
    }
    let mut events = Vec::new();
    for (old, new) in before.iter().zip(&channels) {
        if old == new {
            continue;
        }
        events.push(store(&mut tx, new).await?);
        let entry = Entry::new(guild_id, user.id, AuditAction::CHANNEL_UPDATE, &reason)
            .target(new.id)
            .changed(old, new)?
            .without(&["permission_overwrites"]);
        events.extend(audit::append(&app, &mut tx, entry).await?);
        if old.permission_overwrites != new.permission_overwrites {
            let own = ChannelAccess {
                guild: access.clone(),
                channel: old.clone(),
            };
            let told = overwrites::audit_overwrites(&app, &mut tx, &own, new, &reason);
            events.extend(told.await?);
        }
    }
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}
