//! Invites: made, shown, taken, revoked. Spec: objects.md › Invite.
//!
//! Those to group DMs are [`groups`]'s.

mod groups;
mod read;
mod targets;

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::{Envelope, Scope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{Application, Channel, Guild, Role, ScheduledEvent, User},
    model::{AnyInvite, AuditAction, ChannelKind, Invite},
    shard::realm,
};
use guildhall_store::{
    ids_to_db,
    scheduled_events::{Which, scheduled_events},
};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection};
use time::{Duration, OffsetDateTime};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    read::{Of, by_code, read},
    targets::{
        __path_get_invite_target_users, __path_get_invite_target_users_job_status,
        __path_update_invite_target_users, get_invite_target_users,
        get_invite_target_users_job_status, update_invite_target_users,
    },
};
use super::{members, roles};
use crate::{
    access::{self, Place},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path, Query},
    form::{Fault, FormErrors},
    online,
    text::{clean, random_code},
};

const INVITES_MAX: i64 = 1000;
/// 47 bits: not to be guessed, and one of two invites in a million billion the same.
const CODE_LENGTH: usize = 8;
/// What `target_type` says.
const STREAM: u8 = 1;
const ACTIVITY: u8 = 2;
const ROLES_MAX: usize = 250;
/// Seconds: a day.
const MAX_AGE_DEFAULT: u32 = 86_400;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_channel_invites, create_channel_invite))
        .routes(routes!(list_guild_invites))
        .routes(routes!(invite_resolve, invite_accept, invite_revoke))
        .routes(routes!(get_invite_target_users, update_invite_target_users))
        .routes(routes!(get_invite_target_users_job_status))
}

fn without_counts(mut invite: Invite) -> Invite {
    invite.approximate_member_count = None;
    invite.approximate_presence_count = None;
    invite
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
struct CreateInvite {
    /// Seconds, at most a week; 0: for ever, not for group DMs. A day if not given.
    max_age: Option<u32>,
    /// At most 100; 0: no limit.
    max_uses: Option<u32>,
    temporary: Option<bool>,
    unique: Option<bool>,
    /// 1: to the stream of `target_user_id`; 2: to the activity `target_application_id`.
    target_type: Option<u8>,
    target_user_id: Option<Id<User>>,
    target_application_id: Option<Id<Application>>,
    /// Given to whoever takes it.
    role_ids: Option<RoleIds>,
}

/// A list, or ids with commas between them.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
enum RoleIds {
    List(Vec<Id<Role>>),
    Text(String),
}

impl RoleIds {
    fn ids(&self) -> Vec<Id<Role>> {
        match self {
            Self::List(ids) => ids.clone(),
            Self::Text(text) => text
                .split(',')
                .filter_map(|id| id.trim().parse().ok())
                .collect(),
        }
    }
}

impl Form for CreateInvite {
    fn check(&self, form: &mut FormErrors) {
        if let Some(seconds) = self.max_age {
            form.range("max_age", i64::from(seconds), 0..=604_800);
        }
        if let Some(uses) = self.max_uses {
            form.range("max_uses", i64::from(uses), 0..=100);
        }
        match self.target_type {
            None => {}
            Some(STREAM) => {
                form.required("target_user_id", &self.target_user_id);
            }
            Some(ACTIVITY) => {
                form.required("target_application_id", &self.target_application_id);
            }
            Some(other) => form.add("target_type", Fault::NotEnum(other.to_string())),
        }
        let roles = self.role_ids.as_ref().map_or(0, |ids| ids.ids().len());
        if roles > ROLES_MAX {
            let max = ROLES_MAX;
            form.add("role_ids", Fault::BadLength { min: 0, max });
        }
    }
}

/// Body of INVITE_CREATE.
#[derive(Serialize)]
struct InviteCreate<'a> {
    /// 0: to a guild, as of every invite here. Nyxx reads no event without it.
    #[serde(rename = "type")]
    kind: u8,
    channel_id: Id<Channel>,
    guild_id: Id<Guild>,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    inviter: Option<&'a guildhall_shared::model::User>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_user: Option<&'a guildhall_shared::model::User>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_application: Option<&'a serde_json::Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    role_ids: Vec<Id<Role>>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    max_age: u32,
    max_uses: u32,
    temporary: bool,
    uses: u32,
}

