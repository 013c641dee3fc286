//! Threads changed and deleted: the thread's part of update_channel and delete_channel.

use bytes::Bytes;
use guildhall_shared::{
    Id, Permissions,
    envelope::Envelope,
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild},
    model::{AuditAction, ChannelKind, ChannelSettings, MessageKind, Thread},
    permissions::{ThreadChange, may_change_thread},
};
use guildhall_store::thread::{self, Whose};
use serde::Serialize;
use sqlx::{PgConnection, PgTransaction, types::Json as Jsonb};

use super::{
    archive, audience_of,
    create::{default_minutes, known_tags},
    load, require_room, tell_thread,
};
use crate::{
    access::{Audience, Place, ThreadAccess},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    automod::Verdict,
    collect,
    error::Result,
    events,
    routes::{automod, channels::fields::ChannelFields, messages},
    text::clean,
};

/// Threads whose THREAD_DELETE is numbered by one statement, when their channel is deleted.
const TOLD_AT_ONCE: usize = 50;

/// Changes what the body names of a thread.
///
/// Errors: 30047, 50013, 50083 for anything but waking an archived one, 50035, 60003, 160006,
/// 160007, 200000.
pub(crate) async fn update_thread(
    app: &App,
    mut tx: PgTransaction<'_>,
    user: &CurrentUser,
    access: ThreadAccess,
    body: &ChannelFields,
    reason: &Reason,
) -> Result<Thread> {
    let before = load(&mut tx, access.thread.id).await?;
    let held = access.permissions();
    let usable = access.guild.usable(held);
    let moderator = usable.contains(Permissions::MANAGE_THREADS);
    let wanted = Wanted::of(body, &before, &access, moderator)?;
    let change = wanted.change(&before);
    // A new name is told in the thread: who is silenced has nothing from it being theirs.
    let is_free = !access.guild.is_silenced();
    let is_owner = is_free && before.owner_id == user.id;
    let joined = is_free && access.joined;
    let was = &before.thread_metadata;
    let may = |held| may_change_thread(held, is_owner, joined, was.locked, change);
    if !may(held) {
        return Err(ErrorCode::MissingPermissions.into());
    }
    if !may(usable) {
        return Err(ErrorCode::SecondFactorMissing.into());
    }
    if was.archived && wanted.archived && change != ThreadChange::empty() {
        return Err(ErrorCode::ThreadArchived.into());
    }
    if change.is_empty() {
        return Ok(before);
    }
    if was.archived && !wanted.archived {
        require_room(&mut tx, before.guild_id, before.kind).await?;
    }
    let pins = wanted.flags & !before.flags & ChannelSettings::FLAG_PINNED != 0;
    if pins && another_is_pinned(&mut tx, &before).await? {
        return Err(ErrorCode::MaximumPinnedThreads.into());
    }
    let place = Place::Thread(Box::new(access.clone()));
    let verdict = match wanted.name != before.name {
        true => {
            app.automod
                .judge(&mut *tx, user, &place, || vec![&*wanted.name])
                .await?
        }
        false => Verdict::default(),
    };
    if verdict.blocks() {
        tx.rollback().await?;
        automod::act(app, user, &place, &verdict, None).await?;
        return Err(ErrorCode::BlockedByAutomod.into());
    }
    let settings = ChannelSettings {
        rate_limit_per_user: Some(wanted.rate_limit_per_user),
        last_pin_timestamp: Some(before.last_pin_timestamp),
        flags: wanted.flags,
        ..ChannelSettings::default()
    };
    sqlx::query!(
        "update channel set name = $2, settings = $3 where channel_id = $1",
        before.id.to_db(),
        wanted.name,
        Jsonb(&settings) as Jsonb<&ChannelSettings>,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "update thread set
           archive_at = case when archived <> $2 or auto_archive_minutes <> $5
                             then now() else archive_at end,
           active_at = case when archived and not $2 then now() else active_at end,
           archived = $2, locked = $3, invitable = $4, auto_archive_minutes = $5,
           applied_tags = $6
         where thread_id = $1",
        before.id.to_db(),
        wanted.archived,
        wanted.locked,
        wanted.invitable,
        wanted.auto_archive_duration as i32,
        &guildhall_store::ids_to_db(&wanted.applied_tags),
    )
    .execute(&mut *tx)
    .await?;
    let thread = load(&mut tx, before.id).await?;
    let mut events = tell_thread(&mut tx, EventKind::ThreadUpdate, &thread).await?;
    if was.archived && !wanted.archived {
        events.extend(archive::remind(&mut tx, thread.guild_id, thread.id).await?);
    }
    if before.name != thread.name {
        let author = user.user().clone();
        let kind = MessageKind::CHANNEL_NAME_CHANGE;
        let mut notice = messages::draft(app, thread.id, author, kind)?;
        notice.content.clone_from(&thread.name);
        let audience = audience_of(&mut tx, &thread).await?;
        let member = Some(&access.guild.member);
        events.extend(messages::post_in(&mut tx, &audience, member, &notice).await?);
    }
    let entry = Entry::new(thread.guild_id, user.id, AuditAction::THREAD_UPDATE, reason)
        .target(thread.id)
        .changed(&Audited::of(&before), &Audited::of(&thread))?;
    events.extend(audit::append(app, &mut tx, entry).await?);
    let thread = load(&mut tx, thread.id).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    automod::act_after(app, user, &place, &verdict, None).await;
    Ok(thread)
}

