//! Interactions: users call commands, use components, fill in forms; applications answer.
//! Spec: Interactions › Receiving and Responding; limits-and-errors › Interactions.
//!
//! An interaction is a row with its deadline: whoever finds it unanswered after three seconds
//! marks it so and tells the user. Its token is good for a quarter of an hour.
//!
//! A transaction locks the interaction's row before any realm's head.

mod asked;
mod callback;
mod components;
mod create;
mod deliver;
mod follow_ups;
mod message;
mod modal;
mod options;
mod sight;
mod submit;

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::EventKind,
    id::marker::{self, Application, Channel, Guild, Interaction, Message, User},
    model::MessageKind,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgConnection, types::Json as Jsonb};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::follow_ups::{
    check_token, delete_message, edit_message, follow_up, read_message,
};
use crate::{
    access::{self, Place},
    app::App,
    error::{Error, Result},
    events,
    form::FormErrors,
    oauth,
    routes::{dms, messages::Mentioner},
};

/// An interaction is answered within this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Whatever became of the process that watched it: after this time no answer is taken.
const ANSWER_SECONDS_MAX: f64 = 2.0 * ANSWER_TIMEOUT.as_secs_f64();
/// A token is good for this long.
const TOKEN_SECONDS: f64 = 15.0 * 60.0;
/// Rows are kept this long: ephemeral messages are in them, and have buttons.
const KEEP_SECONDS: f64 = 24.0 * 3600.0;
/// Rows that one statement of the housekeeping takes.
const BATCH_MAX: i64 = 1000;
/// What every token begins with, so that they are not taken for those of webhooks.
const TOKEN_PREFIX: &str = "aW50ZXJhY3Rpb246";

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create::interaction_create))
        .routes(routes!(callback::create_interaction_response))
        .routes(routes!(
            follow_ups::get_original_webhook_message,
            follow_ups::update_original_webhook_message,
            follow_ups::delete_original_webhook_message
        ))
}

/// Types of interactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Kind(u8);

impl Kind {
    const COMMAND: Self = Self(2);
    const COMPONENT: Self = Self(3);
    const AUTOCOMPLETE: Self = Self(4);
    const MODAL: Self = Self(5);
}

/// How far an interaction is.
mod state {
    pub(super) const WAITING: i16 = 0;
    pub(super) const ANSWERED: i16 = 1;
    pub(super) const FAILED: i16 = 2;
}

/// What is remembered of an interaction for its answers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Context {
    /// `interaction_metadata` of messages that answer it.
    metadata: Value,
    /// `interaction`, the older form of the same; for commands.
    legacy: Option<Value>,
    /// Type of a message that answers it.
    message_kind: MessageKind,
    /// The message whose component was used, or whose form was sent.
    source: Option<Source>,
    /// Type of the option that waits for choices.
    focused: Option<u8>,
    /// The form that it was answered with: `{custom_id, title, components}`.
    modal: Option<Value>,
    /// The interaction by which the form was sent last.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<Id<Interaction>>,
    /// The application is not in the place: the user brought it there.
    #[serde(skip_serializing_if = "Option::is_none")]
    guest: Option<Guest>,
    /// What the user attached: its files live as long as the row.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<Value>,
}

/// What an application may do in a place that only its user is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Guest {
    /// Its answers are for the user alone.
    is_quiet: bool,
}

/// A message that something was done with.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Source {
    message: Id<Message>,
    is_ephemeral: bool,
}

/// A stored interaction.
#[derive(Debug, Clone)]
struct Row {
    id: Id<Interaction>,
    application: Id<Application>,
    user: Id<User>,
    guild: Option<Id<Guild>>,
    channel: Id<Channel>,
    kind: Kind,
    nonce: Option<String>,
    state: i16,
    response: Option<u8>,
    response_message: Option<Id<Message>>,
    context: Context,
    /// Since it was stored, by the database's clock.
    age_seconds: f64,
}

impl Row {
    fn bot(&self) -> Id<User> {
        self.application.cast()
    }

    /// Where the bot is itself; `None` if only the user is, or its commands alone, or it has left.
    async fn bot_place(&self, db: &mut PgConnection) -> Result<Option<Place>> {
        match self.context.guest {
            Some(_) => Ok(None),
            None => place_of(db, self.bot(), self.channel).await,
        }
    }

    /// Whether a new answer is for the user alone, whatever the application says. Who brought it
    /// may have been silenced, banned or blocked since.
    async fn is_quiet(&self, db: &mut PgConnection) -> Result<bool> {
        match self.context.guest {
            None => Ok(false),
            Some(Guest { is_quiet: true }) => Ok(true),
            Some(_) => match place_of(db, self.user, self.channel).await? {
                Some(Place::Private(access)) => Ok(!dms::may_write(db, &access).await?),
                Some(place) => {
                    let needed = Permissions::USE_EXTERNAL_APPS;
                    Ok(!place.permissions().contains(needed))
                }
                None => Ok(true),
            },
        }
    }

