//! Forms made into messages, for senders that write inside a transaction of their own:
//! webhooks, interactions, forum posts. Nothing here is stored but changes of an edit.

use guildhall_shared::{
    Timestamp,
    error_code::ErrorCode,
    model::{Message, MessageFlags},
};
use sqlx::PgConnection;

use super::{
    content::Mentions,
    mentions::{Mentioner, known_roles, resolve_mentions},
    post::store_changes,
    request::{EditForm, NewMessageForm, Sender},
};
use crate::{app::App, error::Result, routes::webhooks, upload::Files};

/// What a request says of a message, and whose it is.
pub(crate) struct Request<'a, F> {
    pub(crate) sender: Sender,
    pub(crate) mentioner: Mentioner<'a>,
    /// Checked.
    pub(crate) form: &'a F,
    /// `Files::none` where the request cannot bring any.
    pub(crate) files: &'a Files,
}

/// Fills a [`super::draft`] with what a form says, its mentions resolved; then it can be
/// [`super::post_in`]ed. What it answers or forwards and its webhook are the caller's to set,
/// before.
///
/// Errors: 30015, 50006 if there is nothing in it, 50013, 50035, 50081, 50159, 50160,
/// 50161, 50173, 50600, 520004.
pub(crate) async fn compose(
    app: &App,
    db: &mut PgConnection,
    request: Request<'_, NewMessageForm>,
    message: &mut Message,
) -> Result<()> {
    let Request { form, sender, .. } = request;
    let channel = message.channel_id;
    message.attachments = request
        .files
        .attach(&app.media, channel, &form.attachments, &[])?;
    form.fill(sender, message)?;
    form.fill_from_database(db, message).await?;
    if let Mentioner::Caller(place) = request.mentioner {
        form.check_at(&mut *db, place, message.author.id).await?;
    }
    if message.is_empty() {
        return Err(ErrorCode::EmptyMessage.into());
    }
    let wanted = form.mentions(sender, message);
    set_mentions(db, request.mentioner, wanted, message).await
}

/// Changes a message as a form says and stores it; [`super::announce_update_in`] tells, and
/// [`webhooks::deliver_soon`] changes its copies.
///
/// Errors: 30015, 50006, 50035, 50162, 520003, 520004.
pub(crate) async fn edit(
    app: &App,
    db: &mut PgConnection,
    request: Request<'_, EditForm>,
    message: &mut Message,
) -> Result<()> {
    let Request { form, files, .. } = request;
    let changes_content = form.changes_content(files);
    if changes_content && message.poll.is_some() {
        return Err(ErrorCode::CannotEditPoll.into());
    }
    if changes_content && message.flags & MessageFlags::IS_VOICE_MESSAGE != 0 {
        return Err(ErrorCode::VoiceMessageEdit.into());
    }
    if form.attachments.is_some() || !files.is_empty() {
        let (channel, forms) = (message.channel_id, form.attachments.as_deref());
        message.attachments = files.edit(&app.media, channel, forms, &message.attachments)?;
    }
    // What was to come is made by its first edit.
    if message.flags & MessageFlags::LOADING != 0
        && let Some(poll) = &form.poll
    {
        message.poll = Some(poll.open(db, message.author.id).await?);
    }
    form.apply(message)?;
    if changes_content {
        // Postgres keeps microseconds; the answer says what a later read will.
        let now_ms = Timestamp::now().0.unix_timestamp_nanos() / 1_000_000;
        message.edited_timestamp = Some(Timestamp::from_unix_ms(now_ms as u64));
        let wanted = form.mentions(request.sender, message);
        set_mentions(db, request.mentioner, wanted, message).await?;
    }
    store_changes(db, message).await?;
    if message.flags & MessageFlags::CROSSPOSTED != 0 {
        webhooks::queue_copies(db, message.channel_id, message.id).await?;
    }
    Ok(())
}

/// Resolves mentions and writes them into the message.
async fn set_mentions(
    db: &mut PgConnection,
    mentioner: Mentioner<'_>,
    mut wanted: Mentions,
    message: &mut Message,
) -> Result<()> {
    if let Mentioner::Anybody(guild) = mentioner
        && !wanted.roles.is_empty()
    {
        wanted.roles = match guild {
            Some(guild) => known_roles(&mut *db, guild, &wanted.roles).await?,
            None => Vec::new(),
        };
    }
    let answered = message.referenced_message.as_ref();
    let replied_to = answered
        .and_then(|answered| answered.as_deref())
        .filter(|answered| answered.webhook_id.is_none())
        .map(|answered| answered.author.clone());
    let found = resolve_mentions(db, mentioner, &wanted, replied_to.as_ref()).await?;
    message.mentions = found.users;
    message.mention_roles = found.roles;
    message.mention_everyone = found.everyone;
    Ok(())
}
