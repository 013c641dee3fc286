//! New threads: from a message, without one, and posts of forums.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    envelope::Envelope,
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Channel, Tag, User},
    model::{
        self, AuditAction, ChannelKind, ChannelSettings, Member, Message, MessageFlags,
        MessageKind, MessageReference, Thread,
    },
};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json as Jsonb};
use utoipa::ToSchema;

use super::{NewlyCreated, audience_of, load, load_as, members, require_room, tell_members};
use crate::{
    access::{self, Audience, ChannelAccess, Place},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path, null_is_default},
    form::{Fault, FormErrors},
    routes::{
        automod,
        channels::fields::AUTO_ARCHIVE_MINUTES,
        messages::{
            self, NewMessageForm,
            slowmode::{self, Slowed},
        },
    },
    text::clean,
    upload::{Files, Upload},
};

/// A message younger than this announces its thread by itself; older ones get a notice.
const RECENT_MS: u64 = 10 * 60 * 1000;
const TAGS_APPLIED_MAX: usize = 5;

/// A thread that is about to be.
pub(crate) struct NewThread {
    pub(crate) id: Id<Channel>,
    pub(crate) kind: ChannelKind,
    pub(crate) name: String,
    pub(crate) owner: Id<User>,
    /// Minutes; else the parent's default.
    pub(crate) auto_archive_duration: Option<u32>,
    /// Seconds; else the parent's default.
    pub(crate) rate_limit_per_user: Option<u32>,
    pub(crate) invitable: Option<bool>,
    pub(crate) applied_tags: Vec<Id<Tag>>,
}

/// How long threads of a channel go without a message before they are archived, if they do not
/// say otherwise; in minutes.
pub(super) fn default_minutes(parent: &ChannelSettings) -> u32 {
    let own = parent.default_auto_archive_duration;
    own.unwrap_or(AUTO_ARCHIVE_MINUTES[2])
}

/// Stores a thread with its owner in it (unless `owner_member` is `None`: a webhook's), and
/// numbers its THREAD_CREATE. The guild's head is locked.
///
/// Errors: 160006, 160007 as in [`require_room`].
pub(crate) async fn insert(
    db: &mut PgConnection,
    parent: &model::Channel,
    new: NewThread,
    owner_member: Option<&Member>,
) -> Result<(Thread, Vec<Envelope>)> {
    require_room(&mut *db, parent.guild_id, new.kind).await?;
    let defaults = &parent.settings;
    let settings = ChannelSettings {
        rate_limit_per_user: new
            .rate_limit_per_user
            .or(defaults.default_thread_rate_limit_per_user),
        ..ChannelSettings::default()
    };
    let minutes = new
        .auto_archive_duration
        .unwrap_or_else(|| default_minutes(defaults));
    sqlx::query!(
        "insert into channel (channel_id, guild_id, kind, name, parent_id, settings)
         values ($1, $2, $3, $4, $5, $6)",
        new.id.to_db(),
        parent.guild_id.to_db(),
        i16::from(new.kind.0),
        new.name,
        parent.id.to_db(),
        Jsonb(&settings) as Jsonb<&ChannelSettings>,
    )
    .execute(&mut *db)
    .await?;
    let is_private = new.kind == ChannelKind::PRIVATE_THREAD;
    sqlx::query!(
        "insert into thread (thread_id, guild_id, parent_id, owner_id, invitable,
                             auto_archive_minutes, applied_tags)
         values ($1, $2, $3, $4, $5, $6, $7)",
        new.id.to_db(),
        parent.guild_id.to_db(),
        parent.id.to_db(),
        new.owner.to_db(),
        is_private.then(|| new.invitable.unwrap_or(true)),
        minutes as i32,
        &guildhall_store::ids_to_db(&new.applied_tags),
    )
    .execute(&mut *db)
    .await?;
    if owner_member.is_some() {
        members::insert(db, new.id, parent.guild_id, new.owner).await?;
    }
    let thread = load(db, new.id).await?;
    let audience = audience_of(db, &thread).await?;
    let vis = audience.visibility(Intents::GUILDS);
    let body = NewlyCreated {
        thread: &thread,
        newly_created: true,
    };
    let kind = EventKind::ThreadCreate;
    let events = audience.append(db, kind, vis, &body, None).await?;
    Ok((thread, events))
}

