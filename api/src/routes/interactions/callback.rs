//! An application's first answer.

use std::collections::BTreeMap;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use guildhall_shared::{
    Id,
    envelope::Envelope,
    error_code::ErrorCode,
    gateway::EventKind,
    id::marker::{self, Interaction},
    model::{Message, MessageFlags},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgConnection, types::Json as Jsonb};
use utoipa::{IntoParams, ToSchema};

use super::{
    ANSWER_SECONDS_MAX, Context, Kind, Row, lock_by_token, mentioner,
    message::{self, Reach, Shown},
    modal::Modal,
    state, tell_user, under_data,
};
use crate::{
    access::Audience,
    app::App,
    error::{Error, Result},
    extract::{Form, Json, Path, Query, parse_form},
    form::{Fault, FormErrors},
    routes::{
        applications, commands,
        messages::{self, EditForm, NewMessageForm, Request, Sender},
    },
    upload::{Files, Upload},
};

const PONG: u8 = 1;
const MESSAGE: u8 = 4;
pub(super) const DEFERRED_MESSAGE: u8 = 5;
const DEFERRED_UPDATE: u8 = 6;
const UPDATE: u8 = 7;
const CHOICES: u8 = 8;
const MODAL: u8 = 9;
const PREMIUM_REQUIRED: u8 = 10;
const LAUNCH_ACTIVITY: u8 = 12;
const CHOICES_MAX: usize = 25;

/// How an interaction is answered.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = InteractionCallbackRequest)]
pub(super) struct CallbackInput {
    /// 4 message, 5 message to come, 6 change to come, 7 change, 8 choices, 9 form. The others
    /// (1 pong, 10 premium, 12 activity) answer nothing that this server asks.
    #[serde(rename = "type")]
    #[schema(required)]
    kind: Option<u8>,
    /// Depends on the type.
    data: Option<Value>,
}

