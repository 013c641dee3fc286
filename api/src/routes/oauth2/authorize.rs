//! The consent page's calls: what an application asks for, and the user's yes or no.

use axum::extract::State;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    id::marker,
    model::{Application, PublicApplication, User},
};
use guildhall_store::guild;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};

use super::{
    guild::{add_bot, add_commands, add_scopes},
    install::{self, Install},
};
use crate::{
    access,
    app::App,
    audit::Reason,
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Query},
    form::{Fault, FormErrors},
    oauth::{self, GUILD_SCOPES, USER_SCOPES},
    routes::{applications, users},
};

/// A code is exchanged for tokens within this time.
const CODE_SECONDS: f64 = 600.0;
const STATE_LENGTH_MAX: usize = 2048;
/// `integration_type`.
const USER_INSTALL: u8 = 1;

/// The query of both calls, as in an application's link.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AuthorizeQuery {
    #[param(required)]
    client_id: Option<Id<marker::Application>>,
    /// Separated by spaces; `bot` if there is none.
    scope: Option<String>,
    permissions: Option<Permissions>,
    guild_id: Option<Id<marker::Guild>>,
    /// 1: the user installs it for themselves, `applications.commands` if no scope is given.
    #[param(maximum = 1)]
    integration_type: Option<u8>,
    /// `code`, where a user allows more than adding a bot.
    response_type: Option<String>,
    /// One of the application's, to the letter.
    redirect_uri: Option<String>,
    /// Comes back unchanged.
    state: Option<String>,
    /// PKCE.
    code_challenge: Option<String>,
    /// `S256` or `plain`.
    code_challenge_method: Option<String>,
}

impl AuthorizeQuery {
    fn scopes(&self) -> Vec<String> {
        let usual = match self.is_for_user() {
            true => install::SCOPE,
            false => "bot",
        };
        scopes(self.scope.as_deref().unwrap_or(usual))
    }

    fn is_for_user(&self) -> bool {
        self.integration_type == Some(USER_INSTALL)
    }

    fn asks_for(&self, scope: &str) -> bool {
        self.scopes().iter().any(|asked| asked == scope)
    }

    /// Whether the application's commands are to be in a guild.
    fn is_for_guild(&self) -> bool {
        self.asks_for("bot") || !self.is_for_user() && self.asks_for(install::SCOPE)
    }

    /// Whether nothing comes of it without a guild. Who logs in with an application that has
    /// commands need not choose one.
    fn needs_guild(&self) -> bool {
        self.asks_for("bot") || self.is_for_guild() && !self.wants_code()
    }

    /// Whether the application is to act for the user: then it gets a code.
    fn wants_code(&self) -> bool {
        self.response_type.is_some()
            || self
                .scopes()
                .iter()
                .any(|scope| USER_SCOPES.contains(&scope.as_str()))
    }

    /// The challenge as it is stored: in its S256 form.
    fn challenge(&self) -> Option<String> {
        let challenge = self.code_challenge.as_ref()?;
        match self.code_challenge_method.as_deref() {
            Some("S256") => Some(challenge.clone()),
            _ => Some(URL_SAFE_NO_PAD.encode(oauth::hash(challenge))),
        }
    }
}

/// Scopes as a request writes them, each once.
pub(super) fn scopes(text: &str) -> Vec<String> {
    let mut scopes: Vec<String> = Vec::new();
    for scope in text
        .split([' ', '+', ','])
        .filter(|scope| !scope.is_empty())
    {
        if !scopes.iter().any(|known| known == scope) {
            scopes.push(scope.to_owned());
        }
    }
    scopes
}

impl Form for AuthorizeQuery {
    fn check(&self, form: &mut FormErrors) {
        form.required("client_id", &self.client_id);
        let scopes = self.scopes();
        let is_known = |scope: &String| {
            USER_SCOPES.contains(&scope.as_str()) || GUILD_SCOPES.contains(&scope.as_str())
        };
        if scopes.is_empty() {
            form.add("scope", Fault::Required);
        } else if !scopes.iter().all(is_known) {
            let known = "('identify', 'email', 'connections', 'guilds', 'guilds.join', \
                         'guilds.members.read', 'applications.commands.permissions.update', \
                         'bot', 'applications.commands')";
            form.add("scope", Fault::Choices(known));
        }
        if self
            .integration_type
            .is_some_and(|kind| kind > USER_INSTALL)
        {
            form.add("integration_type", Fault::Choices("(0, 1)"));
        }
        if self.is_for_user() && scopes.iter().any(|scope| scope == "bot") {
            let message = "A bot is added to a guild, not to a user";
            let code = "INSTALL_TYPE_SCOPE_INVALID";
            form.add("scope", Fault::Other(code, message.into()));
        }
        if self
            .response_type
            .as_deref()
            .is_some_and(|kind| kind != "code")
        {
            form.add("response_type", Fault::Choices("('code',)"));
        }
        if self.wants_code() {
            form.required("redirect_uri", &self.redirect_uri);
        }
        if let Some(state) = &self.state {
            form.length("state", state, 0..=STATE_LENGTH_MAX);
        }
        if let Some(challenge) = &self.code_challenge {
            let is_unreserved = |c: u8| c.is_ascii_alphanumeric() || b"-._~".contains(&c);
            if !(43..=128).contains(&challenge.len()) {
                form.add("code_challenge", Fault::BadLength { min: 43, max: 128 });
            } else if !challenge.bytes().all(is_unreserved) {
                form.add("code_challenge", Fault::NotMatching);
            }
        }
        if let Some(method) = &self.code_challenge_method
            && method != "S256"
            && method != "plain"
        {
            form.add("code_challenge_method", Fault::Choices("('plain', 'S256')"));
        }
    }
}

