//! What clients of people ask a self-hosted instance before they log in (conventions of open
//! clients; no official page): who it is, where its parts are, its limits and policies.

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, header},
    routing::get,
};
use guildhall_shared::{Id, id::marker};
use serde::Serialize;
use sqlx::PgPool;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::policies;
use crate::{
    app::App,
    config::{MayCreate, RateLimits, Registration, Secret},
    error::{Error, Result},
    extract::Json,
    rate_limit,
};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(instance_info))
        .routes(routes!(instance_domains))
        .routes(routes!(instance_limits))
        .routes(routes!(instance_config))
        .routes(routes!(instance_ping))
        .routes(routes!(auth_location_metadata))
}

/// Routes at the root of the host.
pub(crate) fn well_known() -> Router<App> {
    Router::new()
        .route("/.well-known/spacebar", get(well_known_legacy))
        .route("/.well-known/spacebar/client", get(well_known_client))
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Instance {
    /// The same for all processes of the cluster, as long as its key is.
    instance_id: Id<marker::Any>,
    instance_name: String,
    instance_description: Option<String>,
    image: Option<String>,
    front_page: Option<String>,
    tos_page: Option<String>,
    correspondence_email: Option<String>,
    #[serde(rename = "correspondenceUserID")]
    correspondence_user_id: Option<String>,
}

fn describe(app: &App) -> Instance {
    let policies = &app.config.policies;
    Instance {
        instance_id: app.instance_id,
        instance_name: policies.instance_name.clone(),
        instance_description: policies.instance_description.clone(),
        image: None,
        front_page: policies.front_page_url.clone(),
        tos_page: policies.terms_url.clone(),
        correspondence_email: policies.contact_email.clone(),
        correspondence_user_id: None,
    }
}

/// The one that is stored; at the first start one is made from the cluster's key. It stays when
/// the key is renewed.
pub(crate) async fn id(db: &PgPool, cluster_key: &Secret) -> Result<Id<marker::Any>> {
    if let Some(id) = stored_id(db).await? {
        return Ok(id);
    }
    sqlx::query!(
        "insert into cluster_setting (key, value) values ('instance_id', $1) on conflict do nothing",
        made_from(cluster_key).to_string(),
    )
    .execute(db)
    .await?;
    let id = stored_id(db).await?;
    id.ok_or_else(|| Error::Internal("cluster_setting: instance_id is no id".to_owned()))
}

async fn stored_id(db: &PgPool) -> Result<Option<Id<marker::Any>>> {
    let stored = sqlx::query_scalar!("select value from cluster_setting where key = 'instance_id'")
        .fetch_optional(db)
        .await?;
    Ok(stored.and_then(|id| id.parse().ok()))
}

/// 63 bits of a digest.
fn made_from(cluster_key: &Secret) -> Id<marker::Any> {
    use sha2::{Digest, Sha256};
    let key = cluster_key.reveal();
    let digest = Sha256::digest(format!("instance id of {key}"));
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    Id::new((u64::from_be_bytes(bytes) >> 1).max(1)).expect("at least 1")
}

/// Works without a token.
#[utoipa::path(
    get,
    path = "/policies/instance",
    tag = "Instance",
    security(()),
    responses((status = 200, body = Instance))
)]
async fn instance_info(State(app): State<App>) -> Json<Instance> {
    Json(describe(&app))
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Domains {
    cdn: String,
    gateway: String,
    /// With the version.
    api: String,
    api_endpoint: String,
    default_api_version: &'static str,
}

/// Works without a token.
#[utoipa::path(
    get,
    path = "/policies/instance/domains",
    tag = "Instance",
    security(()),
    responses((status = 200, body = Domains))
)]
async fn instance_domains(State(app): State<App>) -> Json<Domains> {
    let origin = &app.config.public_url;
    Json(Domains {
        cdn: origin.clone(),
        gateway: app.config.gateway_url.clone(),
        api: format!("{origin}/api/v10"),
        api_endpoint: format!("{origin}/api"),
        default_api_version: "10",
    })
}

