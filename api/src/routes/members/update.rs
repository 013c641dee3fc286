//! Changes to members: names, roles, timeouts, flags.

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::Envelope,
    error_code::ErrorCode,
    id::marker::{Channel, Guild, Role, User},
    model::{AuditAction, Member, VoiceState, present},
};
use guildhall_store::{ids_to_db, voice::change};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use time::Duration;
use utoipa::ToSchema;

use super::{find, store};
use crate::{
    access::{self, GuildAccess},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    automod::{NameVerdict, Named, judge_name},
    error::Result,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    media::{ImageOf, check_image, store_optional_image},
    routes::{automod, roles, voice},
    telemetry,
    text::clean,
};

/// Longest timeout.
const TIMEOUT_MAX: Duration = Duration::days(28);
const ROLES_MAX: usize = 350;
const NICK_LENGTH_MAX: usize = 32;
/// The one flag that moderators set.
const FLAGS_EDITABLE: u64 = Member::BYPASSES_VERIFICATION;

/// What is to change; null gives a field its first value back.
#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct UpdateMember {
    #[serde(deserialize_with = "present")]
    #[schema(max_length = 32)]
    nick: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    #[schema(max_items = 350)]
    roles: Option<Option<Vec<Option<Id<Role>>>>>,
    /// 28 days ahead at most; null ends a timeout.
    #[serde(deserialize_with = "present")]
    communication_disabled_until: Option<Option<Timestamp>>,
    #[serde(deserialize_with = "present")]
    mute: Option<Option<bool>>,
    #[serde(deserialize_with = "present")]
    deaf: Option<Option<bool>>,
    #[serde(deserialize_with = "present")]
    channel_id: Option<Option<Id<Channel>>>,
    #[serde(deserialize_with = "present")]
    flags: Option<Option<u64>>,
}

impl Form for UpdateMember {
    fn check(&self, form: &mut FormErrors) {
        if let Some(Some(nick)) = &self.nick {
            form.length("nick", nick, 0..=NICK_LENGTH_MAX);
        }
        if let Some(Some(roles)) = &self.roles
            && roles.len() > ROLES_MAX
        {
            form.add(
                "roles",
                Fault::BadLength {
                    min: 0,
                    max: ROLES_MAX,
                },
            );
        }
        if let Some(Some(until)) = self.communication_disabled_until
            && until.0 > Timestamp::now().0 + TIMEOUT_MAX
        {
            let message = "Timeouts last 28 days at most.";
            let fault = Fault::Other("DATE_TIME_TYPE_TOO_LATE", message.into());
            form.add("communication_disabled_until", fault);
        }
    }
}