/// What the consent page shows.
#[derive(Serialize, ToSchema)]
pub(super) struct Preview {
    application: PublicApplication,
    bot: User,
    user: User,
    /// Those the user may add bots to.
    guilds: Vec<PreviewGuild>,
    scopes: Vec<String>,
    redirect_uri: Option<String>,
    /// Whether the user has allowed all of it before.
    authorized: bool,
}

#[derive(Serialize, ToSchema)]
struct PreviewGuild {
    id: Id<marker::Guild>,
    name: String,
    icon: Option<String>,
    permissions: Permissions,
    mfa_level: u8,
}

/// Errors: 10002, 20001, 20012, 50035.
#[utoipa::path(
    get,
    path = "/oauth2/authorize",
    tag = "OAuth2",
    params(AuthorizeQuery),
    responses((status = 200, body = Preview))
)]
pub(super) async fn oauth_authorize_preview(
    State(app): State<App>,
    caller: CurrentUser,
    Query(query): Query<AuthorizeQuery>,
) -> Result<Json<Preview>> {
    caller.require_human()?;
    let scopes = query.scopes();
    let application = find_application(&app, &caller, &query).await?;
    let mut db = app.db.acquire().await?;
    let mut guilds = users::all_guilds(&mut db, caller.id).await?;
    guilds.retain(|guild| guild.permissions.contains(Permissions::MANAGE_GUILD));
    let guilds = guilds.into_iter().map(|guild| PreviewGuild {
        id: guild.id,
        name: guild.name,
        icon: guild.icon,
        permissions: guild.permissions,
        mfa_level: 0,
    });
    let granted = sqlx::query_scalar!(
        "select scopes from oauth2_grant where user_id = $1 and application_id = $2",
        caller.id.to_db(),
        application.id.to_db(),
    )
    .fetch_optional(&mut *db)
    .await?
    .unwrap_or_default();
    let authorized = scopes.iter().all(|scope| granted.contains(scope));
    Ok(Json(Preview {
        bot: application.bot.clone(),
        application: application.into(),
        user: caller.user().clone(),
        guilds: guilds.collect(),
        scopes,
        redirect_uri: query.redirect_uri,
        authorized,
    }))
}

/// Errors: 10002; 20012 to add somebody else's private bot; 50035 for a foreign redirect, and for
/// an application that is not for users or not for guilds.
async fn find_application(
    app: &App,
    caller: &CurrentUser,
    query: &AuthorizeQuery,
) -> Result<Application> {
    let id = query.client_id.ok_or(ErrorCode::UnknownApplication)?;
    let application = applications::find(&app.db, &app.config.cluster_key, id).await?;
    if query.is_for_user() {
        install::check_allowed(&application, Install::User)?;
    }
    if query.needs_guild() {
        install::check_allowed(&application, Install::Guild)?;
    }
    if query.needs_guild() || query.is_for_user() {
        require_public(&application, caller)?;
    }
    if let Some(uri) = &query.redirect_uri
        && !application.redirect_uris.contains(uri)
    {
        let fault = Fault::Other("INVALID_REDIRECT_URI", "Invalid OAuth2 redirect_uri".into());
        return Err(FormErrors::one("redirect_uri", fault));
    }
    Ok(application)
}

