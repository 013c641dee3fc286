//! New messages: what a request may say, the check of whether it may, the writer's job.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use guildhall_shared::{
    Id, Permissions,
    envelope::Envelope,
    error_code::ErrorCode,
    gateway::Intents,
    id::marker::{self, Channel, Guild},
    model::{Member, Message, MessageFlags, MessageKind, MessageReference},
};
use guildhall_store::account;
use sqlx::{PgConnection, PgExecutor};

use super::{
    components::linked_files,
    content::{Mentions, Nonce},
    event::{answer, as_nobody, bodies_of},
    load::{self, Extra},
    mentions::{Mentioner, resolve_mentions},
    post::{self, post_in},
    request::{NewMessageForm, Reference, Sender, snapshot},
    sight::{sees_content, shown_to},
    slowmode::{self, Slowed, Wait},
    texts::all_texts,
};
use crate::{
    access::{self, Place},
    app::App,
    auth::CurrentUser,
    error::{Error, Result, json_bytes_response},
    extract::{Json, Path},
    form::{Fault, FormErrors},
    message_writer::{NewMessage, Outcome},
    routes::{automod, dms, threads},
    telemetry,
    upload::Upload,
};

/// How often a message is checked again because its guild changed meanwhile.
const CHECKS_MAX: usize = 6;

/// Stores a message and numbers its MESSAGE_CREATE; both happen or neither.
///
/// The permission check may come from memory: the writer refuses it if anything changed
/// since, and it is made again.
///
/// What few messages need is boxed: the future is moved several times for each of them.
///
/// Errors: 10003, 20016, 40058, 50001, 50006, 50007, 50008, 50009, 50013, 50035, 50068, 50081,
/// 50159, 50160, 50161, 50173, 50278, 50600, 160002, 160005, 160006, 160007, 160014, 200000, 520004.
#[utoipa::path(
    post,
    path = "/channels/{channel_id}/messages",
    tag = "Messages",
    request_body = NewMessageForm,
    responses((status = 200, body = Message))
)]
pub(super) async fn create_message(
    State(app): State<App>,
    mut author: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    Upload {
        body: form,
        mut files,
    }: Upload<NewMessageForm>,
) -> Result<Response> {
    if !form.attachments.is_empty() {
        let claimed = files.claim_slots(&app.media, channel_id, author.id, &form.attachments);
        Box::pin(claimed).await?;
    }
    let id = app.snowflakes.next()?;
    let mut draft = Message::new(id, channel_id, author.user().clone(), MessageKind::DEFAULT);
    draft.attachments = files.attach(&app.media, channel_id, &form.attachments, &[])?;
    form.fill(Sender::User, &mut draft)?;
    if form.needs_database() {
        let mut db = Box::pin(app.db.acquire()).await?;
        Box::pin(form.fill_from_database(&mut db, &mut draft)).await?;
    }
    let enforced = form.nonce.as_ref().filter(|_| form.enforce_nonce);
    let mut needed = form.needed();
    if !files.is_empty() {
        needed |= Permissions::ATTACH_FILES;
    }
    let sending = Sending {
        mentions: form.mentions(Sender::User, &draft),
        enforced: enforced.map(Nonce::key),
        form: &form,
        draft,
        needed,
    };
    let mut wait = None;
    let sent = send(&app, &mut author, &sending, &mut wait).await;
    if let Some(wait) = wait {
        Box::pin(wait.give_back(&app)).await;
    }
    sent
}

/// What is to be sent, once it is checked at its place.
struct Sending<'a> {
    form: &'a NewMessageForm,
    draft: Message,
    mentions: Mentions,
    /// What tells an enforced nonce from others.
    enforced: Option<String>,
    needed: Permissions,
}

