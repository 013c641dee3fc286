//! What sessions ask of a guild's owner, answered from its state.
//!
//! One question after the other, and the thread's other work between any two, and between the
//! slices of those that look at all members. Nothing is kept of a question: a core asks for
//! the parts of a long answer one by one, and asks again for what does not come.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::{Bound, ControlFlow},
    rc::Rc,
};

use bytes::Bytes;
use guildhall_shared::{
    Id, Permissions, Timestamp,
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild, User},
    model::{Member, PresenceView, VoiceState},
    permissions::Overwrite,
};
use rustc_hash::FxHashSet;
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use tokio::task::{spawn_local, yield_now};

use super::{
    EdgeId, FromOwner, Owner,
    guild::GuildState,
    presence::Presences,
    searches::{Count, Counts, Searches},
    snapshot,
    threads::ThreadListSync,
    view::sees,
};
use crate::{
    ask::{Answers, Ask, ChannelFields, Members, Part, Question, Wanted, Wish},
    bus::ClassId,
    clock,
    names::Address,
    node::relay::frame::Tell,
};

/// Questions that may wait for their turn, mostly one of a session. When full further ones
/// are dropped; their cores ask again.
const WAITING_MAX: usize = 4096;
/// Members in one GUILD_MEMBERS_CHUNK. Spec: gateway.md › REQUEST_GUILD_MEMBERS.
const PART_MEMBERS: usize = 1000;
/// Members looked at before the thread's other work gets its turn.
const SLICE_MEMBERS: usize = 2000;
/// Members that a search by time of joining finds, at most.
const RECENT_MAX: usize = 100;
/// Of people, any of these lets them ask for all members.
const LISTS_ALL: Permissions = Permissions::MANAGE_ROLES
    .union(Permissions::KICK_MEMBERS)
    .union(Permissions::BAN_MEMBERS);

/// Questions that wait.
#[derive(Debug, Default)]
pub(super) struct Questions {
    waiting: VecDeque<(EdgeId, Ask)>,
    /// Whose they are, and their numbers: what is asked again while it waits is not answered twice.
    of: FxHashSet<(EdgeId, Address, u32)>,
    /// A task answers them.
    working: bool,
    searches: Searches,
    counts: Counts,
}

#[derive(Serialize)]
struct Sounds<'a> {
    guild_id: Id<Guild>,
    soundboard_sounds: Vec<&'a Value>,
}

#[derive(Serialize)]
struct Chunk<'a> {
    guild_id: Id<Guild>,
    members: Vec<&'a Member>,
    chunk_index: u32,
    chunk_count: u32,
    /// Also empty where users were asked for by id: libraries index it.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_found: Option<Vec<NotFound<'a>>>,
    /// Of those who are not offline.
    #[serde(skip_serializing_if = "Option::is_none")]
    presences: Option<Vec<PresenceView<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum NotFound<'a> {
    User(Id<User>),
    /// As it was asked for.
    Junk(&'a RawValue),
}

#[derive(Serialize)]
struct Channels<C> {
    guild_id: Id<Guild>,
    channels: Vec<C>,
}

#[derive(Serialize)]
struct ChannelStatus<'a> {
    id: Id<Channel>,
    status: &'a str,
}

#[derive(Serialize)]
struct ChannelInfo<'a> {
    id: Id<Channel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    voice_start_time: Option<Option<i64>>,
}

#[derive(Serialize)]
struct InVoice<'a> {
    guild_id: Id<Guild>,
    /// None: where there is something to read is the core's to tell.
    channels: [(); 0],
    voice_states: Vec<&'a VoiceState>,
    members: Vec<&'a Member>,
}

#[derive(Serialize)]
struct MemberCount {
    guild_id: Id<Guild>,
    channel_id: Id<Channel>,
    member_count: u64,
    presence_count: u64,
}

/// What an owner knows of a guild.
#[derive(Clone, Copy)]
struct Known<'a> {
    guild: &'a GuildState,
    presences: &'a Presences,
}

