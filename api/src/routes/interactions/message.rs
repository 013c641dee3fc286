//! Messages that answer interactions: in their channel, or for one user's eyes only.
//!
//! An ephemeral message is in no channel: no list shows it. It is kept with its interaction.

use guildhall_shared::{
    Id,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Attachment, Channel, User},
    model::{Message, MessageFlags, MessageKind, MessageReference},
};
use guildhall_store::account;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{PgConnection, types::Json as Jsonb};

use super::{Row, mentioner};
use crate::{
    access::{self, Audience},
    app::App,
    error::Result,
    events,
    form::{Fault, FormErrors},
    media::Media,
    routes::{
        dms,
        messages::{self, EditForm, Request, Sender},
        polls, threads,
    },
    upload::Files,
};

/// A message as somebody sees it.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) message: Box<Message>,
    pub(super) is_ephemeral: bool,
}

/// An ephemeral message as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Ephemeral {
    #[serde(flatten)]
    message: Message,
    /// Attachments that embeds show: the message itself does not write them.
    #[serde(default)]
    embedded_files: Vec<Id<Attachment>>,
}

impl Ephemeral {
    fn of(message: &Message) -> Self {
        Self {
            embedded_files: message.embedded_files.clone(),
            message: Message {
                // For who asked and who is told now; later reads do not have it.
                nonce: None,
                ..message.clone()
            },
        }
    }

    fn into_message(self) -> Message {
        Message {
            embedded_files: self.embedded_files,
            ..self.message
        }
    }
}

/// A message of a channel as `bot` sees it, or an ephemeral one that is for `user`.
pub(super) async fn shown_to(
    media: &Media,
    db: &mut PgConnection,
    user: Id<User>,
    bot: Id<User>,
    channel: Id<Channel>,
    id: Id<marker::Message>,
) -> Result<Option<Shown>> {
    let ephemeral = sqlx::query_scalar!(
        r#"select m.ephemeral as "message!: Jsonb<Ephemeral>"
           from interaction_message m join interaction i using (interaction_id)
           where m.message_id = $1 and m.ephemeral is not null
             and i.user_id = $2 and i.channel_id = $3"#,
        id.to_db(),
        user.to_db(),
        channel.to_db(),
    )
    .fetch_optional(&mut *db)
    .await?;
    if let Some(message) = ephemeral {
        let mut message = message.0.into_message();
        messages::load::sign_anew(media, &mut message);
        return Ok(Some(Shown {
            message: Box::new(message),
            is_ephemeral: true,
        }));
    }
    let stored = messages::load::message(media, db, bot, channel, id).await?;
    Ok(stored.map(|message| Shown {
        message: Box::new(message),
        is_ephemeral: false,
    }))
}

/// [`shown_to`] those whom an interaction is between.
pub(super) async fn shown(
    media: &Media,
    db: &mut PgConnection,
    row: &Row,
    id: Id<marker::Message>,
) -> Result<Option<Shown>> {
    shown_to(media, db, row.user, row.bot(), row.channel, id).await
}

/// A message that the interaction's token may read and change: one that answered it, or the
/// one whose component was used. Errors: 10008.
pub(super) async fn own(
    media: &Media,
    db: &mut PgConnection,
    row: &Row,
    id: Id<marker::Message>,
) -> Result<Shown> {
    let is_answer = sqlx::query_scalar!(
        r#"select exists (select from interaction_message
                          where interaction_id = $1 and message_id = $2) as "is!""#,
        row.id.to_db(),
        id.to_db(),
    )
    .fetch_one(&mut *db)
    .await?;
    if !is_answer && row.response_message != Some(id) {
        return Err(ErrorCode::UnknownMessage.into());
    }
    let shown = shown(media, db, row, id).await?;
    shown.ok_or_else(|| ErrorCode::UnknownMessage.into())
}

/// Who a message that answers is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Channel,
    /// The user alone, and the bot that wrote it.
    User,
}

impl Reach {
    pub(super) fn flags(self) -> u64 {
        match self {
            Self::User => MessageFlags::EPHEMERAL,
            Self::Channel => 0,
        }
    }

    pub(super) fn of_flags(flags: u64) -> Self {
        match flags & MessageFlags::EPHEMERAL {
            0 => Self::Channel,
            _ => Self::User,
        }
    }