impl Form for CallbackInput {
    fn check(&self, form: &mut FormErrors) {
        if let Some(kind) = form.required("type", &self.kind)
            && !matches!(*kind, PONG | MESSAGE..=PREMIUM_REQUIRED | LAUNCH_ACTIVITY)
        {
            form.add("type", Fault::Choices("(1, 4, 5, 6, 7, 8, 9, 10, 12)"));
        }
        if !matches!(self.data, None | Some(Value::Object(_) | Value::Null)) {
            form.add("data", Fault::NotObject);
        }
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct CallbackQuery {
    /// Whether the answer says what came of it.
    with_response: Option<bool>,
}

impl Form for CallbackQuery {}

/// What came of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CallbackResult {
    interaction: CallbackInteraction,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<CallbackResource>,
}

#[derive(Debug, Serialize, ToSchema)]
struct CallbackInteraction {
    id: Id<Interaction>,
    #[serde(rename = "type")]
    kind: u8,
    channel_id: Id<marker::Channel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guild_id: Option<Id<marker::Guild>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_message_id: Option<Id<marker::Message>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_message_loading: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_message_ephemeral: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
struct CallbackResource {
    #[serde(rename = "type")]
    kind: u8,
    message: Message,
}

/// Answers an interaction, once, within three seconds. Needs no token but the one in its path.
///
/// Errors: 10062, 40060, 50006, 50035.
/// [Create Interaction Response](https://docs.discord.com/developers/interactions/receiving-and-responding#create-interaction-response)
#[utoipa::path(
    post,
    path = "/interactions/{interaction_id}/{interaction_token}/callback",
    tag = "Interactions",
    security(()),
    params(CallbackQuery),
    request_body = CallbackInput,
    responses((status = 200, body = CallbackResult), (status = 204, description = "Answered"))
)]
pub(super) async fn create_interaction_response(
    State(app): State<App>,
    Path((interaction_id, interaction_token)): Path<(Id<Interaction>, String)>,
    Query(query): Query<CallbackQuery>,
    request: axum::extract::Request,
) -> Result<Response> {
    let check = check_token(&app, interaction_id, &interaction_token);
    let Upload { body, files } = Upload::<CallbackInput>::after(check, request, &app).await?;
    let result = answer(&app, interaction_id, &interaction_token, body, &files).await?;
    Ok(match query.with_response {
        Some(true) => Json(result).into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Before the body is read. Errors: as [`waiting`].
async fn check_token(app: &App, id: Id<Interaction>, token: &str) -> Result<()> {
    let mut db = app.db.acquire().await?;
    waiting(&mut db, id, token).await?;
    Ok(())
}

/// The interaction of a token while it may be answered, its row locked. Errors: 10062, 40060.
async fn waiting(db: &mut PgConnection, id: Id<Interaction>, token: &str) -> Result<Row> {
    let row = lock_by_token(db, token).await?;
    let row = row.filter(|row| row.id == id);
    let row = row.ok_or(Error::WrongToken(ErrorCode::UnknownInteraction))?;
    match row.state {
        state::WAITING if row.age_seconds < ANSWER_SECONDS_MAX => Ok(row),
        state::ANSWERED => Err(ErrorCode::InteractionAcknowledged.into()),
        _ => Err(ErrorCode::UnknownInteraction.into()),
    }
}

/// Stores an answer and tells those concerned. Errors: as the call's.
pub(super) async fn answer(
    app: &App,
    id: Id<Interaction>,
    token: &str,
    input: CallbackInput,
    files: &Files,
) -> Result<CallbackResult> {
    let mut tx = app.db.begin().await?;
    let row = waiting(&mut tx, id, token).await?;
    let response = input.kind.unwrap_or_default();
    check_response(&row, response)?;
    let mut context = row.context.clone();
    let data = input.data.unwrap_or_default();
    let (answered, mut envelopes) = match response {
        MESSAGE => new_message(app, &mut tx, &row, data, files).await?,
        DEFERRED_MESSAGE => loading_message(app, &mut tx, &row, &data).await?,
        UPDATE => update(app, &mut tx, &row, data, files).await?,
        DEFERRED_UPDATE => (Some(source(app, &mut tx, &row).await?), Vec::new()),
        CHOICES => (None, choices(&mut tx, &row, &data).await?),
        _ => {
            let modal: Modal = nested(data)?;
            let modal = modal.into_json();
            let events = open_modal(app, &mut tx, &row, &modal).await?;
            context.modal = Some(modal);
            (None, events)
        }
    };
    let message_id = answered.as_ref().map(|shown| shown.message.id);
    sqlx::query!(
        "update interaction set state = $2, response = $3, response_message_id = $4, context = $5
         where interaction_id = $1",
        id.to_db(),
        state::ANSWERED,
        i16::from(response),
        message_id.map(Id::to_db),
        Jsonb(&context) as Jsonb<&Context>,
    )
    .execute(&mut *tx)
    .await?;
    if response != CHOICES {
        let body = json!({ "id": id, "nonce": row.nonce });
        let kind = EventKind::InteractionSuccess;
        envelopes.push(tell_user(&mut tx, row.user, kind, &body).await?);
    }
    tx.commit().await?;
    app.publisher.publish(envelopes);
    Ok(result(&row, response, answered))
}

fn result(row: &Row, response: u8, answered: Option<Shown>) -> CallbackResult {
    let has = |flag: u64| {
        answered
            .as_ref()
            .map(|shown| shown.message.flags & flag != 0)
    };
    let interaction = CallbackInteraction {
        id: row.id,
        kind: row.kind.0,
        channel_id: row.channel,
        guild_id: row.guild,
        response_message_id: answered.as_ref().map(|shown| shown.message.id),
        response_message_loading: has(MessageFlags::LOADING),
        response_message_ephemeral: answered.as_ref().map(|shown| shown.is_ephemeral),
    };
    let resource = answered
        .filter(|_| matches!(response, MESSAGE | UPDATE))
        .map(|shown| CallbackResource {
            kind: response,
            message: *shown.message,
        });
    CallbackResult {
        interaction,
        resource,
    }
}

/// Errors: 50035 for an answer that does not fit what was asked.
fn check_response(row: &Row, response: u8) -> Result<()> {
    let has_source = row.context.source.is_some();
    let is_fitting = match response {
        MESSAGE | DEFERRED_MESSAGE => row.kind != Kind::AUTOCOMPLETE,
        DEFERRED_UPDATE | UPDATE => matches!(row.kind, Kind::COMPONENT | Kind::MODAL) && has_source,
        CHOICES => row.kind == Kind::AUTOCOMPLETE,
        MODAL => matches!(row.kind, Kind::COMMAND | Kind::COMPONENT),
        // PING goes to endpoints only, when they are set; no application sells anything or has
        // an activity.
        _ => false,
    };
    if is_fitting {
        return Ok(());
    }
    let message = "This type of response does not fit the interaction";
    let fault = Fault::Other("INTERACTION_RESPONSE_TYPE_INVALID", message.into());
    Err(FormErrors::one("type", fault))
}

/// `data`, parsed and checked; faults are named below `data`.
fn nested<T: Form>(data: Value) -> Result<T> {
    let data = match data {
        Value::Null => json!({}),
        data => data,
    };
    under_data(parse_form(&serde_json::to_vec(&data)?))
}

async fn new_message(
    app: &App,
    db: &mut PgConnection,
    row: &Row,
    data: Value,
    files: &Files,
) -> Result<(Option<Shown>, Vec<Envelope>)> {
    let form: NewMessageForm = nested(data)?;
    let asked = match form.is_ephemeral() {
        true => Reach::User,
        false => Reach::Channel,
    };
    let (audience, reach) = lock_for_new(db, row, asked).await?;
    let mut message = message::draft(app, db, row).await?;
    message::refer(&app.media, db, row, &mut message).await?;
    let place = row.bot_place(db).await?;
    let request = Request {
        sender: Sender::Interaction,
        mentioner: mentioner(place.as_ref()),
        form: &form,
        files,
    };
    under_data(messages::compose(app, db, request, &mut message).await)?;
    message.flags |= reach.flags();
    let envelopes = under_data(message::post(db, row, &audience, &message).await)?;
    Ok((Some(shown(message)), envelopes))
}

/// Locks what a first answer writes to, and says who it is for.
async fn lock_for_new(db: &mut PgConnection, row: &Row, asked: Reach) -> Result<(Audience, Reach)> {
    let (audience, is_quiet) = message::lock_for_new(db, row, asked).await?;
    let reach = match is_quiet {
        true => Reach::User,
        false => asked,
    };
    Ok((audience, reach))
}

fn shown(message: Message) -> Shown {
    Shown {
        is_ephemeral: message.flags & MessageFlags::EPHEMERAL != 0,
        message: Box::new(message),
    }
}

/// The application thinks; it changes the message when it has done so.
async fn loading_message(
    app: &App,
    db: &mut PgConnection,
    row: &Row,
    data: &Value,
) -> Result<(Option<Shown>, Vec<Envelope>)> {
    let asked = Reach::of_flags(data["flags"].as_u64().unwrap_or_default());
    let (audience, reach) = lock_for_new(db, row, asked).await?;
    let mut message = message::draft(app, db, row).await?;
    message::refer(&app.media, db, row, &mut message).await?;
    message.flags = reach.flags() | MessageFlags::LOADING;
    let envelopes = message::post(db, row, &audience, &message).await?;
    Ok((Some(shown(message)), envelopes))
}

/// The message whose component was used. Errors: 10008.
async fn source(app: &App, db: &mut PgConnection, row: &Row) -> Result<Shown> {
    let source = row.context.source.ok_or(ErrorCode::UnknownMessage)?;
    let found = message::shown(&app.media, db, row, source.message).await?;
    found.ok_or_else(|| ErrorCode::UnknownMessage.into())
}

async fn update(
    app: &App,
    db: &mut PgConnection,
    row: &Row,
    data: Value,
    files: &Files,
) -> Result<(Option<Shown>, Vec<Envelope>)> {
    let form: EditForm = nested(data)?;
    let reach = match row.context.source {
        Some(source) if source.is_ephemeral => Reach::User,
        _ => Reach::Channel,
    };
    let audience = message::lock(db, row, reach).await?;
    let source = source(app, db, row).await?;
    let is_ephemeral = source.is_ephemeral;
    let edited = message::edit(app, db, row, &audience, source, (&form, files)).await;
    let (message, envelopes) = under_data(edited)?;
    let message = Box::new(message);
    let shown = Shown {
        message,
        is_ephemeral,
    };
    Ok((Some(shown), envelopes))
}

/// Errors: 50035.
async fn choices(db: &mut PgConnection, row: &Row, data: &Value) -> Result<Vec<Envelope>> {
    let list = data["choices"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut form = FormErrors::new();
    if list.len() > CHOICES_MAX {
        let (min, max) = (0, CHOICES_MAX);
        form.add("data.choices", Fault::BadLength { min, max });
    }
    let kind = row.context.focused.unwrap_or_default();
    let given = list.iter().filter(|choice| !choice.is_null());
    let mut told = Vec::new();
    for (index, given) in given.take(CHOICES_MAX).enumerate() {
        let path = format!("data.choices.{index}");
        told.push(choice(&mut form, &path, given, kind));
    }
    form.finish()?;
    let body = json!({ "choices": told, "nonce": row.nonce });
    let kind = EventKind::ApplicationCommandAutocompleteResponse;
    Ok(vec![tell_user(db, row.user, kind, &body).await?])
}

/// A choice as the user's client gets it, with the fields that one has; it was `given` for an
/// option of this kind.
fn choice(form: &mut FormErrors, path: &str, given: &Value, kind: u8) -> Value {
    match &given["name"] {
        Value::String(name) => form.whole_length(&format!("{path}.name"), name, 1..=100),
        Value::Null => form.add(format!("{path}.name"), Fault::Required),
        _ => form.add(format!("{path}.name"), Fault::NotString),
    }
    match &given["value"] {
        Value::Null => form.add(format!("{path}.value"), Fault::Required),
        value => commands::check_value(form, &format!("{path}.value"), value, kind),
    }
    let mut told = json!({ "name": given["name"], "value": given["value"] });
    let path = format!("{path}.name_localizations");
    let names: serde_json::Result<Option<BTreeMap<String, Option<String>>>> =
        serde_json::from_value(given["name_localizations"].clone());
    match names {
        Ok(None) => {}
        Ok(Some(mut all)) => {
            commands::check_choice_names(form, &path, &all);
            all.retain(|_, name| name.is_some());
            told["name_localizations"] = json!(all);
        }
        Err(_) => form.add(path, Fault::NotObject),
    }
    told
}

async fn open_modal(
    app: &App,
    db: &mut PgConnection,
    row: &Row,
    modal: &Value,
) -> Result<Vec<Envelope>> {
    let key = &app.config.cluster_key;
    let application = applications::find(&mut *db, key, row.application).await?;
    let mut body = modal.clone();
    body["id"] = json!(row.id);
    body["nonce"] = json!(row.nonce);
    body["channel_id"] = json!(row.channel);
    if let Some(guild) = row.guild {
        body["guild_id"] = json!(guild);
    }
    body["application"] = json!({
        "id": application.id,
        "name": application.name,
        "icon": application.icon,
        "description": application.description,
        "summary": "",
        "bot": application.bot,
    });
    let kind = EventKind::InteractionModalCreate;
    Ok(vec![tell_user(db, row.user, kind, &body).await?])
}