/// Unless `unique`, one of the caller's with the same settings is given again. MANAGE_ROLES to
/// give roles along. Of a group DM everybody in it makes invites, of which only `max_age` is heeded.
///
/// Errors: 10003, 10011, 30016, 50001, 50003 for a DM of two, 50013, 50024, 50028, 50035.
#[utoipa::path(
    post,
    path = "/channels/{channel_id}/invites",
    tag = "Invites",
    responses((status = 200, body = AnyInvite))
)]
async fn create_channel_invite(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    reason: Reason,
    Json(body): Json<CreateInvite>,
) -> Result<Json<AnyInvite>> {
    let max_age = body.max_age.unwrap_or(MAX_AGE_DEFAULT);
    let role_ids = body.role_ids.as_ref().map_or_else(Vec::new, RoleIds::ids);
    let mut tx = app.db.begin().await?;
    let needed = Permissions::VIEW_CHANNEL;
    let place = access::place_for_change(&mut tx, &user, channel_id, needed).await?;
    let access = match place {
        Place::Channel(access) => access,
        Place::Thread(_) => return Err(ErrorCode::InvalidChannelType.into()),
        Place::Private(access) => {
            let invite = groups::create(tx, &user, &access, &body).await?;
            return Ok(Json(invite.into()));
        }
    };
    access.require(Permissions::CREATE_INSTANT_INVITE)?;
    if access.channel.kind == ChannelKind::CATEGORY || access.channel.kind.is_thread() {
        return Err(ErrorCode::InvalidChannelType.into());
    }
    let guild_id = access.guild.id;
    if !role_ids.is_empty() {
        access.guild.require(Permissions::MANAGE_ROLES)?;
        for &role in &role_ids {
            roles::assignable(&access.guild, role)?;
        }
    }
    check_target(&mut tx, &access.channel, &body).await?;
    let new = New {
        channel: channel_id,
        inviter: Some(user.id),
        max_age,
        max_uses: body.max_uses.unwrap_or_default(),
        temporary: body.temporary.unwrap_or_default(),
        target_type: body.target_type,
        target_user: body.target_user_id,
        target_application: body.target_application_id,
        role_ids,
    };
    if !body.unique.unwrap_or_default() {
        let known = read(&mut tx, Of::Channel(channel_id)).await?;
        for same in known.into_iter().filter(|invite| new.is_like(invite)) {
            if !is_targeted(&mut tx, &same.code).await? {
                return Ok(Json(without_counts(same).into()));
            }
        }
    }
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from invite where guild_id = $1"#,
        guild_id.to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    if count >= INVITES_MAX {
        return Err(ErrorCode::MaximumInvites.into());
    }
    let (invite, made) = insert(&mut tx, guild_id, &new).await?;
    let mut events = vec![made];
    let entry = Entry::new(guild_id, user.id, AuditAction::INVITE_CREATE, &reason)
        .created(&audited(&invite))?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(without_counts(invite).into()))
}

/// Whether only those of its list take an invite.
async fn is_targeted(db: &mut PgConnection, code: &str) -> Result<bool> {
    let targeted = sqlx::query_scalar!("select targeted from invite where code = $1", code)
        .fetch_optional(db)
        .await?;
    Ok(targeted.unwrap_or_default())
}

