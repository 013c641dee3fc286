//! Guild channels and their permission overwrites. Spec: objects.md › Channel;
//! permissions.md › Hierarchy.

mod bulk;
pub(crate) mod fields;
mod overwrites;
pub(crate) mod stored;
mod voice_status;

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    gateway::EventKind,
    id::marker::{self, Guild},
    model::{AnyChannel, AuditAction, Channel, ChannelKind},
    permissions::changed_bits,
};
use guildhall_store::voice::change;
use serde::Deserialize;
use sqlx::PgTransaction;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    bulk::{__path_bulk_update_guild_channels, bulk_update_guild_channels},
    fields::{ChannelFields, default_settings},
    overwrites::{
        __path_delete_channel_permission_overwrite, __path_set_channel_permission_overwrite,
        are_same, audit_overwrites, check_overwrites, complete,
        delete_channel_permission_overwrite, may_give, set_channel_permission_overwrite,
        sync_children,
    },
    stored::{
        CHANNELS_MAX, add_last_message, append, category, insert, overwrites_above,
        require_room_for_category, store,
    },
    voice_status::{__path_update_voice_channel_status, update_voice_channel_status},
};
use super::{dms, guilds, scheduled_events, stages, threads};
use crate::{
    access::{self, ChannelAccess, Place},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    collect,
    error::Result,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    telemetry,
};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(
            list_guild_channels,
            create_guild_channel,
            bulk_update_guild_channels
        ))
        .routes(routes!(get_channel, update_channel, delete_channel))
        .routes(routes!(
            set_channel_permission_overwrite,
            delete_channel_permission_overwrite
        ))
        .routes(routes!(update_voice_channel_status))
}

/// Of any kind; a thread carries the caller's membership. Errors: 10003, 50001.
#[utoipa::path(
    get,
    path = "/channels/{channel_id}",
    tag = "Channels",
    responses((status = 200, body = AnyChannel))
)]
async fn get_channel(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<marker::Channel>>,
) -> Result<Json<AnyChannel>> {
    let mut db = app.db.acquire().await?;
    let needed = Permissions::VIEW_CHANNEL;
    let place = access::place(&mut db, &user, channel_id, needed).await?;
    Ok(Json(match place {
        Place::Channel(access) => {
            let mut channel = access.channel;
            add_last_message(&mut db, &mut channel).await?;
            AnyChannel::Guild(Box::new(channel))
        }
        Place::Thread(_) => {
            let thread = threads::load_as(&mut db, channel_id, user.id).await?;
            AnyChannel::Thread(Box::new(thread))
        }
        Place::Private(_) => {
            let channel = dms::load(&mut db, channel_id, user.id).await?;
            AnyChannel::Private(Box::new(channel))
        }
    }))
}

/// Those the caller can view. Errors: 10004, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/channels",
    tag = "Channels",
    responses((status = 200, body = Vec<Channel>))
)]
async fn list_guild_channels(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<Vec<Channel>>> {
    let access = access::guild(&app.db, &user, guild_id, Permissions::empty()).await?;
    let mut channels = guildhall_store::guild::channels(&app.db, guild_id).await?;
    channels.retain(|channel| {
        access
            .in_channel(channel.kind, &channel.permission_overwrites)
            .contains(Permissions::VIEW_CHANNEL)
    });
    Ok(Json(channels))
}

/// Kinds that a guild's channel can be made as.
const KINDS: [ChannelKind; 7] = [
    ChannelKind::TEXT,
    ChannelKind::VOICE,
    ChannelKind::CATEGORY,
    ChannelKind::ANNOUNCEMENT,
    ChannelKind::STAGE,
    ChannelKind::FORUM,
    ChannelKind::MEDIA,
];

#[derive(Debug, Deserialize, ToSchema)]
#[serde(transparent)]
struct CreateChannel(ChannelFields);

impl Form for CreateChannel {
    fn check(&self, form: &mut FormErrors) {
        form.required("name", &self.0.given_name());
        self.0.check(form);
        let kind = self.0.kind.unwrap_or(ChannelKind::TEXT);
        self.0.check_for(kind, form);
        if self.0.kind.is_some_and(|kind| !KINDS.contains(&kind)) {
            form.add("type", Fault::Choices("(0, 2, 4, 5, 13, 15, 16)"));
        }
    }
}

/// Without overwrites given, those of the category.
///
/// Errors: 10004, 30013, 30052, 50001, 50013, 50035.
#[utoipa::path(
    post,
    path = "/guilds/{guild_id}/channels",
    tag = "Channels",
    responses((status = 201, body = Channel))
)]
async fn create_guild_channel(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(CreateChannel(body)): Json<CreateChannel>,
) -> Result<(StatusCode, Json<Channel>)> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_CHANNELS;
    let access = access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let others = guildhall_store::guild::channels(&mut *tx, guild_id).await?;
    if others.len() >= CHANNELS_MAX {
        return Err(ErrorCode::MaximumChannels.into());
    }
    let kind = body.kind.unwrap_or(ChannelKind::TEXT);
    if kind == ChannelKind::CATEGORY {
        require_room_for_category(&others)?;
    }
    body.check_bitrate(kind)?;
    let parent = body.parent_id.flatten();
    let parent = parent
        .map(|parent| category(&others, parent, kind, None))
        .transpose()?;
    let overwrites = match &body.permission_overwrites {
        Some(Some(wanted)) => {
            let wanted = complete(&access, wanted)?;
            if !wanted.is_empty() {
                access.require(Permissions::MANAGE_ROLES)?;
            }
            let bits = changed_bits(&[], &wanted);
            let above = parent.map(|parent| parent.permission_overwrites.as_slice());
            access.require_one_of(may_give(&access, above.unwrap_or_default()), &[bits])?;
            if bits.contains(Permissions::MANAGE_ROLES) {
                access.require(Permissions::ADMINISTRATOR)?;
            }
            wanted
        }
        Some(None) | None => {
            parent.map_or_else(Vec::new, |parent| parent.permission_overwrites.clone())
        }
    };
    let after = others.iter().filter(|other| other.kind == kind);
    let after = after.map(|other| other.position.saturating_add(1)).max();
    let after = after.map(|position| position.min(Channel::POSITION_MAX));
    let mut channel = Channel {
        id: app.snowflakes.next()?,
        kind,
        guild_id,
        name: String::new(),
        position: after.unwrap_or(0),
        parent_id: parent.map(|parent| parent.id),
        permission_overwrites: overwrites,
        last_message_id: (kind.has_messages() || kind.is_forum()).then_some(None),
        settings: default_settings(kind),
    };
    body.apply(&mut channel);
    if let Some(tags) = body.tags(&app, &[])?.filter(|_| kind.is_forum()) {
        channel.settings.available_tags = Some(tags);
    }
    insert(&mut tx, &channel).await?;
    let mut events = vec![append(&mut tx, EventKind::ChannelCreate, &channel).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::CHANNEL_CREATE, &reason)
        .target(channel.id)
        .created(&channel)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok((StatusCode::CREATED, Json(channel)))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(transparent)]
