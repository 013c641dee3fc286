//! What requests may say of messages: one form for new ones, one for edits. They serve
//! create_message and update_message, webhooks, responses to interactions and forum posts;
//! who sends decides about flags and mentions ([`Sender`]).
//!
//! Never checks permissions: [`NewMessageForm::needed`] says which ones it takes.

use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    id::marker::{Channel, Message as MessageMarker, Sticker, Tag, User},
    model::{Message, MessageFlags, MessageKind, present},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgExecutor};
use utoipa::ToSchema;

use super::{
    components,
    content::{self, AllowedMentions, Embed, Mentions, Nonce, check_url},
    stickers, voice,
};
use crate::{
    access::Place,
    error::Result,
    extract::{Form, null_is_default},
    form::{Fault, FormErrors},
    routes::polls::NewPoll,
    upload::{
        Files,
        attachments::{self, AttachmentForm},
    },
};

const STICKERS_MAX: usize = 3;
const USERNAME_MAX: usize = 80;
const THREAD_NAME_MAX: usize = 100;
const TAGS_MAX: usize = 5;

/// Who a message comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// An account, by create_message.
    User,
    /// Nobody is mentioned but users, unless the request asks for it.
    Webhook,
    /// As a webhook, and it may be for one user's eyes only.
    Interaction,
}

impl Sender {
    /// Flags that a new message may be given.
    fn flags(self) -> u64 {
        let flags = MessageFlags::SUPPRESS_EMBEDS
            | MessageFlags::SUPPRESS_NOTIFICATIONS
            | MessageFlags::IS_COMPONENTS_V2;
        match self {
            Self::User => flags | MessageFlags::IS_VOICE_MESSAGE,
            Self::Webhook => flags,
            Self::Interaction => flags | MessageFlags::IS_VOICE_MESSAGE | MessageFlags::EPHEMERAL,
        }
    }

    /// What counts as mention if the request does not say.
    fn default_mentions(self) -> Option<AllowedMentions> {
        match self {
            Self::User => None,
            Self::Webhook | Self::Interaction => Some(AllowedMentions::users_only()),
        }
    }
}

/// A message to be made. Fields that an endpoint does not document are ignored by it.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = CreateMessageRequest)]
pub(crate) struct NewMessageForm {
    /// 2000 characters at most.
    pub(super) content: Option<String>,
    pub(super) nonce: Option<Nonce>,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) enforce_nonce: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) tts: bool,
    /// 10 at most.
    #[serde(deserialize_with = "null_is_default")]
    pub(super) embeds: Vec<Embed>,
    pub(super) allowed_mentions: Option<AllowedMentions>,
    pub(super) message_reference: Option<Reference>,
    /// Rows of buttons and selects; with flag 1<<15 the second kind.
    #[serde(deserialize_with = "null_is_default")]
    pub(super) components: Vec<Value>,
    /// 3 at most.
    #[serde(deserialize_with = "null_is_default")]
    pub(super) sticker_ids: Vec<Id<Sticker>>,
    /// What there is to say of the files, by their number.
    #[serde(deserialize_with = "null_is_default")]
    pub(super) attachments: Vec<AttachmentForm>,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) flags: u64,
    pub(super) poll: Option<NewPoll>,
    /// Webhooks: instead of the webhook's own name.
    pub(crate) username: Option<String>,
    /// Webhooks: instead of the webhook's own picture.
    pub(crate) avatar_url: Option<String>,
    /// Webhooks: makes a post in a forum.
    pub(crate) thread_name: Option<String>,
    /// Webhooks: tags of the post.
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) applied_tags: Vec<Id<Tag>>,
}

/// The message that a new one answers or forwards.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = MessageReferenceRequest)]
pub(super) struct Reference {
    /// 0 answers, 1 forwards.
    #[serde(default, rename = "type", deserialize_with = "null_is_default")]
    pub(super) kind: u8,
    pub(super) message_id: Id<MessageMarker>,
    #[serde(default)]
    pub(super) channel_id: Option<Id<Channel>>,
    #[serde(default)]
    pub(super) fail_if_not_exists: Option<bool>,
}

