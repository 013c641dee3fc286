//! Settings of an application, changed by its owner or its bot.

use std::{collections::BTreeMap, time::Duration};

use axum::extract::State;
use bytes::Bytes;
use guildhall_shared::{
    Id, Permissions, Timestamp,
    error_code::ErrorCode,
    id::marker,
    model::{Application, ApplicationSettings, InstallParams, IntegrationTypeConfig, present},
};
use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::types::Json as Jsonb;
use utoipa::ToSchema;

use super::{DESCRIPTION_MAX, find, require_owner_or_bot};
use crate::{
    account::check_bot_name,
    app::App,
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    media::{ImageOf, check_image, store_optional_image},
    signing::ApplicationKey,
    text::clean,
};

/// Flags that may be set: the intents, by their self-service (`_LIMITED`) bits.
const SETTABLE_FLAGS: u64 = Application::FLAGS_NEW;
const REDIRECT_URIS_MAX: usize = 10;
const TAGS_MAX: usize = 5;
const TAG_LENGTH_MAX: usize = 20;
const URL_LENGTH_MAX: usize = 2048;
/// An endpoint that is to be stored answers its PING within this time.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Kinds of events that a webhook may ask for.
const EVENT_TYPES: [&str; 9] = [
    "APPLICATION_AUTHORIZED",
    "APPLICATION_DEAUTHORIZED",
    "ENTITLEMENT_CREATE",
    "ENTITLEMENT_DELETE",
    "ENTITLEMENT_UPDATE",
    "GAME_DIRECT_MESSAGE_CREATE",
    "GAME_DIRECT_MESSAGE_DELETE",
    "GAME_DIRECT_MESSAGE_UPDATE",
    "QUEST_USER_ENROLLMENT",
];

/// Absent: unchanged; null: back to the default.
#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct UpdateApplication {
    /// By the owner only.
    name: Option<String>,
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 400)]
    description: Option<Option<Description>>,
    /// By the owner only.
    #[serde(deserialize_with = "present")]
    bot_public: Option<Option<bool>>,
    #[serde(deserialize_with = "present")]
    flags: Option<Option<u64>>,
    /// By the owner only.
    #[serde(deserialize_with = "present")]
    redirect_uris: Option<Option<Vec<String>>>,
    #[serde(deserialize_with = "present")]
    icon: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    cover_image: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    interactions_endpoint_url: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    role_connections_verification_url: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    custom_install_url: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    install_params: Option<Option<InstallParams>>,
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<BTreeMap<String, IntegrationTypeConfig>>)]
    integration_types_config: Option<Option<BTreeMap<String, Option<IntegrationTypeConfig>>>>,
    #[serde(deserialize_with = "present")]
    tags: Option<Option<Vec<String>>>,
    #[serde(deserialize_with = "present")]
    max_participants: Option<Option<i32>>,
    #[serde(deserialize_with = "present")]
    terms_of_service_url: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    privacy_policy_url: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    explicit_content_filter: Option<Option<u8>>,
    #[serde(deserialize_with = "present")]
    event_webhooks_url: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    event_webhooks_status: Option<Option<u8>>,
    #[serde(deserialize_with = "present")]
    event_webhooks_types: Option<Option<Vec<String>>>,
}

/// Libraries send text, the official document wants an object. Translations are not kept.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Description {
    Text(String),
    Localized { default: String },
}

impl Description {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Localized { default: text } => text,
        }
    }
}

