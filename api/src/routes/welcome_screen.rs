//! What newcomers of a community are shown. Spec: objects.md › Guilds, welcome screen.

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    id::marker::{Channel, Guild},
    model::{AuditAction, ChannelKind, present},
};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json as Jsonb};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::guilds::{
    self,
    update::{check_channel, set_feature},
};
use crate::{
    access,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    text::clean,
};

const CHANNELS_MAX: usize = 5;
const FEATURE: &str = "WELCOME_SCREEN_ENABLED";
const TEXT: &[ChannelKind] = &[
    ChannelKind::TEXT,
    ChannelKind::ANNOUNCEMENT,
    ChannelKind::FORUM,
    ChannelKind::MEDIA,
];

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(
        get_guild_welcome_screen,
        update_guild_welcome_screen
    ))
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, ToSchema)]
struct WelcomeScreen {
    description: Option<String>,
    welcome_channels: Vec<WelcomeChannel>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
struct WelcomeChannel {
    channel_id: Id<Channel>,
    /// 1 to 50 characters.
    description: String,
    #[serde(default)]
    emoji_id: Option<Id<guildhall_shared::id::marker::Any>>,
    #[serde(default)]
    emoji_name: Option<String>,
}

/// The screen, without channels that are gone, and whether it is shown; `None` if there never was
/// one.
async fn read(db: &mut PgConnection, guild: Id<Guild>) -> Result<Option<(WelcomeScreen, bool)>> {
    let row = sqlx::query!(
        r#"select w.enabled, w.description,
                  (select coalesce(jsonb_agg(shown.channel order by shown.place), '[]')
                   from jsonb_array_elements(w.channels) with ordinality shown (channel, place)
                   join channel c on c.guild_id = w.guild_id
                     and c.channel_id = (shown.channel ->> 'channel_id')::bigint)
                    as "channels!: Jsonb<Vec<WelcomeChannel>>"
           from welcome_screen w where w.guild_id = $1"#,
        guild.to_db(),
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| {
        let screen = WelcomeScreen {
            description: row.description,
            welcome_channels: row.channels.0,
        };
        (screen, row.enabled)
    }))
}

/// For members; MANAGE_GUILD while it is not shown. Errors: 10004, 10069, 50001, 50013.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/welcome-screen",
    tag = "Guilds",
    responses((status = 200, body = WelcomeScreen))
)]
async fn get_guild_welcome_screen(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<WelcomeScreen>> {
    let mut db = app.db.acquire().await?;
    let access = access::guild(&mut *db, &user, guild_id, Permissions::empty()).await?;
    let found = read(&mut db, guild_id).await?;
    let (screen, enabled) = found.ok_or(ErrorCode::UnknownWelcomeScreen)?;
    if !enabled {
        access.require(Permissions::MANAGE_GUILD)?;
    }
    Ok(Json(screen))
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
struct UpdateWelcomeScreen {
    /// At most 140 characters.
    #[serde(deserialize_with = "present")]
    description: Option<Option<String>>,
    /// At most 5.
    #[serde(deserialize_with = "present")]
    welcome_channels: Option<Option<Vec<WelcomeChannel>>>,
    #[serde(deserialize_with = "present")]
    enabled: Option<Option<bool>>,
}

impl Form for UpdateWelcomeScreen {
    fn check(&self, form: &mut FormErrors) {
        if let Some(Some(description)) = &self.description {
            form.length("description", description, 0..=140);
        }
        let Some(Some(channels)) = &self.welcome_channels else {
            return;
        };
        if channels.len() > CHANNELS_MAX {
            let max = CHANNELS_MAX;
            form.add("welcome_channels", Fault::BadLength { min: 0, max });
            return;
        }
        for (index, channel) in channels.iter().enumerate() {
            let at = format!("welcome_channels.{index}");
            form.length(&format!("{at}.description"), &channel.description, 1..=50);
            if let Some(name) = &channel.emoji_name {
                form.length(&format!("{at}.emoji_name"), name, 0..=100);
            }
        }
    }
}

/// Errors: 10004, 50001, 50013, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/welcome-screen",
    tag = "Guilds",
    responses((status = 200, body = WelcomeScreen))
)]
async fn update_guild_welcome_screen(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(body): Json<UpdateWelcomeScreen>,
) -> Result<Json<WelcomeScreen>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_GUILD;
    access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let (mut screen, mut enabled) = read(&mut tx, guild_id).await?.unwrap_or_default();
    if let Some(description) = body.description {
        screen.description = description
            .map(|text| clean(&text))
            .filter(|text| !text.is_empty());
    }
    if let Some(channels) = body.welcome_channels {
        let channels = channels.unwrap_or_default();
        let mut form = FormErrors::new();
        for (index, channel) in channels.iter().enumerate() {
            let path = format!("welcome_channels.{index}.channel_id");
            check_channel(
                &mut tx,
                guild_id,
                channel.channel_id,
                TEXT,
                &path,
                &mut form,
            )
            .await?;
        }
        form.finish()?;
        screen.welcome_channels = channels
            .into_iter()
            .map(|channel| WelcomeChannel {
                description: clean(&channel.description),
                emoji_name: channel.emoji_name.map(|name| clean(&name)),
                ..channel
            })
            .collect();
    }
    if let Some(wanted) = body.enabled {
        enabled = wanted.unwrap_or_default();
    }
    sqlx::query!(
        "insert into welcome_screen (guild_id, enabled, description, channels)
         values ($1, $2, $3, $4)
         on conflict (guild_id) do update
         set enabled = excluded.enabled, description = excluded.description,
             channels = excluded.channels",
        guild_id.to_db(),
        enabled,
        screen.description,
        Jsonb(&screen.welcome_channels) as Jsonb<&Vec<WelcomeChannel>>,
    )
    .execute(&mut *tx)
    .await?;
    let mut events = Vec::new();
    let (mut guild, _) = guilds::by_id(&mut tx, guild_id).await?;
    let before = guild.clone();
    set_feature(&mut guild.settings, FEATURE, enabled);
    if guild != before {
        events.push(guilds::store(&mut tx, &guild).await?);
        let entry = Entry::new(guild_id, user.id, AuditAction::GUILD_UPDATE, &reason)
            .target(guild_id)
            .changed(&before, &guild)?;
        events.extend(audit::append(&app, &mut tx, entry).await?);
    }
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(screen))
}