    /// Of a message there is: it never changes. Others than ephemeral ones are in a channel.
    pub(super) async fn of_message(db: &mut PgConnection, id: Id<marker::Message>) -> Result<Self> {
        let is_ephemeral = sqlx::query_scalar!(
            r#"select exists (select from interaction_message
                              where message_id = $1 and ephemeral is not null) as "is!""#,
            id.to_db(),
        )
        .fetch_one(db)
        .await?;
        Ok(match is_ephemeral {
            true => Self::User,
            false => Self::Channel,
        })
    }
}

/// Locks everything that an answer writes to: the heads of its place and of the user, who is
/// told wherever they are by then; for an ephemeral message the bot's too. Errors: 10003.
pub(super) async fn lock(db: &mut PgConnection, row: &Row, reach: Reach) -> Result<Audience> {
    let told = match reach {
        Reach::Channel => vec![row.user],
        Reach::User => vec![row.user, row.bot()],
    };
    if let Some(guild) = row.guild {
        let mut realms = vec![guild.cast::<marker::Realm>()];
        realms.extend(told.iter().map(|user| user.cast()));
        access::lock_realms(db, realms).await?;
    }
    access::audience_for_change_with(db, row.channel, &told).await
}

/// [`lock`] for a new message that is asked to be for these; and whether it is for the user alone
/// whatever is asked, which stays so until the commit. Errors: 10003.
pub(super) async fn lock_for_new(
    db: &mut PgConnection,
    row: &Row,
    asked: Reach,
) -> Result<(Audience, bool)> {
    let reach = match row.context.guest {
        // That is known under the locks only, which are taken at once.
        Some(_) => Reach::User,
        None => asked,
    };
    let audience = lock(&mut *db, row, reach).await?;
    Ok((audience, row.is_quiet(db).await?))
}

/// An empty message of the interaction's bot.
pub(super) async fn draft(app: &App, db: &mut PgConnection, row: &Row) -> Result<Message> {
    let bot = account::by_id(&mut *db, row.bot())
        .await?
        .ok_or(ErrorCode::UnknownApplication)?;
    let kind = row.context.message_kind;
    let mut message = messages::draft(app, row.channel, bot.user.user, kind)?;
    message.application_id = Some(row.application);
    message.webhook_id = Some(row.application.cast());
    message.interaction_metadata = Some(row.context.metadata.clone());
    message.interaction = row.context.legacy.clone();
    Ok(message)
}

/// Makes a message one that answers `source`, where that is in the channel.
pub(super) async fn refer(
    media: &Media,
    db: &mut PgConnection,
    row: &Row,
    message: &mut Message,
) -> Result<()> {
    let source = row.context.source.filter(|source| !source.is_ephemeral);
    let Some(source) = source else {
        return Ok(());
    };
    let answered =
        messages::load::message(media, db, row.bot(), row.channel, source.message).await?;
    if let Some(mut answered) = answered {
        answered.referenced_message = None;
        message.kind = MessageKind::REPLY;
        message.message_reference = Some(MessageReference {
            kind: 0,
            message_id: Some(source.message),
            channel_id: row.channel,
            guild_id: row.guild,
        });
        message.referenced_message = Some(Some(Box::new(answered)));
    }
    Ok(())
}

/// Before a message comes that a channel's people see: wakes a thread, and everyone lists a private
/// channel again. The place is locked.
pub(super) async fn make_ready(
    db: &mut PgConnection,
    audience: &Audience,
) -> Result<Vec<Envelope>> {
    let mut told = threads::wake(db, audience).await?;
    told.extend(dms::open_for_all(db, audience).await?);
    Ok(told)
}

/// Stores a new message and tells those who may see it. The place is locked.
///
/// Errors: 50035 for a poll that only one could vote in.
pub(super) async fn post(
    db: &mut PgConnection,
    row: &Row,
    audience: &Audience,
    message: &Message,
) -> Result<Vec<Envelope>> {
    let reach = Reach::of_flags(message.flags);
    check_poll(reach, message)?;
    let envelopes = match reach {
        Reach::User => tell(db, row, EventKind::MessageCreate, message).await?,
        Reach::Channel => {
            let mut told = make_ready(db, audience).await?;
            let member = messages::author_member_in(db, row.guild, message).await?;
            told.extend(messages::post_in(db, audience, member.as_ref(), message).await?);
            told
        }
    };
    let ephemeral = (reach == Reach::User).then(|| Jsonb(Ephemeral::of(message)));
    sqlx::query!(
        "insert into interaction_message (interaction_id, message_id, ephemeral)
         values ($1, $2, $3)",
        row.id.to_db(),
        message.id.to_db(),
        ephemeral as Option<Jsonb<Ephemeral>>,
    )
    .execute(db)
    .await?;
    Ok(envelopes)
}