/// Errors: 20012 for somebody else's private application.
fn require_public(application: &Application, caller: &CurrentUser) -> Result<()> {
    if application.bot_public || application.owner.id == caller.id {
        return Ok(());
    }
    Err(ErrorCode::NotAuthorizedOnApplication.into())
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct Authorize {
    /// False: the user said no.
    authorize: Option<bool>,
    guild_id: Option<Id<marker::Guild>>,
    permissions: Option<Permissions>,
}

impl Form for Authorize {}

/// Where the user's browser goes next.
#[derive(Serialize, ToSchema)]
pub(super) struct Location {
    location: String,
}

/// Adds an application's bot to a guild, with a role of its own if it asks for permissions, or its
/// commands alone, or installs these for the user; gives the application a code if it asks to act
/// for them.
///
/// The role holds only what the caller holds as well: nobody gives away more than they have.
/// Errors: 10002, 10004, 20001, 20012, 30005, 40007, 50001, 50013, 50035.
#[utoipa::path(
    post,
    path = "/oauth2/authorize",
    tag = "OAuth2",
    params(AuthorizeQuery),
    responses((status = 200, body = Location))
)]
pub(super) async fn oauth_authorize(
    State(app): State<App>,
    caller: CurrentUser,
    Query(query): Query<AuthorizeQuery>,
    reason: Reason,
    Json(body): Json<Authorize>,
) -> Result<Json<Location>> {
    caller.require_human()?;
    let application = find_application(&app, &caller, &query).await?;
    if body.authorize == Some(false) {
        let location = location(&app, &query, &[("error", "access_denied")]);
        return Ok(Json(Location { location }));
    }
    let scopes = query.scopes();
    // A guild that a link to log in names besides is the user's to choose.
    let of_link = query.guild_id.filter(|_| query.needs_guild());
    let guild_id = body.guild_id.or(of_link);
    let mut params = Vec::new();
    let mut tx = app.db.begin().await?;
    let mut events = Vec::new();
    if query.needs_guild() && guild_id.is_none() {
        return Err(FormErrors::one("guild_id", Fault::Required));
    }
    if let Some(guild_id) = guild_id.filter(|_| query.is_for_guild()) {
        require_public(&application, &caller)?;
        install::check_allowed(&application, Install::Guild)?;
        let wanted = body.permissions.or(query.permissions).unwrap_or_default();
        let bot = application.bot.id;
        access::lock_realms(&mut tx, [guild_id.cast(), bot.cast()]).await?;
        // Who deletes it locks the bot's realm too, and afterwards makes it leave its guilds.
        if !applications::exists(&mut *tx, application.id).await? {
            return Err(ErrorCode::UnknownApplication.into());
        }
        let granter = access::guild(&mut *tx, &caller, guild_id, Permissions::MANAGE_GUILD).await?;
        let of_guild = |scope: &&String| GUILD_SCOPES.contains(&scope.as_str());
        let lasting: Vec<String> = scopes.iter().filter(of_guild).cloned().collect();
        let (by, tx) = (caller.id, &mut *tx);
        let is_member = guild::member(&mut *tx, guild_id, bot).await?.is_some();
        events = if is_member {
            add_scopes(&app, tx, guild_id, &application, &lasting, by, &reason).await?
        } else if query.asks_for("bot") {
            let granted = (wanted & granter.base(), &*lasting);
            add_bot(&app, tx, guild_id, &application, granted, by, &reason).await?
        } else {
            add_commands(&app, tx, guild_id, &application, &lasting, by, &reason).await?
        };
        params.push(("guild_id", guild_id.to_string()));
        params.push(("permissions", wanted.bits().to_string()));
    }
    if query.is_for_user() && scopes.iter().any(|scope| scope == install::SCOPE) {
        install::install(&app, &mut tx, caller.id, application.id).await?;
    }
    if query.wants_code() {
        let code = issue_code(&mut tx, &caller, &application, &query, &scopes).await?;
        params.insert(0, ("code", code));
    }
    tx.commit().await?;
    app.publisher.publish(events);
    let params: Vec<(&str, &str)> = params.iter().map(|(key, value)| (*key, &**value)).collect();
    let location = location(&app, &query, &params);
    Ok(Json(Location { location }))
}

/// A code that is good for tokens, once.
async fn issue_code(
    db: &mut PgConnection,
    caller: &CurrentUser,
    application: &Application,
    query: &AuthorizeQuery,
    scopes: &[String],
) -> Result<String> {
    let code = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>());
    sqlx::query!(
        "insert into oauth2_code (code_hash, application_id, user_id, scopes, redirect_uri,
                                  code_challenge, expires_at)
         values ($1, $2, $3, $4, $5, $6, now() + $7::float8 * interval '1 second')",
        oauth::hash(&code),
        application.id.to_db(),
        caller.id.to_db(),
        scopes,
        query.redirect_uri.as_deref().unwrap_or_default(),
        query.challenge(),
        CODE_SECONDS,
    )
    .execute(db)
    .await?;
    Ok(code)
}

/// The application's page if it has one, else our own, with what it is to know.
fn location(app: &App, query: &AuthorizeQuery, params: &[(&str, &str)]) -> String {
    let own = || format!("{}/oauth2/authorized", app.config.public_url);
    let target = query.redirect_uri.clone().unwrap_or_else(own);
    let Ok(mut url) = Url::parse(&target) else {
        return target;
    };
    {
        let mut pairs = url.query_pairs_mut();
        pairs.extend_pairs(params);
        if let Some(state) = &query.state {
            pairs.append_pair("state", state);
        }
    }
    url.into()
}
