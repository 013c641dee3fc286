//! Guild channels and their permission overwrites. Spec: objects.md › Channel;
//! permissions.md › Hierarchy.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, put},
};
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Guild, Target},
    model::{AuditAction, Channel, ChannelKind, ChannelSettings, present},
    permissions::{Overwrite, OverwriteKind},
};
use serde::Deserialize;
use sqlx::{PgConnection, types::Json as Jsonb};

use super::{guilds, scheduled_events, stages, voice};
use crate::{
    access::{self, ChannelAccess, GuildAccess},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path, null_is_default},
    form::{Fault, FormErrors},
};

const CHANNELS_MAX: usize = 500;
const CATEGORY_CHANNELS_MAX: usize = 50;
const OVERWRITES_MAX: usize = 100;

pub(crate) fn router() -> Router<App> {
    let one = get(get_channel)
        .patch(update_channel)
        .delete(delete_channel);
    let overwrite =
        put(set_channel_permission_overwrite).delete(delete_channel_permission_overwrite);
    Router::new()
        .route(
            "/guilds/{guild_id}/channels",
            get(list_guild_channels).post(create_guild_channel),
        )
        .route("/channels/{channel_id}", one)
        .route(
            "/channels/{channel_id}/permissions/{overwrite_id}",
            overwrite,
        )
}

/// Settings that a channel of a kind has from its start.
pub(super) fn default_settings(kind: ChannelKind) -> ChannelSettings {
    let mut settings = ChannelSettings::default();
    if kind.has_messages() {
        settings.nsfw = Some(false);
        settings.rate_limit_per_user = Some(0);
    }
    if kind.is_voice() {
        settings.bitrate = Some(64_000);
        settings.user_limit = Some(0);
        settings.rtc_region = Some(None);
    } else if kind.has_messages() {
        settings.topic = Some(None);
        settings.last_pin_timestamp = Some(None);
    }
    settings
}

/// Stores a new channel. The caller numbers its event.
pub(super) async fn insert(db: &mut PgConnection, channel: &Channel) -> Result<()> {
    sqlx::query!(
        "insert into channel (channel_id, guild_id, kind, name, position, parent_id, overwrites,
                              settings)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        channel.id.to_db(),
        channel.guild_id.to_db(),
        i16::from(channel.kind.0),
        channel.name,
        channel.position,
        channel.parent_id.map(Id::to_db),
        Jsonb(&channel.permission_overwrites) as Jsonb<&Vec<Overwrite>>,
        Jsonb(&channel.settings) as Jsonb<&ChannelSettings>,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Stores a changed channel and numbers its CHANNEL_UPDATE.
async fn store(db: &mut PgConnection, channel: &Channel) -> Result<Envelope> {
    sqlx::query!(
        "update channel set kind = $2, name = $3, position = $4, parent_id = $5, overwrites = $6,
                            settings = $7
         where channel_id = $1",
        channel.id.to_db(),
        i16::from(channel.kind.0),
        channel.name,
        channel.position,
        channel.parent_id.map(Id::to_db),
        Jsonb(&channel.permission_overwrites) as Jsonb<&Vec<Overwrite>>,
        Jsonb(&channel.settings) as Jsonb<&ChannelSettings>,
    )
    .execute(&mut *db)
    .await?;
    append(db, EventKind::ChannelUpdate, channel).await
}

async fn append(db: &mut PgConnection, kind: EventKind, channel: &Channel) -> Result<Envelope> {
    let vis = Visibility::channel(channel.id, Intents::GUILDS);
    events::append(db, channel.guild_id, kind, vis, channel, None).await
}

/// Adds what the access check does not read.
async fn add_last_message(db: &mut PgConnection, channel: &mut Channel) -> Result<()> {
    if channel.kind.has_messages() {
        let last = sqlx::query_scalar!(
            r#"select max(message_id) from message where channel_id = $1"#,
            channel.id.to_db(),
        )
        .fetch_one(db)
        .await?;
        channel.last_message_id = Some(last.map(Id::from_db));
    }
    Ok(())
}

/// Errors: 10003, 50001.
async fn get_channel(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<marker::Channel>>,
) -> Result<Json<Channel>> {
    let mut db = app.db.acquire().await?;
    let needed = Permissions::VIEW_CHANNEL;
    let mut channel = access::channel(&mut *db, &user, channel_id, needed)
        .await?
        .channel;
    add_last_message(&mut db, &mut channel).await?;
    Ok(Json(channel))
}

/// Those the caller can view. Errors: 10004, 50001.
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

#[derive(Debug, Clone, Deserialize)]
struct OverwriteFields {
    id: Id<Target>,
    #[serde(default, rename = "type")]
    kind: Option<OverwriteKind>,
    #[serde(default)]
    allow: Permissions,
    #[serde(default)]
    deny: Permissions,
}

/// What a request says about a channel; absent fields stay as they are.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct ChannelFields {
    #[serde(rename = "type")]
    kind: Option<ChannelKind>,
    name: Option<String>,
    position: Option<i32>,
    #[serde(deserialize_with = "present")]
    topic: Option<Option<String>>,
    bitrate: Option<u32>,
    user_limit: Option<u32>,
    nsfw: Option<bool>,
    rate_limit_per_user: Option<u32>,
    #[serde(deserialize_with = "present")]
    parent_id: Option<Option<Id<marker::Channel>>>,
    #[serde(deserialize_with = "null_is_default")]
    permission_overwrites: Option<Vec<OverwriteFields>>,
    #[serde(deserialize_with = "present")]
    rtc_region: Option<Option<String>>,
    video_quality_mode: Option<u8>,
    default_auto_archive_duration: Option<u32>,
    default_thread_rate_limit_per_user: Option<u32>,
}