struct UpdateChannel(ChannelFields);

impl Form for UpdateChannel {
    fn check(&self, form: &mut FormErrors) {
        self.0.check(form);
    }
}

/// Each kind takes the fields that are its own.
///
/// Errors: 10003, 30052, 40061, 50001, 50013, 50024, 50035, 60003; of a thread also 30047 for a
/// second pinned post, 50083 for anything but waking an archived one, 160006 and 160007 beside
/// 1000 active threads of the guild, 200000.
#[utoipa::path(
    patch,
    path = "/channels/{channel_id}",
    tag = "Channels",
    responses((status = 200, body = AnyChannel))
)]
async fn update_channel(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<marker::Channel>>,
    reason: Reason,
    Json(UpdateChannel(body)): Json<UpdateChannel>,
) -> Result<Json<AnyChannel>> {
    let icon = dms::store_icon(&app, &user, channel_id, &body).await?;
    let mut tx = app.db.begin().await?;
    let needed = Permissions::VIEW_CHANNEL;
    let place = access::place_for_change(&mut tx, &user, channel_id, needed).await?;
    Ok(Json(match place {
        Place::Channel(access) => {
            let channel = update_guild_channel(&app, tx, &user, access, &body, &reason).await?;
            AnyChannel::Guild(Box::new(channel))
        }
        Place::Thread(access) => {
            let thread = threads::update_thread(&app, tx, &user, *access, &body, &reason).await?;
            AnyChannel::Thread(Box::new(thread))
        }
        Place::Private(access) => {
            let channel = dms::update(&app, tx, &user, access, &body, icon).await?;
            AnyChannel::Private(Box::new(channel))
        }
    }))
}

