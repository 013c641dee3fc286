//! What a guild's log means: who sees what at which number, and for whom each event is.
//!
//! Written from the protocol, not from the servers' code: it computes permissions itself and does
//! not look at what the API wrote down about an event's audience.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::{
    history::{Base, Channel, GuildHistory, Logged, Millis, Overwrite, Picture, Role, fingerprint},
    timeline::Timeline,
};

const ADMINISTRATOR: u64 = 1 << 3;
const MANAGE_CHANNELS: u64 = 1 << 4;
const VIEW_AUDIT_LOG: u64 = 1 << 7;
const VIEW_CHANNEL: u64 = 1 << 10;

mod intents {
    pub(super) const GUILDS: u32 = 1;
    pub(super) const GUILD_MEMBERS: u32 = 1 << 1;
    pub(super) const GUILD_MODERATION: u32 = 1 << 2;
    pub(super) const GUILD_INTEGRATIONS: u32 = 1 << 4;
    pub(super) const GUILD_INVITES: u32 = 1 << 6;
    pub(super) const GUILD_PRESENCES: u32 = 1 << 8;
    pub(super) const GUILD_MESSAGES: u32 = 1 << 9;
    pub(super) const MESSAGE_CONTENT: u32 = 1 << 15;
}

/// Humans get everything but these.
const NOT_FOR_HUMANS: u32 = intents::GUILD_MEMBERS | intents::GUILD_PRESENCES;

/// Who listens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who {
    pub(super) user: u64,
    pub(super) intents: Option<u32>,
}

impl Who {
    fn asked_for(self, mask: u32) -> bool {
        let has = self.intents.unwrap_or(!NOT_FOR_HUMANS);
        mask == 0 || has & mask != 0
    }
}

/// For whom an event is, before intents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    Members,
    Viewers(u64),
    Holders(u64),
    Nobody,
}

/// One event of the log.
#[derive(Debug)]
pub(super) struct Meant {
    pub(super) seq: u64,
    pub(super) at: Millis,
    pub(super) kind: &'static str,
    pub(super) said: u64,
    said_without_content: Option<u64>,
    audience: Audience,
    intents: u32,
    /// Gets it whatever the intents.
    regardless: Option<u64>,
    except: Option<u64>,
    /// See the text whatever the intents.
    named: Vec<u64>,
}

/// A guild over the whole run.
#[derive(Debug, Default)]
pub(super) struct Guild {
    pub(super) id: u64,
    pub(super) first: u64,
    pub(super) events: Vec<Meant>,
    /// Numbers at which pictures may change in more than newest messages.
    changes: Vec<u64>,
    members: HashMap<u64, Timeline<bool>>,
    powers: HashMap<u64, Timeline<u64>>,
    sights: HashMap<(u64, u64), Timeline<bool>>,
    /// `None`: there is no such channel.
    topics: BTreeMap<u64, Timeline<Option<Option<String>>>>,
    roles: Timeline<BTreeMap<u64, Role>>,
    count: Timeline<u64>,
    /// Per channel the messages with their numbers; number 0: before the log.
    posts: HashMap<u64, Vec<(u64, u64)>>,
    /// The same by channel and message.
    posted: HashMap<(u64, u64), u64>,
    /// Texts of messages, how often each was numbered.
    pub(super) created: HashMap<String, u32>,
    pub(super) texts: HashSet<(u64, String)>,
    pub(super) deleted: HashSet<u64>,
    /// Names, topics and nicks that events bore.
    pub(super) marks: HashSet<(&'static str, String)>,
    pub(super) unreadable: Vec<String>,
    pub(super) holes: Vec<(u64, u64)>,
}

impl Guild {
    pub(super) fn new(history: &GuildHistory) -> Self {
        let mut guild = Self {
            id: history.id,
            first: history.base.seq + 1,
            ..Self::default()
        };
        let mut state = history.base.clone();
        for (&channel, known) in &state.channels {
            guild.posts.entry(channel).or_default();
            if let Some(last) = known.last {
                guild.post(channel, 0, last);
            }
        }
        guild.note(state.seq, &state);
        for event in &history.events {
            let expected = guild.head() + 1;
            if event.seq != expected {
                guild.holes.push((expected, event.seq));
            }
            guild.take(&mut state, event);
        }
        guild
    }