impl ChannelFields {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = &self.name {
            form.length("name", name, 1..=100);
        }
        if let Some(Some(topic)) = &self.topic {
            form.length("topic", topic, 0..=1024);
        }
        for (path, value, allowed) in [
            (
                "position",
                self.position.map(i64::from),
                0..=i64::from(i32::MAX),
            ),
            ("bitrate", self.bitrate.map(i64::from), 8000..=96_000),
            ("user_limit", self.user_limit.map(i64::from), 0..=99),
            (
                "rate_limit_per_user",
                self.rate_limit_per_user.map(i64::from),
                0..=21_600,
            ),
            (
                "default_thread_rate_limit_per_user",
                self.default_thread_rate_limit_per_user.map(i64::from),
                0..=21_600,
            ),
            (
                "video_quality_mode",
                self.video_quality_mode.map(i64::from),
                1..=2,
            ),
        ] {
            if let Some(value) = value {
                form.range(path, value, allowed);
            }
        }
        if let Some(minutes) = self.default_auto_archive_duration
            && ![60, 1440, 4320, 10_080].contains(&minutes)
        {
            let choices = Fault::Choices("(60, 1440, 4320, 10080)");
            form.add("default_auto_archive_duration", choices);
        }
        if let Some(overwrites) = &self.permission_overwrites
            && overwrites.len() > OVERWRITES_MAX
        {
            let fault = Fault::BadLength {
                min: 0,
                max: OVERWRITES_MAX,
            };
            form.add("permission_overwrites", fault);
        }
    }

    /// Puts what fits the channel's kind into it, without parent and overwrites.
    fn apply(&self, channel: &mut Channel) {
        let kind = channel.kind;
        if let Some(name) = &self.name {
            channel.name = clean_name(name, kind);
        }
        if let Some(position) = self.position {
            channel.position = position;
        }
        let settings = &mut channel.settings;
        let keep = |wanted: &Option<Option<String>>| -> Option<Option<String>> {
            wanted.as_ref().map(|text| {
                text.as_deref()
                    .map(super::clean)
                    .filter(|text| !text.is_empty())
            })
        };
        if kind.has_messages() {
            settings.nsfw = self.nsfw.or(settings.nsfw);
            settings.rate_limit_per_user =
                self.rate_limit_per_user.or(settings.rate_limit_per_user);
        }
        if kind.is_voice() {
            settings.bitrate = self.bitrate.or(settings.bitrate);
            settings.user_limit = self.user_limit.or(settings.user_limit);
            settings.rtc_region = keep(&self.rtc_region).or(settings.rtc_region.take());
            settings.video_quality_mode = self.video_quality_mode.or(settings.video_quality_mode);
        } else if kind.has_messages() {
            settings.topic = keep(&self.topic).or(settings.topic.take());
            settings.default_auto_archive_duration = self
                .default_auto_archive_duration
                .or(settings.default_auto_archive_duration);
            settings.default_thread_rate_limit_per_user = self
                .default_thread_rate_limit_per_user
                .or(settings.default_thread_rate_limit_per_user);
        }
    }
}