/// What an invite points at is there: a stream of a user in this voice channel, or an
/// application.
async fn check_target(
    db: &mut PgConnection,
    channel: &guildhall_shared::model::Channel,
    body: &CreateInvite,
) -> Result<()> {
    let fault = |path: &str, message: &'static str| {
        let fault = Fault::Other("INVITE_TARGET_INVALID", message.into());
        Err(FormErrors::one(path, fault))
    };
    match body.target_type {
        Some(STREAM) if !channel.kind.is_voice() => {
            fault("target_type", "Only voice channels have streams.")
        }
        Some(STREAM) => {
            let streams = sqlx::query_scalar!(
                "select self_stream from voice_state where channel_id = $1 and user_id = $2",
                channel.id.to_db(),
                body.target_user_id.map(Id::to_db),
            );
            match streams.fetch_optional(db).await? {
                Some(true) => Ok(()),
                _ => fault("target_user_id", "This user does not stream here."),
            }
        }
        Some(ACTIVITY) if !channel.kind.is_voice() => {
            fault("target_type", "Only voice channels have activities.")
        }
        Some(ACTIVITY) => {
            let known = sqlx::query_scalar!(
                "select 1 as one from application
                 where application_id = $1 and deleted_at is null",
                body.target_application_id.map(Id::to_db),
            );
            match known.fetch_optional(db).await? {
                Some(_) => Ok(()),
                None => fault("target_application_id", "There is no such application."),
            }
        }
        _ => Ok(()),
    }
}

/// An invite to be made.
struct New {
    channel: Id<Channel>,
    /// None: the widget's.
    inviter: Option<Id<User>>,
    max_age: u32,
    max_uses: u32,
    temporary: bool,
    target_type: Option<u8>,
    target_user: Option<Id<User>>,
    target_application: Option<Id<Application>>,
    role_ids: Vec<Id<Role>>,
}

impl New {
    fn is_like(&self, invite: &Invite) -> bool {
        let metadata = invite.metadata.as_ref();
        let roles = invite.roles.iter().map(|role| role.id);
        let application = invite.target_application.as_ref();
        let application = application.and_then(|application| application["id"].as_str());
        inviter(invite) == self.inviter
            && invite.target_type == self.target_type
            && invite.target_user.as_ref().map(|user| user.id) == self.target_user
            && application.and_then(|id| id.parse::<Id<Application>>().ok())
                == self.target_application
            && roles.eq(self.role_ids.iter().copied())
            && metadata.is_some_and(|metadata| {
                metadata.max_age == self.max_age
                    && metadata.max_uses == self.max_uses
                    && metadata.temporary == self.temporary
            })
    }
}

/// Stores an invite and numbers its INVITE_CREATE. The guild's head is locked.
async fn insert(
    db: &mut PgConnection,
    guild_id: Id<Guild>,
    new: &New,
) -> Result<(Invite, Envelope)> {
    let code = random_code(CODE_LENGTH);
    let created_at = OffsetDateTime::now_utc();
    let age = Duration::seconds(i64::from(new.max_age));
    let expires_at = (new.max_age > 0).then(|| created_at + age);
    sqlx::query!(
        "insert into invite (code, guild_id, channel_id, inviter_id, max_age, max_uses, temporary,
                             created_at, expires_at, target_type, target_user_id,
                             target_application_id, role_ids)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        code,
        guild_id.to_db(),
        new.channel.to_db(),
        new.inviter.map(Id::to_db),
        new.max_age as i32,
        new.max_uses as i32,
        new.temporary,
        created_at,
        expires_at,
        new.target_type.map(i16::from),
        new.target_user.map(Id::to_db),
        new.target_application.map(Id::to_db),
        &ids_to_db(&new.role_ids),
    )
    .execute(&mut *db)
    .await?;
    let invite = by_code(&mut *db, &code).await?;
    let body = InviteCreate {
        kind: invite.kind,
        channel_id: new.channel,
        guild_id,
        code: &code,
        inviter: invite.inviter.as_ref(),
        target_type: invite.target_type,
        target_user: invite.target_user.as_ref(),
        target_application: invite.target_application.as_ref(),
        role_ids: new.role_ids.clone(),
        created_at: Timestamp(created_at),
        expires_at: invite.expires_at,
        max_age: new.max_age,
        max_uses: new.max_uses,
        temporary: new.temporary,
        uses: 0,
    };
    let kind = EventKind::InviteCreate;
    let vis = visibility(new.channel);
    let event = events::append(db, guild_id, kind, vis, &body, None).await?;
    Ok((invite, event))
}

