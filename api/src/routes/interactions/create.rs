//! A user acts: the request is checked against what the application offered, then stored,
//! and delivered to the application.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Application, Channel, Guild},
    model,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sqlx::{PgConnection, types::Json as Jsonb};
use utoipa::ToSchema;

use super::{
    Context, Guest, Kind,
    asked::Asked,
    deliver::{self, Delivery},
    new_token,
    options::{self, OptionInput, Resolved},
    place_of, send_form, sight, tell_user, under_data,
};
use crate::{
    access::{self, Place},
    app::App,
    auth::CurrentUser,
    error::Result,
    extract::Form,
    form::{Fault, FormErrors},
    integration, oauth,
    routes::{
        applications,
        commands::{CallContext, Presence},
        dms,
    },
    upload::{Upload, attachments::AttachmentForm},
};

const NONCE_LENGTH_MAX: usize = 64;

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct CreateInteraction {
    /// 2 command, 3 component, 4 autocomplete, 5 form.
    #[serde(rename = "type")]
    #[schema(required, minimum = 2, maximum = 5)]
    kind: Option<u8>,
    #[schema(required)]
    application_id: Option<Id<Application>>,
    guild_id: Option<Id<Guild>>,
    #[schema(required)]
    channel_id: Option<Id<Channel>>,
    /// Of a component.
    message_id: Option<Id<marker::Message>>,
    /// Comes back in every event about the interaction: text or a number.
    nonce: Option<Value>,
    #[schema(required)]
    data: Option<Data>,
}

/// Which of these are needed depends on the type.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct Data {
    /// The command, or the interaction that opened the form.
    pub(super) id: Option<Id<marker::Any>>,
    pub(super) version: Option<Id<marker::Any>>,
    /// The command's.
    #[serde(rename = "type")]
    pub(super) kind: Option<u8>,
    #[serde(deserialize_with = "crate::extract::null_is_default")]
    pub(super) options: Vec<OptionInput>,
    /// The user or message that a command of a menu is about.
    pub(super) target_id: Option<Id<marker::Any>>,
    pub(super) component_type: Option<u8>,
    pub(super) custom_id: Option<String>,
    #[serde(deserialize_with = "crate::extract::null_is_default")]
    pub(super) values: Vec<String>,
    #[serde(deserialize_with = "crate::extract::null_is_default")]
    pub(super) components: Vec<Value>,
    /// What there is to say of the files; options and forms name them by their number.
    #[serde(deserialize_with = "crate::extract::null_is_default")]
    pub(super) attachments: Vec<AttachmentForm>,
}

impl Form for CreateInteraction {
    fn check(&self, form: &mut FormErrors) {
        if let Some(kind) = form.required("type", &self.kind)
            && !(2..=5).contains(kind)
        {
            form.add("type", Fault::Choices("(2, 3, 4, 5)"));
        }
        form.required("application_id", &self.application_id);
        form.required("channel_id", &self.channel_id);
        let is_bad = self.nonce.as_ref().is_some_and(|nonce| match nonce {
            Value::String(text) => text.len() > NONCE_LENGTH_MAX,
            Value::Number(_) => false,
            _ => true,
        });
        if is_bad {
            let (min, max) = (0, NONCE_LENGTH_MAX);
            form.add("nonce", Fault::BadLength { min, max });
        }
        let Some(data) = form.required("data", &self.data) else {
            return;
        };
        let mut inner = FormErrors::new();
        AttachmentForm::check_all(&data.attachments, &mut inner);
        form.add_inside("data", inner);
        match self.kind.map(Kind) {
            Some(Kind::COMPONENT) => {
                form.required("message_id", &self.message_id);
                form.required("data.component_type", &data.component_type);
                form.required("data.custom_id", &data.custom_id);
            }
            Some(Kind::MODAL) => {
                form.required("data.id", &data.id);
                form.required("data.custom_id", &data.custom_id);
            }
            _ => {
                form.required("data.id", &data.id);
                options::check_shape(form, &data.options);
            }
        }
    }
}