/// New overwrites of a category also go to the channels in it that had the old ones.
async fn update_guild_channel(
    app: &App,
    mut tx: PgTransaction<'_>,
    user: &CurrentUser,
    access: ChannelAccess,
    body: &ChannelFields,
    reason: &Reason,
) -> Result<Channel> {
    access.require(Permissions::MANAGE_CHANNELS)?;
    let mut channel = access.channel.clone();
    let channel_id = channel.id;
    if let Some(kind) = body.kind.filter(|&kind| kind != channel.kind) {
        // Only these two turn into each other.
        let convertible = [ChannelKind::TEXT, ChannelKind::ANNOUNCEMENT];
        if !convertible.contains(&kind) || !convertible.contains(&channel.kind) {
            return Err(ErrorCode::InvalidChannelType.into());
        }
        channel.kind = kind;
    }
    let mut form = FormErrors::new();
    body.check_for(channel.kind, &mut form);
    form.finish()?;
    body.check_bitrate(channel.kind)?;
    body.apply(&mut channel);
    let tags = channel.settings.available_tags.clone().unwrap_or_default();
    if let Some(tags) = body.tags(app, &tags)?.filter(|_| channel.kind.is_forum()) {
        channel.settings.available_tags = Some(tags);
    }
    if let Some(parent) = body.parent_id {
        let others = guildhall_store::guild::channels(&mut *tx, channel.guild_id).await?;
        channel.parent_id = parent
            .map(|parent| category(&others, parent, channel.kind, Some(channel_id)))
            .transpose()?
            .map(|parent| parent.id);
    }
    if let Some(wanted) = &body.permission_overwrites {
        let wanted = complete(&access.guild, wanted.as_deref().unwrap_or_default())?;
        if !are_same(&channel.permission_overwrites, &wanted) {
            let above = overwrites_above(&mut tx, &channel).await?;
            check_overwrites(&access, &above, &wanted)?;
        }
        channel.permission_overwrites = wanted;
    }
    add_last_message(&mut tx, &mut channel).await?;
    let mut events = vec![store(&mut tx, &channel).await?];
    events.extend(sync_children(&mut tx, &access.channel, &channel).await?);
    let action = AuditAction::CHANNEL_UPDATE;
    let entry = Entry::new(channel.guild_id, user.id, action, reason)
        .target(channel_id)
        .changed(&access.channel, &channel)?
        .without(&["permission_overwrites", "last_message_id"]);
    events.extend(audit::append(app, &mut tx, entry).await?);
    events.extend(audit_overwrites(app, &mut tx, &access, &channel, reason).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(channel)
}

/// Guild channels and threads go; a DM is closed for the caller, who leaves a group DM.
///
/// Errors: 10003, 50001, 50013, 50074.
#[utoipa::path(
    delete,
    path = "/channels/{channel_id}",
    tag = "Channels",
    responses((status = 200, body = AnyChannel))
)]
async fn delete_channel(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<marker::Channel>>,
    reason: Reason,
) -> Result<Json<AnyChannel>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::VIEW_CHANNEL;
    let place = access::place_for_change(&mut tx, &user, channel_id, needed).await?;
    Ok(Json(match place {
        Place::Channel(access) => {
            let channel = delete_guild_channel(&app, tx, &user, access, &reason).await?;
            AnyChannel::Guild(Box::new(channel))
        }
        Place::Thread(access) => {
            let thread = threads::delete_thread(&app, tx, &user, *access, &reason).await?;
            AnyChannel::Thread(Box::new(thread))
        }
        Place::Private(access) => {
            let channel = dms::close(&app, tx, &user, access).await?;
            AnyChannel::Private(Box::new(channel))
        }
    }))
}

/// Channels of a deleted category stay, without one; threads of a deleted channel go with it.
async fn delete_guild_channel(
    app: &App,
    mut tx: PgTransaction<'_>,
    user: &CurrentUser,
    access: ChannelAccess,
    reason: &Reason,
) -> Result<Channel> {
    access.require(Permissions::MANAGE_CHANNELS)?;
    let mut channel = access.channel;
    let (guild_id, channel_id) = (channel.guild_id, channel.id);
    let (guild, _) = guildhall_store::guild::by_id(&mut tx, guild_id)
        .await?
        .ok_or(ErrorCode::UnknownGuild)?;
    let settings = &guild.settings;
    let is_community = settings
        .features
        .iter()
        .any(|feature| feature == "COMMUNITY");
    if is_community
        && [
            settings.rules_channel_id,
            settings.public_updates_channel_id,
        ]
        .contains(&Some(channel_id))
    {
        return Err(ErrorCode::CommunityChannel.into());
    }
    add_last_message(&mut tx, &mut channel).await?;
    let mut events = Vec::new();
    if channel.kind.holds_threads() {
        events.extend(threads::delete_all_of(&mut tx, guild_id, channel_id).await?);
    }
    if channel.kind.is_voice() {
        events.extend(
            change::empty_channel(&mut tx, guild_id, channel_id, telemetry::trace()).await?,
        );
        events.extend(stages::close(&mut tx, guild_id, channel_id).await?);
        events.extend(scheduled_events::delete_of_channel(&mut tx, guild_id, channel_id).await?);
    }
    collect::delete_channel(&mut tx, channel_id).await?;
    events.extend(guilds::forget_channel(&mut tx, guild_id, channel_id).await?);
    events.push(append(&mut tx, EventKind::ChannelDelete, &channel).await?);
    if channel.kind == ChannelKind::CATEGORY {
        for mut child in guildhall_store::guild::channels(&mut *tx, guild_id).await? {
            if child.parent_id == Some(channel_id) {
                child.parent_id = None;
                events.push(store(&mut tx, &child).await?);
            }
        }
    }
    let action = AuditAction::CHANNEL_DELETE;
    let entry = Entry::new(guild_id, user.id, action, reason)
        .target(channel_id)
        .deleted(&channel)?
        // Of the moment, not of the channel; libraries read a `status` as a scheduled event's.
        .without(&["status", "voice_start_time"]);
    events.extend(audit::append(app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(channel)
}