/// Code of the widget's invite to a channel: of the one there is, or of a new one. Only to make
/// one is the guild's head locked: anybody may look at a widget.
pub(super) async fn of_widget(
    app: &App,
    db: &mut PgConnection,
    guild_id: Id<Guild>,
    channel: Id<Channel>,
) -> Result<String> {
    if let Some(code) = known_of_widget(db, channel).await? {
        return Ok(code);
    }
    let mut tx = db.begin().await?;
    access::lock_realms(&mut tx, [realm(guild_id)]).await?;
    // Another request was quicker.
    if let Some(code) = known_of_widget(&mut tx, channel).await? {
        return Ok(code);
    }
    let new = New {
        channel,
        inviter: None,
        max_age: 0,
        max_uses: 0,
        temporary: false,
        target_type: None,
        target_user: None,
        target_application: None,
        role_ids: Vec::new(),
    };
    let (invite, event) = insert(&mut tx, guild_id, &new).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    Ok(invite.code)
}

async fn known_of_widget(db: &mut PgConnection, channel: Id<Channel>) -> Result<Option<String>> {
    let code = sqlx::query_scalar!(
        "select code from invite
         where channel_id = $1 and inviter_id is null and max_age = 0 and max_uses = 0 limit 1",
        channel.to_db(),
    )
    .fetch_optional(db)
    .await?;
    Ok(code)
}

/// An invite as the audit log tells of it.
fn audited(invite: &Invite) -> serde_json::Value {
    let metadata = invite.metadata.as_ref();
    serde_json::json!({
        "code": invite.code,
        "channel_id": invite.channel.id,
        "inviter_id": inviter(invite),
        "max_age": metadata.map(|metadata| metadata.max_age),
        "max_uses": metadata.map(|metadata| metadata.max_uses),
        "temporary": metadata.map(|metadata| metadata.temporary),
        "uses": metadata.map(|metadata| metadata.uses),
    })
}

fn visibility(channel: Id<Channel>) -> Visibility {
    let scope = Scope::Permissions {
        any_of: Permissions::MANAGE_CHANNELS,
        channel: Some(channel),
    };
    Visibility::of(scope, Intents::GUILD_INVITES)
}

/// For who manages the channel, and for everybody in a group DM.
///
/// Errors: 10003, 50001, 50003 for a DM of two, 50013, 50024.
#[utoipa::path(
    get,
    path = "/channels/{channel_id}/invites",
    tag = "Invites",
    responses((status = 200, body = Vec<AnyInvite>))
)]
async fn list_channel_invites(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
) -> Result<Json<Vec<AnyInvite>>> {
    let mut db = app.db.acquire().await?;
    let needed = Permissions::VIEW_CHANNEL;
    let place = access::place(&mut db, &user, channel_id, needed).await?;
    let access = match place {
        Place::Channel(access) => access,
        Place::Thread(_) => return Err(ErrorCode::InvalidChannelType.into()),
        Place::Private(access) => {
            let invites = groups::list(&mut db, &access).await?;
            return Ok(Json(invites.into_iter().map(AnyInvite::from).collect()));
        }
    };
    access.require(Permissions::MANAGE_CHANNELS)?;
    let invites = read(&mut db, Of::Channel(channel_id)).await?;
    let invites = invites.into_iter().map(without_counts);
    Ok(Json(invites.map(AnyInvite::from).collect()))
}

/// Their uses are shown with MANAGE_GUILD; VIEW_AUDIT_LOG shows the rest.
///
/// Errors: 10004, 50001, 50013.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/invites",
    tag = "Invites",
    responses((status = 200, body = Vec<Invite>))
)]
async fn list_guild_invites(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<Vec<Invite>>> {
    let mut db = app.db.acquire().await?;
    let access = access::guild(&mut *db, &user, guild_id, Permissions::empty()).await?;
    let held = access.base();
    let any_of = [Permissions::MANAGE_GUILD, Permissions::VIEW_AUDIT_LOG];
    access.require_one_of(held, &any_of)?;
    let mut invites = read(&mut db, Of::Guild(guild_id)).await?;
    if !access.usable(held).contains(Permissions::MANAGE_GUILD) {
        for invite in &mut invites {
            invite.metadata = None;
        }
    }
    Ok(Json(invites.into_iter().map(without_counts).collect()))
}

#[derive(Debug, Deserialize, Default, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct ResolveInvite {
    with_counts: bool,
    /// An event to show with it.
    guild_scheduled_event_id: Option<Id<ScheduledEvent>>,
}