/// The limits of limits-and-errors › Field limits that clients show.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Limits {
    user: UserLimits,
    guild: GuildLimits,
    message: MessageLimits,
    channel: ChannelLimits,
    rate: RateLimit,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct UserLimits {
    max_guilds: u32,
    max_username: u32,
    max_friends: u32,
    max_bio: u32,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct GuildLimits {
    max_roles: u32,
    /// Of each kind, still and animated.
    max_emojis: u32,
    max_channels: u32,
    max_channels_in_category: u32,
    max_invites: u32,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct MessageLimits {
    max_characters: u32,
    max_attachments: u32,
    /// Bytes.
    max_attachment_size: u64,
    /// Bytes. Addresses in messages are not looked at: 0.
    max_embed_download_size: u64,
    max_embeds: u32,
    max_reactions: u32,
    max_bulk_delete: u32,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ChannelLimits {
    max_pins: u32,
    max_topic: u32,
    max_webhooks: u32,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RateLimit {
    enabled: bool,
    global: RateLimitOptions,
}

#[derive(Serialize, ToSchema)]
struct RateLimitOptions {
    /// Requests of one account.
    count: u32,
    /// Seconds.
    window: u64,
}

/// Works without a token.
#[utoipa::path(
    get,
    path = "/policies/instance/limits",
    tag = "Instance",
    security(()),
    responses((status = 200, body = Limits))
)]
async fn instance_limits(State(app): State<App>) -> Json<Limits> {
    Json(limits(&app))
}

fn limits(app: &App) -> Limits {
    Limits {
        user: UserLimits {
            max_guilds: 100,
            max_username: 32,
            max_friends: 1000,
            max_bio: 190,
        },
        guild: GuildLimits {
            max_roles: 250,
            max_emojis: 50,
            max_channels: 500,
            max_channels_in_category: 50,
            max_invites: 1000,
        },
        message: MessageLimits {
            max_characters: 2000,
            max_attachments: 10,
            max_attachment_size: app.media.attachment_bytes_max,
            max_embed_download_size: 0,
            max_embeds: 10,
            max_reactions: 20,
            max_bulk_delete: 100,
        },
        channel: ChannelLimits {
            max_pins: 250,
            max_topic: 1024,
            max_webhooks: 15,
        },
        rate: RateLimit {
            enabled: app.config.rate_limits == RateLimits::On,
            global: RateLimitOptions {
                count: rate_limit::GLOBAL.requests,
                window: rate_limit::GLOBAL.window.as_secs(),
            },
        },
    }
}

/// What the instance allows, now.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct InstancePolicies {
    registration: RegistrationPolicy,
    guild_creation: &'static str,
    bot_creation: &'static str,
    /// Whether mails are sent: addresses verified, passwords reset.
    mail: bool,
    #[serde(flatten)]
    flat: FlatPolicies,
}

/// The same and more, as open clients read it.
#[derive(Serialize, ToSchema)]
struct FlatPolicies {
    #[serde(rename = "limits_user_maxGuilds")]
    user_max_guilds: u32,
    #[serde(rename = "limits_user_maxBio")]
    user_max_bio: u32,
    #[serde(rename = "limits_guild_maxEmojis")]
    guild_max_emojis: u32,
    #[serde(rename = "limits_guild_maxRoles")]
    guild_max_roles: u32,
    #[serde(rename = "limits_message_maxCharacters")]
    message_max_characters: u32,
    #[serde(rename = "limits_message_maxAttachmentSize")]
    message_max_attachment_size: u64,
    #[serde(rename = "limits_message_maxEmbedDownloadSize")]
    message_max_embed_download_size: u64,
    #[serde(rename = "limits_channel_maxWebhooks")]
    channel_max_webhooks: u32,
    #[serde(rename = "register_dateOfBirth_required")]
    date_of_birth_required: bool,
    #[serde(rename = "register_password_required")]
    password_required: bool,
    #[serde(rename = "register_email_required")]
    email_required: bool,
    #[serde(rename = "register_disabled")]
    disabled: bool,
    #[serde(rename = "register_requireInvite")]
    require_invite: bool,
    #[serde(rename = "register_allowNewRegistration")]
    allow_new_registration: bool,
    #[serde(rename = "register_allowMultipleAccounts")]
    allow_multiple_accounts: bool,
    /// Nobody joins a guild by registering alone, so there is no `guild_autoJoin_guilds_0`.
    #[serde(rename = "guild_autoJoin_canLeave")]
    can_leave: bool,
    /// By mail.
    can_recover_account: bool,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RegistrationPolicy {
    disabled: bool,
    require_invite: bool,
    require_captcha: bool,
    allow_new_registration: bool,
}

const fn name(policy: MayCreate) -> &'static str {
    match policy {
        MayCreate::Everyone => "everyone",
        MayCreate::Verified => "verified",
        MayCreate::Nobody => "nobody",
    }
}

/// Works without a token.
#[utoipa::path(
    get,
    path = "/policies/instance/config",
    tag = "Instance",
    security(()),
    responses((status = 200, body = InstancePolicies))
)]
async fn instance_config(State(app): State<App>) -> Result<Json<InstancePolicies>> {
    let settings = &app.config.policies;
    let is_open = policies::registration_is_open(&app, &app.db).await?;
    let require_invite = settings.registration == Registration::Invite;
    let mail = app.mailer.is_on();
    let limits = limits(&app);
    Ok(Json(InstancePolicies {
        registration: RegistrationPolicy {
            disabled: !is_open,
            require_invite,
            require_captcha: false,
            allow_new_registration: is_open,
        },
        guild_creation: name(settings.guild_creation),
        bot_creation: name(settings.bot_creation),
        mail,
        flat: FlatPolicies {
            user_max_guilds: limits.user.max_guilds,
            user_max_bio: limits.user.max_bio,
            guild_max_emojis: limits.guild.max_emojis,
            guild_max_roles: limits.guild.max_roles,
            message_max_characters: limits.message.max_characters,
            message_max_attachment_size: limits.message.max_attachment_size,
            message_max_embed_download_size: limits.message.max_embed_download_size,
            channel_max_webhooks: limits.channel.max_webhooks,
            date_of_birth_required: false,
            password_required: true,
            email_required: false,
            disabled: !is_open,
            require_invite,
            allow_new_registration: is_open,
            allow_multiple_accounts: true,
            can_leave: true,
            can_recover_account: mail,
        },
    }))
}