/// Each field needs its own permission; nick and timeout also the target below the caller.
///
/// Errors: 10004, 10007, 10011, 40032, 50001, 50013, 50028, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/members/{user_id}",
    tag = "Members",
    responses((status = 200, body = Member))
)]
pub(super) async fn update_guild_member(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, user_id)): Path<(Id<Guild>, Id<User>)>,
    reason: Reason,
    Json(body): Json<UpdateMember>,
) -> Result<Json<Member>> {
    let mut tx = app.db.begin().await?;
    let access = access::guild_for_change(&mut tx, &user, guild_id, Permissions::empty()).await?;
    let before = find(&mut tx, guild_id, user_id).await?;
    let mut member = before.clone();
    if let Some(nick) = body.nick.clone() {
        if user_id == user.id {
            require_own_nick(&access)?;
        } else {
            access.require(Permissions::MANAGE_NICKNAMES)?;
            access.require_above(access.rank_of(user_id, &before.roles))?;
        }
        member.nick = clean_nick(nick);
    }
    if let Some(roles) = body.roles.clone() {
        access.require(Permissions::MANAGE_ROLES)?;
        member.roles = new_roles(&access, &before.roles, roles.unwrap_or_default())?;
    }
    if let Some(until) = body.communication_disabled_until {
        access.require(Permissions::MODERATE_MEMBERS)?;
        let held = access.base_of_member(user_id, &before);
        if held.contains(Permissions::ADMINISTRATOR) {
            return Err(ErrorCode::MissingPermissions.into());
        }
        access.require_above(access.rank_of(user_id, &before.roles))?;
        // A time that has passed is no timeout.
        member.communication_disabled_until = until.filter(|until| *until > Timestamp::now());
    }
    if let Some(flags) = body.flags {
        let any_of = [
            Permissions::MANAGE_GUILD,
            Permissions::MANAGE_ROLES,
            Permissions::MODERATE_MEMBERS
                .union(Permissions::KICK_MEMBERS)
                .union(Permissions::BAN_MEMBERS),
        ];
        access.require_one_of(access.base(), &any_of)?;
        member.flags = member.flags & !FLAGS_EDITABLE | flags.unwrap_or(0) & FLAGS_EDITABLE;
    }
    let renamed = judge_nick(&mut tx, &access, &before, &mut member).await?;
    let state = check_voice(&mut tx, &user, &access, user_id, &body).await?;
    if let Some(mute) = body.mute {
        member.mute = mute.unwrap_or_default();
    }
    if let Some(deaf) = body.deaf {
        member.deaf = deaf.unwrap_or_default();
    }
    let mut events = Vec::new();
    if member != before {
        events.push(store(&mut tx, guild_id, user_id, &member).await?);
    }
    events.extend(act_on_nick(&app, &mut tx, guild_id, &member, &renamed).await?);
    let mut moved = None;
    if let Some(state) = state {
        let changed = (member.mute, member.deaf) != (before.mute, before.deaf);
        let told = Voice {
            state,
            changed,
            goes_to: body.channel_id,
        };
        let (told, now) = told
            .change(&app, &mut tx, &access, user_id, &reason)
            .await?;
        events.extend(told);
        moved = now;
    }
    let entry = Entry::new(guild_id, user.id, AuditAction::MEMBER_UPDATE, &reason)
        .target(user_id)
        .changed(&before, &member)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    events.extend(audit_roles(&app, &mut tx, &access, &before, &member, &reason).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    if let Some(state) = moved {
        voice::tell_of_server(&app, &state)?;
    }
    Ok(Json(member))
}

/// Where the target is in voice, if the request is about that; the caller may do it there, and
/// where the target is to go.
///
/// Errors: 10003, 40032, 50001, 50013, 50035.
async fn check_voice(
    db: &mut PgConnection,
    user: &CurrentUser,
    access: &GuildAccess,
    target: Id<User>,
    body: &UpdateMember,
) -> Result<Option<VoiceState>> {
    let mut needed = Permissions::empty();
    for (wanted, permission) in [
        (body.mute.is_some(), Permissions::MUTE_MEMBERS),
        (body.deaf.is_some(), Permissions::DEAFEN_MEMBERS),
        (body.channel_id.is_some(), Permissions::MOVE_MEMBERS),
    ] {
        if wanted {
            needed |= permission;
        }
    }
    if needed.is_empty() {
        return Ok(None);
    }
    let states = guildhall_store::voice::states(&mut *db, access.id, Some(target), None).await?;
    let state = states.into_iter().next();
    let Some((state, channel)) = state.and_then(|state| {
        let channel = state.channel_id?;
        Some((state, channel))
    }) else {
        // Who may not do it at all is told so first.
        access.require(needed)?;
        return Err(ErrorCode::TargetNotInVoice.into());
    };
    access::channel(&mut *db, user, channel, needed).await?;
    if let Some(Some(goal)) = body.channel_id {
        let needed = Permissions::MOVE_MEMBERS | Permissions::CONNECT;
        let goal = access::channel(&mut *db, user, goal, needed).await?;
        if goal.guild.id != access.id || !goal.channel.kind.is_voice() {
            let message = "This is no voice channel of the guild.";
            let fault = Fault::Other("CHANNEL_INVALID", message.into());
            return Err(FormErrors::one("channel_id", fault));
        }
    }
    Ok(Some(state))
}

/// What a request changes about somebody in voice.
struct Voice {
    state: VoiceState,
    /// Mute or deaf.
    changed: bool,
    /// Null: out of voice.
    goes_to: Option<Option<Id<Channel>>>,
}

impl Voice {
    /// The events, and the state of who is in another channel now.
    async fn change(
        self,
        app: &App,
        db: &mut PgConnection,
        access: &GuildAccess,
        target: Id<User>,
        reason: &Reason,
    ) -> Result<(Vec<Envelope>, Option<VoiceState>)> {
        let (guild, trace) = (access.id, telemetry::trace());
        let entry = |action| Entry::new(guild, access.user, action, reason);
        let (mut events, mut elsewhere) = (Vec::new(), None);
        match self.goes_to {
            Some(None) => {
                events.extend(change::disconnect(db, guild, target, None, trace).await?);
                let entry = entry(AuditAction::MEMBER_DISCONNECT);
                events.extend(audit::append(app, db, entry).await?);
            }
            Some(Some(goal)) if Some(goal) != self.state.channel_id => {
                if let Some((state, told)) = change::move_to(db, guild, target, goal, trace).await?
                {
                    events.extend(told);
                    elsewhere = Some(state);
                }
                let entry = entry(AuditAction::MEMBER_MOVE).option("channel_id", goal);
                events.extend(audit::append(app, db, entry).await?);
            }
            _ if self.changed => {
                if let Some(channel) = self.state.channel_id {
                    let now = guildhall_store::voice::states(&mut *db, guild, Some(target), None);
                    if let Some(state) = now.await?.pop() {
                        let told = change::announce(db, guild, channel, state, trace).await?;
                        events.extend(told.1);
                    }
                }
            }
            _ => {}
        }
        Ok((events, elsewhere))
    }
}

/// The entry for roles that a member was given or lost, if any.
pub(crate) async fn audit_roles(
    app: &App,
    db: &mut PgConnection,
    access: &GuildAccess,
    before: &Member,
    after: &Member,
    reason: &Reason,
) -> Result<Option<Envelope>> {
    let only_in = |one: &Member, other: &Member| -> Vec<Id<Role>> {
        let roles = one.roles.iter().copied();
        roles.filter(|role| !other.roles.contains(role)).collect()
    };
    let (given, taken) = (only_in(after, before), only_in(before, after));
    if given.is_empty() && taken.is_empty() {
        return Ok(None);
    }
    let action = AuditAction::MEMBER_ROLE_UPDATE;
    let mut entry = Entry::new(access.id, access.user, action, reason);
    if let Some(user) = &after.user {
        entry = entry.target(user.id);
    }
    for (key, roles) in [("$add", given), ("$remove", taken)] {
        if roles.is_empty() {
            continue;
        }
        let named = sqlx::query!(
            "select role_id, name from role where guild_id = $1 and role_id = any($2)",
            access.id.to_db(),
            &ids_to_db(&roles),
        )
        .fetch_all(&mut *db)
        .await?;
        let named = named.into_iter().map(|role| {
            let id: Id<Role> = Id::from_db(role.role_id);
            json!({ "id": id, "name": role.name })
        });
        entry = entry.change(key, None, Some(named.collect()));
    }
    audit::append(app, db, entry).await
}

/// CHANGE_NICKNAME, which a quarantine does not take. Errors: 50013.
fn require_own_nick(access: &GuildAccess) -> Result<()> {
    let held = access.base_out_of_quarantine();
    access.require_one_of(held, &[Permissions::CHANGE_NICKNAME])
}

/// Asks automod about a nick that changed: sets or ends the member's quarantine.
async fn judge_nick(
    db: &mut PgConnection,
    access: &GuildAccess,
    before: &Member,
    member: &mut Member,
) -> Result<NameVerdict> {
    let Some(named) = named(member).filter(|_| member.nick != before.nick) else {
        return Ok(NameVerdict::default());
    };
    let held = access.base_of_member(named.user.id, member);
    let verdict = match held.contains(Permissions::MANAGE_GUILD) {
        true => NameVerdict::default(),
        false => judge_name(db, access.id, named).await?,
    };
    member.flags = verdict.flags(member.flags);
    Ok(verdict)
}

/// Numbers GUILD_MEMBER_UPDATE of a member whose account is called otherwise now, and does what
/// automod says of the name, if it is shown in the guild. The guild's head is locked; nothing
/// happens to who is no member.
pub(crate) async fn rename(
    app: &App,
    db: &mut PgConnection,
    guild: Id<Guild>,
    user: Id<User>,
) -> Result<Vec<Envelope>> {
    let found = guildhall_store::guild::member(&mut *db, guild, user).await?;
    let Some(mut member) = found else {
        return Ok(Vec::new());
    };
    let mut verdict = NameVerdict::default();
    if let Some(named) = named(&member).filter(|named| named.nick.is_none()) {
        verdict = judge_name(db, guild, named).await?;
        if !verdict.is_clean() {
            let access = access::member(&mut *db, user, guild).await?;
            let held = access.base_of_member(user, &member);
            if held.contains(Permissions::MANAGE_GUILD) {
                verdict = NameVerdict::default();
            }
        }
        member.flags = verdict.flags(member.flags);
    }
    let mut events = vec![store(db, guild, user, &member).await?];
    events.extend(act_on_nick(app, db, guild, &member, &verdict).await?);
    Ok(events)
}

async fn act_on_nick(
    app: &App,
    db: &mut PgConnection,
    guild: Id<Guild>,
    member: &Member,
    verdict: &NameVerdict,
) -> Result<Vec<Envelope>> {
    match named(member) {
        Some(named) => automod::act_on_name(app, db, guild, named, verdict).await,
        None => Ok(Vec::new()),
    }
}

fn named(member: &Member) -> Option<Named<'_>> {
    Some(Named {
        user: member.user.as_ref()?,
        nick: member.nick.as_deref(),
        roles: &member.roles,
    })
}