impl Form for NewMessageForm {
    fn check(&self, form: &mut FormErrors) {
        if let Some(content) = &self.content {
            content::check_content(content, form);
        }
        if let Some(nonce) = &self.nonce {
            nonce.check(form);
        }
        content::check_embeds(&self.embeds, form);
        if let Some(allowed) = &self.allowed_mentions {
            allowed.check(form);
        }
        if let Some(reference) = &self.message_reference {
            match reference.kind {
                0 => {}
                1 if reference.channel_id.is_none() => {
                    form.add("message_reference.channel_id", Fault::Required);
                }
                1 => {}
                _ => form.add("message_reference.type", Fault::Choices("(0, 1)")),
            }
        }
        components::parse(&self.components, self.is_v2(), form);
        AttachmentForm::check_all(&self.attachments, form);
        if self.sticker_ids.len() > STICKERS_MAX {
            let max = STICKERS_MAX;
            form.add("sticker_ids", Fault::BadLength { min: 0, max });
        }
        if let Some(poll) = &self.poll {
            poll.check(form);
        }
        if self.is_v2() {
            let legacy = [
                (
                    "content",
                    self.content
                        .as_deref()
                        .is_some_and(|c| !c.trim().is_empty()),
                ),
                ("embeds", !self.embeds.is_empty()),
                ("sticker_ids", !self.sticker_ids.is_empty()),
                ("poll", self.poll.is_some()),
            ];
            for (field, given) in legacy {
                if given {
                    form.add(field, not_with_v2());
                }
            }
        }
        if let Some(username) = &self.username {
            form.length("username", username, 1..=USERNAME_MAX);
            check_webhook_name("username", username, form);
        }
        if let Some(url) = self.avatar_url.as_deref().filter(|url| !url.is_empty()) {
            check_url("avatar_url", url, form);
        }
        if let Some(name) = &self.thread_name {
            form.length("thread_name", name, 0..=THREAD_NAME_MAX);
        }
        if self.applied_tags.len() > TAGS_MAX {
            let max = TAGS_MAX;
            form.add("applied_tags", Fault::BadLength { min: 0, max });
        }
    }
}

/// Names that webhooks may not bear.
pub(crate) fn check_webhook_name(path: &str, name: &str, form: &mut FormErrors) {
    let lower = name.to_lowercase();
    for word in ["clyde", "discord"] {
        if lower.contains(word) {
            let message = format!("Username cannot contain \"{word}\"");
            let code = "USERNAME_INVALID_CONTAINS";
            form.add(path, Fault::Other(code, message.into()));
        }
    }
}

fn not_with_v2() -> Fault {
    Fault::Other(
        "MESSAGE_CANNOT_USE_LEGACY_FIELDS_WITH_COMPONENTS_V2",
        "This field cannot be used with the components v2 flag.".into(),
    )
}

impl NewMessageForm {
    /// Whether a webhook is to begin a post of its forum.
    pub(crate) fn names_a_thread(&self) -> bool {
        let name = self.thread_name.as_deref();
        name.is_some_and(|name| !name.trim().is_empty())
    }

    /// A message that is text and embeds.
    pub(crate) fn of_text(content: String, embeds: Vec<Embed>) -> Self {
        Self {
            content: Some(content),
            embeds,
            ..Self::default()
        }
    }

    /// What there is to say of the files, by their number.
    pub(crate) fn attachments(&self) -> &[AttachmentForm] {
        &self.attachments
    }

    fn is_v2(&self) -> bool {
        self.flags & MessageFlags::IS_COMPONENTS_V2 != 0
    }

    /// Whether it is for one user's eyes only, where the sender may ask for that.
    pub(crate) fn is_ephemeral(&self) -> bool {
        self.flags & MessageFlags::EPHEMERAL != 0
    }

    /// What sending it takes besides the permission to send.
    pub(crate) fn needed(&self) -> Permissions {
        let mut needed = Permissions::empty();
        if self.tts {
            needed |= Permissions::SEND_TTS_MESSAGES;
        }
        if !self.embeds.is_empty() {
            needed |= Permissions::EMBED_LINKS;
        }
        if self.poll.is_some() {
            needed |= Permissions::SEND_POLLS;
        }
        needed
    }

