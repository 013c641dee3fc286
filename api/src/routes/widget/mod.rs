//! A guild's widget: what other sites may show of it. Spec: objects.md › Guilds, widget.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    id::marker::{Channel, Guild as GuildMarker},
    model::{AuditAction, ChannelKind, Guild, OnlineStatus, present},
    permissions::Overwrite,
};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json as Jsonb};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    guilds::{self, update::check_channel},
    invites,
};
use crate::{
    access,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path, Query},
    form::{Fault, FormErrors},
    online,
};

mod picture;

const MEMBERS_MAX: usize = 100;
/// Kinds that an invite can lead to.
const INVITED: &[ChannelKind] = &[
    ChannelKind::TEXT,
    ChannelKind::VOICE,
    ChannelKind::ANNOUNCEMENT,
    ChannelKind::STAGE,
    ChannelKind::FORUM,
    ChannelKind::MEDIA,
];

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(
            get_guild_widget_settings,
            update_guild_widget_settings
        ))
        .routes(routes!(get_guild_widget))
        .routes(routes!(get_guild_widget_png))
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
struct WidgetSettings {
    enabled: bool,
    /// Where its invite leads; null: it has none.
    channel_id: Option<Id<Channel>>,
}

impl WidgetSettings {
    fn of(guild: &Guild) -> Self {
        Self {
            enabled: guild.settings.widget_enabled,
            channel_id: guild.settings.widget_channel_id,
        }
    }
}

/// Errors: 10004, 50001, 50013.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/widget",
    tag = "Guilds",
    responses((status = 200, body = WidgetSettings))
)]
async fn get_guild_widget_settings(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<GuildMarker>>,
) -> Result<Json<WidgetSettings>> {
    let mut db = app.db.acquire().await?;
    access::guild(&mut *db, &user, guild_id, Permissions::MANAGE_GUILD).await?;
    let (guild, _) = guilds::by_id(&mut db, guild_id).await?;
    Ok(Json(WidgetSettings::of(&guild)))
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
struct UpdateWidget {
    #[serde(deserialize_with = "present")]
    enabled: Option<Option<bool>>,
    #[serde(deserialize_with = "present")]
    channel_id: Option<Option<Id<Channel>>>,
}

impl Form for UpdateWidget {}

/// Errors: 10004, 50001, 50013, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/widget",
    tag = "Guilds",
    responses((status = 200, body = WidgetSettings))
)]
async fn update_guild_widget_settings(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<GuildMarker>>,
    reason: Reason,
    Json(body): Json<UpdateWidget>,
) -> Result<Json<WidgetSettings>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_GUILD;
    access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    if let Some(Some(channel)) = body.channel_id {
        let mut form = FormErrors::new();
        check_channel(&mut tx, guild_id, channel, INVITED, "channel_id", &mut form).await?;
        form.finish()?;
    }
    let (mut guild, _) = guilds::by_id(&mut tx, guild_id).await?;
    let before = guild.clone();
    let settings = &mut guild.settings;
    if let Some(enabled) = body.enabled {
        settings.widget_enabled = enabled.unwrap_or_default();
    }
    settings.widget_channel_id = body.channel_id.unwrap_or(settings.widget_channel_id);
    if guild != before {
        let mut events = vec![guilds::store(&mut tx, &guild).await?];
        let entry = Entry::new(guild_id, user.id, AuditAction::GUILD_UPDATE, &reason)
            .target(guild_id)
            .changed(&before, &guild)?;
        events.extend(audit::append(&app, &mut tx, entry).await?);
        tx.commit().await?;
        app.publisher.publish(events);
    }
    Ok(Json(WidgetSettings::of(&guild)))
}

/// What anybody may know of a guild that has its widget on.
#[derive(Debug, Serialize, ToSchema)]
struct Widget {
    id: Id<GuildMarker>,
    name: String,
    instant_invite: Option<String>,
    /// Voice channels that everybody sees.
    channels: Vec<WidgetChannel>,
    /// Who is in them or online, without names that lead to an account's id; at most 100.
    members: Vec<WidgetMember>,
    presence_count: u64,
}

#[derive(Debug, Serialize, ToSchema)]
struct WidgetChannel {
    id: Id<Channel>,
    name: String,
    position: i32,
}

#[derive(Debug, Serialize, ToSchema)]
struct WidgetMember {
    /// A number in this reply.
    id: String,
    username: String,
    discriminator: &'static str,
    avatar: Option<String>,
    status: OnlineStatus,
    avatar_url: String,
    #[serde(flatten)]
    voice: Option<WidgetVoice>,
}

/// Of members in voice.
#[derive(Debug, Serialize, ToSchema)]
struct WidgetVoice {
    deaf: bool,
    mute: bool,
    self_deaf: bool,
    self_mute: bool,
    suppress: bool,
    channel_id: Id<Channel>,
}

/// Errors: 10004, 50004 while the widget is off.
async fn shown(db: &mut PgConnection, guild: Id<GuildMarker>) -> Result<Guild> {
    let (guild, _) = guilds::by_id(db, guild).await?;
    if !guild.settings.widget_enabled {
        return Err(ErrorCode::WidgetDisabled.into());
    }
    Ok(guild)
}