    /// Whether follow-ups are still taken.
    fn is_open(&self) -> bool {
        self.age_seconds < TOKEN_SECONDS
    }
}

/// The place as a user or an application's bot finds it who is there.
async fn place_of(
    db: &mut PgConnection,
    user: Id<User>,
    channel: Id<Channel>,
) -> Result<Option<Place>> {
    match access::place_unchecked(db, user, channel).await {
        Ok(place) => Ok(Some(place)),
        Err(Error::Code(_)) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Whose right it is to mention roles and everyone: the bot's, if it is there.
fn mentioner(place: Option<&Place>) -> Mentioner<'_> {
    match place {
        Some(Place::Private(_)) => Mentioner::Anybody(None),
        Some(place) => Mentioner::Bot(place),
        None => Mentioner::Guest,
    }
}

/// Makes a token; only its hash is stored.
fn new_token() -> String {
    let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 36]>());
    format!("{TOKEN_PREFIX}{secret}")
}

/// Whether a token in a webhook's path is one of an interaction.
pub(crate) fn is_token(token: &str) -> bool {
    token.starts_with(TOKEN_PREFIX)
}

struct DbRow {
    interaction_id: i64,
    application_id: i64,
    user_id: i64,
    guild_id: Option<i64>,
    channel_id: i64,
    kind: i16,
    nonce: Option<String>,
    state: i16,
    response: Option<i16>,
    response_message_id: Option<i64>,
    context: Jsonb<Context>,
    age_seconds: f64,
}

impl From<DbRow> for Row {
    fn from(row: DbRow) -> Self {
        Self {
            id: Id::from_db(row.interaction_id),
            application: Id::from_db(row.application_id),
            user: Id::from_db(row.user_id),
            guild: row.guild_id.map(Id::from_db),
            channel: Id::from_db(row.channel_id),
            kind: Kind(row.kind as u8),
            nonce: row.nonce,
            state: row.state,
            response: row.response.map(|response| response as u8),
            response_message: row.response_message_id.map(Id::from_db),
            context: row.context.0,
            age_seconds: row.age_seconds,
        }
    }
}

/// The interaction of a token, its row locked until the commit.
async fn lock_by_token(db: &mut PgConnection, token: &str) -> Result<Option<Row>> {
    let row = sqlx::query_as!(
        DbRow,
        r#"select i.interaction_id, i.application_id, i.user_id, i.guild_id, i.channel_id, i.kind,
                  i.nonce, i.state, i.response, i.response_message_id,
                  i.context as "context: Jsonb<Context>",
                  extract(epoch from clock_timestamp() - i.created_at)::float8 as "age_seconds!"
           from interaction i join application p using (application_id)
           where i.token_hash = $1 and p.deleted_at is null
           for update of i"#,
        oauth::hash(token),
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(Row::from))
}

/// As stored, for who sends a form that it opened.
async fn find(db: &mut PgConnection, id: Id<Interaction>) -> Result<Option<Row>> {
    let row = sqlx::query_as!(
        DbRow,
        r#"select interaction_id, application_id, user_id, guild_id, channel_id, kind, nonce,
                  state, response, response_message_id, context as "context: Jsonb<Context>",
                  extract(epoch from clock_timestamp() - created_at)::float8 as "age_seconds!"
           from interaction where interaction_id = $1"#,
        id.to_db(),
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(Row::from))
}