    /// Fills in everything that needs no database, after the attachments. Not yet: mentions,
    /// stickers, the poll, what is answered or forwarded.
    ///
    /// Errors: 50035, 50159, 50160, 50161.
    pub(crate) fn fill(&self, sender: Sender, message: &mut Message) -> Result<()> {
        message.content = content::clean_content(self.content.as_deref().unwrap_or_default());
        message.embeds = content::embeds_to_json(&self.embeds)?;
        message.tts = self.tts;
        message.flags = self.flags & sender.flags();
        message.nonce = self.nonce.as_ref().map(Nonce::to_json);
        let mut form = FormErrors::new();
        message.components = components::parse(&self.components, self.is_v2(), &mut form);
        let attachments = &message.attachments;
        components::link_media(&mut message.components, message.id, attachments, &mut form);
        form.finish()?;
        attachments::link_embedded(message, &[]);
        if message.flags & MessageFlags::IS_VOICE_MESSAGE != 0 {
            if self.needs_database() || self.forwards() {
                return Err(ErrorCode::VoiceMessageContent.into());
            }
            voice::check(message)?;
        }
        Ok(())
    }

    fn forwards(&self) -> bool {
        self.message_reference
            .as_ref()
            .is_some_and(|reference| reference.kind == 1)
    }

    /// Whether the author may send this at the place, what [`Self::needed`] names apart.
    ///
    /// Errors: 50013, 50173, 50600.
    pub(super) async fn check_at(
        &self,
        db: impl PgExecutor<'_>,
        place: &Place,
        author: Id<User>,
    ) -> Result<()> {
        if self.flags & MessageFlags::IS_VOICE_MESSAGE != 0 {
            voice::check_at(place)?;
        }
        if !self.sticker_ids.is_empty() {
            Box::pin(stickers::check(db, place, author, &self.sticker_ids)).await?;
        }
        Ok(())
    }

    pub(super) fn needs_database(&self) -> bool {
        self.poll.is_some() || !self.sticker_ids.is_empty()
    }

    /// Fills in the stickers and opens the poll. Errors: 50081, 520004.
    pub(crate) async fn fill_from_database(
        &self,
        db: &mut PgConnection,
        message: &mut Message,
    ) -> Result<()> {
        if let Some(poll) = &self.poll {
            message.poll = Some(poll.open(db, message.author.id).await?);
        }
        if !self.sticker_ids.is_empty() {
            message.sticker_items = stickers::items(db, &self.sticker_ids).await?;
        }
        Ok(())
    }

    /// What the filled message mentions.
    pub(super) fn mentions(&self, sender: Sender, message: &Message) -> Mentions {
        find_mentions(message, sender, self.allowed_mentions.as_ref())
    }
}

/// Mentions in all texts of a message.
fn find_mentions(message: &Message, sender: Sender, allowed: Option<&AllowedMentions>) -> Mentions {
    let default = sender.default_mentions();
    let allowed = allowed.or(default.as_ref());
    let texts = components::texts(&message.components);
    if texts.is_empty() {
        return Mentions::find(&message.content, allowed);
    }
    Mentions::find(
        &format!("{}\n{}", message.content, texts.join("\n")),
        allowed,
    )
}

/// Changes to a message. Absent leaves unchanged, null clears.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = UpdateMessageRequest)]
pub(crate) struct EditForm {
    #[serde(deserialize_with = "present")]
    pub(super) content: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    pub(super) embeds: Option<Option<Vec<Embed>>>,
    #[serde(deserialize_with = "present")]
    pub(super) components: Option<Option<Vec<Value>>>,
    /// Those that stay, and what there is to say of new ones. Absent or null: all stay.
    pub(super) attachments: Option<Vec<AttachmentForm>>,
    pub(super) allowed_mentions: Option<AllowedMentions>,
    #[serde(deserialize_with = "present")]
    pub(super) flags: Option<Option<u64>>,
    /// Interactions: of an answer that was still to come.
    pub(super) poll: Option<NewPoll>,
}

impl Form for EditForm {
    fn check(&self, form: &mut FormErrors) {
        if let Some(Some(content)) = &self.content {
            content::check_content(content, form);
        }
        if let Some(Some(embeds)) = &self.embeds {
            content::check_embeds(embeds, form);
        }
        if let Some(allowed) = &self.allowed_mentions {
            allowed.check(form);
        }
        AttachmentForm::check_all(self.attachments.as_deref().unwrap_or_default(), form);
        if let Some(poll) = &self.poll {
            poll.check(form);
        }
    }
}

