//! Threads: made, changed, joined, listed, archived. Spec: permissions.md › Threads.
//!
//! A thread is a row of `channel` (so that messages, pins and webhooks know it) and one of
//! `thread`. Its permissions are its parent's (`access::Place::Thread`); its events go to
//! whoever sees it (`access::Audience::of_thread`).

mod archive;
mod create;
mod lists;
mod members;
mod search;
mod update;

use guildhall_shared::{
    Id,
    envelope::{Envelope, Scope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild, User},
    model::{ChannelKind, Member, Thread, ThreadMember},
};
use guildhall_store::thread::{self, Whose};
use serde::Serialize;
use sqlx::PgConnection;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::{
    archive::{archive_idle, require_awake, wake},
    create::post_of_webhook,
    members::make_ready,
    update::{delete_all_of, delete_thread, update_thread},
};
use self::{create::*, lists::*, members::*, search::*};
use crate::{access::Audience, app::App, error::Result};

/// Threads of a guild that are not archived.
const ACTIVE_MAX: i64 = 1000;
/// People in a thread.
const MEMBERS_MAX: i64 = 1000;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create_thread_from_message))
        .routes(routes!(create_thread))
        .routes(routes!(list_thread_members))
        .routes(routes!(join_thread, leave_thread))
        .routes(routes!(thread_member_settings))
        .routes(routes!(
            get_thread_member,
            add_thread_member,
            delete_thread_member
        ))
        .routes(routes!(list_public_archived_threads))
        .routes(routes!(list_private_archived_threads))
        .routes(routes!(list_my_private_archived_threads))
        .routes(routes!(thread_search))
        .routes(routes!(get_active_guild_threads))
}

/// Before a thread begins or wakes. The guild's head is locked.
///
/// Errors: above 1000 active threads of the guild 160006, for one of an announcement channel
/// 160007.
async fn require_room(db: &mut PgConnection, guild: Id<Guild>, kind: ChannelKind) -> Result<()> {
    let active = sqlx::query_scalar!(
        r#"select count(*) as "count!" from thread where guild_id = $1 and not archived"#,
        guild.to_db(),
    )
    .fetch_one(db)
    .await?;
    match kind {
        _ if active < ACTIVE_MAX => Ok(()),
        ChannelKind::ANNOUNCEMENT_THREAD => Err(ErrorCode::MaximumAnnouncementThreads.into()),
        _ => Err(ErrorCode::MaximumThreads.into()),
    }
}

/// A thread as it is now. Errors: 10003.
pub(crate) async fn load(db: &mut PgConnection, id: Id<Channel>) -> Result<Thread> {
    let threads = thread::by_ids(db, &[id]).await?;
    Ok(threads
        .into_iter()
        .next()
        .ok_or(ErrorCode::UnknownChannel)?)
}

/// [`load`] with the user's own membership.
pub(crate) async fn load_as(
    db: &mut PgConnection,
    id: Id<Channel>,
    user: Id<User>,
) -> Result<Thread> {
    let member = members::of(&mut *db, id, user).await?;
    let thread = load(db, id).await?;
    Ok(Thread { member, ..thread })
}

/// Who sees a thread; of a private one with the members it has now.
async fn audience_of(db: &mut PgConnection, thread: &Thread) -> Result<Audience> {
    let mut members = Vec::new();
    if thread.kind == ChannelKind::PRIVATE_THREAD {
        let rows = thread::members(db, &[thread.id], Whose::Everybodys).await?;
        members.extend(rows.iter().filter_map(|member| member.user_id));
    }
    let (guild, parent) = (thread.guild_id, thread.parent_id);
    Ok(Audience::of_thread(
        guild,
        thread.id,
        thread.kind,
        parent,
        members,
    ))
}

/// Numbers an event whose body is the thread itself.
async fn tell_thread(
    db: &mut PgConnection,
    kind: EventKind,
    thread: &Thread,
) -> Result<Vec<Envelope>> {
    let audience = audience_of(db, thread).await?;
    let vis = audience.visibility(Intents::GUILDS);
    audience.append(db, kind, vis, thread, None).await
}

/// THREAD_CREATE of one that is new.
#[derive(Serialize)]
struct NewlyCreated<'a> {
    #[serde(flatten)]
    thread: &'a Thread,
    newly_created: bool,
}

#[derive(Serialize)]
struct MembersUpdate {
    id: Id<Channel>,
    guild_id: Id<Guild>,
    /// At most 50.
    member_count: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    added_members: Vec<AddedMember>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    removed_member_ids: Vec<Id<User>>,
}

/// A thread member with the membership in the guild, its user included.
#[derive(Serialize)]
struct AddedMember {
    #[serde(flatten)]
    of_thread: ThreadMember,
    presence: Option<()>,
}

/// Numbers the THREAD_MEMBERS_UPDATE about one user who is in the thread now, or no longer:
/// for who sees the thread, of bots those with GUILD_MEMBERS, and for that user.
async fn tell_members(
    db: &mut PgConnection,
    thread: &Thread,
    user: Id<User>,
    added: Option<(ThreadMember, Member)>,
) -> Result<Vec<Envelope>> {
    let mut audience_members = Vec::new();
    if thread.kind == ChannelKind::PRIVATE_THREAD {
        let rows = thread::members(&mut *db, &[thread.id], Whose::Everybodys).await?;
        audience_members.extend(rows.iter().filter_map(|member| member.user_id));
        if !audience_members.contains(&user) {
            audience_members.push(user);
        }
    }
    let audience = Audience::of_thread(
        thread.guild_id,
        thread.id,
        thread.kind,
        thread.parent_id,
        audience_members,
    );
    let removed = added.is_none();
    let body = MembersUpdate {
        id: thread.id,
        guild_id: thread.guild_id,
        member_count: thread.member_count,
        added_members: added
            .into_iter()
            .map(|(of_thread, member)| AddedMember {
                of_thread: ThreadMember {
                    member: Some(member),
                    ..of_thread
                },
                presence: None,
            })
            .collect(),
        removed_member_ids: removed.then_some(user).into_iter().collect(),
    };
    let vis = Visibility {
        regardless: vec![user],
        ..audience.visibility(Intents::GUILD_MEMBERS)
    };
    let kind = EventKind::ThreadMembersUpdate;
    audience.append(db, kind, vis, &body, None).await
}

/// For one user, who is told whatever else they see of the guild.
fn only(user: Id<User>) -> Visibility {
    Visibility::of(Scope::Users([user].into()), Intents::GUILDS)
}