/// For everyone, also without a token. Makes the widget's invite if there is none.
///
/// Errors: 10004, 50004.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/widget.json",
    tag = "Guilds",
    responses((status = 200, body = Widget))
)]
async fn get_guild_widget(
    State(app): State<App>,
    Path(guild_id): Path<Id<GuildMarker>>,
) -> Result<Json<Widget>> {
    let (presence_count, present) = online::some(&app, guild_id, MEMBERS_MAX).await;
    let mut db = app.db.acquire().await?;
    let guild = shown(&mut db, guild_id).await?;
    let instant_invite = match guild.settings.widget_channel_id {
        None => None,
        Some(channel) => {
            let code = invites::of_widget(&app, &mut db, guild_id, channel).await?;
            Some(format!("{}/invite/{code}", app.config.public_url))
        }
    };
    let channels = open_voice_channels(&mut db, &guild).await?;
    let open: Vec<i64> = channels.iter().map(|channel| channel.id.to_db()).collect();
    let voices = sqlx::query!(
        "select v.user_id, v.channel_id, v.self_deaf, v.self_mute, v.suppress
         from voice_state v join account a using (user_id)
         where v.guild_id = $1 and v.channel_id = any($2)
         order by lower(a.username) limit $3",
        guild_id.to_db(),
        &open,
        MEMBERS_MAX as i64,
    )
    .fetch_all(&mut *db)
    .await?;
    let talking: Vec<i64> = voices.iter().map(|voice| voice.user_id).collect();
    let online = present.iter().map(|(user, _)| user.to_db());
    let present_ids: Vec<i64> = talking.iter().copied().chain(online).collect();
    // By their keys: a guild may have any number of members.
    let rows = sqlx::query!(
        "select m.user_id, a.username, m.deaf, m.mute
         from member m join account a using (user_id)
         where m.guild_id = $1 and m.user_id = any($2)
         order by m.user_id <> all($3), lower(a.username) limit $4",
        guild_id.to_db(),
        &present_ids,
        &talking,
        MEMBERS_MAX as i64,
    )
    .fetch_all(&mut *db)
    .await?;
    let members = rows.into_iter().enumerate().map(|(n, row)| WidgetMember {
        id: n.to_string(),
        username: row.username,
        discriminator: "0000",
        avatar: None,
        status: present
            .iter()
            .find(|(user, _)| user.to_db() == row.user_id)
            .map_or(OnlineStatus::Online, |&(_, status)| status),
        avatar_url: format!("{}/embed/avatars/{}.png", app.config.public_url, n % 6),
        voice: voices
            .iter()
            .find(|voice| voice.user_id == row.user_id)
            .map(|voice| WidgetVoice {
                deaf: row.deaf,
                mute: row.mute,
                self_deaf: voice.self_deaf,
                self_mute: voice.self_mute,
                suppress: voice.suppress,
                channel_id: Id::from_db(voice.channel_id),
            }),
    });
    Ok(Json(Widget {
        id: guild_id,
        name: guild.name,
        instant_invite,
        channels,
        members: members.collect(),
        presence_count,
    }))
}

/// Voice channels that @everyone may enter, by position.
async fn open_voice_channels(db: &mut PgConnection, guild: &Guild) -> Result<Vec<WidgetChannel>> {
    let rows = sqlx::query!(
        r#"select channel_id, kind, coalesce(name, '') as "name!", position,
                  overwrites as "overwrites: Jsonb<Vec<Overwrite>>"
           from channel where guild_id = $1 and kind in (2, 13) order by position, channel_id"#,
        guild.id.to_db(),
    )
    .fetch_all(db)
    .await?;
    let everyone = guild.roles.iter().find(|role| role.id.cast() == guild.id);
    let base = everyone.map_or(Permissions::empty(), |role| role.permissions);
    let needed = Permissions::VIEW_CHANNEL | Permissions::CONNECT;
    let open = rows.into_iter().filter(|row| {
        let kind = ChannelKind(row.kind as u8);
        access::of_everyone(guild.id, base, kind, &row.overwrites.0).contains(needed)
    });
    Ok(open
        .map(|row| WidgetChannel {
            id: Id::from_db(row.channel_id),
            name: row.name,
            position: row.position,
        })
        .collect())
}

#[derive(Debug, Deserialize, Default, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct WidgetStyle {
    /// shield, or banner1 to banner4.
    style: Option<String>,
}

impl Form for WidgetStyle {
    fn check(&self, form: &mut FormErrors) {
        if let Some(style) = &self.style
            && picture::Style::parse(style).is_none()
        {
            form.add("style", Fault::Choices(picture::STYLES));
        }
    }
}

/// For everyone, also without a token. Errors: 10004, 50004, 50035.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/widget.png",
    tag = "Guilds",
    params(WidgetStyle),
    responses((status = 200, description = "The picture", content_type = "image/png"))
)]
async fn get_guild_widget_png(
    State(app): State<App>,
    Path(guild_id): Path<Id<GuildMarker>>,
    Query(query): Query<WidgetStyle>,
) -> Result<Response> {
    let mut db = app.db.acquire().await?;
    let guild = shown(&mut db, guild_id).await?;
    let present = online::count(&app, guild_id).await;
    let style = query.style.as_deref().and_then(picture::Style::parse);
    let png = picture::png(style.unwrap_or_default(), &guild.name, present);
    let headers = [
        (header::CONTENT_TYPE, "image/png"),
        (header::CACHE_CONTROL, "public, max-age=120"),
    ];
    Ok((headers, png).into_response())
}