/// Calls a command, uses a component, asks for choices or sends a form. What becomes of it
/// comes as events: INTERACTION_CREATE, then INTERACTION_SUCCESS or INTERACTION_FAILURE. A form is
/// sent once, and again only after a failure.
///
/// Errors: 10002, 10003, 10008, 10062, 10063, 20001, 50001, 50008, 50013, 50035, 50083; 503
/// while too many wait for their answers.
#[utoipa::path(
    post,
    path = "/interactions",
    tag = "Interactions",
    request_body = CreateInteraction,
    responses((status = 204, description = "On its way to the application"))
)]
pub(super) async fn interaction_create(
    State(app): State<App>,
    caller: CurrentUser,
    Upload { body, mut files }: Upload<CreateInteraction>,
) -> Result<StatusCode> {
    caller.require_human()?;
    let seat = deliver::seat()?;
    let application = body.application_id.ok_or(ErrorCode::UnknownApplication)?;
    let channel = body.channel_id.ok_or(ErrorCode::UnknownChannel)?;
    let kind = Kind(body.kind.unwrap_or_default());
    let data = body.data.unwrap_or_default();
    let slots = &data.attachments;
    under_data(
        files
            .claim_slots(&app.media, channel, caller.id, slots)
            .await,
    )?;
    let resolved = Resolved::with_files(files.numbered(&app.media, channel, slots));
    let mut db = app.db.acquire().await?;
    let place = access::place(&mut db, &caller, channel, Permissions::VIEW_CHANNEL).await?;
    if body
        .guild_id
        .is_some_and(|guild| Some(guild) != place.guild_id())
    {
        return Err(ErrorCode::UnknownChannel.into());
    }
    place.require_unarchived()?;
    if !place.kind().has_messages() {
        return Err(ErrorCode::NonTextChannel.into());
    }
    let target = applications::find(&mut *db, &app.config.cluster_key, application).await?;
    // What the bot may do is part of what it is told, if it is there.
    let bot_place = place_of(&mut db, application.cast(), channel).await?;
    let presence = match (&bot_place, place.guild_id()) {
        (Some(_), _) => Presence::There,
        (None, Some(guild)) => {
            match integration::is_in_guild(&mut *db, guild, application).await? {
                true => Presence::Commands,
                false => Presence::Outside,
            }
        }
        (None, None) => Presence::Outside,
    };
    let asked = Asked {
        media: &app.media,
        caller: &caller,
        place: &place,
        application,
        presence,
        data: &data,
    };
    let mut action = match kind {
        Kind::COMMAND | Kind::AUTOCOMPLETE => asked.command(&mut db, kind, resolved).await?,
        Kind::COMPONENT => {
            let message = body.message_id.ok_or(ErrorCode::UnknownMessage)?;
            asked.component(&mut db, message, resolved).await?
        }
        _ => asked.modal(&mut db, resolved).await?,
    };
    action.context.attachments = attachments_of(&action.data);
    action.context.guest = guest(&place, presence);
    let seen = channel_json(&mut db, &caller, &place).await?;
    drop(db);

    let id: Id<marker::Interaction> = app.snowflakes.next()?;
    let token = new_token();
    let nonce = body.nonce.as_ref().map(|nonce| match nonce {
        // As Postgres takes it.
        Value::String(text) => text.replace('\0', ""),
        other => other.to_string(),
    });
    add_metadata(&mut action.context, id, kind, &caller, &action.owners);
    let mut interaction = Map::new();
    let mut put = |key: &str, value: Value| interaction.insert(key.to_owned(), value);
    put("id", json!(id));
    put("application_id", json!(application));
    put("type", json!(kind));
    put("token", json!(token));
    put("version", json!(1));
    put("data", action.data);
    put("channel_id", json!(channel));
    put("channel", seen);
    put("locale", json!(caller.account.user.locale));
    put("entitlements", json!([]));
    let app_permissions = app_permissions(&place, bot_place.as_ref());
    put("app_permissions", json!(app_permissions));
    put(
        "attachment_size_limit",
        json!(app.media.attachment_bytes_max),
    );
    put("authorizing_integration_owners", action.owners);
    put("context", json!(CallContext::of(&place, presence)));
    match place.guild() {
        Some(guild) => {
            let member = model::Member {
                user: Some(caller.user().clone()),
                ..guild.member.clone()
            };
            let mut member = serde_json::to_value(member)?;
            member["permissions"] = json!(place.given());
            let (locale, features) = guild_facts(&app, guild.id).await?;
            put("member", member);
            put("guild_id", json!(guild.id));
            put("guild_locale", json!(locale));
            put(
                "guild",
                json!({ "id": guild.id, "locale": locale, "features": features }),
            );
        }
        None => {
            put("user", json!(caller.user()));
        }
    }
    if let Some(message) = &action.message {
        put("message", serde_json::to_value(message)?);
    }
    let mut interaction = Value::Object(interaction);
    let blank = match place.guild() {
        Some(_) => sight::without_answered(&interaction, &target)?,
        None => None,
    };

    let mut tx = app.db.begin().await?;
    if kind == Kind::MODAL {
        let opened = data.id.ok_or(ErrorCode::UnknownInteraction)?;
        send_form(&mut tx, opened.cast(), id).await?;
    }
    sqlx::query!(
        "insert into interaction (interaction_id, token_hash, application_id, user_id, guild_id,
                                  channel_id, kind, nonce, context)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        id.to_db(),
        oauth::hash(&token),
        application.to_db(),
        caller.id.to_db(),
        place.guild_id().map(Id::to_db),
        channel.to_db(),
        i16::from(kind.0),
        nonce,
        Jsonb(&action.context) as Jsonb<&Context>,
    )
    .execute(&mut *tx)
    .await?;
    // Heads in ascending order: the user's, and the one that leads to the bot.
    let bot_realm = match (presence, place.guild_id()) {
        (Presence::There, Some(guild)) => guild.cast(),
        _ => application.cast(),
    };
    access::lock_realms(&mut tx, [caller.id.cast(), bot_realm]).await?;
    let told = json!({ "id": id, "nonce": nonce });
    let mut envelopes =
        vec![tell_user(&mut tx, caller.id, EventKind::InteractionCreate, &told).await?];
    let endpoint = target.settings.interactions_endpoint_url;
    if endpoint.is_none() {
        let blank = blank.as_ref();
        let event = deliver::to_gateway(&mut tx, bot_realm, application, &interaction, blank);
        envelopes.push(event.await?);
    }
    tx.commit().await?;
    app.publisher.publish(envelopes);
    // An endpoint names no intents: what the application may have counts.
    let allowed = Intents::allowed_by_application(target.flags);
    if let Some(blank) = blank.filter(|_| !allowed.contains(Intents::MESSAGE_CONTENT)) {
        interaction = blank;
    }
    let delivery = Delivery {
        id,
        application,
        token,
        endpoint,
        interaction,
    };
    deliver::watch(&app, delivery, seat);
    Ok(StatusCode::NO_CONTENT)
}