    fn post(&mut self, channel: u64, seq: u64, id: u64) {
        self.posts.entry(channel).or_default().push((seq, id));
        self.posted.insert((channel, id), seq);
    }

    /// Number of the newest event.
    pub(super) fn head(&self) -> u64 {
        self.events.last().map_or(self.first - 1, |event| event.seq)
    }

    /// Numbers of the events with this text.
    pub(super) fn index(&self, into: &mut HashMap<u64, Vec<u64>>) {
        for event in &self.events {
            into.entry(event.said).or_default().push(event.seq);
            if let Some(said) = event.said_without_content {
                into.entry(said).or_default().push(event.seq);
            }
        }
    }

    pub(super) fn event(&self, seq: u64) -> Option<&Meant> {
        let place = self.events.partition_point(|event| event.seq < seq);
        self.events.get(place).filter(|event| event.seq == seq)
    }

    /// The events between two numbers, both excluded.
    pub(super) fn between(&self, after: u64, before: u64) -> &[Meant] {
        let first = self.events.partition_point(|event| event.seq <= after);
        let last = self.events.partition_point(|event| event.seq < before);
        &self.events[first..last.max(first)]
    }

    /// The newest number that may have been visible to anybody at a time.
    pub(super) fn committed_by(&self, at: Millis) -> u64 {
        let place = self.events.partition_point(|event| event.at <= at);
        match place.checked_sub(1) {
            Some(place) => self.events[place].seq,
            None => self.first - 1,
        }
    }

    pub(super) fn is_member(&self, user: u64, seq: u64) -> bool {
        let line = self.members.get(&user);
        line.and_then(|line| line.at(seq)).copied() == Some(true)
    }

    /// Whether `who` must have got an event, if it is delivered while the realm is at most at `until`:
    /// it is admitted at the event and at whatever replay of it.
    pub(super) fn owes(&self, who: Who, event: &Meant, until: u64) -> bool {
        let until = until.max(event.seq);
        let always =
            |line: Option<&Timeline<bool>>| line.is_some_and(|line| line.always(event.seq, until));
        if event.except == Some(who.user)
            || !always(self.members.get(&who.user))
            || !who.asked_for(event.intents) && event.regardless != Some(who.user)
        {
            return false;
        }
        match event.audience {
            Audience::Members => true,
            // Who sees it is asked of the moment before; a replay finds no such channel.
            Audience::Viewers(_) if event.kind == "CHANNEL_DELETE" => false,
            Audience::Viewers(channel) => always(self.sights.get(&(who.user, channel))),
            Audience::Holders(any_of) => {
                let line = self.powers.get(&who.user);
                line.is_some_and(|line| line.over(event.seq, until).all(|has| has & any_of != 0))
            }
            Audience::Nobody => false,
        }
    }

    /// Why `who` may not have got an event at a time when the realm was at most at `until`.
    pub(super) fn forbids(
        &self,
        who: Who,
        event: &Meant,
        said: u64,
        until: u64,
    ) -> Option<&'static str> {
        let until = until.max(event.seq);
        // Who loses sight of a channel by its update is told of the update.
        let since = match event.kind {
            "CHANNEL_CREATE" | "CHANNEL_UPDATE" | "CHANNEL_DELETE" => event.seq - 1,
            _ => event.seq,
        };
        if event.except == Some(who.user) {
            return Some("an event that is for all others");
        }
        if !who.asked_for(event.intents) && event.regardless != Some(who.user) {
            return Some("without the intent for it");
        }
        let reads = who
            .intents
            .is_none_or(|has| has & intents::MESSAGE_CONTENT != 0);
        if event.said_without_content.is_some()
            && said == event.said
            && !reads
            && !event.named.contains(&who.user)
        {
            return Some("a text without the intent for it");
        }
        let ever = |line: Option<&Timeline<bool>>| line.is_some_and(|line| line.ever(since, until));
        if !ever(self.members.get(&who.user)) {
            return Some("not a member");
        }
        match event.audience {
            Audience::Members => None,
            Audience::Viewers(channel) => {
                let sees = ever(self.sights.get(&(who.user, channel)));
                (!sees).then_some("a channel that is hidden from the user")
            }
            Audience::Holders(any_of) => {
                let line = self.powers.get(&who.user);
                let holds =
                    line.is_some_and(|line| line.over(since, until).any(|has| has & any_of != 0));
                (!holds).then_some("without the permission for it")
            }
            Audience::Nobody => Some("an event for nobody"),
        }
    }