/// A post of a forum, made by a webhook with the message that begins it, which gets the thread's
/// id. The guild's head is locked.
///
/// Errors: 10003, 40066, 40067, 50013 for moderated tags, 50035, 160006.
pub(crate) async fn post_of_webhook(
    app: &App,
    db: &mut PgConnection,
    (guild, forum): (Id<marker::Guild>, Id<Channel>),
    webhook: Id<User>,
    name: &str,
    tags: &[Id<Tag>],
) -> Result<(Audience, Vec<Envelope>)> {
    let channels = guildhall_store::guild::channels(&mut *db, guild).await?;
    let forum = channels.into_iter().find(|channel| channel.id == forum);
    let forum = forum.ok_or(ErrorCode::UnknownChannel)?;
    let new = NewThread {
        id: app.snowflakes.next()?,
        kind: ChannelKind::PUBLIC_THREAD,
        name: clean(name),
        owner: webhook,
        auto_archive_duration: None,
        rate_limit_per_user: None,
        invitable: None,
        applied_tags: usable_tags(&forum.settings, false, tags)?,
    };
    let (thread, events) = insert(db, &forum, new, None).await?;
    Ok((audience_of(db, &thread).await?, events))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = CreateThreadFromMessageRequest)]
pub(super) struct FromMessage {
    name: Option<String>,
    auto_archive_duration: Option<u32>,
    rate_limit_per_user: Option<u32>,
}

impl Form for FromMessage {
    fn check(&self, form: &mut FormErrors) {
        check(
            form,
            &self.name,
            self.auto_archive_duration,
            self.rate_limit_per_user,
        );
    }
}

fn check(
    form: &mut FormErrors,
    name: &Option<String>,
    auto_archive_duration: Option<u32>,
    rate_limit_per_user: Option<u32>,
) {
    if let Some(name) = form.required("name", name) {
        form.length("name", name, 1..=100);
    }
    check_durations(form, auto_archive_duration, rate_limit_per_user);
}

pub(super) fn check_durations(
    form: &mut FormErrors,
    auto_archive_duration: Option<u32>,
    rate_limit_per_user: Option<u32>,
) {
    if auto_archive_duration.is_some_and(|minutes| !AUTO_ARCHIVE_MINUTES.contains(&minutes)) {
        let choices = Fault::Choices("(60, 1440, 4320, 10080)");
        form.add("auto_archive_duration", choices);
    }
    if let Some(seconds) = rate_limit_per_user {
        form.range("rate_limit_per_user", i64::from(seconds), 0..=21_600);
    }
}

/// The thread's id is the message's. Errors: 10003, 10008, 20016, 50001, 50009, 50013, 50021,
/// 50024, 50035, 160004, 160006, 160007, 200000.
#[utoipa::path(
    post,
    path = "/channels/{channel_id}/messages/{message_id}/threads",
    tag = "Threads",
    responses((status = 201, body = Thread))
)]
pub(super) async fn create_thread_from_message(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id)): Path<(Id<Channel>, Id<marker::Message>)>,
    reason: Reason,
    Json(body): Json<FromMessage>,
) -> Result<(StatusCode, Json<Thread>)> {
    let needed = Permissions::CREATE_PUBLIC_THREADS;
    let mut db = app.db.acquire().await?;
    let access = access::channel(&mut db, &user, channel_id, needed).await?;
    drop(db);
    // Nobody holds the guild's lock while Redis is asked.
    let place = Place::Channel(access);
    let wait = slowmode::begin(&app, &user, &place, Slowed::Threads).await?;
    let of = (channel_id, message_id);
    let made = make_from_message(&app, &user, of, &reason, body).await;
    if let Some(wait) = wait.filter(|_| made.is_err()) {
        wait.give_back(&app).await;
    }
    Ok((StatusCode::CREATED, Json(made?)))
}