impl Form for ResolveInvite {}

/// For everyone, also without a token. Errors: 10006.
#[utoipa::path(
    get,
    path = "/invites/{code}",
    tag = "Invites",
    params(ResolveInvite),
    responses((status = 200, body = AnyInvite))
)]
async fn invite_resolve(
    State(app): State<App>,
    Path(code): Path<String>,
    Query(query): Query<ResolveInvite>,
) -> Result<Json<AnyInvite>> {
    let code = clean(&code);
    let mut db = app.db.acquire().await?;
    if let Some(mut invite) = groups::by_code(&mut db, &code).await? {
        invite.metadata = None;
        let count = invite.channel.recipients.len() as u64;
        invite.approximate_member_count = query.with_counts.then_some(count);
        return Ok(Json(invite.into()));
    }
    let mut invite = by_code(&mut db, &code).await?;
    invite.metadata = None;
    if let Some(id) = query.guild_scheduled_event_id {
        invite.guild_scheduled_event = event(&mut db, &invite, id).await?;
    }
    if query.with_counts {
        invite.approximate_presence_count = Some(online::count(&app, invite.guild_id).await);
    } else {
        invite = without_counts(invite);
    }
    Ok(Json(invite.into()))
}

/// An event of the invite's guild that everybody sees who takes the invite: one that takes place
/// elsewhere or in the invite's own channel.
async fn event(
    db: &mut PgConnection,
    invite: &Invite,
    id: Id<ScheduledEvent>,
) -> Result<Option<guildhall_shared::model::ScheduledEvent>> {
    let found = scheduled_events(db, invite.guild_id, Which::One(id), true).await?;
    let shown = |channel| channel == invite.channel.id;
    Ok(found
        .into_iter()
        .find(|event| event.channel_id.is_none_or(shown)))
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Accepted {
    #[serde(flatten)]
    invite: AnyInvite,
    new_member: bool,
}

/// Errors: 10006 also for who is not among its target users or whom the inviter to a group DM
/// blocks, and while the guild lets nobody in, 20001, 30001, 30004, 40007.
#[utoipa::path(
    post,
    path = "/invites/{code}",
    tag = "Invites",
    responses((status = 200, body = Accepted))
)]
async fn invite_accept(
    State(app): State<App>,
    user: CurrentUser,
    Path(code): Path<String>,
) -> Result<Json<Accepted>> {
    user.require_human()?;
    let code = clean(&code);
    let mut tx = app.db.begin().await?;
    let (accepted, events) = match groups::by_code(&mut tx, &code).await? {
        Some(mut invite) => {
            let accepting = groups::accept(&app, &mut tx, user.user(), &invite);
            let (new_member, events) = accepting.await?;
            invite.metadata = None;
            let invite = invite.into();
            (Accepted { invite, new_member }, events)
        }
        None => accept(&app, &mut tx, user.user(), &code).await?,
    };
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(accepted))
}

/// Makes somebody a member by an invite to a guild; the events are to be published after the commit.
///
/// Errors: 10006, 30001, 40007.
pub(crate) async fn accept(
    app: &App,
    db: &mut PgConnection,
    user: &guildhall_shared::model::User,
    code: &str,
) -> Result<(Accepted, Vec<Envelope>)> {
    let code = clean(code);
    let guild_id = by_code(&mut *db, &code).await?.guild_id;
    access::lock_realms(&mut *db, [realm(guild_id), realm(user.id)]).await?;
    // Again, now that nobody else can use it up.
    let mut invite = by_code(&mut *db, &code).await?;
    let metadata = invite.metadata.take();
    let temporary = metadata.is_some_and(|metadata| metadata.temporary);
    let already = guildhall_store::guild::member(&mut *db, guild_id, user.id).await?;
    if already.is_some() {
        let (invite, new_member) = (invite.into(), false);
        return Ok((Accepted { invite, new_member }, Vec::new()));
    }
    check_invited(&mut *db, &invite, user.id).await?;
    let roles: Vec<Id<Role>> = invite.roles.iter().map(|role| role.id).collect();
    let mut events = members::join(app, &mut *db, guild_id, user, &roles).await?;
    if temporary && roles.is_empty() {
        members::temporary::admit_for_now(&mut *db, guild_id, user.id).await?;
    }
    if invite.is_vanity {
        sqlx::query!(
            "update vanity_url set uses = uses + 1 where guild_id = $1",
            guild_id.to_db(),
        )
        .execute(&mut *db)
        .await?;
    } else {
        let used_up = sqlx::query_scalar!(
            r#"update invite set uses = uses + 1 where code = $1
               returning (max_uses > 0 and uses >= max_uses) as "used_up!""#,
            invite.code,
        )
        .fetch_one(&mut *db)
        .await?;
        if used_up {
            events.push(delete(db, &invite).await?);
        }
    }
    let (invite, new_member) = (invite.into(), true);
    Ok((Accepted { invite, new_member }, events))
}