/// Checks a message and stores it; the answer is that message, or the first one of its nonce.
/// A wait that is left in `wait` was begun for nothing.
async fn send(
    app: &App,
    author: &mut CurrentUser,
    sending: &Sending<'_>,
    wait: &mut Option<Wait>,
) -> Result<Response> {
    let Sending {
        form,
        draft,
        enforced,
        needed,
        ..
    } = sending;
    let (id, channel_id, needed) = (draft.id, draft.channel_id, *needed);
    let (mut slowmode_passed, mut readied, mut judged_anew) = (false, false, false);

    for _ in 0..CHECKS_MAX {
        let place = app.access.place(&app.db, author, channel_id).await;
        let place = place.and_then(|place| {
            check_sending(app, author, &place, needed)?;
            Ok(place)
        });
        // A refusal from memory may be out of date too: then ask again, without it.
        let place = match place {
            Ok(place) => place,
            Err(_) => {
                app.access.forget(author, channel_id);
                let place = app.access.place(&app.db, author, channel_id).await?;
                check_sending(app, author, &place, needed)?;
                place
            }
        };
        form.check_at(&app.db, &place, author.id).await?;
        let mut message = draft.clone();
        if let Some(reference) = &form.message_reference {
            Box::pin(refer(app, author, &place, reference, &mut message)).await?;
        }
        if message.is_empty() {
            return Err(ErrorCode::EmptyMessage.into());
        }
        if !std::mem::replace(&mut slowmode_passed, true) {
            *wait = match slowmode::begin(app, author, &place, Slowed::Messages).await {
                Ok(begun) => begun,
                // Who repeats a message sends none.
                Err(refused) => {
                    let first = Box::pin(repeated(app, author, &place, sending)).await?;
                    return first.ok_or(refused);
                }
            };
        }
        let texts = || all_texts(&message);
        let verdict = app.automod.judge(&app.db, author, &place, texts).await?;
        if verdict.blocks() {
            // Rules from memory may be out of date as well.
            if !std::mem::replace(&mut judged_anew, true) {
                app.access.forget(author, channel_id);
                continue;
            }
            Box::pin(automod::act(app, author, &place, &verdict, None)).await?;
        }
        // Last of all that may change a place: what is refused wakes no thread and opens no DM.
        if !std::mem::replace(&mut readied, true) && make_ready(app, author, &place).await? {
            app.access.forget(author, channel_id);
            continue;
        }
        let answered = message.referenced_message.as_ref();
        let replied_to = answered
            .and_then(|answered| answered.as_deref())
            .filter(|answered| answered.webhook_id.is_none())
            .map(|answered| answered.author.clone());
        let mentioner = Mentioner::Caller(&place);
        let found =
            resolve_mentions(&app.db, mentioner, &sending.mentions, replied_to.as_ref()).await?;
        message.mentions = found.users;
        message.mention_roles = found.roles;
        message.mention_everyone = found.everyone;
        let json = answer(&message)?;
        // Somebody else's text may be in what it answers.
        let answers = matches!(message.referenced_message, Some(Some(_)));
        let shown = (author.bot && answers).then(|| {
            let shown = shown_to(author, place.guild_id(), message.clone());
            answer(&shown)
        });
        let shown = shown.transpose()?;
        let outcome = match message.poll {
            // A poll has rows of its own, which the writer does not know.
            Some(_) => {
                let stored = store_alone(app, author, &place, &message, enforced.as_deref());
                Box::pin(stored).await?
            }
            None => {
                let new = new_message(&place, author, (message, &json), enforced.clone())?;
                app.message_writer.store(new).await?
            }
        };
        match outcome {
            Outcome::Stored => {
                *wait = None;
                if !verdict.is_clean() {
                    let acted = automod::act_after(app, author, &place, &verdict, Some(id));
                    Box::pin(acted).await;
                }
                return Ok(json_bytes_response(shown.unwrap_or(json)));
            }
            Outcome::Duplicate(first) => {
                return Box::pin(earlier(app, author, &place, form, first)).await;
            }
            Outcome::Stale => {
                // A thread may have been archived meanwhile.
                readied = false;
                app.access.forget(author, channel_id);
                app.tokens.forget(author.id);
                let account = Box::pin(account::by_token(&app.db, author.token)).await?;
                author.account = Arc::new(account.ok_or(ErrorCode::Unauthorized)?);
            }
        }
    }
    Err(Error::Unavailable("the guild keeps changing"))
}

/// The answer to who sends once more what was stored before; `None` if it is new.
///
/// Errors: 10008 if it was deleted since.
async fn repeated(
    app: &App,
    author: &CurrentUser,
    place: &Place,
    sending: &Sending<'_>,
) -> Result<Option<Response>> {
    let Some(nonce) = sending.enforced.as_deref() else {
        return Ok(None);
    };
    let Some(first) = of_nonce(&app.db, place.id(), author.id, nonce).await? else {
        return Ok(None);
    };
    let answer = earlier(app, author, place, sending.form, first).await?;
    Ok(Some(answer))
}

