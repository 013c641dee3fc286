//! Messages. Spec: objects.md › Message.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{Member, User};
use crate::{
    Timestamp,
    id::{Id, marker},
};

/// A message's type number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct MessageKind(pub u8);

impl MessageKind {
    pub const DEFAULT: Self = Self(0);
    pub const RECIPIENT_ADD: Self = Self(1);
    pub const RECIPIENT_REMOVE: Self = Self(2);
    pub const CHANNEL_NAME_CHANGE: Self = Self(4);
    pub const CHANNEL_ICON_CHANGE: Self = Self(5);
    pub const CHANNEL_PINNED_MESSAGE: Self = Self(6);
    pub const USER_JOIN: Self = Self(7);
    pub const CHANNEL_FOLLOW_ADD: Self = Self(12);
    pub const THREAD_CREATED: Self = Self(18);
    pub const REPLY: Self = Self(19);
    pub const CHAT_INPUT_COMMAND: Self = Self(20);
    pub const THREAD_STARTER: Self = Self(21);
    pub const CONTEXT_MENU_COMMAND: Self = Self(23);
    pub const AUTO_MODERATION_ACTION: Self = Self(24);
    pub const STAGE_START: Self = Self(27);
    pub const STAGE_END: Self = Self(28);
    pub const STAGE_TOPIC: Self = Self(31);
    pub const POLL_RESULT: Self = Self(46);

    /// Whether somebody wrote it, as opposed to the server.
    pub fn is_written(self) -> bool {
        matches!(
            self,
            Self::DEFAULT | Self::REPLY | Self::CHAT_INPUT_COMMAND | Self::CONTEXT_MENU_COMMAND
        )
    }

    pub fn is_deletable(self) -> bool {
        !matches!(self.0, 1..=5 | 21)
    }
}

/// Bits of a message's `flags`.
#[derive(Debug, Clone, Copy)]
pub struct MessageFlags;

impl MessageFlags {
    pub const CROSSPOSTED: u64 = 1 << 0;
    pub const IS_CROSSPOST: u64 = 1 << 1;
    pub const SUPPRESS_EMBEDS: u64 = 1 << 2;
    pub const SOURCE_MESSAGE_DELETED: u64 = 1 << 3;
    pub const HAS_THREAD: u64 = 1 << 5;
    pub const EPHEMERAL: u64 = 1 << 6;
    pub const LOADING: u64 = 1 << 7;
    pub const SUPPRESS_NOTIFICATIONS: u64 = 1 << 12;
    pub const IS_VOICE_MESSAGE: u64 = 1 << 13;
    pub const HAS_SNAPSHOT: u64 = 1 << 14;
    pub const IS_COMPONENTS_V2: u64 = 1 << 15;
}

/// A message. `guild_id` and `member` are the gateway's extras: REST answers have neither.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    pub id: Id<marker::Message>,
    pub channel_id: Id<marker::Channel>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guild_id: Option<Id<marker::Guild>>,
    pub author: User,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<Member>,
    pub content: String,
    pub timestamp: Timestamp,
    pub edited_timestamp: Option<Timestamp>,
    pub tts: bool,
    pub mention_everyone: bool,
    pub mentions: Vec<User>,
    pub mention_roles: Vec<Id<marker::Role>>,
    pub attachments: Vec<Value>,
    pub embeds: Vec<Value>,
    pub components: Vec<Value>,
    /// Attachments that embeds show: not on the wire, but their files stay while they do.
    #[serde(skip)]
    pub embedded_files: Vec<Id<marker::Attachment>>,
    pub pinned: bool,
    #[serde(rename = "type")]
    pub kind: MessageKind,
    pub flags: u64,
    /// Only in the answer to its creator and in MESSAGE_CREATE: string or integer, as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_reference: Option<MessageReference>,
    /// The forwarded message as it was: `[{"message": {…}}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub message_snapshots: Vec<Value>,
    /// Absent when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reactions: Vec<Reaction>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sticker_items: Vec<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll: Option<Poll>,
    /// The webhook that sent it; the application of an interaction's response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<Id<marker::Webhook>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_id: Option<Id<marker::Application>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interaction_metadata: Option<Value>,
    /// The older form of `interaction_metadata`, which libraries still read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interaction: Option<Value>,
    /// The thread made from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<Value>,
    /// Its number in a thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// Replies only; null if the message replied to is gone.
    #[serde(
        default,
        deserialize_with = "super::present",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(no_recursion)]
    pub referenced_message: Option<Option<Box<Message>>>,
}