/// Text channels are lower case with dashes.
fn clean_name(name: &str, kind: ChannelKind) -> String {
    let name = super::clean(name);
    if kind == ChannelKind::TEXT || kind == ChannelKind::ANNOUNCEMENT {
        let words: Vec<&str> = name.split_whitespace().collect();
        words.join("-").to_lowercase()
    } else {
        name
    }
}

#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct CreateChannel(ChannelFields);

impl Form for CreateChannel {
    fn check(&self, form: &mut FormErrors) {
        form.required("name", &self.0.name);
        self.0.check(form);
        let kinds = [ChannelKind::TEXT, ChannelKind::VOICE, ChannelKind::CATEGORY];
        if self.0.kind.is_some_and(|kind| !kinds.contains(&kind)) {
            form.add("type", Fault::Choices("(0, 2, 4)"));
        }
    }
}

/// Without overwrites given, those of the category. Errors: 10004, 30013, 50001, 50013, 50035.
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
    let parent = body.parent_id.flatten();
    let parent = parent
        .map(|parent| category(&others, parent, kind, None))
        .transpose()?;
    let overwrites = match &body.permission_overwrites {
        Some(wanted) => {
            let wanted = complete(&access, wanted);
            if !wanted.is_empty() {
                access.require(Permissions::MANAGE_ROLES)?;
            }
            let bits = changed_bits(&[], &wanted);
            access.require(bits)?;
            if bits.contains(Permissions::MANAGE_ROLES) {
                access.require(Permissions::ADMINISTRATOR)?;
            }
            wanted
        }
        None => parent.map_or_else(Vec::new, |parent| parent.permission_overwrites.clone()),
    };
    let last = others.iter().filter(|other| other.kind == kind);
    let mut channel = Channel {
        id: app.snowflakes.next()?,
        kind,
        guild_id,
        name: String::new(),
        position: last.map(|other| other.position + 1).max().unwrap_or(0),
        parent_id: parent.map(|parent| parent.id),
        permission_overwrites: overwrites,
        last_message_id: kind.has_messages().then_some(None),
        settings: default_settings(kind),
    };
    body.apply(&mut channel);
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

/// The category that a channel of `kind` (`own`, if it exists) is to be in.
///
/// Errors: 50035 if it is none of the guild, or full.
fn category(
    channels: &[Channel],
    parent: Id<marker::Channel>,
    kind: ChannelKind,
    own: Option<Id<marker::Channel>>,
) -> Result<&Channel> {
    let fault = |code, message: &'static str| {
        FormErrors::one("parent_id", Fault::Other(code, message.into()))
    };
    let found = channels
        .iter()
        .find(|channel| channel.id == parent && channel.kind == ChannelKind::CATEGORY)
        .filter(|_| kind != ChannelKind::CATEGORY)
        .ok_or_else(|| fault("CHANNEL_PARENT_INVALID", "Not a category of this guild"))?;
    let inside = channels
        .iter()
        .filter(|channel| channel.parent_id == Some(parent) && Some(channel.id) != own);
    if inside.count() >= CATEGORY_CHANNELS_MAX {
        let message = "Maximum number of channels in category reached (50)";
        return Err(fault("CHANNEL_PARENT_MAX_CHANNELS", message));
    }
    Ok(found)
}