    /// Whether a user sees a channel at any of these numbers.
    pub(super) fn ever_sees(&self, user: u64, channel: u64, first: u64, last: u64) -> bool {
        let line = self.sights.get(&(user, channel));
        line.is_some_and(|line| line.ever(first, last))
    }

    /// The channels a user sees at a number.
    pub(super) fn seen_at(&self, user: u64, seq: u64) -> BTreeSet<u64> {
        let sees = |channel: &u64| self.ever_sees(user, *channel, seq, seq);
        self.topics.keys().copied().filter(sees).collect()
    }

    /// Numbers at which a user's picture of the guild is this one, as ranges with both ends.
    pub(super) fn places_of(&self, user: u64, picture: &Picture) -> Vec<(u64, u64)> {
        let (mut low, mut high) = (self.first - 1, self.head());
        for (channel, seen) in &picture.channels {
            let posts = self.posts.get(channel).map_or(&[][..], Vec::as_slice);
            let newest = seen.last.unwrap_or(0);
            let since = match self.posted.get(&(*channel, newest)) {
                Some(seq) => *seq,
                None if newest == 0 && posts.first().is_none_or(|(seq, _)| *seq > 0) => 0,
                None => return Vec::new(),
            };
            low = low.max(since);
            // Ids of two APIs may be numbered in another order than they were made.
            let begin = posts.partition_point(|(seq, _)| *seq <= since);
            let later = posts[begin..].iter().find(|(_, id)| *id > newest);
            high = later.map_or(high, |(seq, _)| high.min(seq - 1));
        }
        if low > high {
            return Vec::new();
        }
        let begin = self.changes.partition_point(|seq| *seq <= low);
        let mut edges = vec![low];
        edges.extend(self.changes[begin..].iter().take_while(|seq| **seq <= high));
        let mut places: Vec<(u64, u64)> = Vec::new();
        for (place, &from) in edges.iter().enumerate() {
            let to = edges.get(place + 1).map_or(high, |next| next - 1);
            if !self.shows(user, picture, from) {
                continue;
            }
            match places.last_mut() {
                Some((_, end)) if *end + 1 == from => *end = to,
                _ => places.push((from, to)),
            }
        }
        places
    }

    /// Whether a picture is right at a number, newest messages apart.
    fn shows(&self, user: u64, picture: &Picture, seq: u64) -> bool {
        self.is_member(user, seq)
            && self.count.at(seq) == Some(&picture.member_count)
            && self.roles.at(seq) == Some(&picture.roles)
            && self.seen_at(user, seq).iter().eq(picture.channels.keys())
            && picture.channels.iter().all(|(channel, seen)| {
                let line = self.topics.get(channel);
                line.and_then(|line| line.at(seq)) == Some(&Some(seen.topic.clone()))
            })
    }