/// [`create_thread_from_message`] in a transaction.
async fn make_from_message(
    app: &App,
    user: &CurrentUser,
    (channel_id, message_id): (Id<Channel>, Id<marker::Message>),
    reason: &Reason,
    body: FromMessage,
) -> Result<Thread> {
    let needed = Permissions::CREATE_PUBLIC_THREADS;
    let mut tx = app.db.begin().await?;
    let access = access::channel_for_change(&mut tx, user, channel_id, needed).await?;
    access.guild.require_verified(&app.mailer, user)?;
    let kind = match access.channel.kind {
        ChannelKind::TEXT => ChannelKind::PUBLIC_THREAD,
        ChannelKind::ANNOUNCEMENT => ChannelKind::ANNOUNCEMENT_THREAD,
        _ => return Err(ErrorCode::InvalidChannelType.into()),
    };
    let mut starter = messages::load::message(&app.media, &mut tx, user.id, channel_id, message_id)
        .await?
        .ok_or(ErrorCode::UnknownMessage)?;
    if !starter.kind.is_written() {
        return Err(ErrorCode::SystemMessage.into());
    }
    let exists = sqlx::query_scalar!(
        r#"select exists(select from channel where channel_id = $1) as "exists!""#,
        message_id.to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    if exists {
        return Err(ErrorCode::ThreadExists.into());
    }
    let name = clean(&body.name.unwrap_or_default());
    let place = Place::Channel(access.clone());
    let verdict = app
        .automod
        .judge(&mut *tx, user, &place, || vec![&*name])
        .await?;
    if verdict.blocks() {
        tx.rollback().await?;
        automod::act(app, user, &place, &verdict, None).await?;
        return Err(ErrorCode::BlockedByAutomod.into());
    }
    let new = NewThread {
        id: message_id.cast(),
        kind,
        name,
        owner: user.id,
        auto_archive_duration: body.auto_archive_duration,
        rate_limit_per_user: body.rate_limit_per_user,
        invitable: None,
        applied_tags: Vec::new(),
    };
    let member = &access.guild.member;
    let (thread, mut events) = insert(&mut tx, &access.channel, new, Some(member)).await?;
    events.extend(tell_owner_joined(&mut tx, user, member, &thread).await?);
    starter.flags |= MessageFlags::HAS_THREAD;
    sqlx::query!(
        "update message set flags = flags | $3 where channel_id = $1 and message_id = $2",
        channel_id.to_db(),
        message_id.to_db(),
        MessageFlags::HAS_THREAD as i64,
    )
    .execute(&mut *tx)
    .await?;
    starter.thread = Some(serde_json::to_value(&thread)?);
    let guild = access.guild.id;
    let author = messages::author_member(&mut tx, guild, &starter).await?;
    let in_parent = Audience::of_channel(guild, channel_id, access.channel.kind);
    events.extend(
        messages::announce_update_in(&mut tx, &in_parent, author.as_ref(), &starter).await?,
    );
    let mut first = messages::draft(
        app,
        thread.id,
        user.user().clone(),
        MessageKind::THREAD_STARTER,
    )?;
    first.message_reference = Some(MessageReference {
        kind: 0,
        message_id: Some(message_id),
        channel_id,
        guild_id: Some(guild),
    });
    starter.referenced_message = None;
    starter.thread = None;
    let is_old = message_id.created_ms() + RECENT_MS < first.id.created_ms();
    first.referenced_message = Some(Some(Box::new(starter)));
    let in_thread = audience_of(&mut tx, &thread).await?;
    events.extend(messages::post_in(&mut tx, &in_thread, Some(member), &first).await?);
    if is_old {
        events.extend(tell_parent(app, &mut tx, user, &access, &thread).await?);
    }
    events.extend(audit_created(app, &mut tx, user, &thread, reason).await?);
    let thread = load_as(&mut tx, thread.id, user.id).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    automod::act_after(app, user, &place, &verdict, None).await;
    Ok(thread)
}

async fn tell_owner_joined(
    db: &mut PgConnection,
    user: &CurrentUser,
    member: &Member,
    thread: &Thread,
) -> Result<Vec<Envelope>> {
    let of_thread = members::of(db, thread.id, user.id).await?;
    let member = Member {
        user: Some(user.user().clone()),
        ..member.clone()
    };
    let added = of_thread.map(|of_thread| (of_thread, member));
    tell_members(db, thread, user.id, added).await
}

/// The notice in the parent (type 18).
async fn tell_parent(
    app: &App,
    db: &mut PgConnection,
    user: &CurrentUser,
    access: &ChannelAccess,
    thread: &Thread,
) -> Result<Vec<Envelope>> {
    let parent = access.channel.id;
    let author = user.user().clone();
    let mut notice = messages::draft(app, parent, author, MessageKind::THREAD_CREATED)?;
    notice.content.clone_from(&thread.name);
    notice.message_reference = Some(MessageReference {
        kind: 0,
        message_id: None,
        channel_id: thread.id,
        guild_id: Some(access.guild.id),
    });
    let audience = Audience::of_channel(access.guild.id, parent, access.channel.kind);
    messages::post_in(db, &audience, Some(&access.guild.member), &notice).await
}

async fn audit_created(
    app: &App,
    db: &mut PgConnection,
    user: &CurrentUser,
    thread: &Thread,
    reason: &Reason,
) -> Result<Option<Envelope>> {
    let entry = Entry::new(thread.guild_id, user.id, AuditAction::THREAD_CREATE, reason)
        .target(thread.id)
        .created(thread)?;
    audit::append(app, db, entry).await
}

/// A thread without a message, or a post (with `message`) in a forum.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = CreateThreadRequest)]
pub(super) struct CreateThread {
    name: Option<String>,
    auto_archive_duration: Option<u32>,
    rate_limit_per_user: Option<u32>,
    /// 10, 11 or 12; 12 if not given.
    #[serde(default, rename = "type")]
    kind: Option<ChannelKind>,
    invitable: Option<bool>,
    #[serde(default, deserialize_with = "null_is_default")]
    applied_tags: Vec<Id<Tag>>,
    message: Option<NewMessageForm>,
}

impl Form for CreateThread {
    fn check(&self, form: &mut FormErrors) {
        check(
            form,
            &self.name,
            self.auto_archive_duration,
            self.rate_limit_per_user,
        );
        if self.kind.is_some_and(|kind| !kind.is_thread()) {
            form.add("type", Fault::Choices("(10, 11, 12)"));
        }
        check_tags(form, &self.applied_tags);
        if let Some(message) = &self.message {
            let mut inner = FormErrors::new();
            message.check(&mut inner);
            form.add_inside("message", inner);
        }
    }
}

impl CreateThread {
    /// What the thread is to be and its tags, if the caller may make it in the channel.
    ///
    /// Errors: 40066, 40067, 50013, 50024, 50035.
    fn check_at(
        &self,
        access: &ChannelAccess,
        files: &Files,
    ) -> Result<(ChannelKind, Vec<Id<Tag>>)> {
        let parent = access.channel.kind;
        if !parent.holds_threads() {
            return Err(ErrorCode::InvalidChannelType.into());
        }
        if !parent.is_forum() {
            let kind = self.kind.unwrap_or(ChannelKind::PRIVATE_THREAD);
            let fits = match kind {
                ChannelKind::ANNOUNCEMENT_THREAD => parent == ChannelKind::ANNOUNCEMENT,
                _ => parent == ChannelKind::TEXT,
            };
            if !fits {
                return Err(ErrorCode::InvalidChannelType.into());
            }
            access.require(match kind {
                ChannelKind::PRIVATE_THREAD => Permissions::CREATE_PRIVATE_THREADS,
                _ => Permissions::CREATE_PUBLIC_THREADS,
            })?;
            return Ok((kind, Vec::new()));
        }
        let Some(message) = &self.message else {
            return Err(FormErrors::one("message", Fault::Required));
        };
        let mut needed = Permissions::SEND_MESSAGES | message.needed();
        if !files.is_empty() {
            needed |= Permissions::ATTACH_FILES;
        }
        let held = access.require(needed)?;
        let usable = access.guild.usable(held);
        let moderator = usable.contains(Permissions::MANAGE_THREADS);
        let tags = usable_tags(&access.channel.settings, moderator, &self.applied_tags)?;
        Ok((ChannelKind::PUBLIC_THREAD, tags))
    }
}

pub(super) fn check_tags(form: &mut FormErrors, tags: &[Id<Tag>]) {
    if tags.len() > TAGS_APPLIED_MAX {
        let (min, max) = (0, TAGS_APPLIED_MAX);
        form.add("applied_tags", Fault::BadLength { min, max });
    }
}

/// A thread, and the message of a post.
#[derive(Serialize, ToSchema)]
pub(super) struct Created {
    #[serde(flatten)]
    thread: Thread,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
}

/// Errors: 10003, 20016, 40066, 40067, 50001, 50006, 50009, 50013, 50024, 50035, 160006 and 160007
/// beside 1000 active threads of the guild, 200000.
#[utoipa::path(
    post,
    path = "/channels/{channel_id}/threads",
    tag = "Threads",
    request_body = CreateThread,
    responses((status = 201, body = Created))
)]
pub(super) async fn create_thread(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    reason: Reason,
    Upload { body, mut files }: Upload<CreateThread>,
) -> Result<(StatusCode, Json<Created>)> {
    if let Some(message) = &body.message {
        let claimed = files.claim_slots(&app.media, channel_id, user.id, message.attachments());
        claimed.await?;
    }
    let needed = Permissions::VIEW_CHANNEL;
    let mut db = app.db.acquire().await?;
    let access = access::channel(&mut db, &user, channel_id, needed).await?;
    drop(db);
    body.check_at(&access, &files)?;
    // Nobody holds the guild's lock while Redis is asked.
    let place = Place::Channel(access);
    let wait = slowmode::begin(&app, &user, &place, Slowed::Threads).await?;
    let made = make(&app, &user, channel_id, &reason, (body, files)).await;
    if let Some(wait) = wait.filter(|_| made.is_err()) {
        wait.give_back(&app).await;
    }
    Ok((StatusCode::CREATED, Json(made?)))
}