/// Overwrites with their kinds, one per target: what is no role is a member.
fn complete(access: &GuildAccess, wanted: &[OverwriteFields]) -> Vec<Overwrite> {
    let mut complete: Vec<Overwrite> = Vec::with_capacity(wanted.len());
    for fields in wanted {
        let guess = match access.role(fields.id.cast()) {
            Some(_) => OverwriteKind::Role,
            None => OverwriteKind::Member,
        };
        let overwrite = Overwrite {
            id: fields.id,
            kind: fields.kind.unwrap_or(guess),
            allow: fields.allow,
            // What is both allowed and denied would be allowed anyway.
            deny: fields.deny - fields.allow,
        };
        complete.retain(|other| other.id != overwrite.id);
        complete.push(overwrite);
    }
    complete
}

/// Bits whose state differs for any target.
fn changed_bits(before: &[Overwrite], after: &[Overwrite]) -> Permissions {
    let state = |list: &[Overwrite], id| {
        let found = list.iter().find(|overwrite| overwrite.id == id);
        found.map_or((Permissions::empty(), Permissions::empty()), |overwrite| {
            (overwrite.allow, overwrite.deny)
        })
    };
    let targets = before.iter().chain(after).map(|overwrite| overwrite.id);
    targets.fold(Permissions::empty(), |bits, id| {
        let ((allow, deny), (new_allow, new_deny)) = (state(before, id), state(after, id));
        bits | (allow ^ new_allow) | (deny ^ new_deny)
    })
}

/// Whether the caller may change the overwrites so: MANAGE_ROLES here, and the changed
/// bits held in the guild, unless an overwrite here gives MANAGE_ROLES to the caller.
///
/// Errors: 50013.
fn check_overwrites(access: &ChannelAccess, after: &[Overwrite]) -> Result<()> {
    let before = &access.channel.permission_overwrites;
    let held = access.permissions();
    access::require(held, Permissions::MANAGE_ROLES)?;
    let member = &access.guild.member;
    let explicit = before.iter().any(|overwrite| {
        let own = match overwrite.kind {
            OverwriteKind::Role => {
                let role = overwrite.id.cast();
                role == access.guild.id.cast() || member.roles.contains(&role)
            }
            OverwriteKind::Member => overwrite.id == access.guild.user.cast(),
        };
        own && overwrite.allow.contains(Permissions::MANAGE_ROLES)
    });
    if explicit {
        return Ok(());
    }
    access.guild.require(changed_bits(before, after))
}

#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct UpdateChannel(ChannelFields);

impl Form for UpdateChannel {
    fn check(&self, form: &mut FormErrors) {
        self.0.check(form);
    }
}

/// New overwrites of a category also go to the channels in it that had the old ones.
///
/// Errors: 10003, 50001, 50013, 50024, 50035.
async fn update_channel(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<marker::Channel>>,
    reason: Reason,
    Json(UpdateChannel(body)): Json<UpdateChannel>,
) -> Result<Json<Channel>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_CHANNELS;
    let access = access::channel_for_change(&mut tx, &user, channel_id, needed).await?;
    let mut channel = access.channel.clone();
    if body.kind.is_some_and(|kind| kind != channel.kind) {
        // Text and announcement channels turn into each other; there are only the former.
        return Err(ErrorCode::InvalidChannelType.into());
    }
    body.apply(&mut channel);
    if let Some(parent) = body.parent_id {
        let others = guildhall_store::guild::channels(&mut *tx, channel.guild_id).await?;
        channel.parent_id = parent
            .map(|parent| category(&others, parent, channel.kind, Some(channel_id)))
            .transpose()?
            .map(|parent| parent.id);
    }
    if let Some(wanted) = &body.permission_overwrites {
        let wanted = complete(&access.guild, wanted);
        if changed_bits(&channel.permission_overwrites, &wanted) != Permissions::empty()
            || wanted.len() != channel.permission_overwrites.len()
        {
            check_overwrites(&access, &wanted)?;
        }
        channel.permission_overwrites = wanted;
    }
    add_last_message(&mut tx, &mut channel).await?;
    let mut events = vec![store(&mut tx, &channel).await?];
    events.extend(sync_children(&mut tx, &access.channel, &channel).await?);
    let action = AuditAction::CHANNEL_UPDATE;
    let entry = Entry::new(channel.guild_id, user.id, action, &reason)
        .target(channel_id)
        .changed(&access.channel, &channel)?
        .without(&["permission_overwrites"]);
    events.extend(audit::append(&app, &mut tx, entry).await?);
    events.extend(audit_overwrites(&app, &mut tx, &access, &channel, &reason).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(channel))
}