/// The answer that is the message which has the nonce of a new one. Errors: 10008 if it was deleted
/// since.
async fn earlier(
    app: &App,
    author: &CurrentUser,
    place: &Place,
    form: &NewMessageForm,
    first: Id<marker::Message>,
) -> Result<Response> {
    let mut db = app.db.acquire().await?;
    let first = load::message(&app.media, &mut db, author.id, place.id(), first).await?;
    let mut first = first.ok_or(ErrorCode::UnknownMessage)?;
    first.nonce = form.nonce.as_ref().map(Nonce::to_json);
    let shown = shown_to(author, place.guild_id(), first);
    Ok(Json(shown).into_response())
}

/// Wakes a thread and joins it; opens a private channel for all. True if the place has changed.
///
/// Errors: 50007 and 50278; in a thread 10003, 50001, 50013, 60003, 160005, 160006, 160007.
async fn make_ready(app: &App, author: &CurrentUser, place: &Place) -> Result<bool> {
    match place {
        Place::Channel(_) => Ok(false),
        Place::Thread(access) => Box::pin(threads::make_ready(app, author, access)).await,
        Place::Private(access) => Box::pin(dms::make_ready(app, author, access)).await,
    }
}

/// Stores a message in a transaction of its own, if nothing changed since the check. `nonce` is
/// enforced, as the writer does it.
async fn store_alone(
    app: &App,
    author: &CurrentUser,
    place: &Place,
    message: &Message,
    nonce: Option<&str>,
) -> Result<Outcome> {
    let mut tx = app.db.begin().await?;
    let needed = place.sending();
    let now = access::place_for_change(&mut tx, author, place.id(), needed).await?;
    if now.checked_at() != place.checked_at() {
        return Ok(Outcome::Stale);
    }
    if let Some(nonce) = nonce
        && let Some(first) = claim_nonce(&mut tx, message, nonce).await?
    {
        return Ok(Outcome::Duplicate(first));
    }
    let events = post_in(&mut tx, &now.audience(), now.member(), message).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Outcome::Stored)
}

/// Gives an enforced nonce to a message, or names the one that has it. The heads of the channel
/// are locked.
async fn claim_nonce(
    db: &mut PgConnection,
    message: &Message,
    nonce: &str,
) -> Result<Option<Id<marker::Message>>> {
    let (channel, author) = (message.channel_id, message.author.id);
    let first = of_nonce(&mut *db, channel, author, nonce).await?;
    if first.is_some() {
        return Ok(first);
    }
    sqlx::query!(
        "insert into message_nonce (channel_id, author_id, nonce, message_id)
         values ($1, $2, $3, $4)",
        channel.to_db(),
        author.to_db(),
        nonce,
        message.id.to_db(),
    )
    .execute(db)
    .await?;
    Ok(None)
}

/// The message that has an enforced nonce.
async fn of_nonce(
    db: impl PgExecutor<'_>,
    channel: Id<Channel>,
    author: Id<marker::User>,
    nonce: &str,
) -> Result<Option<Id<marker::Message>>> {
    let found = sqlx::query_scalar!(
        "select message_id from message_nonce
         where channel_id = $1 and author_id = $2 and nonce = $3",
        channel.to_db(),
        author.to_db(),
        nonce,
    )
    .fetch_optional(db)
    .await?;
    Ok(found.map(Id::from_db))
}

/// Errors: 40058, 50001, 50007, 50008, 50009, 50013, 60003, 160005.
fn check_sending(
    app: &App,
    author: &CurrentUser,
    place: &Place,
    needed: Permissions,
) -> Result<()> {
    let needed = place.sending() | needed;
    place.require(Permissions::VIEW_CHANNEL)?;
    if place.kind().is_forum() {
        return Err(ErrorCode::MessageInForum.into());
    }
    if !place.kind().has_messages() {
        return Err(ErrorCode::NonTextChannel.into());
    }
    place.require(needed)?;
    if let Some(guild) = place.guild() {
        guild.require_verified(&app.mailer, author)?;
    }
    place.require_unlocked()
}