impl Form for UpdateApplication {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = &self.name {
            check_bot_name(form, "name", name);
        }
        if let Some(Some(description)) = &self.description {
            form.length("description", description.text(), 0..=DESCRIPTION_MAX);
        }
        let uris = self.redirect_uris.as_ref().and_then(Option::as_deref);
        let uris = uris.unwrap_or_default();
        check_count(form, "redirect_uris", uris.len(), 0, REDIRECT_URIS_MAX);
        for (index, uri) in uris.iter().enumerate() {
            check_url(form, &format!("redirect_uris.{index}"), uri, false);
        }
        let urls = [
            (
                "role_connections_verification_url",
                &self.role_connections_verification_url,
            ),
            ("custom_install_url", &self.custom_install_url),
            ("terms_of_service_url", &self.terms_of_service_url),
            ("privacy_policy_url", &self.privacy_policy_url),
            ("event_webhooks_url", &self.event_webhooks_url),
        ];
        for (path, url) in urls {
            if let Some(Some(url)) = url {
                check_url(form, path, url, true);
            }
        }
        if let Some(Some(params)) = &self.install_params {
            check_install(form, "install_params", params);
        }
        if let Some(Some(types)) = &self.integration_types_config {
            check_count(form, "integration_types_config", types.len(), 1, 2);
            for (key, config) in types {
                let path = format!("integration_types_config.{key}");
                if key != "0" && key != "1" {
                    form.add("integration_types_config", Fault::Choices("('0', '1')"));
                } else if let Some(params) = config
                    .as_ref()
                    .and_then(|c| c.oauth2_install_params.as_ref())
                {
                    check_install(form, &format!("{path}.oauth2_install_params"), params);
                }
            }
        }
        let tags = self
            .tags
            .as_ref()
            .and_then(Option::as_deref)
            .unwrap_or_default();
        check_count(form, "tags", tags.len(), 0, TAGS_MAX);
        for (index, tag) in tags.iter().take(TAGS_MAX).enumerate() {
            form.length(&format!("tags.{index}"), tag, 1..=TAG_LENGTH_MAX);
            if tags[..index].contains(tag) {
                form.add(format!("tags.{index}"), already_there());
            }
        }
        if let Some(Some(count)) = self.max_participants {
            form.range("max_participants", count.into(), -1..=i32::MAX.into());
        }
        if let Some(Some(level)) = self.explicit_content_filter {
            form.range("explicit_content_filter", level.into(), 0..=1);
        }
        if let Some(Some(status)) = self.event_webhooks_status
            && !(1..=2).contains(&status)
        {
            form.add("event_webhooks_status", Fault::Choices("(1, 2)"));
        }
        let types = self
            .event_webhooks_types
            .as_ref()
            .and_then(Option::as_deref);
        let types = types.unwrap_or_default();
        check_count(
            form,
            "event_webhooks_types",
            types.len(),
            0,
            EVENT_TYPES.len(),
        );
        for (index, kind) in types.iter().take(EVENT_TYPES.len()).enumerate() {
            let path = format!("event_webhooks_types.{index}");
            if !EVENT_TYPES.contains(&kind.as_str()) {
                form.add(path, Fault::NotEnum(kind.chars().take(100).collect()));
            } else if types[..index].contains(kind) {
                form.add(path, already_there());
            }
        }
        for (path, image) in [("icon", &self.icon), ("cover_image", &self.cover_image)] {
            check_image(form, path, image.as_ref().and_then(Option::as_deref));
        }
    }
}

fn already_there() -> Fault {
    let message = "The set already contains this value";
    Fault::Other("SET_TYPE_ALREADY_CONTAINS_VALUE", message.into())
}

fn check_count(form: &mut FormErrors, path: &str, count: usize, min: usize, max: usize) {
    if !(min..=max).contains(&count) {
        form.add(path, Fault::BadLength { min, max });
    }
}

/// An absolute URL. Redirects may lead into an app of the client's by a scheme of its own.
fn check_url(form: &mut FormErrors, path: &str, url: &str, is_web: bool) {
    let scheme = Url::parse(url).ok().map(|url| url.scheme().to_owned());
    let is_dangerous = |scheme: &str| matches!(scheme, "javascript" | "data" | "vbscript" | "file");
    let is_good = url.contains("://")
        && !url.contains(|c: char| c.is_whitespace() || c.is_control())
        && scheme.as_deref().is_some_and(|scheme| match is_web {
            true => matches!(scheme, "http" | "https"),
            false => !is_dangerous(scheme),
        });
    if url.len() > URL_LENGTH_MAX {
        let (min, max) = (0, URL_LENGTH_MAX);
        form.add(path, Fault::BadLength { min, max });
    } else if !is_good {
        let message = "Not a well formed URL.";
        form.add(path, Fault::Other("URL_TYPE_INVALID_URL", message.into()));
    }
}