impl Message {
    /// An empty message, made at the time its id says.
    pub fn new(
        id: Id<marker::Message>,
        channel_id: Id<marker::Channel>,
        author: User,
        kind: MessageKind,
    ) -> Self {
        Self {
            id,
            channel_id,
            guild_id: None,
            author,
            member: None,
            content: String::new(),
            timestamp: Timestamp::from_unix_ms(id.created_ms()),
            edited_timestamp: None,
            tts: false,
            mention_everyone: false,
            mentions: Vec::new(),
            mention_roles: Vec::new(),
            attachments: Vec::new(),
            embeds: Vec::new(),
            components: Vec::new(),
            embedded_files: Vec::new(),
            pinned: false,
            kind,
            flags: 0,
            nonce: None,
            message_reference: None,
            message_snapshots: Vec::new(),
            reactions: Vec::new(),
            sticker_items: Vec::new(),
            poll: None,
            webhook_id: None,
            application_id: None,
            interaction_metadata: None,
            interaction: None,
            thread: None,
            position: None,
            referenced_message: None,
        }
    }

    /// Whether there is nothing in it that somebody wrote or sent.
    pub fn is_empty(&self) -> bool {
        self.content.is_empty()
            && self.embeds.is_empty()
            && self.attachments.is_empty()
            && self.components.is_empty()
            && self.sticker_items.is_empty()
            && self.message_snapshots.is_empty()
            && self.poll.is_none()
    }

    /// The message for readers who may not see its content, nor that of the one it answers.
    pub fn without_content(&self) -> Self {
        self.for_reader(&|_| false)
    }

    /// The message for a reader who may see the content of those that `reads` says: it is asked
    /// of the message and of the one it answers, which is somebody else's.
    pub fn for_reader(&self, reads: &dyn Fn(&Self) -> bool) -> Self {
        let answered = self.referenced_message.as_ref().map(|message| {
            let shown = |message: &Self| Box::new(message.for_reader(reads));
            message.as_deref().map(shown)
        });
        let mut shown = Self {
            referenced_message: answered,
            ..self.clone()
        };
        if !reads(self) {
            shown.content.clear();
            shown.embeds.clear();
            shown.attachments.clear();
            shown.components.clear();
            shown.message_snapshots.clear();
            shown.poll = None;
        }
        shown
    }
}

/// An emoji inside a message: a custom one has an id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartialEmoji {
    pub id: Option<Id<marker::Emoji>>,
    /// The characters of a unicode emoji; null if a custom one is gone.
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub animated: bool,
}

/// How often one emoji was used on a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reaction {
    pub emoji: PartialEmoji,
    pub count: u32,
    pub count_details: ReactionCounts,
    pub me: bool,
    pub me_burst: bool,
    pub burst_colors: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReactionCounts {
    pub burst: u32,
    pub normal: u32,
}

/// A poll. Without `results` as it is stored, with them as it goes out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Poll {
    pub question: PollMedia,
    pub answers: Vec<PollAnswer>,
    pub expiry: Timestamp,
    pub allow_multiselect: bool,
    pub layout_type: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<PollResults>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PollAnswer {
    /// From 1.
    pub answer_id: u16,
    pub poll_media: PollMedia,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PollMedia {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emoji: Option<PartialEmoji>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PollResults {
    pub is_finalized: bool,
    pub answer_counts: Vec<PollAnswerCount>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PollAnswerCount {
    /// Of the answer.
    pub id: u16,
    pub count: u32,
    pub me_voted: bool,
}

/// Which message another one answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageReference {
    #[serde(rename = "type")]
    pub kind: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<Id<marker::Message>>,
    pub channel_id: Id<marker::Channel>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guild_id: Option<Id<marker::Guild>>,
}