/// Errors: 50035.
fn check_poll(reach: Reach, message: &Message) -> Result<()> {
    if reach == Reach::Channel || message.poll.is_none() {
        return Ok(());
    }
    let text = "An ephemeral message cannot have a poll";
    let fault = Fault::Other("POLL_CANNOT_BE_EPHEMERAL", text.into());
    Err(FormErrors::one("poll", fault))
}

/// Changes a message and tells those who may see it. The place is locked.
///
/// Errors: 50006, 50035, 50083.
pub(super) async fn edit(
    app: &App,
    db: &mut PgConnection,
    row: &Row,
    audience: &Audience,
    shown: Shown,
    (form, files): (&EditForm, &Files),
) -> Result<(Message, Vec<Envelope>)> {
    let mut message = *shown.message;
    let mut envelopes = Vec::new();
    if !shown.is_ephemeral {
        match message.flags & MessageFlags::LOADING {
            0 => threads::require_awake(db, audience).await?,
            // It comes now, as a new message does.
            _ => envelopes = make_ready(db, audience).await?,
        }
    }
    let place = row.bot_place(db).await?;
    let request = Request {
        sender: Sender::Interaction,
        mentioner: mentioner(place.as_ref()),
        form,
        files,
    };
    messages::edit(app, db, request, &mut message).await?;
    // The first edit of a deferred answer is the answer: it was not edited.
    if message.flags & MessageFlags::LOADING != 0 {
        message.flags &= !MessageFlags::LOADING;
        message.edited_timestamp = None;
        store_late(db, &message).await?;
    }
    envelopes.extend(changed(db, row, audience, &message, shown.is_ephemeral).await?);
    Ok((message, envelopes))
}

/// Stores a deferred answer that has come. Errors: 50035.
pub(super) async fn store_late(db: &mut PgConnection, message: &Message) -> Result<()> {
    check_poll(Reach::of_flags(message.flags), message)?;
    messages::store_changes(db, message).await?;
    match &message.poll {
        Some(poll) => polls::open(db, message.channel_id, message.id, poll).await,
        None => Ok(()),
    }
}

/// Tells of a changed message those who may see it; an ephemeral one is stored here.
pub(super) async fn changed(
    db: &mut PgConnection,
    row: &Row,
    audience: &Audience,
    message: &Message,
    is_ephemeral: bool,
) -> Result<Vec<Envelope>> {
    if is_ephemeral {
        sqlx::query!(
            "update interaction_message set ephemeral = $2
             where message_id = $1 and ephemeral is not null",
            message.id.to_db(),
            Jsonb(Ephemeral::of(message)) as Jsonb<Ephemeral>,
        )
        .execute(&mut *db)
        .await?;
        return tell(db, row, EventKind::MessageUpdate, message).await;
    }
    // Of a webhook's message whose component was used there is none.
    let member = messages::author_member_in(db, row.guild, message).await?;
    messages::announce_update_in(db, audience, member.as_ref(), message).await
}

/// Removes a message and tells those who saw it. The place is locked.
pub(super) async fn delete(
    db: &mut PgConnection,
    row: &Row,
    audience: &Audience,
    shown: &Shown,
) -> Result<Vec<Envelope>> {
    let id = shown.message.id;
    if !shown.is_ephemeral {
        messages::delete_messages(db, row.channel, &[id]).await?;
        return messages::announce_delete(db, audience, id).await;
    }
    sqlx::query!(
        "delete from interaction_message where message_id = $1 and ephemeral is not null",
        id.to_db(),
    )
    .execute(&mut *db)
    .await?;
    let body = json!({ "id": id, "channel_id": row.channel });
    tell(db, row, EventKind::MessageDelete, &body).await
}

/// Tells the user and the bot alone, as of a direct message: in their own realms, so that to
/// the guild there is no such message.
async fn tell(
    db: &mut PgConnection,
    row: &Row,
    kind: EventKind,
    body: &impl Serialize,
) -> Result<Vec<Envelope>> {
    let mut users = [row.user, row.bot()];
    users.sort_unstable();
    let vis = Visibility::realm(Intents::DIRECT_MESSAGES);
    let mut envelopes = Vec::new();
    for user in users {
        envelopes.push(events::append(db, user, kind, vis.clone(), body, None).await?);
    }
    Ok(envelopes)
}