/// Whether another post of the forum, not archived, is pinned. A forum pins one.
async fn another_is_pinned(db: &mut PgConnection, thread: &Thread) -> Result<bool> {
    let pinned = sqlx::query_scalar!(
        r#"select exists (
             select from thread t join channel c on c.channel_id = t.thread_id
             where t.parent_id = $1 and t.thread_id <> $2 and not t.archived
               and coalesce((c.settings ->> 'flags')::bigint, 0) & $3 <> 0) as "pinned!""#,
        thread.parent_id.to_db(),
        thread.id.to_db(),
        ChannelSettings::FLAG_PINNED as i64,
    )
    .fetch_one(db)
    .await?;
    Ok(pinned)
}

/// What a body gives: nothing leaves what `is`, null takes the `first` value back.
fn given_or<T>(given: Option<Option<T>>, is: T, first: T) -> T {
    given.map_or(is, |given| given.unwrap_or(first))
}

/// What the thread is to be.
struct Wanted {
    name: String,
    archived: bool,
    locked: bool,
    invitable: Option<bool>,
    auto_archive_duration: u32,
    rate_limit_per_user: u32,
    flags: u64,
    applied_tags: Vec<Id<guildhall_shared::id::marker::Tag>>,
}

impl Wanted {
    fn of(
        body: &ChannelFields,
        before: &Thread,
        access: &ThreadAccess,
        moderator: bool,
    ) -> Result<Self> {
        let was = &before.thread_metadata;
        let pinned = ChannelSettings::FLAG_PINNED;
        let in_forum = access.parent.kind.is_forum();
        let flags = match body.flags {
            Some(flags) if in_forum => before.flags & !pinned | flags.unwrap_or(0) & pinned,
            _ => before.flags,
        };
        let applied_tags = match &body.applied_tags {
            Some(tags) if in_forum => known_tags(
                &access.parent.settings,
                tags.as_deref().unwrap_or_default(),
                moderator,
                &before.applied_tags,
            )?,
            _ => before.applied_tags.clone(),
        };
        let invitable = match before.kind {
            ChannelKind::PRIVATE_THREAD => match body.invitable {
                Some(invitable) => Some(invitable.unwrap_or(true)),
                None => was.invitable,
            },
            _ => was.invitable,
        };
        let name = body.name.as_ref().and_then(Option::as_deref);
        Ok(Self {
            name: name.map_or_else(|| before.name.clone(), clean),
            archived: given_or(body.archived, was.archived, false),
            locked: given_or(body.locked, was.locked, false),
            invitable,
            auto_archive_duration: given_or(
                body.auto_archive_duration,
                was.auto_archive_duration,
                default_minutes(&access.parent.settings),
            ),
            rate_limit_per_user: given_or(body.rate_limit_per_user, before.rate_limit_per_user, 0),
            flags,
            applied_tags,
        })
    }

    /// What differs from what is.
    fn change(&self, before: &Thread) -> ThreadChange {
        let was = &before.thread_metadata;
        let mut change = ThreadChange::empty();
        change.set(
            ThreadChange::EDIT,
            self.name != before.name
                || self.auto_archive_duration != was.auto_archive_duration
                || self.applied_tags != before.applied_tags,
        );
        change.set(ThreadChange::ARCHIVE, self.archived && !was.archived);
        change.set(ThreadChange::UNARCHIVE, !self.archived && was.archived);
        change.set(
            ThreadChange::MODERATE,
            self.locked != was.locked
                || self.rate_limit_per_user != before.rate_limit_per_user
                || self.flags != before.flags,
        );
        change.set(ThreadChange::INVITABLE, self.invitable != was.invitable);
        change
    }
}

