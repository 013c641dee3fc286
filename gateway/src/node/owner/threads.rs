//! Active threads of a guild at its owner, and who is in them: what GUILD_CREATE and
//! THREAD_LIST_SYNC show.
//!
//! Pure. Never says who gets an event: of private threads the events name their members.

use std::collections::{BTreeMap, BTreeSet};

use guildhall_shared::{
    Id, Permissions, Timestamp,
    gateway::EventKind,
    id::marker::{Channel, Guild, Message, User},
    model::{ChannelKind, MessageKind, Thread, ThreadMember},
};
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

/// Members that a thread counts; the API counts no further.
const MEMBERS_COUNTED_MAX: usize = 50;

/// The threads that are not archived.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    threads: BTreeMap<Id<Channel>, Thread>,
    members: BTreeMap<Id<Channel>, BTreeMap<Id<User>, ThreadMember>>,
}

#[derive(Deserialize)]
struct WithId {
    id: Id<Channel>,
}

#[derive(Deserialize)]
struct MembersUpdate {
    id: Id<Channel>,
    member_count: u32,
    #[serde(default)]
    added_members: Vec<ThreadMember>,
    #[serde(default)]
    removed_member_ids: Vec<Id<User>>,
}

impl Threads {
    pub(crate) fn new(threads: Vec<Thread>, members: Vec<ThreadMember>) -> Self {
        let mut all = Self::default();
        for thread in threads {
            all.threads.insert(thread.id, thread);
        }
        for member in members {
            all.put_member(member);
        }
        all
    }

    fn put_member(&mut self, member: ThreadMember) {
        let (Some(thread), Some(user)) = (member.id, member.user_id) else {
            return;
        };
        if self.threads.contains_key(&thread) {
            let bare = ThreadMember {
                muted: None,
                mute_config: None,
                member: None,
                ..member
            };
            self.members.entry(thread).or_default().insert(user, bare);
        }
    }

    /// Takes over a THREAD_* event's change; other kinds change nothing. Of a thread that is there
    /// from now on: the channel it is in, and the thread.
    pub(crate) fn apply(
        &mut self,
        kind: EventKind,
        body: &[u8],
    ) -> serde_json::Result<Option<(Id<Channel>, Id<Channel>)>> {
        let mut created = None;
        match kind {
            EventKind::ThreadCreate | EventKind::ThreadUpdate => {
                let mut thread: Thread = serde_json::from_slice(body)?;
                thread.member = None;
                if thread.thread_metadata.archived {
                    self.remove(thread.id);
                } else {
                    created = Some((thread.parent_id, thread.id));
                    self.threads.insert(thread.id, thread);
                }
            }
            EventKind::ThreadDelete => {
                let WithId { id } = serde_json::from_slice(body)?;
                self.remove(id);
            }
            EventKind::ThreadMembersUpdate => {
                let update: MembersUpdate = serde_json::from_slice(body)?;
                if let Some(thread) = self.threads.get_mut(&update.id) {
                    thread.member_count = update.member_count;
                }
                if let Some(members) = self.members.get_mut(&update.id) {
                    for user in update.removed_member_ids {
                        members.remove(&user);
                    }
                }
                for member in update.added_members {
                    self.put_member(member);
                }
            }
            EventKind::ThreadMemberUpdate => self.put_member(serde_json::from_slice(body)?),
            _ => {}
        }
        Ok(created)
    }

    /// The newest message of a thread, if it is one that is known, is this one. As the API counts
    /// them: what the thread starts from is none of its messages.
    pub(crate) fn posted(&mut self, channel: Id<Channel>, message: Id<Message>, kind: MessageKind) {
        let Some(thread) = self.threads.get_mut(&channel) else {
            return;
        };
        thread.last_message_id = Some(message);
        if kind != MessageKind::THREAD_STARTER && message.get() != channel.get() {
            thread.message_count += 1;
            thread.total_message_sent += 1;
        }
    }

    /// These messages of a thread are gone.
    pub(crate) fn deleted(
        &mut self,
        channel: Id<Channel>,
        messages: impl Iterator<Item = Id<Message>>,
    ) {
        let Some(thread) = self.threads.get_mut(&channel) else {
            return;
        };
        let counted = messages.filter(|message| message.get() != channel.get());
        thread.message_count = thread.message_count.saturating_sub(counted.count() as u32);
    }