fn clean_nick(nick: Option<String>) -> Option<String> {
    nick.map(|nick| clean(&nick))
        .filter(|nick| !nick.is_empty())
}

/// The roles a member is to have, of which every changed one is the caller's to give or take.
pub(crate) fn new_roles(
    access: &GuildAccess,
    before: &[Id<Role>],
    wanted: Vec<Option<Id<Role>>>,
) -> Result<Vec<Id<Role>>> {
    let mut form = FormErrors::new();
    let mut after: Vec<Id<Role>> = Vec::new();
    for (index, role) in wanted.into_iter().enumerate() {
        let Some(role) = role else { continue };
        if access.role(role).is_none() {
            roles::unknown_role(index, &mut form);
        }
        if !after.contains(&role) {
            after.push(role);
        }
    }
    form.finish()?;
    let given = after.iter().filter(|role| !before.contains(role));
    let taken = before.iter().filter(|role| !after.contains(role));
    for &role in given.chain(taken) {
        // What was deleted a moment ago is taken from everybody anyway.
        if access.role(role).is_some() {
            roles::assignable(access, role)?;
        }
    }
    Ok(after)
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct UpdateMyMember {
    #[serde(deserialize_with = "present")]
    #[schema(max_length = 32)]
    nick: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    avatar: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    banner: Option<Option<String>>,
}

impl Form for UpdateMyMember {
    fn check(&self, form: &mut FormErrors) {
        for (path, image) in [("avatar", &self.avatar), ("banner", &self.banner)] {
            check_image(form, path, image.as_ref().and_then(Option::as_deref));
        }
        if let Some(Some(nick)) = &self.nick {
            form.length("nick", nick, 0..=NICK_LENGTH_MAX);
        }
    }
}

/// CHANGE_NICKNAME for the nick. Errors: 10004, 50001, 50013, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/members/@me",
    tag = "Members",
    responses((status = 200, body = Member))
)]
pub(super) async fn update_my_guild_member(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(body): Json<UpdateMyMember>,
) -> Result<Json<Member>> {
    change_own(&app, &user, guild_id, &reason, body)
        .await
        .map(Json)
}