    fn note(&mut self, seq: u64, state: &Base) {
        self.changes.push(seq);
        self.roles.set(seq, state.roles.clone());
        self.count.set(seq, state.members.len() as u64);
        let known: Vec<u64> = self.topics.keys().copied().collect();
        for channel in known {
            if !state.channels.contains_key(&channel)
                && let Some(line) = self.topics.get_mut(&channel)
            {
                line.set(seq, None);
            }
        }
        for (&id, channel) in &state.channels {
            let line = self.topics.entry(id).or_default();
            line.set(seq, Some(channel.topic.clone()));
        }
        for (&user, line) in &mut self.members {
            if !state.members.contains_key(&user) {
                line.set(seq, false);
                self.powers.entry(user).or_default().set(seq, 0);
            }
        }
        for (&(user, channel), line) in &mut self.sights {
            if !state.members.contains_key(&user) || !state.channels.contains_key(&channel) {
                line.set(seq, false);
            }
        }
        for (&user, roles) in &state.members {
            self.members.entry(user).or_default().set(seq, true);
            let power = power(self.id, state, user, roles);
            self.powers.entry(user).or_default().set(seq, power);
            for (&id, channel) in &state.channels {
                let sees = sees(self.id, power, user, roles, channel);
                self.sights.entry((user, id)).or_default().set(seq, sees);
            }
        }
    }

    fn take(&mut self, state: &mut Base, event: &Logged) {
        let d: Value = match serde_json::from_str(&event.body) {
            Ok(d) => d,
            Err(error) => {
                self.unreadable.push(format!("{}: {error}", event.kind));
                Value::Null
            }
        };
        let mut meant = Meant {
            seq: event.seq,
            at: event.at,
            kind: event.kind,
            said: fingerprint(event.kind, &event.body),
            said_without_content: event.alt.as_ref().map(|alt| fingerprint(event.kind, alt)),
            audience: Audience::Members,
            intents: intents::GUILDS,
            regardless: None,
            except: None,
            named: Vec::new(),
        };
        let user = number(&d["user"]["id"]);
        let channel = number(&d["channel_id"]);
        match event.kind {
            "MESSAGE_CREATE" | "MESSAGE_UPDATE" => {
                meant.audience = Audience::Viewers(channel);
                meant.intents = intents::GUILD_MESSAGES;
                let mentions = d["mentions"].as_array().into_iter().flatten();
                meant.named = mentions.map(|user| number(&user["id"])).collect();
                meant.named.push(number(&d["author"]["id"]));
                let (id, content) = (number(&d["id"]), text(&d["content"]));
                if event.kind == "MESSAGE_CREATE" {
                    self.post(channel, event.seq, id);
                    if !content.is_empty() {
                        *self.created.entry(content.clone()).or_default() += 1;
                    }
                }
                self.texts.insert((id, content));
            }
            "MESSAGE_DELETE" => {
                meant.audience = Audience::Viewers(channel);
                meant.intents = intents::GUILD_MESSAGES;
                self.deleted.insert(number(&d["id"]));
            }
            "CHANNEL_CREATE" | "CHANNEL_UPDATE" => {
                let id = number(&d["id"]);
                meant.audience = Audience::Viewers(id);
                let mark = (event.kind, text(&d["topic"]));
                self.marks.insert(mark);
                self.marks.insert((event.kind, text(&d["name"])));
                state.channels.insert(id, channel_of(&d));
            }
            "CHANNEL_DELETE" => {
                let id = number(&d["id"]);
                meant.audience = Audience::Viewers(id);
                self.marks.insert((event.kind, id.to_string()));
                state.channels.remove(&id);
            }
            "GUILD_ROLE_CREATE" | "GUILD_ROLE_UPDATE" => {
                let (id, role) = role_of(&d["role"]);
                self.marks.insert((event.kind, role.name.clone()));
                state.roles.insert(id, role);
            }
            "GUILD_ROLE_DELETE" => {
                let id = number(&d["role_id"]);
                state.roles.remove(&id);
                for roles in state.members.values_mut() {
                    roles.retain(|role| *role != id);
                }
                for channel in state.channels.values_mut() {
                    channel.overwrites.retain(|of| of.of_member || of.id != id);
                }
            }
            "GUILD_MEMBER_ADD" => {
                meant.intents = intents::GUILD_MEMBERS;
                self.marks.insert((event.kind, user.to_string()));
                state.members.insert(user, numbers(&d["roles"]));
            }
            "GUILD_MEMBER_UPDATE" => {
                meant.intents = intents::GUILD_MEMBERS;
                meant.regardless = Some(user);
                self.marks.insert((event.kind, text(&d["nick"])));
                if let Some(roles) = state.members.get_mut(&user) {
                    *roles = numbers(&d["roles"]);
                }
            }
            "GUILD_MEMBER_REMOVE" => {
                meant.intents = intents::GUILD_MEMBERS;
                meant.except = Some(user);
                self.marks.insert((event.kind, user.to_string()));
                state.members.remove(&user);
            }
            "GUILD_UPDATE" => state.owner = number(&d["owner_id"]),
            "GUILD_AUDIT_LOG_ENTRY_CREATE" => {
                meant.audience = Audience::Holders(VIEW_AUDIT_LOG);
                meant.intents = intents::GUILD_MODERATION;
            }
            // Nobody takes MANAGE_CHANNELS away from single channels here.
            "INVITE_CREATE" | "INVITE_DELETE" => {
                meant.audience = Audience::Holders(MANAGE_CHANNELS);
                meant.intents = intents::GUILD_INVITES;
            }
            "INTEGRATION_CREATE"
            | "INTEGRATION_UPDATE"
            | "INTEGRATION_DELETE"
            | "GUILD_INTEGRATIONS_UPDATE" => meant.intents = intents::GUILD_INTEGRATIONS,
            other => {
                meant.audience = Audience::Nobody;
                self.unreadable.push(format!("nobody said what {other} is"));
            }
        }
        let changes = event.kind.starts_with("CHANNEL_")
            || event.kind.starts_with("GUILD_ROLE_")
            || event.kind.starts_with("GUILD_MEMBER_")
            || event.kind == "GUILD_UPDATE";
        self.events.push(meant);
        if changes {
            self.note(event.seq, state);
        }
    }
}