    /// When the newest pin of a thread was made.
    pub(crate) fn pinned(&mut self, channel: Id<Channel>, newest: Option<Timestamp>) {
        if let Some(thread) = self.threads.get_mut(&channel) {
            thread.last_pin_timestamp = newest;
        }
    }

    /// The channel that an active thread is in.
    pub(crate) fn parent(&self, thread: Id<Channel>) -> Option<Id<Channel>> {
        self.threads.get(&thread).map(|thread| thread.parent_id)
    }

    /// Whether an active thread is for those who are in it.
    pub(crate) fn is_private(&self, thread: Id<Channel>) -> bool {
        let thread = self.threads.get(&thread);
        thread.is_some_and(|thread| thread.kind == ChannelKind::PRIVATE_THREAD)
    }

    /// The channels that have active threads.
    pub(crate) fn parents(&self) -> BTreeSet<Id<Channel>> {
        let threads = self.threads.values();
        threads.map(|thread| thread.parent_id).collect()
    }

    /// Who is in any thread of these channels.
    pub(crate) fn insiders(&self, parents: &BTreeSet<Id<Channel>>) -> FxHashSet<Id<User>> {
        let threads = self.threads.values();
        let threads = threads.filter(|thread| parents.contains(&thread.parent_id));
        let members = threads.filter_map(|thread| self.members.get(&thread.id));
        members.flat_map(BTreeMap::keys).copied().collect()
    }

    fn remove(&mut self, thread: Id<Channel>) {
        self.threads.remove(&thread);
        self.members.remove(&thread);
    }

    /// Whoever is no member of the guild is in no thread.
    pub(crate) fn forget_user(&mut self, user: Id<User>) {
        for (thread, members) in &mut self.members {
            if members.remove(&user).is_some()
                && let Some(thread) = self.threads.get_mut(thread)
            {
                thread.member_count = members.len().min(MEMBERS_COUNTED_MAX) as u32;
            }
        }
    }

    /// The threads of these channels that a user sees, each with the user's own membership.
    /// `sees` is asked for the channel: what the user may see there of private threads.
    pub(crate) fn seen_by(
        &self,
        user: Id<User>,
        sees: impl Fn(Id<Channel>) -> Sight,
    ) -> Vec<Thread> {
        let seen = self.threads.values().filter_map(|thread| {
            let own = self.members.get(&thread.id).and_then(|all| all.get(&user));
            let is_open = thread.kind != ChannelKind::PRIVATE_THREAD;
            let is_seen = match sees(thread.parent_id) {
                Sight::Nothing => false,
                Sight::Own => is_open || own.is_some(),
                Sight::All => true,
            };
            is_seen.then(|| Thread {
                member: own.cloned(),
                ..thread.clone()
            })
        });
        seen.collect()
    }
}

/// `d` of a THREAD_LIST_SYNC.
#[derive(Serialize)]
pub(super) struct ThreadListSync<'a> {
    guild_id: Id<Guild>,
    /// Whose threads these are; `None`: all channels'.
    #[serde(skip_serializing_if = "Option::is_none")]
    channel_ids: Option<&'a [Id<Channel>]>,
    threads: Vec<Thread>,
    /// Those of the reader.
    members: Vec<ThreadMember>,
}

impl<'a> ThreadListSync<'a> {
    /// `threads`: those that the reader sees, each with their own membership.
    pub(super) fn new(
        guild_id: Id<Guild>,
        channel_ids: Option<&'a [Id<Channel>]>,
        threads: Vec<Thread>,
    ) -> Self {
        let members = threads.iter().filter_map(|thread| thread.member.clone());
        Self {
            guild_id,
            channel_ids,
            members: members.collect(),
            threads,
        }
    }
}

/// Which threads of a channel a user sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Sight {
    Nothing,
    /// Public ones, and private ones that the user is in.
    Own,
    All,
}

impl Sight {
    /// Of who holds this in the channel.
    pub(crate) fn of(held: Permissions) -> Self {
        if !held.contains(Permissions::VIEW_CHANNEL) {
            Self::Nothing
        } else if held.contains(Permissions::MANAGE_THREADS) {
            Self::All
        } else {
            Self::Own
        }
    }
}