#[derive(Serialize, ToSchema)]
pub(super) struct MyNick {
    nick: Option<String>,
}

/// The older form of `update_my_guild_member`. Errors: 10004, 50001, 50013, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/members/@me/nick",
    tag = "Members",
    responses((status = 200, body = MyNick))
)]
pub(super) async fn update_my_nick(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(body): Json<UpdateMyMember>,
) -> Result<Json<MyNick>> {
    let member = change_own(&app, &user, guild_id, &reason, body).await?;
    Ok(Json(MyNick { nick: member.nick }))
}

async fn change_own(
    app: &App,
    user: &CurrentUser,
    guild_id: Id<Guild>,
    reason: &Reason,
    body: UpdateMyMember,
) -> Result<Member> {
    if body.avatar.is_some() || body.banner.is_some() {
        access::guild(&app.db, user, guild_id, Permissions::empty()).await?;
    }
    let of = ImageOf::MemberAvatar(guild_id, user.id);
    let avatar = store_optional_image(&app.media, of, "avatar", &body.avatar).await?;
    let of = ImageOf::MemberBanner(guild_id, user.id);
    let banner = store_optional_image(&app.media, of, "banner", &body.banner).await?;
    let mut tx = app.db.begin().await?;
    let access = access::guild_for_change(&mut tx, user, guild_id, Permissions::empty()).await?;
    let before = find(&mut tx, guild_id, user.id).await?;
    let mut member = before.clone();
    if let Some(nick) = body.nick {
        require_own_nick(&access)?;
        member.nick = clean_nick(nick);
    }
    let renamed = judge_nick(&mut tx, &access, &before, &mut member).await?;
    member.avatar = avatar.unwrap_or(member.avatar);
    member.banner = banner.unwrap_or(member.banner);
    if member == before {
        return Ok(member);
    }
    let mut events = vec![store(&mut tx, guild_id, user.id, &member).await?];
    events.extend(act_on_nick(app, &mut tx, guild_id, &member, &renamed).await?);
    let entry = Entry::new(guild_id, user.id, AuditAction::MEMBER_UPDATE, reason)
        .target(user.id)
        .changed(&before, &member)?;
    events.extend(audit::append(app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(member)
}
