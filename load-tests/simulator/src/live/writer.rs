//! What the API would write: messages, channels that are hidden and shown, roles that are given and
//! taken, members who are kicked and come again; and how its events reach Redis, or do not.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use guildhall_gateway::simulated::Way;
use guildhall_shared::envelope::{Envelope, Visibility};
use guildhall_shared::gateway::{EventKind, Intents};
use guildhall_shared::id::Id;
use guildhall_shared::id::marker::{Channel, Guild, Role, User};
use guildhall_shared::model::{
    self, ChannelKind, ChannelSettings, GuildSettings, Member, RoleColors,
};
use guildhall_shared::permissions::{Overwrite, OverwriteKind};
use guildhall_shared::shard::Position;
use guildhall_shared::{Permissions, Timestamp};
use guildhall_store::guild::Snapshot;
use serde_json::json;
use tokio::time::sleep;

use super::Shared;
use super::history::History;

/// Channels of a guild.
const CHANNELS: u64 = 3;
/// A kicked member comes again within this time.
const AWAY_MS_MAX: u64 = 20_000;

/// A guild of these users; every third is a moderator.
pub(crate) fn found(shared: &Shared, guild: Id<Guild>, users: &[Id<User>]) {
    let mut history = History::default();
    let channels = (1..=CHANNELS).map(|nth| id::<Channel>(guild.get() + nth));
    let channels: Vec<Id<Channel>> = channels.collect();
    for &channel in &channels {
        history.channel(channel);
    }
    for (nth, &user) in users.iter().enumerate() {
        history.member(user, nth % 3 == 0);
    }
    let members = users.iter().map(|&user| member(&history, guild, user));
    shared.store.put_guild(Snapshot {
        position: Position { era: 1, seq: 0 },
        guild: model::Guild {
            id: guild,
            name: guild.to_string(),
            icon: None,
            description: None,
            owner_id: id(1),
            settings: GuildSettings::default(),
            roles: vec![
                role(guild.cast(), Permissions::NEW_GUILD),
                role(moderators(guild), Permissions::empty()),
            ],
            emojis: Vec::new(),
            stickers: Vec::new(),
        },
        channels: channels
            .iter()
            .map(|&channel| self::channel(&history, guild, channel))
            .collect(),
        threads: Vec::new(),
        thread_members: Vec::new(),
        members: members.collect(),
        member_count: users.len() as u64,
        voice_states: Vec::new(),
        stages: Vec::new(),
        events: Vec::new(),
        sounds: Vec::new(),
    });
    shared.histories.borrow_mut().insert(guild, history);
}

/// Writes in a guild, as long as the task lives and writing is not over.
pub(crate) async fn write(shared: Rc<Shared>, guild: Id<Guild>, every_ms: u64) {
    let users = shared.history(guild, History::members);
    loop {
        let wait = shared.chance().between(1, 2 * every_ms);
        sleep(Duration::from_millis(wait)).await;
        if shared.writing_is_over() {
            return;
        }
        let channel = id(guild.get() + shared.chance().between(1, CHANNELS + 1));
        let user = users[shared.chance().below(users.len() as u64) as usize];
        let dice = shared.chance().below(100);
        match dice {
            0..8 => hide(&shared, guild, channel),
            8..14 if shared.history(guild, |history| history.is_member(user)) => {
                give_role(&shared, guild, user);
            }
            14..17 if shared.history(guild, |history| history.is_member(user)) => {
                kick(&shared, guild, user);
            }
            _ => message(&shared, guild, channel),
        }
    }
}