/// [`create_thread`] in a transaction.
async fn make(
    app: &App,
    user: &CurrentUser,
    channel_id: Id<Channel>,
    reason: &Reason,
    (body, files): (CreateThread, Files),
) -> Result<Created> {
    let needed = Permissions::VIEW_CHANNEL;
    let mut tx = app.db.begin().await?;
    let access = access::channel_for_change(&mut tx, user, channel_id, needed).await?;
    access.guild.require_verified(&app.mailer, user)?;
    let (kind, applied_tags) = body.check_at(&access, &files)?;
    let in_forum = access.channel.kind.is_forum();
    let place = Place::Channel(access.clone());
    let id: Id<Channel> = app.snowflakes.next()?;
    let mut posted = None;
    if let Some(form) = body.message.as_ref().filter(|_| in_forum) {
        let mut first = Message::new(id.cast(), id, user.user().clone(), MessageKind::DEFAULT);
        let request = messages::Request {
            sender: messages::Sender::User,
            mentioner: messages::Mentioner::Caller(&place),
            form,
            files: &files,
        };
        messages::compose(app, &mut tx, request, &mut first).await?;
        posted = Some(first);
    }
    let name = clean(&body.name.unwrap_or_default());
    let texts = || {
        let first = posted.iter().flat_map(messages::all_texts);
        std::iter::once(&*name).chain(first).collect::<Vec<_>>()
    };
    let verdict = app.automod.judge(&mut *tx, user, &place, texts).await?;
    if verdict.blocks() {
        tx.rollback().await?;
        automod::act(app, user, &place, &verdict, None).await?;
        return Err(ErrorCode::BlockedByAutomod.into());
    }
    let new = NewThread {
        id,
        kind,
        name,
        owner: user.id,
        auto_archive_duration: body.auto_archive_duration,
        rate_limit_per_user: body.rate_limit_per_user,
        invitable: body.invitable,
        applied_tags,
    };
    let member = &access.guild.member;
    let (thread, mut events) = insert(&mut tx, &access.channel, new, Some(member)).await?;
    if let Some(first) = &posted {
        let audience = audience_of(&mut tx, &thread).await?;
        events.extend(messages::post_in(&mut tx, &audience, Some(member), first).await?);
    }
    events.extend(tell_owner_joined(&mut tx, user, member, &thread).await?);
    if kind != ChannelKind::PRIVATE_THREAD && !in_forum {
        events.extend(tell_parent(app, &mut tx, user, &access, &thread).await?);
    }
    events.extend(audit_created(app, &mut tx, user, &thread, reason).await?);
    let mut thread = load(&mut tx, id).await?;
    thread.member = members::of(&mut tx, id, user.id).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    let message = posted.as_ref().map(|first| first.id);
    automod::act_after(app, user, &place, &verdict, message).await;
    Ok(Created {
        thread,
        message: posted,
    })
}