/// Fields that the audit log shows.
#[derive(Serialize)]
struct Audited<'a> {
    name: &'a str,
    archived: bool,
    locked: bool,
    invitable: Option<bool>,
    auto_archive_duration: u32,
    rate_limit_per_user: u32,
    flags: u64,
    applied_tags: &'a [Id<guildhall_shared::id::marker::Tag>],
}

impl<'a> Audited<'a> {
    fn of(thread: &'a Thread) -> Self {
        Self {
            name: &thread.name,
            archived: thread.thread_metadata.archived,
            locked: thread.thread_metadata.locked,
            invitable: thread.thread_metadata.invitable,
            auto_archive_duration: thread.thread_metadata.auto_archive_duration,
            rate_limit_per_user: thread.rate_limit_per_user,
            flags: thread.flags,
            applied_tags: &thread.applied_tags,
        }
    }
}

/// THREAD_DELETE.
#[derive(Serialize)]
pub(crate) struct ThreadDeleted {
    pub(crate) id: Id<Channel>,
    pub(crate) guild_id: Id<Guild>,
    pub(crate) parent_id: Id<Channel>,
    #[serde(rename = "type")]
    pub(crate) kind: ChannelKind,
}

/// Deletes a thread; its messages follow. Errors: 50013.
pub(crate) async fn delete_thread(
    app: &App,
    mut tx: PgTransaction<'_>,
    user: &CurrentUser,
    access: ThreadAccess,
    reason: &Reason,
) -> Result<Thread> {
    access.require(Permissions::MANAGE_THREADS)?;
    let thread = load(&mut tx, access.thread.id).await?;
    let audience = audience_of(&mut tx, &thread).await?;
    collect::delete_channel(&mut tx, thread.id).await?;
    let body = ThreadDeleted {
        id: thread.id,
        guild_id: thread.guild_id,
        parent_id: thread.parent_id,
        kind: thread.kind,
    };
    let vis = audience.visibility(Intents::GUILDS);
    let kind = EventKind::ThreadDelete;
    let mut events = audience.append(&mut tx, kind, vis, &body, None).await?;
    let entry = Entry::new(thread.guild_id, user.id, AuditAction::THREAD_DELETE, reason)
        .target(thread.id)
        .deleted(&Audited::of(&thread))?;
    events.extend(audit::append(app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(thread)
}

/// Takes the threads of a channel that is being deleted out of sight; tells of those that were not
/// archived. There may be many: their rows are collected later.
pub(crate) async fn delete_all_of(
    db: &mut PgConnection,
    guild: Id<Guild>,
    parent: Id<Channel>,
) -> Result<Vec<Envelope>> {
    let active = sqlx::query!(
        r#"update thread t set archived = true
           where t.guild_id = $1 and t.parent_id = $2 and not t.archived
           returning t.thread_id as "thread_id!",
                     (select c.kind from channel c where c.channel_id = t.thread_id) as "kind!""#,
        guild.to_db(),
        parent.to_db(),
    )
    .fetch_all(&mut *db)
    .await?;
    let mut active: Vec<(Id<Channel>, ChannelKind)> = active
        .iter()
        .map(|row| (Id::from_db(row.thread_id), ChannelKind(row.kind as u8)))
        .collect();
    active.sort_unstable_by_key(|&(id, _)| id);
    let mut told = Vec::new();
    for some in active.chunks(TOLD_AT_ONCE) {
        let private: Vec<Id<Channel>> = some
            .iter()
            .filter(|(_, kind)| *kind == ChannelKind::PRIVATE_THREAD)
            .map(|&(id, _)| id)
            .collect();
        let members = thread::members(&mut *db, &private, Whose::Everybodys).await?;
        let mut deleted = Vec::new();
        for &(id, kind) in some {
            let inside = members.iter().filter(|member| member.id == Some(id));
            let inside = inside.filter_map(|member| member.user_id).collect();
            let audience = Audience::of_thread(guild, id, kind, parent, inside);
            let body = ThreadDeleted {
                id,
                guild_id: guild,
                parent_id: parent,
                kind,
            };
            let body = Bytes::from(serde_json::to_vec(&body)?);
            deleted.push((audience.visibility(Intents::GUILDS), body));
        }
        let kind = EventKind::ThreadDelete;
        told.extend(events::append_many(&mut *db, guild, kind, deleted).await?);
    }
    collect::threads_of(db, parent).await?;
    Ok(told)
}