fn message(shared: &Shared, guild: Id<Guild>, channel: Id<Channel>) {
    let vis = Visibility::channel(channel, Intents::GUILD_MESSAGES);
    let event = shared
        .store
        .change(guild, EventKind::MessageCreate, vis, |snapshot, seq| {
            for one in snapshot.channels.iter_mut().filter(|one| one.id == channel) {
                one.last_message_id = Some(Some(id(seq)));
            }
            body(&json!({
                "id": id::<model::Message>(seq), "channel_id": channel, "guild_id": guild,
                "type": 0, "content": "", "timestamp": "2023-11-14T22:13:20+00:00",
            }))
        });
    shared.wrote(guild, event, |history, seq| history.wrote(seq, channel));
}

/// Hides a channel from all but moderators, or shows it again.
fn hide(shared: &Shared, guild: Id<Guild>, channel: Id<Channel>) {
    let vis = Visibility::channel(channel, Intents::GUILDS);
    let hidden = !shared.history(guild, |history| history.is_hidden(channel));
    let event = shared
        .store
        .change(guild, EventKind::ChannelUpdate, vis, |snapshot, _| {
            let mut channels = snapshot.channels.iter_mut();
            match channels.find(|one| one.id == channel) {
                Some(one) => {
                    one.permission_overwrites = overwrites(guild, hidden);
                    body(one)
                }
                None => Bytes::new(),
            }
        });
    shared.wrote(guild, event, |history, seq| {
        history.hid(seq, channel, hidden);
    });
}

/// Gives a member the moderators' role, or takes it away.
fn give_role(shared: &Shared, guild: Id<Guild>, user: Id<User>) {
    let moderator = !shared.history(guild, |history| history.is_moderator(user));
    let event = shared.store.change(
        guild,
        EventKind::GuildMemberUpdate,
        Visibility::realm(Intents::GUILD_MEMBERS),
        |snapshot, _| {
            let is = |one: &&mut Member| one.user.as_ref().is_some_and(|of| of.id == user);
            match snapshot.members.iter_mut().find(is) {
                Some(member) => {
                    member.roles = roles(guild, moderator);
                    of_guild(guild, member)
                }
                None => Bytes::new(),
            }
        },
    );
    shared.wrote(guild, event, |history, seq| {
        history.gave_role(seq, user, moderator);
    });
}

/// Kicks a member, who comes again after a while.
fn kick(shared: &Rc<Shared>, guild: Id<Guild>, user: Id<User>) {
    move_member(shared, guild, user, false);
    let away = shared.chance().between(1, AWAY_MS_MAX);
    let shared = shared.clone();
    tokio::task::spawn_local(async move {
        sleep(Duration::from_millis(away)).await;
        move_member(&shared, guild, user, true);
    });
}

fn move_member(shared: &Shared, guild: Id<Guild>, user: Id<User>, joins: bool) {
    let mut vis = Visibility::realm(Intents::GUILD_MEMBERS);
    let kind = match joins {
        true => EventKind::GuildMemberAdd,
        false => {
            vis.except.push(user);
            EventKind::GuildMemberRemove
        }
    };
    let newcomer = shared.history(guild, |_| new_member(guild, user, false));
    let event = shared.store.change(guild, kind, vis, |snapshot, _| {
        if joins {
            let members = &mut snapshot.members;
            let id_of = |member: &Member| member.user.as_ref().map(|user| user.id);
            let place = members.partition_point(|member| id_of(member) < Some(user));
            let told = of_guild(guild, &newcomer);
            members.insert(place, newcomer);
            snapshot.member_count += 1;
            told
        } else {
            let is = |one: &Member| one.user.as_ref().is_some_and(|of| of.id == user);
            snapshot.members.retain(|one| !is(one));
            snapshot.member_count -= 1;
            body(&json!({"guild_id": guild, "user": newcomer.user}))
        }
    });
    shared.wrote(guild, event, |history, seq| history.moved(seq, user, joins));
    let told = shared.store.member(guild, user, joins);
    shared.publish(told);
}

