//! Incident actions: a guild in trouble closes its doors for a while. Spec: endpoints ›
//! update_guild_incident_actions; objects.md › Incidents.

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::Visibility,
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::Guild,
    model::{AuditAction, GuildSettings, present},
};
use serde::{Deserialize, Serialize};
use sqlx::types::Json as Jsonb;
use time::Duration;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
};

/// Doors stay closed this long at most.
const AHEAD_MAX: Duration = Duration::hours(24);

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(update_guild_incident_actions))
}

/// What is closed, and until when; null: open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct Incidents {
    invites_disabled_until: Option<Timestamp>,
    dms_disabled_until: Option<Timestamp>,
}

impl Incidents {
    pub(crate) fn of(settings: &GuildSettings) -> Self {
        let stored = settings.incidents_data.clone();
        let read = stored.and_then(|data| serde_json::from_value(data).ok());
        read.unwrap_or_default()
    }
}

/// Errors: 10006 while nobody may come in, be it for a time or until the feature
/// INVITES_DISABLED is taken away.
pub(crate) fn check_joins(settings: &GuildSettings) -> Result<()> {
    let until = Incidents::of(settings).invites_disabled_until;
    let for_a_time = until.is_some_and(|until| until > Timestamp::now());
    let mut features = settings.features.iter();
    if for_a_time || features.any(|feature| feature == "INVITES_DISABLED") {
        return Err(ErrorCode::UnknownInvite.into());
    }
    Ok(())
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
struct UpdateIncidents {
    #[serde(deserialize_with = "present")]
    invites_disabled_until: Option<Option<Timestamp>>,
    #[serde(deserialize_with = "present")]
    dms_disabled_until: Option<Option<Timestamp>>,
}

impl Form for UpdateIncidents {
    fn check(&self, form: &mut FormErrors) {
        for (path, until) in [
            ("invites_disabled_until", self.invites_disabled_until),
            ("dms_disabled_until", self.dms_disabled_until),
        ] {
            if let Some(Some(until)) = until
                && until.0 > Timestamp::now().0 + AHEAD_MAX
            {
                let message = "At most 24 hours ahead.";
                form.add(
                    path,
                    Fault::Other("DATE_TIME_TYPE_TOO_LATE", message.into()),
                );
            }
        }
    }
}

/// MANAGE_GUILD; 24 hours ahead at most. Errors: 10004, 50001, 50013, 50035.
#[utoipa::path(
    put,
    path = "/guilds/{guild_id}/incident-actions",
    tag = "Guilds",
    responses((status = 200, body = Incidents))
)]
async fn update_guild_incident_actions(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(body): Json<UpdateIncidents>,
) -> Result<Json<Incidents>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_GUILD;
    access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let found = guildhall_store::guild::by_id(&mut tx, guild_id).await?;
    let (before, _) = found.ok_or(ErrorCode::UnknownGuild)?;
    let mut guild = before.clone();
    let mut incidents = Incidents::of(&guild.settings);
    if let Some(until) = body.invites_disabled_until {
        incidents.invites_disabled_until = until;
    }
    if let Some(until) = body.dms_disabled_until {
        incidents.dms_disabled_until = until;
    }
    let is_open = incidents == Incidents::default();
    guild.settings.incidents_data = match is_open {
        true => None,
        false => Some(serde_json::to_value(incidents)?),
    };
    sqlx::query!(
        "update guild set settings = $2 where guild_id = $1",
        guild_id.to_db(),
        Jsonb(&guild.settings) as Jsonb<&GuildSettings>,
    )
    .execute(&mut *tx)
    .await?;
    let (kind, vis) = (EventKind::GuildUpdate, Visibility::realm(Intents::GUILDS));
    let mut events = vec![events::append(&mut tx, guild_id, kind, vis, &guild, None).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::GUILD_UPDATE, &reason)
        .target(guild_id)
        .changed(&before, &guild)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(incidents))
}