/// Makes a message the answer to another one, or the forward of one.
///
/// Errors: 50035 for a message that is not there or written by the server, 50068, 160002;
/// of the channel it is forwarded from: 10003, 10008, 50001, 50013, 160014.
async fn refer(
    app: &App,
    author: &CurrentUser,
    place: &Place,
    wanted: &Reference,
    message: &mut Message,
) -> Result<()> {
    let mut db = app.db.acquire().await?;
    if wanted.kind == 1 {
        let from = wanted.channel_id.unwrap_or(place.id());
        let needed = Permissions::READ_MESSAGE_HISTORY;
        let source = access::place(&mut db, author, from, needed).await?;
        let found = load::message(&app.media, &mut db, author.id, from, wanted.message_id).await?;
        let found = found.ok_or(ErrorCode::UnknownMessage)?;
        if !sees_content(author, source.guild_id(), &found) {
            return Err(ErrorCode::CannotForwardUnreadable.into());
        }
        message.message_snapshots = snapshot(&found)?;
        // Those listed are kept by the snapshot itself; these live as long as it shows them.
        let shown = linked_files(&found.components);
        message.embedded_files.extend(shown);
        message.embedded_files.extend(&found.embedded_files);
        message.flags |= MessageFlags::HAS_SNAPSHOT;
        message.message_reference = Some(MessageReference {
            kind: 1,
            message_id: Some(found.id),
            channel_id: from,
            guild_id: source.guild_id(),
        });
        return Ok(());
    }
    let channel = place.id();
    let fault = |code, message: &'static str| {
        Err(FormErrors::one(
            "message_reference",
            Fault::Other(code, message.into()),
        ))
    };
    if !place
        .permissions()
        .contains(Permissions::READ_MESSAGE_HISTORY)
    {
        return Err(ErrorCode::NoReadMessageHistory.into());
    }
    let found = if wanted.channel_id.is_some_and(|wanted| wanted != channel) {
        None
    } else {
        load::message(&app.media, &mut db, author.id, channel, wanted.message_id).await?
    };
    match found {
        Some(found) if !found.kind.is_written() => fault(
            "REPLIES_CANNOT_REPLY_TO_SYSTEM_MESSAGE",
            "Cannot reply to a system message",
        ),
        Some(found) => {
            // Everybody reads it, also in the event.
            let mut found = as_nobody(found);
            found.referenced_message = None;
            message.kind = MessageKind::REPLY;
            message.message_reference = Some(MessageReference {
                kind: 0,
                message_id: Some(found.id),
                channel_id: channel,
                guild_id: place.guild_id(),
            });
            message.referenced_message = Some(Some(Box::new(found)));
            Ok(())
        }
        None if wanted.fail_if_not_exists.unwrap_or(true) => {
            fault("REPLIES_UNKNOWN_MESSAGE", "Unknown message")
        }
        None => Ok(()),
    }
}

fn new_message(
    place: &Place,
    author: &CurrentUser,
    (message, json): (Message, &[u8]),
    nonce: Option<String>,
) -> Result<NewMessage> {
    let (body, alt) = bodies_of((&message, json), place.guild_id(), place.member())?;
    let extra = Extra::of(&message).to_db()?;
    Ok(NewMessage {
        realms: place.checked_at(),
        in_thread: place.kind().is_thread(),
        author: author.id,
        author_state_seq: author.account.state_seq,
        channel: message.channel_id,
        id: message.id,
        kind: message.kind.0,
        flags: message.flags,
        content: message.content,
        tts: message.tts,
        mention_everyone: message.mention_everyone,
        mentions: message.mentions.iter().map(|user| user.id).collect(),
        mention_roles: message.mention_roles,
        extra,
        nonce,
        body,
        vis: place.visibility(Intents::GUILD_MESSAGES),
        alt,
        trace: telemetry::trace(),
    })
}

/// The server says in a channel that somebody joined (type 7). The guild's head is locked.
pub(crate) async fn create_join_message(
    app: &App,
    db: &mut PgConnection,
    guild: Id<Guild>,
    channel: Id<Channel>,
    member: &Member,
) -> Result<Option<Envelope>> {
    let Some(user) = &member.user else {
        return Ok(None);
    };
    let message = post::draft(app, channel, user.clone(), MessageKind::USER_JOIN)?;
    let event = post::post(db, guild, Some(member), &message).await?;
    Ok(Some(event))
}