impl Shared {
    fn wrote(
        &self,
        guild: Id<Guild>,
        event: Option<Envelope>,
        note: impl FnOnce(&mut History, u64),
    ) {
        if let Some(seq) = event.as_ref().and_then(Envelope::position) {
            let mut histories = self.histories.borrow_mut();
            note(histories.entry(guild).or_default(), seq.seq);
            self.counts.borrow_mut().written += 1;
        }
        self.publish(event);
    }

    /// Most events go straight; some are lost, unheard, repeated or late.
    fn publish(&self, event: Option<Envelope>) {
        let way = {
            let mut chance = self.chance();
            match chance.below(100) {
                0..3 => Way::Lost,
                3..6 => Way::Unheard,
                6..9 => Way::Twice,
                9..15 => Way::Late {
                    ms: chance.between(1, 400),
                },
                _ => Way::Straight,
            }
        };
        if let Some(event) = event {
            self.store.publish(&self.redis, &event, way);
        }
    }
}

fn id<T>(id: u64) -> Id<T> {
    Id::new(id).expect("ids here are above 0")
}

fn moderators(guild: Id<Guild>) -> Id<Role> {
    id(guild.get() + 100)
}

fn roles(guild: Id<Guild>, moderator: bool) -> Vec<Id<Role>> {
    let role = moderators(guild);
    moderator.then_some(role).into_iter().collect()
}

fn overwrites(guild: Id<Guild>, hidden: bool) -> Vec<Overwrite> {
    let overwrite = |role: Id<Role>, allow, deny| Overwrite {
        id: role.cast(),
        kind: OverwriteKind::Role,
        allow,
        deny,
    };
    let view = Permissions::VIEW_CHANNEL;
    match hidden {
        true => vec![
            overwrite(guild.cast(), Permissions::empty(), view),
            overwrite(moderators(guild), view, Permissions::empty()),
        ],
        false => Vec::new(),
    }
}

fn channel(history: &History, guild: Id<Guild>, channel: Id<Channel>) -> model::Channel {
    model::Channel {
        id: channel,
        kind: ChannelKind::TEXT,
        guild_id: guild,
        name: channel.to_string(),
        position: 0,
        parent_id: None,
        permission_overwrites: overwrites(guild, history.is_hidden(channel)),
        last_message_id: Some(None),
        settings: ChannelSettings::default(),
    }
}

fn role(role: Id<Role>, permissions: Permissions) -> model::Role {
    model::Role {
        id: role,
        name: role.to_string(),
        color: 0,
        colors: RoleColors::default(),
        hoist: false,
        icon: None,
        unicode_emoji: None,
        position: 0,
        permissions,
        managed: false,
        mentionable: false,
        tags: None,
        flags: 0,
    }
}

fn member(history: &History, guild: Id<Guild>, user: Id<User>) -> Member {
    new_member(guild, user, history.is_moderator(user))
}

fn new_member(guild: Id<Guild>, user: Id<User>, moderator: bool) -> Member {
    Member {
        user: Some(model::User {
            id: user,
            username: user.to_string(),
            discriminator: "0".into(),
            global_name: None,
            avatar: None,
            bot: true,
            public_flags: 0,
            flags: 0,
            banner: None,
            accent_color: None,
            avatar_decoration_data: None,
            collectibles: None,
            primary_guild: None,
        }),
        nick: None,
        avatar: None,
        banner: None,
        roles: roles(guild, moderator),
        joined_at: Timestamp::from_unix_ms(0),
        premium_since: None,
        deaf: false,
        mute: false,
        flags: 0,
        pending: false,
        communication_disabled_until: None,
        avatar_decoration_data: None,
        collectibles: None,
    }
}

fn of_guild(guild: Id<Guild>, member: &Member) -> Bytes {
    let mut told = serde_json::to_value(member).expect("a member has string keys");
    told["guild_id"] = json!(guild);
    body(&told)
}

fn body(told: &impl serde::Serialize) -> Bytes {
    let told = serde_json::to_vec(told);
    told.expect("it has string keys").into()
}