/// An answer, or a part of one.
struct Answer {
    kind: EventKind,
    body: Bytes,
    ends: Vec<Id<User>>,
}

impl Owner {
    /// Answers a session of an edge in its turn, with [`FromOwner::Tell`]. One who is no member
    /// is told nothing, and nobody is while the guild is not read.
    pub(crate) fn ask(self: &Rc<Self>, edge: EdgeId, ask: Ask) {
        let mut questions = self.questions.borrow_mut();
        if questions.waiting.len() >= WAITING_MAX {
            self.metrics.questions_dropped.inc();
            return;
        }
        if !questions.of.insert((edge, ask.from, ask.number)) {
            return;
        }
        questions.waiting.push_back((edge, ask));
        if !questions.working {
            questions.working = true;
            spawn_local(self.clone().answer_all());
        }
    }

    async fn answer_all(self: Rc<Self>) {
        loop {
            let next = {
                let mut questions = self.questions.borrow_mut();
                let next = questions.waiting.pop_front();
                match &next {
                    Some((edge, ask)) => {
                        questions.of.remove(&(*edge, ask.from, ask.number));
                        questions.counts.next();
                    }
                    None => questions.working = false,
                }
                next
            };
            let Some((edge, ask)) = next else { return };
            if let Some(Answer { kind, body, ends }) = self.answer(&ask).await {
                let tell = Tell {
                    to: ask.from,
                    answers: Some(Answers {
                        number: ask.number,
                        ends,
                    }),
                    dispatches: vec![(kind, body)],
                };
                self.metrics.questions.inc();
                self.tell(edge, FromOwner::Tell(Box::new(tell)));
            }
            yield_now().await;
        }
    }

    async fn answer(&self, ask: &Ask) -> Option<Answer> {
        match &ask.question {
            Question::Members(members) => self.members(ask, members).await,
            Question::MemberCount { channel } => self.member_count(ask, *channel).await,
            Question::Sounds => self.of_guild(ask, |Known { guild, .. }| {
                let d = Sounds {
                    guild_id: ask.guild,
                    soundboard_sounds: guild.sounds.values().collect(),
                };
                Some(Answer::new(EventKind::SoundboardSounds, &d))
            }),
            Question::ChannelStatuses => self.of_guild(ask, |Known { guild, .. }| {
                Some(Answer::new(
                    EventKind::ChannelStatuses,
                    &statuses(guild, ask.user),
                ))
            }),
            Question::ChannelInfo(fields) => self.of_guild(ask, |Known { guild, .. }| {
                Some(Answer::new(
                    EventKind::ChannelInfo,
                    &info(guild, ask.user, *fields),
                ))
            }),
            Question::VoiceStates => self.of_guild(ask, |Known { guild, .. }| {
                Some(Answer::new(
                    EventKind::PassiveUpdateV1,
                    &in_voice(guild, ask.user),
                ))
            }),
            Question::Threads => self.of_guild(ask, |Known { guild, .. }| {
                let seen = guild.seen_by(ask.user).unwrap_or_default();
                let is_seen = |channel| {
                    let class = guild.classes.of(channel);
                    class.is_some_and(|class| sees(&seen, class))
                };
                let threads = guild.threads_seen_by(ask.user, Timestamp::now(), is_seen);
                let d = ThreadListSync::new(ask.guild, None, threads);
                Some(Answer::new(EventKind::ThreadListSync, &d))
            }),
        }
    }