impl EditForm {
    /// Whether it changes more than flags.
    pub(crate) fn changes_content(&self, files: &Files) -> bool {
        self.content.is_some()
            || self.embeds.is_some()
            || self.components.is_some()
            || self.attachments.is_some()
            || !files.is_empty()
    }

    /// Leaves of the flags those that others than the author may change.
    pub(super) fn keep_flags_of_others(&mut self) {
        if let Some(flags) = self.flags.as_mut().and_then(Option::as_mut) {
            *flags &= MessageFlags::SUPPRESS_EMBEDS;
        }
    }

    pub(super) fn has_embeds(&self) -> bool {
        matches!(&self.embeds, Some(Some(embeds)) if !embeds.is_empty())
    }

    /// Changes a message, except for its attachments (before) and what it mentions (after).
    ///
    /// Errors: 50006 if nothing is left, 50035.
    pub(crate) fn apply(&self, message: &mut Message) -> Result<()> {
        const EDITABLE: u64 = MessageFlags::SUPPRESS_EMBEDS;
        if let Some(flags) = self.flags {
            let wanted = flags.unwrap_or_default();
            message.flags =
                message.flags & !EDITABLE | wanted & (EDITABLE | MessageFlags::IS_COMPONENTS_V2);
        }
        let is_v2 = message.flags & MessageFlags::IS_COMPONENTS_V2 != 0;
        if let Some(content) = &self.content {
            message.content = content::clean_content(content.as_deref().unwrap_or_default());
        }
        // With a list of those that stay, what embeds showed goes.
        let shown = match self.attachments {
            None => attachments::embedded(message),
            Some(_) => Vec::new(),
        };
        if let Some(embeds) = &self.embeds {
            let embeds = embeds.as_deref().unwrap_or_default();
            message.embeds = content::embeds_to_json(embeds)?;
        }
        let mut form = FormErrors::new();
        if let Some(components) = &self.components {
            let components = components.as_deref().unwrap_or_default();
            message.components = components::parse(components, is_v2, &mut form);
            let attachments = &message.attachments;
            components::link_media(&mut message.components, message.id, attachments, &mut form);
        }
        if is_v2 {
            for (field, used) in [
                ("content", !message.content.is_empty()),
                ("embeds", !message.embeds.is_empty()),
                ("sticker_ids", !message.sticker_items.is_empty()),
                ("poll", message.poll.is_some()),
            ] {
                if used {
                    form.add(field, not_with_v2());
                }
            }
        }
        form.finish()?;
        attachments::link_embedded(message, &shown);
        if message.kind.is_written() && message.is_empty() {
            return Err(ErrorCode::EmptyMessage.into());
        }
        Ok(())
    }

    /// What the changed message mentions.
    pub(super) fn mentions(&self, sender: Sender, message: &Message) -> Mentions {
        find_mentions(message, sender, self.allowed_mentions.as_ref())
    }
}

/// The snapshot that a forward carries. Errors: 50068 for what cannot be forwarded.
pub(super) fn snapshot(source: &Message) -> Result<Vec<Value>> {
    if !source.kind.is_written() || source.poll.is_some() {
        return Err(ErrorCode::InvalidMessageType.into());
    }
    // A forward of a forward shows the first message.
    if !source.message_snapshots.is_empty() {
        return Ok(source.message_snapshots.clone());
    }
    let kept = MessageFlags::SUPPRESS_EMBEDS
        | MessageFlags::IS_VOICE_MESSAGE
        | MessageFlags::IS_COMPONENTS_V2;
    let mut message = json!({
        "type": MessageKind::DEFAULT,
        "content": source.content,
        "embeds": source.embeds,
        "attachments": source.attachments,
        "components": source.components,
        "timestamp": source.timestamp,
        "edited_timestamp": source.edited_timestamp,
        "flags": source.flags & kept,
        "mentions": source.mentions,
        "mention_roles": source.mention_roles,
    });
    if !source.sticker_items.is_empty() {
        message["sticker_items"] = Value::Array(source.sticker_items.clone());
    }
    Ok(vec![json!({ "message": message })])
}