/// Marks the form that an interaction opened as sent `by` another one, in its transaction: the row of
/// the first is locked. It may be sent again only if nobody answered.
///
/// Errors: 10062.
async fn send_form(
    db: &mut PgConnection,
    opened: Id<Interaction>,
    by: Id<Interaction>,
) -> Result<()> {
    let context = sqlx::query_scalar!(
        r#"select context as "context: Jsonb<Context>" from interaction
           where interaction_id = $1 for update"#,
        opened.to_db(),
    )
    .fetch_optional(&mut *db)
    .await?;
    let context = context.ok_or(ErrorCode::UnknownInteraction)?;
    if let Some(sent) = context.0.sent {
        // Whoever held the row before has committed: this statement sees what it stored.
        let sent = find(&mut *db, sent).await?;
        if sent.is_none_or(|row| row.state != state::FAILED) {
            return Err(ErrorCode::UnknownInteraction.into());
        }
    }
    sqlx::query!(
        "update interaction set context = jsonb_set(context, '{sent}', to_jsonb($2::text))
         where interaction_id = $1",
        opened.to_db(),
        by.to_string(),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Tells the user who acted, on all their clients: they know it by the nonce.
async fn tell_user(
    db: &mut PgConnection,
    user: Id<User>,
    kind: EventKind,
    body: &Value,
) -> Result<Envelope> {
    let vis = Visibility::users(vec![user]);
    events::append(db, user, kind, vis, body, None).await
}

/// Why an interaction is over without an answer: `reason_code` of INTERACTION_FAILURE.
#[derive(Debug, Clone, Copy)]
enum Failure {
    /// The application could not be reached, or what it said was no answer.
    Unknown = 1,
    Timeout = 2,
}

/// After [`ANSWER_TIMEOUT`], or at once if it cannot be delivered: an interaction that is not
/// answered is over, and its user is told.
async fn fail_unanswered(app: &App, id: Id<Interaction>, why: Failure) -> Result<()> {
    let mut tx = app.db.begin().await?;
    let failed = sqlx::query!(
        "update interaction set state = $2 where interaction_id = $1 and state = $3
         returning user_id, nonce",
        id.to_db(),
        state::FAILED,
        state::WAITING,
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(failed) = failed else {
        return Ok(());
    };
    let user = Id::from_db(failed.user_id);
    let body = json!({ "id": id, "nonce": failed.nonce, "reason_code": why as u8 });
    let event = tell_user(&mut tx, user, EventKind::InteractionFailure, &body).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    Ok(())
}

/// Ends what a process that stopped has left unanswered, and forgets what is over.
pub(crate) async fn clean_up(app: &App) -> Result<()> {
    let waiting = sqlx::query_scalar!(
        "select interaction_id from interaction
         where state = $1 and created_at < now() - $2::float8 * interval '1 second' limit $3",
        state::WAITING,
        ANSWER_SECONDS_MAX,
        BATCH_MAX,
    )
    .fetch_all(&app.db)
    .await?;
    for id in waiting {
        fail_unanswered(app, Id::from_db(id), Failure::Timeout).await?;
    }
    loop {
        let gone = sqlx::query!(
            "delete from interaction where interaction_id in (
               select interaction_id from interaction
               where created_at < now() - $1::float8 * interval '1 second' limit $2)",
            KEEP_SECONDS,
            BATCH_MAX,
        )
        .execute(&app.db)
        .await?;
        if gone.rows_affected() < BATCH_MAX as u64 || app.stop.is_cancelled() {
            return Ok(());
        }
    }
}

/// Names the faults of what stands below `data`.
fn under_data<T>(result: Result<T>) -> Result<T> {
    result.map_err(|error| match error {
        Error::Form(inner) => {
            let mut form = FormErrors::new();
            form.add_inside("data", inner);
            Error::Form(form)
        }
        other => other,
    })
}

/// An id as bodies write it.
fn id_of(value: &Value) -> Option<Id<marker::Any>> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => Id::new(number.as_u64()?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;

    use super::*;

    #[derive(clap::Parser)]
    struct Settings {
        #[command(flatten)]
        config: crate::config::Config,
    }

    #[test]
    fn tokens_are_known_by_their_beginning() {
        let (one, other) = (new_token(), new_token());
        assert!(is_token(&one) && one != other);
        assert!(!is_token(&one[1..]));
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn what_nobody_watched_is_ended_and_forgotten(db: PgPool) {
        let redis_url = std::env::var("REDIS_URL").unwrap();
        let settings: Settings = clap::Parser::parse_from([
            "test",
            "--database-url=unused",
            &format!("--redis-url={redis_url}"),
            "--gateway-url=ws://127.0.0.1:1",
            "--cluster-key=a cluster key for tests, long enough",
        ]);
        let app = App::start(settings.config, db.clone()).await.unwrap();
        sqlx::raw_sql(
            "insert into account (user_id, username) values (1, 'alice'), (2, 'bot');
             insert into realm_head (realm_id, shard) values (1, 0);
             insert into application (application_id, owner_id, name, flags, verify_key)
             values (2, 1, 'bot', 0, '');
             insert into interaction (interaction_id, token_hash, application_id, user_id,
                                      channel_id, kind, state, context, created_at)
             values (10, 'a', 2, 1, 3, 2, 0, '{}', now() - interval '7 seconds'),
                    (11, 'b', 2, 1, 3, 2, 0, '{}', now()),
                    (12, 'c', 2, 1, 3, 2, 1, '{}', now() - interval '1 hour'),
                    (13, 'd', 2, 1, 3, 2, 1, '{}', now() - interval '25 hours');",
        )
        .execute(&db)
        .await
        .unwrap();

        clean_up(&app).await.unwrap();
        clean_up(&app).await.unwrap();

        let left = sqlx::query!("select interaction_id, state from interaction order by 1");
        let left = left.fetch_all(&db).await.unwrap();
        let left: Vec<_> = left
            .iter()
            .map(|row| (row.interaction_id, row.state))
            .collect();
        assert_eq!(
            left,
            [
                (10, state::FAILED),
                (11, state::WAITING),
                (12, state::ANSWERED)
            ]
        );
        let kinds = sqlx::query_scalar!("select kind from realm_event where realm_id = 1");
        let kinds = kinds.fetch_all(&db).await.unwrap();
        assert_eq!(kinds, [EventKind::InteractionFailure.number() as i16]);
        app.shut_down().await;
    }
}