    /// Reads a guild on behalf of a member of it.
    fn of_guild<T>(&self, ask: &Ask, read: impl FnOnce(Known<'_>) -> Option<T>) -> Option<T> {
        let state = self.state.borrow();
        let realm = state.realms.get(&ask.guild.cast())?.realm.as_ref()?;
        let guild = realm.guild_state()?;
        guild
            .members
            .contains_key(&ask.user)
            .then(|| {
                read(Known {
                    guild,
                    presences: &realm.presences,
                })
            })
            .flatten()
    }

    /// Looks at all members, by their ids, until told to stop. `None` if the asker is no member, or has
    /// had too many looked at.
    async fn each_member(
        &self,
        ask: &Ask,
        mut look: impl FnMut(Known<'_>, Id<User>, &Member) -> ControlFlow<()>,
    ) -> Option<()> {
        let now = clock::now();
        let may = self.questions.borrow_mut().searches.may(now, ask.user);
        if !may {
            return None;
        }
        let mut from = Bound::Unbounded;
        loop {
            let mut looked_at = 0;
            let seen = self.of_guild(ask, |known| {
                let mut last = None;
                let slice = known.guild.members.range((from, Bound::Unbounded));
                for (&user, member) in slice.take(SLICE_MEMBERS) {
                    last = Some(user);
                    looked_at += 1;
                    if look(known, user, member).is_break() {
                        return Some(None);
                    }
                }
                Some(last)
            });
            let questions = &self.questions;
            questions.borrow_mut().searches.add(ask.user, looked_at);
            let Some(last) = seen? else { return Some(()) };
            from = Bound::Excluded(last);
            yield_now().await;
        }
    }

    async fn members(&self, ask: &Ask, members: &Members) -> Option<Answer> {
        match &members.wanted {
            Wanted::All(part) => self.of_guild(ask, |known| Some(all(known, ask, members, *part))),
            Wanted::Ids(wishes) => {
                self.of_guild(ask, |known| Some(by_ids(known, ask, members, wishes)))
            }
            Wanted::Prefix { query, limit } => {
                let (query, mut found) = (lower(query), Vec::new());
                // Without a prefix it is the beginning of the list of all.
                let may = self.of_guild(ask, |known| Some(lists_all(known.guild, ask)))?;
                if may || !query.is_empty() {
                    self.each_member(ask, |_, user, member| {
                        if is_named(member, &query) {
                            found.push(user);
                        }
                        match found.len() >= usize::from(*limit) {
                            true => ControlFlow::Break(()),
                            false => ControlFlow::Continue(()),
                        }
                    })
                    .await?;
                }
                self.of_guild(ask, |known| Some(these(known, ask, members, &found)))
            }
            Wanted::Recent { query } => {
                let (query, mut found) = (lower(query), BTreeSet::new());
                self.each_member(ask, |_, user, member| {
                    if is_named(member, &query) {
                        found.insert((member.joined_at, user));
                        if found.len() > RECENT_MAX {
                            found.pop_first();
                        }
                    }
                    ControlFlow::Continue(())
                })
                .await?;
                let newest: Vec<_> = found.into_iter().rev().map(|(_, user)| user).collect();
                self.of_guild(ask, |known| Some(these(known, ask, members, &newest)))
            }
        }
    }

    async fn member_count(&self, ask: &Ask, channel: Id<Channel>) -> Option<Answer> {
        let nobody = Count {
            members: 0,
            online: 0,
        };
        let overwrites = self.of_guild(ask, |Known { guild, .. }| {
            let class = class_seen(guild, ask.user, channel);
            Some(class.map(|class| guild.classes.overwrites(class).unwrap_or_default().to_vec()))
        })?;
        let count = match overwrites {
            Some(overwrites) => self.count(ask, channel, overwrites).await?,
            // It costs nothing to ask about what one does not see.
            None => nobody,
        };
        self.of_guild(ask, |Known { guild, .. }| {
            let may = class_seen(guild, ask.user, channel).is_some();
            let Count { members, online } = if may { count } else { nobody };
            let d = MemberCount {
                guild_id: ask.guild,
                channel_id: channel,
                member_count: members,
                presence_count: online,
            };
            Some(Answer::new(EventKind::ChannelMemberCountUpdate, &d))
        })
    }

    /// Who sees a channel, which has these overwrites; counted once for all who wait for it.
    async fn count(
        &self,
        ask: &Ask,
        channel: Id<Channel>,
        overwrites: Vec<Overwrite>,
    ) -> Option<Count> {
        let waited = {
            let questions = self.questions.borrow();
            if let Some(count) = questions.counts.of(ask.guild, &overwrites) {
                return Some(count);
            }
            questions.waiting.len()
        };
        let (mut members, mut online) = (0, 0);
        self.each_member(ask, |known, user, _| {
            if class_seen(known.guild, user, channel).is_some() {
                members += 1;
                online += u64::from(known.presences.is_online(user));
            }
            ControlFlow::Continue(())
        })
        .await?;
        let count = Count { members, online };
        let mut questions = self.questions.borrow_mut();
        questions.counts.put(ask.guild, overwrites, count, waited);
        Some(count)
    }
}

impl Answer {
    fn new(kind: EventKind, d: &impl Serialize) -> Self {
        let json = serde_json::to_vec(d).expect("string keys and finite numbers");
        Self {
            kind,
            body: json.into(),
            ends: Vec::new(),
        }
    }
}

/// One part of all members; the first says where each ends. A member who joined meanwhile was told
/// of by an event: those beyond a part's size who came last are left out.
fn all(known: Known<'_>, ask: &Ask, members: &Members, part: Option<Part>) -> Answer {
    let guild = known.guild;
    if !lists_all(guild, ask) {
        let place = part.map_or((0, 1), |part| (part.index, part.count));
        return chunk(known, ask, members, Vec::new(), place, None);
    }
    let (mut from, mut to, mut ends) = (Bound::Unbounded, Bound::Unbounded, Vec::new());
    let place = match part {
        Some(part) => {
            from = Bound::Excluded(part.after);
            to = part.to.map_or(Bound::Unbounded, Bound::Included);
            (part.index, part.count)
        }
        None => {
            let lasts = guild.members.keys().skip(PART_MEMBERS - 1);
            ends = lasts.step_by(PART_MEMBERS).copied().collect();
            if guild.members.len().is_multiple_of(PART_MEMBERS) {
                // The last part ends where the members end.
                ends.pop();
            }
            to = ends.first().copied().map_or(to, Bound::Included);
            (0, ends.len() as u32 + 1)
        }
    };
    let mut told: Vec<&Member> = match (from, to) {
        // Nothing lies there: a range that starts behind its end is a mistake of the asker.
        (Bound::Excluded(from), Bound::Included(to)) if from >= to => Vec::new(),
        range => guild
            .members
            .range(range)
            .map(|(_, member)| member)
            .collect(),
    };
    if told.len() > PART_MEMBERS {
        told.sort_by_key(|member| member.joined_at);
        told.truncate(PART_MEMBERS);
    }
    let mut answer = chunk(known, ask, members, told, place, None);
    answer.ends = ends;
    answer
}

fn by_ids(known: Known<'_>, ask: &Ask, members: &Members, wishes: &[Wish]) -> Answer {
    let (mut found, mut lacking, mut named) = (Vec::new(), Vec::new(), BTreeSet::new());
    for wish in wishes {
        match wish {
            Wish::User(user) if !named.insert(*user) => {}
            Wish::User(user) => match known.guild.members.get(user) {
                Some(member) => found.push(member),
                None => lacking.push(NotFound::User(*user)),
            },
            Wish::Junk(json) => lacking.extend(serde_json::from_str(json).map(NotFound::Junk)),
        }
    }
    chunk(known, ask, members, found, (0, 1), Some(lacking))
}

fn these(known: Known<'_>, ask: &Ask, members: &Members, users: &[Id<User>]) -> Answer {
    let members_of = &known.guild.members;
    let found = users.iter().filter_map(|user| members_of.get(user));
    chunk(known, ask, members, found.collect(), (0, 1), None)
}

fn chunk(
    known: Known<'_>,
    ask: &Ask,
    asked: &Members,
    members: Vec<&Member>,
    (chunk_index, chunk_count): (u32, u32),
    not_found: Option<Vec<NotFound<'_>>>,
) -> Answer {
    let intents = Intents::from_bits_truncate(ask.intents);
    let presences = asked.presences && (!ask.bot || intents.contains(Intents::GUILD_PRESENCES));
    let told = members.iter().filter_map(|member| member.user.as_ref());
    let told = told.map(|user| (user.id, known.presences.of(user.id)));
    let shown: Option<Vec<_>> =
        presences.then(|| told.filter(|(_, shown)| !shown.is_offline()).collect());
    let d = Chunk {
        guild_id: ask.guild,
        presences: shown
            .as_ref()
            .map(|shown| shown.iter().map(snapshot::view).collect()),
        members,
        chunk_index,
        chunk_count,
        not_found,
        nonce: asked.nonce.as_deref(),
    };
    Answer::new(EventKind::GuildMembersChunk, &d)
}

/// Whether somebody may have the list of all members.
fn lists_all(guild: &GuildState, ask: &Ask) -> bool {
    if ask.bot {
        Intents::from_bits_truncate(ask.intents).contains(Intents::GUILD_MEMBERS)
    } else {
        guild.holds(ask.user, LISTS_ALL, None, Timestamp::now())
    }
}

fn statuses(guild: &GuildState, user: Id<User>) -> Channels<ChannelStatus<'_>> {
    let channels = seen_channels(guild, user);
    Channels {
        guild_id: guild.guild.id,
        channels: channels
            .filter_map(|channel| {
                Some(ChannelStatus {
                    id: channel.id,
                    status: channel.settings.status.as_deref()?,
                })
            })
            .collect(),
    }
}

/// The voice channels that have any of the fields.
fn info(guild: &GuildState, user: Id<User>, fields: ChannelFields) -> Channels<ChannelInfo<'_>> {
    let channels = seen_channels(guild, user).filter(|channel| channel.kind.is_voice());
    let channels = channels.map(|channel| ChannelInfo {
        id: channel.id,
        status: fields.status.then_some(channel.settings.status.as_deref()),
        voice_start_time: fields
            .voice_start_time
            .then_some(channel.settings.voice_start_time),
    });
    Channels {
        guild_id: guild.guild.id,
        channels: channels
            .filter(|info| {
                info.status.flatten().is_some() || info.voice_start_time.flatten().is_some()
            })
            .collect(),
    }
}