#[derive(Serialize, ToSchema)]
struct Ping {
    ping: &'static str,
    instance: PingedInstance,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PingedInstance {
    id: Id<marker::Any>,
    name: String,
    description: Option<String>,
    image: Option<String>,
    correspondence_email: Option<String>,
    front_page: Option<String>,
    tos_page: Option<String>,
}

/// Works without a token.
#[utoipa::path(
    get,
    path = "/ping",
    tag = "Instance",
    security(()),
    responses((status = 200, body = Ping))
)]
async fn instance_ping(State(app): State<App>) -> Json<Ping> {
    let of = describe(&app);
    Json(Ping {
        ping: "pong!",
        instance: PingedInstance {
            id: of.instance_id,
            name: of.instance_name,
            description: of.instance_description,
            image: of.image,
            correspondence_email: of.correspondence_email,
            front_page: of.front_page,
            tos_page: of.tos_page,
        },
    })
}

#[derive(Serialize, ToSchema)]
struct Location {
    /// Of the caller's language, as it names a region; addresses are not looked up.
    country_code: String,
    consent_required: bool,
    promotional_email_opt_in: OptIn,
}

#[derive(Serialize, ToSchema)]
struct OptIn {
    required: bool,
    pre_checked: bool,
}

/// What a registration form must ask for: nothing. Works without a token.
#[utoipa::path(
    get,
    path = "/auth/location-metadata",
    tag = "Accounts",
    security(()),
    responses((status = 200, body = Location))
)]
async fn auth_location_metadata(request: Request) -> Json<Location> {
    Json(Location {
        country_code: region(request.headers()).unwrap_or_else(|| "US".to_owned()),
        consent_required: false,
        promotional_email_opt_in: OptIn {
            required: false,
            pre_checked: false,
        },
    })
}

/// The region in the first language of `Accept-Language`: `de-AT` → `AT`.
fn region(headers: &HeaderMap) -> Option<String> {
    let languages = headers.get(header::ACCEPT_LANGUAGE)?.to_str().ok()?;
    let (_, region) = languages.split([',', ';']).next()?.trim().split_once('-')?;
    let is_region = region.len() == 2 && region.bytes().all(|byte| byte.is_ascii_alphabetic());
    is_region.then(|| region.to_ascii_uppercase())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WellKnown {
    api: WellKnownApi,
    cdn: WellKnownBase,
    gateway: WellKnownGateway,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WellKnownApi {
    base_url: String,
    api_versions: ApiVersions,
}

#[derive(Serialize)]
struct ApiVersions {
    default: &'static str,
    active: [&'static str; 2],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WellKnownBase {
    base_url: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WellKnownGateway {
    base_url: String,
    /// Of payloads.
    encoding: [&'static str; 2],
    /// Of the connection.
    compression: [&'static str; 2],
}

async fn well_known_client(State(app): State<App>) -> Json<WellKnown> {
    let origin = &app.config.public_url;
    Json(WellKnown {
        api: WellKnownApi {
            base_url: format!("{origin}/api"),
            api_versions: ApiVersions {
                default: "10",
                active: ["9", "10"],
            },
        },
        cdn: WellKnownBase {
            base_url: origin.clone(),
        },
        gateway: WellKnownGateway {
            base_url: app.config.gateway_url.clone(),
            encoding: ["json", "etf"],
            compression: ["zlib-stream", "zstd-stream"],
        },
    })
}

#[derive(Serialize)]
struct WellKnownLegacy {
    api: String,
}

async fn well_known_legacy(State(app): State<App>) -> Json<WellKnownLegacy> {
    Json(WellKnownLegacy {
        api: format!("{}/api", app.config.public_url),
    })
}