/// Gives a category's new overwrites to the channels in it that had its old ones.
async fn sync_children(
    db: &mut PgConnection,
    before: &Channel,
    after: &Channel,
) -> Result<Vec<Envelope>> {
    if after.kind != ChannelKind::CATEGORY
        || before.permission_overwrites == after.permission_overwrites
    {
        return Ok(Vec::new());
    }
    let sorted = |overwrites: &[Overwrite]| {
        let mut sorted = overwrites.to_vec();
        sorted.sort_unstable_by_key(|overwrite| overwrite.id);
        sorted
    };
    let old = sorted(&before.permission_overwrites);
    let mut events = Vec::new();
    for mut child in guildhall_store::guild::channels(&mut *db, after.guild_id).await? {
        if child.parent_id == Some(after.id) && sorted(&child.permission_overwrites) == old {
            child.permission_overwrites = after.permission_overwrites.clone();
            events.push(store(db, &child).await?);
        }
    }
    Ok(events)
}

/// An entry for each overwrite that the caller made, changed or took away.
async fn audit_overwrites(
    app: &App,
    db: &mut PgConnection,
    access: &ChannelAccess,
    after: &Channel,
    reason: &Reason,
) -> Result<Vec<Envelope>> {
    let (before, after) = (
        &access.channel.permission_overwrites,
        &after.permission_overwrites,
    );
    let find = |list: &[Overwrite], id| list.iter().find(|overwrite| overwrite.id == id).copied();
    let kept = before.iter().map(|old| (Some(*old), find(after, old.id)));
    let made = after
        .iter()
        .filter(|new| find(before, new.id).is_none())
        .map(|new| (None, Some(*new)));
    let mut events = Vec::new();
    for (old, new) in kept.chain(made) {
        let (Some(overwrite), action) = (match (old, new) {
            (None, new) => (new, AuditAction::CHANNEL_OVERWRITE_CREATE),
            (old, None) => (old, AuditAction::CHANNEL_OVERWRITE_DELETE),
            (_, new) => (new, AuditAction::CHANNEL_OVERWRITE_UPDATE),
        }) else {
            continue;
        };
        let mut entry = Entry::new(access.guild.id, access.guild.user, action, reason)
            .target(access.channel.id)
            .option("id", overwrite.id)
            .option("type", overwrite.kind as u8);
        if overwrite.kind == OverwriteKind::Role {
            let name = sqlx::query_scalar!(
                "select name from role where guild_id = $1 and role_id = $2",
                access.guild.id.to_db(),
                overwrite.id.to_db(),
            )
            .fetch_optional(&mut *db)
            .await?;
            entry = entry.option("role_name", name.unwrap_or_default());
        }
        events.extend(audit::append(app, db, entry.changed(&old, &new)?).await?);
    }
    Ok(events)
}