/// Who is in the voice channels that a user sees.
fn in_voice(guild: &GuildState, user: Id<User>) -> InVoice<'_> {
    let seen = guild.seen_by(user).unwrap_or_default();
    let is_seen = |channel| {
        let class = guild.classes.of(channel);
        class.is_some_and(|class| sees(&seen, class))
    };
    let states = guild.voice_states.values();
    let states = states.filter(|voice| voice.channel_id.is_some_and(is_seen));
    let voice_states: Vec<&VoiceState> = states.collect();
    let users = voice_states.iter().map(|voice| voice.user_id);
    InVoice {
        guild_id: guild.guild.id,
        channels: [],
        members: users.filter_map(|user| guild.members.get(&user)).collect(),
        voice_states,
    }
}

/// The class of a channel, if a user sees it.
fn class_seen(guild: &GuildState, user: Id<User>, channel: Id<Channel>) -> Option<ClassId> {
    let class = guild.classes.of(channel)?;
    let seen = guild.seen_by(user)?;
    sees(&seen, class).then_some(class)
}

fn seen_channels(
    guild: &GuildState,
    user: Id<User>,
) -> impl Iterator<Item = &guildhall_shared::model::Channel> {
    let seen = guild.seen_by(user).unwrap_or_default();
    guild.channels.values().filter(move |channel| {
        let class = guild.classes.of(channel.id);
        class.is_some_and(|class| sees(&seen, class))
    })
}

fn lower(text: &str) -> Vec<char> {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// Whether any of a member's names starts so, whatever the case.
fn is_named(member: &Member, prefix: &[char]) -> bool {
    let starts = |name: &str| {
        let mut name = name.chars().flat_map(char::to_lowercase);
        prefix.iter().all(|&letter| name.next() == Some(letter))
    };
    let Some(user) = &member.user else {
        return false;
    };
    starts(&user.username)
        || user.global_name.as_deref().is_some_and(starts)
        || member.nick.as_deref().is_some_and(starts)
}