fn check_install(form: &mut FormErrors, path: &str, params: &InstallParams) {
    let scopes = &params.scopes;
    check_count(form, &format!("{path}.scopes"), scopes.len(), 1, 2);
    for (index, scope) in scopes.iter().take(2).enumerate() {
        let path = format!("{path}.scopes.{index}");
        if scope != "bot" && scope != "applications.commands" {
            form.add(path, Fault::Choices("('applications.commands', 'bot')"));
        } else if scopes[..index].contains(scope) {
            form.add(path, already_there());
        }
    }
}

/// The calling bot's own. Errors: 20002, 50035.
/// [Edit Current Application](https://docs.discord.com/developers/resources/application#edit-current-application)
#[utoipa::path(
    patch,
    path = "/applications/@me",
    tag = "Applications",
    request_body = UpdateApplication,
    responses((status = 200, body = Application))
)]
pub(super) async fn update_my_application(
    State(app): State<App>,
    caller: CurrentUser,
    Json(body): Json<UpdateApplication>,
) -> Result<Json<Application>> {
    caller.require_bot()?;
    update(&app, &caller, caller.id.cast(), body).await
}

/// For its owner and its bot. Errors: 10002, 20012, 50035.
#[utoipa::path(
    patch,
    path = "/applications/{application_id}",
    tag = "Applications",
    request_body = UpdateApplication,
    responses((status = 200, body = Application))
)]
pub(super) async fn update_application(
    State(app): State<App>,
    caller: CurrentUser,
    Path(application_id): Path<Id<marker::Application>>,
    Json(body): Json<UpdateApplication>,
) -> Result<Json<Application>> {
    update(&app, &caller, application_id, body).await
}