/// What an application may not do that only the user brought here.
fn guest(place: &Place, presence: Presence) -> Option<Guest> {
    let is_quiet =
        place.guild().is_some() && !place.permissions().contains(Permissions::USE_EXTERNAL_APPS);
    (presence == Presence::Outside).then_some(Guest { is_quiet })
}

/// What the bot may do with its answer. Who is not there does in a guild what the user could do
/// as well.
fn app_permissions(place: &Place, bot: Option<&Place>) -> Permissions {
    let anywhere =
        Permissions::ATTACH_FILES | Permissions::EMBED_LINKS | Permissions::MENTION_EVERYONE;
    match (bot, place) {
        (Some(bot @ (Place::Channel(_) | Place::Thread(_))), _) => bot.permissions(),
        (Some(Place::Private(_)), _) => anywhere | Permissions::USE_EXTERNAL_EMOJIS,
        (None, Place::Private(_)) => anywhere,
        (None, Place::Channel(_) | Place::Thread(_)) => {
            let guests = Permissions::ATTACH_FILES
                | Permissions::EMBED_LINKS
                | Permissions::USE_EXTERNAL_EMOJIS
                | Permissions::USE_EXTERNAL_APPS;
            place.permissions() & guests
        }
    }
}

/// The files that `data` of an interaction names.
fn attachments_of(data: &Value) -> Vec<Value> {
    let named = data["resolved"]["attachments"].as_object();
    named.into_iter().flat_map(Map::values).cloned().collect()
}

/// What messages that answer it will say of it.
fn add_metadata(
    context: &mut Context,
    id: Id<marker::Interaction>,
    kind: Kind,
    caller: &CurrentUser,
    owners: &Value,
) {
    if !context.metadata.is_object() {
        context.metadata = json!({});
    }
    context.metadata["id"] = json!(id);
    context.metadata["type"] = json!(kind);
    context.metadata["user"] = json!(caller.user());
    context.metadata["authorizing_integration_owners"] = owners.clone();
    if let Some(legacy) = &mut context.legacy {
        legacy["id"] = json!(id);
        legacy["type"] = json!(kind);
        legacy["user"] = json!(caller.user());
    }
}

/// The channel as the caller sees it. JDA drops an interaction in a group DM without its owner, and
/// knows no DM without whom it is with.
async fn channel_json(db: &mut PgConnection, caller: &CurrentUser, place: &Place) -> Result<Value> {
    let mut channel = match place {
        Place::Channel(access) => serde_json::to_value(&access.channel)?,
        Place::Thread(access) => serde_json::to_value(&access.thread)?,
        Place::Private(access) => serde_json::to_value(dms::load(db, access.id, caller.id).await?)?,
    };
    channel["permissions"] = json!(place.permissions());
    Ok(channel)
}

/// Preferred locale and features.
async fn guild_facts(app: &App, guild: Id<Guild>) -> Result<(String, Vec<String>)> {
    let settings = sqlx::query_scalar!(
        r#"select settings as "settings: Jsonb<model::GuildSettings>" from guild
           where guild_id = $1"#,
        guild.to_db(),
    )
    .fetch_optional(&app.db)
    .await?
    .ok_or(ErrorCode::UnknownGuild)?;
    Ok((settings.0.preferred_locale, settings.0.features))
}