/// Channels of a deleted category stay, without one. Errors: 10003, 50001, 50013.
async fn delete_channel(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<marker::Channel>>,
    reason: Reason,
) -> Result<Json<Channel>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_CHANNELS;
    let access = access::channel_for_change(&mut tx, &user, channel_id, needed).await?;
    let mut channel = access.channel;
    add_last_message(&mut tx, &mut channel).await?;
    let mut events = Vec::new();
    if channel.kind == ChannelKind::CATEGORY {
        for mut child in guildhall_store::guild::channels(&mut *tx, channel.guild_id).await? {
            if child.parent_id == Some(channel_id) {
                child.parent_id = None;
                events.push(store(&mut tx, &child).await?);
            }
        }
    }
    let guild = channel.guild_id;
    events.extend(voice::empty_channel(&mut tx, guild, channel_id).await?);
    events.extend(stages::close(&mut tx, guild, channel_id).await?);
    events.extend(scheduled_events::delete_of_channel(&mut tx, guild, channel_id).await?);
    sqlx::query!(
        "delete from channel where channel_id = $1",
        channel_id.to_db()
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "delete from message where channel_id = $1",
        channel_id.to_db()
    )
    .execute(&mut *tx)
    .await?;
    events.extend(guilds::forget_channel(&mut tx, channel.guild_id, channel_id).await?);
    events.push(append(&mut tx, EventKind::ChannelDelete, &channel).await?);
    let action = AuditAction::CHANNEL_DELETE;
    let entry = Entry::new(channel.guild_id, user.id, action, &reason)
        .target(channel_id)
        .deleted(&channel)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(channel))
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct SetOverwrite {
    #[serde(rename = "type")]
    kind: Option<OverwriteKind>,
    allow: Permissions,
    deny: Permissions,
}

impl Form for SetOverwrite {}

/// Errors: 10003, 10009 (neither role nor member), 50001, 50013, 50035.
async fn set_channel_permission_overwrite(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, overwrite_id)): Path<(Id<marker::Channel>, Id<Target>)>,
    reason: Reason,
    Json(body): Json<SetOverwrite>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_ROLES;
    let access = access::channel_for_change(&mut tx, &user, channel_id, needed).await?;
    let mut wanted = access.channel.permission_overwrites.clone();
    let new = complete(
        &access.guild,
        &[OverwriteFields {
            id: overwrite_id,
            kind: body.kind,
            allow: body.allow,
            deny: body.deny,
        }],
    );
    let is_known = match new.first().map(|overwrite| overwrite.kind) {
        Some(OverwriteKind::Role) => access.guild.role(overwrite_id.cast()).is_some(),
        _ => {
            let (guild, user) = (access.guild.id, overwrite_id.cast());
            guildhall_store::guild::member(&mut *tx, guild, user)
                .await?
                .is_some()
        }
    };
    if !is_known {
        return Err(ErrorCode::UnknownOverwrite.into());
    }
    wanted.retain(|overwrite| overwrite.id != overwrite_id);
    wanted.extend(new);
    change_overwrites(&app, tx, access, wanted, &reason).await
}

/// Errors: 10003, 10009, 50001, 50013.
async fn delete_channel_permission_overwrite(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, overwrite_id)): Path<(Id<marker::Channel>, Id<Target>)>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_ROLES;
    let access = access::channel_for_change(&mut tx, &user, channel_id, needed).await?;
    let mut wanted = access.channel.permission_overwrites.clone();
    wanted.retain(|overwrite| overwrite.id != overwrite_id);
    if wanted.len() == access.channel.permission_overwrites.len() {
        return Err(ErrorCode::UnknownOverwrite.into());
    }
    change_overwrites(&app, tx, access, wanted, &reason).await
}

async fn change_overwrites(
    app: &App,
    mut tx: sqlx::Transaction<'_, sqlx::Postgres>,
    access: ChannelAccess,
    wanted: Vec<Overwrite>,
    reason: &Reason,
) -> Result<StatusCode> {
    check_overwrites(&access, &wanted)?;
    let mut channel = access.channel.clone();
    channel.permission_overwrites = wanted;
    add_last_message(&mut tx, &mut channel).await?;
    let mut events = vec![store(&mut tx, &channel).await?];
    events.extend(sync_children(&mut tx, &access.channel, &channel).await?);
    events.extend(audit_overwrites(app, &mut tx, &access, &channel, reason).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}