/// Errors: 10006 for an invite to others.
async fn check_invited(db: &mut PgConnection, invite: &Invite, user: Id<User>) -> Result<()> {
    let for_others = sqlx::query_scalar!(
        r#"select exists (
             select from invite i where i.code = $1 and i.targeted and not exists (
               select from invite_target_user t where t.code = i.code and t.user_id = $2))
           as "for_others!""#,
        invite.code,
        user.to_db(),
    )
    .fetch_one(db)
    .await?;
    if for_others {
        return Err(ErrorCode::UnknownInvite.into());
    }
    Ok(())
}

#[derive(Serialize)]
struct InviteDelete<'a> {
    channel_id: Id<Channel>,
    guild_id: Id<Guild>,
    code: &'a str,
}

/// Removes an invite and numbers its INVITE_DELETE. The guild's head is locked.
async fn delete(db: &mut PgConnection, invite: &Invite) -> Result<Envelope> {
    sqlx::query!("delete from invite where code = $1", invite.code)
        .execute(&mut *db)
        .await?;
    let body = InviteDelete {
        channel_id: invite.channel.id,
        guild_id: invite.guild_id,
        code: &invite.code,
    };
    let (kind, vis) = (EventKind::InviteDelete, visibility(invite.channel.id));
    events::append(db, invite.guild_id, kind, vis, &body, None).await
}

/// For who made it, who manages its channel, and who manages its guild or owns the group DM.
///
/// Errors: 10003 for who is not in the group DM, 10006, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/invites/{code}",
    tag = "Invites",
    responses((status = 200, body = AnyInvite))
)]
async fn invite_revoke(
    State(app): State<App>,
    user: CurrentUser,
    Path(code): Path<String>,
    reason: Reason,
) -> Result<Json<AnyInvite>> {
    let code = clean(&code);
    let mut tx = app.db.begin().await?;
    if let Some(mut invite) = groups::by_code(&mut tx, &code).await? {
        groups::revoke(&mut tx, &user, &invite).await?;
        tx.commit().await?;
        invite.metadata = None;
        return Ok(Json(invite.into()));
    }
    let guild_id = by_code(&mut tx, &code).await?.guild_id;
    access::lock_realms(&mut tx, [realm(guild_id)]).await?;
    let mut invite = by_code(&mut tx, &code).await?;
    if invite.is_vanity {
        return Err(ErrorCode::UnknownInvite.into());
    }
    if inviter(&invite) != Some(user.id) {
        let access = access::guild(&mut *tx, &user, guild_id, Permissions::empty()).await?;
        if access.base().contains(Permissions::MANAGE_GUILD) {
            access.require(Permissions::MANAGE_GUILD)?;
        } else {
            let needed = Permissions::MANAGE_CHANNELS;
            access::channel(&mut tx, &user, invite.channel.id, needed).await?;
        }
    }
    let mut events = vec![delete(&mut tx, &invite).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::INVITE_DELETE, &reason)
        .deleted(&audited(&invite))?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    invite.metadata = None;
    Ok(Json(without_counts(invite).into()))
}

fn inviter(invite: &Invite) -> Option<Id<User>> {
    invite.inviter.as_ref().map(|user| user.id)
}