async fn update(
    app: &App,
    caller: &CurrentUser,
    id: Id<marker::Application>,
    body: UpdateApplication,
) -> Result<Json<Application>> {
    let application = find(&app.db, &app.config.cluster_key, id).await?;
    require_owner_or_bot(caller, &application)?;
    if let Some(Some(url)) = &body.interactions_endpoint_url
        && application.settings.interactions_endpoint_url.as_ref() != Some(url)
    {
        check_endpoint(app, &application, url).await?;
    }
    let is_owner = caller.id == application.owner.id;
    let of = ImageOf::ApplicationIcon(id);
    let icon = store_optional_image(&app.media, of, "icon", &body.icon).await?;
    let cover = store_optional_image(&app.media, of, "cover_image", &body.cover_image).await?;
    let mut tx = app.db.begin().await?;
    let settings = sqlx::query_scalar!(
        r#"select settings as "settings: Jsonb<ApplicationSettings>" from application
           where application_id = $1 and deleted_at is null for update"#,
        id.to_db(),
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(ErrorCode::UnknownApplication)?;
    let mut settings = changed(settings.0, &body);
    if let Some(cover) = cover {
        settings.cover_image = cover;
    }
    let description = body.description.map(|description| match description {
        Some(description) => clean(description.text()),
        None => String::new(),
    });
    sqlx::query!(
        "update application set
           name = coalesce($2, name),
           description = coalesce($3, description),
           bot_public = coalesce($4, bot_public),
           flags = coalesce(flags & ~$6::bigint | $5::bigint & $6, flags),
           redirect_uris = coalesce($7, redirect_uris),
           settings = $8,
           icon = case when $9 then $10 else icon end
         where application_id = $1",
        id.to_db(),
        body.name.as_deref().map(clean).filter(|_| is_owner),
        description,
        body.bot_public
            .map(|public| public.unwrap_or(true))
            .filter(|_| is_owner),
        body.flags
            .map(|flags| flags.unwrap_or(Application::FLAGS_NEW) as i64),
        SETTABLE_FLAGS as i64,
        body.redirect_uris
            .as_ref()
            .map(|uris| uris.as_deref().unwrap_or_default())
            .filter(|_| is_owner),
        Jsonb(settings) as Jsonb<ApplicationSettings>,
        icon.is_some(),
        icon.flatten(),
    )
    .execute(&mut *tx)
    .await?;
    let application = find(&mut *tx, &app.config.cluster_key, id).await?;
    tx.commit().await?;
    app.tokens.forget(id.cast());
    Ok(Json(application))
}

fn changed(mut settings: ApplicationSettings, body: &UpdateApplication) -> ApplicationSettings {
    macro_rules! take {
        ($($field:ident),*) => {
            $(if let Some(value) = &body.$field {
                settings.$field = value.clone();
            })*
        };
    }
    take!(
        interactions_endpoint_url,
        role_connections_verification_url,
        custom_install_url,
        max_participants,
        terms_of_service_url,
        privacy_policy_url,
        event_webhooks_url
    );
    if let Some(params) = &body.install_params {
        settings.install_params = params.clone().map(known_permissions);
    }
    if let Some(types) = &body.integration_types_config {
        settings.integration_types_config = types.as_ref().map(|types| {
            let types = types.iter();
            types
                .map(|(key, config)| {
                    let params = config
                        .clone()
                        .and_then(|config| config.oauth2_install_params);
                    let oauth2_install_params = params.map(known_permissions);
                    (
                        key.clone(),
                        IntegrationTypeConfig {
                            oauth2_install_params,
                        },
                    )
                })
                .collect()
        });
    }
    if let Some(tags) = &body.tags {
        settings.tags = tags.iter().flatten().map(|tag| clean(tag)).collect();
    }
    if let Some(level) = body.explicit_content_filter {
        settings.explicit_content_filter = level.unwrap_or_default();
    }
    if let Some(status) = body.event_webhooks_status {
        settings.event_webhooks_status = status.unwrap_or(1);
    }
    if let Some(types) = &body.event_webhooks_types {
        settings.event_webhooks_types = types.clone().unwrap_or_default();
    }
    settings
}

fn known_permissions(params: InstallParams) -> InstallParams {
    InstallParams {
        permissions: params.permissions & Permissions::all(),
        ..params
    }
}

/// An endpoint is stored only if it answers a PING rightly, and refuses one whose
/// signature is wrong: so it checks signatures. Errors: 50035.
async fn check_endpoint(app: &App, application: &Application, url: &str) -> Result<()> {
    const PATH: &str = "interactions_endpoint_url";
    let url = app
        .outgoing
        .parse(url)
        .map_err(|fault| FormErrors::one(PATH, fault))?;
    let id: Id<marker::Any> = app.snowflakes.next()?;
    let key = ApplicationKey::new(&app.config.cluster_key, application.id);
    let ping = json!({
        "id": id,
        "application_id": application.id,
        "type": 1,
        "version": 1,
        "token": "",
        "entitlements": [],
        "user": application.bot,
        "app_permissions": "0",
        "authorizing_integration_owners": {},
        "attachment_size_limit": 0,
        "sent_at": Timestamp::now(),
    });
    let body = Bytes::from(serde_json::to_vec(&ping)?);
    let (right, wrong) = tokio::join!(
        app.outgoing
            .post(url.clone(), key.headers(&body), body.clone(), PING_TIMEOUT),
        app.outgoing.post(
            url.clone(),
            key.wrong_headers(&body),
            body.clone(),
            PING_TIMEOUT
        ),
    );
    let is_pong = right.is_ok_and(|answer| {
        let pong: Option<Value> = serde_json::from_slice(&answer.body).ok();
        answer.status == StatusCode::OK && pong.is_some_and(|pong| pong["type"] == 1)
    });
    let is_refused = wrong.is_ok_and(|answer| answer.status == StatusCode::UNAUTHORIZED);
    if is_pong && is_refused {
        return Ok(());
    }
    let message = "The specified interactions endpoint url could not be verified.";
    let fault = Fault::Other(
        "APPLICATION_INTERACTIONS_ENDPOINT_URL_INVALID",
        message.into(),
    );
    Err(FormErrors::one(PATH, fault))
}