/// The tags asked for, if the caller may use them and they are enough.
///
/// Errors: 40066, 40067, 50035 for tags the forum does not have.
fn usable_tags(
    settings: &ChannelSettings,
    moderator: bool,
    wanted: &[Id<Tag>],
) -> Result<Vec<Id<Tag>>> {
    let tags = known_tags(settings, wanted, moderator, &[])?;
    if tags.is_empty() && settings.flags & ChannelSettings::FLAG_REQUIRE_TAG != 0 {
        let available = settings.available_tags.iter().flatten();
        let code = match available.into_iter().any(|tag| moderator || !tag.moderated) {
            true => ErrorCode::TagRequired,
            false => ErrorCode::NoUsableTags,
        };
        return Err(code.into());
    }
    Ok(tags)
}

/// `wanted` without repeats. Moderated tags are added and removed by moderators only.
///
/// Errors: 50013, 50035.
pub(super) fn known_tags(
    forum: &ChannelSettings,
    wanted: &[Id<Tag>],
    moderator: bool,
    before: &[Id<Tag>],
) -> Result<Vec<Id<Tag>>> {
    let mut tags: Vec<Id<Tag>> = Vec::new();
    let available: Vec<_> = forum.available_tags.iter().flatten().collect();
    for &id in wanted {
        if !available.iter().any(|tag| tag.id == id) {
            let fault = Fault::Other("INVALID_TAG", "Unknown tag".into());
            return Err(FormErrors::one("applied_tags", fault));
        }
        if !tags.contains(&id) {
            tags.push(id);
        }
    }
    let moderated = |id: &Id<Tag>| available.iter().any(|tag| tag.id == *id && tag.moderated);
    let changed = tags
        .iter()
        .filter(|id| !before.contains(id))
        .chain(before.iter().filter(|id| !tags.contains(id)));
    if !moderator && changed.into_iter().any(moderated) {
        return Err(ErrorCode::MissingPermissions.into());
    }
    Ok(tags)
}