/// What a member may do in the guild.
fn power(guild: u64, state: &Base, user: u64, roles: &[u64]) -> u64 {
    let of = |role: &u64| state.roles.get(role).map_or(0, |role| role.permissions);
    let all = roles.iter().fold(of(&guild), |all, role| all | of(role));
    if state.owner == user || all & ADMINISTRATOR != 0 {
        u64::MAX
    } else {
        all
    }
}

/// Whether a member sees a channel.
fn sees(guild: u64, power: u64, user: u64, roles: &[u64], channel: &Channel) -> bool {
    if power == u64::MAX {
        return true;
    }
    let apply = |held: u64, of: &[&Overwrite]| {
        let (allow, deny) = of.iter().fold((0, 0), |(allow, deny), of| {
            (allow | of.allow, deny | of.deny)
        });
        held & !deny | allow
    };
    let pick = |wanted: &dyn Fn(&Overwrite) -> bool| -> Vec<&Overwrite> {
        channel.overwrites.iter().filter(|of| wanted(of)).collect()
    };
    let everyone = pick(&|of| !of.of_member && of.id == guild);
    let by_role = pick(&|of| !of.of_member && of.id != guild && roles.contains(&of.id));
    let own = pick(&|of| of.of_member && of.id == user);
    let held = apply(apply(apply(power, &everyone), &by_role), &own);
    held & VIEW_CHANNEL != 0
}

/// A channel object.
pub fn channel_of(d: &Value) -> Channel {
    let overwrites = d["permission_overwrites"].as_array().into_iter().flatten();
    Channel {
        topic: d["topic"].as_str().map(str::to_owned),
        overwrites: overwrites
            .map(|of| Overwrite {
                id: number(&of["id"]),
                of_member: of["type"] == 1,
                allow: number(&of["allow"]),
                deny: number(&of["deny"]),
            })
            .collect(),
        last: Some(number(&d["last_message_id"])).filter(|id| *id > 0),
    }
}

/// A role object.
pub fn role_of(d: &Value) -> (u64, Role) {
    let role = Role {
        name: text(&d["name"]),
        permissions: number(&d["permissions"]),
    };
    (number(&d["id"]), role)
}

/// A number in a string, as ids and permissions are; 0 for anything else.
pub fn number(value: &Value) -> u64 {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// A list of ids.
fn numbers(value: &Value) -> Vec<u64> {
    let list = value.as_array().into_iter().flatten();
    list.map(number).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
