//! READY of people, in the shapes that their client's capabilities ask for.

use std::collections::BTreeMap;

use guildhall_shared::{
    Id, Timestamp,
    envelope::Envelope,
    gateway::{self, Capabilities},
    id::marker::{Channel, Guild, Message, User},
    model::{
        self, ChannelKind, CurrentUser, GroupFields, PresenceUser, PresenceView, PrivateChannel,
        Relationship, SessionState, SessionView, UserGuildSettings, UserSettings,
    },
};
use guildhall_store::personal::Personal;
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};

use super::{
    guild::{Lifted, Parts},
    json::to_json,
    read_states::{self, Entry},
};
use crate::{identity::Identity, names::SessionId, session::AssembledGuild};

/// Everything that a READY shows.
pub(in crate::core) struct Person<'a> {
    pub(in crate::core) identity: &'a Identity,
    pub(in crate::core) session: SessionId,
    /// The same session as the user's other clients see it.
    pub(in crate::core) own: &'a SessionState,
    pub(in crate::core) resume_url: &'a str,
    pub(in crate::core) shard: Option<(u32, u32)>,
    pub(in crate::core) capabilities: Capabilities,
    pub(in crate::core) guilds: &'a [AssembledGuild],
    /// Messages between the read of the identity and the guilds' snapshots.
    pub(in crate::core) missed: &'a [Envelope],
}

/// `d` of READY, and of READY_SUPPLEMENTAL for who reads it.
pub(in crate::core) struct Bodies {
    pub(in crate::core) ready: Vec<u8>,
    pub(in crate::core) supplemental: Option<Vec<u8>>,
}

#[derive(Serialize)]
struct Ready<'a> {
    v: u8,
    user: &'a CurrentUser,
    guilds: Guilds<'a>,
    session_id: String,
    static_client_session_id: String,
    resume_gateway_url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<(u32, u32)>,
    session_type: &'static str,
    /// As `id_hash` of `GET /auth/sessions`.
    auth_session_id_hash: String,
    auth: Auth<'a>,
    private_channels: Vec<Private<'a>>,
    relationships: Vec<Related<'a>>,
    read_state: Listed<Entry>,
    user_guild_settings: Listed<&'a UserGuildSettings>,
    /// Also for who says to read them otherwise: a web client that says so does not.
    user_settings: &'a UserSettings,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<&'a BTreeMap<Id<User>, String>>,
    users: Vec<AnyUser<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    merged_members: Option<Vec<&'a [Lifted<'a>]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presences: Option<Vec<PresenceView<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    merged_presences: Option<MergedPresences<'a>>,
    sessions: Vec<SessionView<'a>>,
    #[serde(flatten)]
    stubs: Stubs,
}

/// What this server has nothing to say about, and clients read.
#[derive(Default, Serialize)]
struct Stubs {
    analytics_token: &'static str,
    country_code: &'static str,
    consents: Consents,
    tutorial: Option<Value>,
    connected_accounts: [Value; 0],
    guild_join_requests: [Value; 0],
    experiments: [Value; 0],
    guild_experiments: [Value; 0],
    friend_suggestion_count: u32,
    notification_settings: NotificationSettings,
    geo_ordered_rtc_regions: [Value; 0],
    api_code_version: u32,
    _trace: [Value; 0],
}

#[derive(Default, Serialize)]
struct Consents {
    personalization: Consent,
}

#[derive(Default, Serialize)]
struct Consent {
    consented: bool,
}

#[derive(Default, Serialize)]
struct NotificationSettings {
    flags: u32,
}

#[derive(Serialize)]
struct Auth<'a> {
    authenticator_types: &'a [u8],
}

#[derive(Serialize)]
#[serde(untagged)]
enum Guilds<'a> {
    AsTheyAre(Vec<&'a RawValue>),
    Shaped(&'a [Parts<'a>]),
}

/// A list, bare or with a version.
#[derive(Serialize)]
#[serde(untagged)]
enum Listed<T> {
    Bare(Vec<T>),
    Versioned {
        entries: Vec<T>,
        partial: bool,
        version: u64,
    },
}

impl<T> Listed<T> {
    fn new(entries: Vec<T>, versioned: bool, version: u64) -> Self {
        if versioned {
            Self::Versioned {
                entries,
                partial: false,
                version,
            }
        } else {
            Self::Bare(entries)
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum AnyUser<'a> {
    Read(&'a model::User),
    Raw(&'a RawValue),
}

/// With the user all the same: a web client that asks for users once reads them here.
#[derive(Serialize)]
struct Related<'a> {
    #[serde(flatten)]
    relationship: &'a Relationship,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<Id<User>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Private<'a> {
    WithUsers(&'a PrivateChannel),
    WithIds {
        id: Id<Channel>,
        #[serde(rename = "type")]
        kind: ChannelKind,
        last_message_id: Option<Id<Message>>,
        last_pin_timestamp: Option<Timestamp>,
        flags: u64,
        recipient_ids: Vec<Id<User>>,
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        group: Option<&'a GroupFields>,
    },
}

/// Presences of friends, and per guild, in READY's order.
#[derive(Serialize)]
struct MergedPresences<'a> {
    friends: Vec<Value>,
    guilds: Vec<&'a [Lifted<'a>]>,
}

#[derive(Serialize)]
struct Supplemental<'a> {
    guilds: Vec<GuildSupplement<'a>>,
    merged_members: Vec<&'a [Lifted<'a>]>,
    merged_presences: MergedPresences<'a>,
    lazy_private_channels: [Value; 0],
    disclose: [Value; 0],
    game_invites: [Value; 0],
}

#[derive(Serialize)]
struct GuildSupplement<'a> {
    id: Id<Guild>,
    voice_states: Option<&'a RawValue>,
    activity_instances: [Value; 0],
}

impl<'a> Person<'a> {
    /// Builds the bodies; read states are shown of channels that `sees` lets through.
    pub(in crate::core) fn bodies(
        &self,
        sees: impl Fn(Id<Guild>, Id<Channel>) -> bool,
    ) -> serde_json::Result<Bodies> {
        let has = |capability| self.capabilities.contains(capability);
        let nothing = Personal::default();
        let personal = self.identity.personal.as_deref().unwrap_or(&nothing);
        let me = self.identity.user.user.id;
        let dedupe = has(Capabilities::DEDUPE_USER_OBJECTS);
        let prioritized = has(Capabilities::PRIORITIZED_READY_PAYLOAD);
        let mut raw_users = BTreeMap::new();
        let parts = self.parts(&mut raw_users)?;
        let mut users: BTreeMap<Id<User>, AnyUser<'_>> = raw_users
            .into_iter()
            .map(|(id, user)| (id, AnyUser::Raw(user)))
            .collect();
        if dedupe {
            let friends = personal.relationships.iter().map(|one| &one.user);
            let channels = self.identity.private_channels.iter();
            let recipients = channels.flat_map(|channel| &channel.recipients);
            users.extend(
                friends
                    .chain(recipients)
                    .map(|user| (user.id, AnyUser::Read(user))),
            );
        }
        // A supplement brings everyone but the receiver, whose READY would not do without.
        let members = |supplement: bool| {
            let lists = parts.iter().map(|guild| {
                let (own, others) = guild.members.split_at(guild.members.len().min(1));
                match (prioritized, supplement) {
                    (false, _) => guild.members.as_slice(),
                    (true, false) => own,
                    (true, true) => others,
                }
            });
            lists.collect::<Vec<_>>()
        };
        let presences = || MergedPresences {
            friends: self.friends(),
            guilds: parts.iter().map(|one| one.presences.as_slice()).collect(),
        };
        let entries = read_states::entries(me, personal, self.guilds, self.missed, sees);
        let guild_settings = personal.guild_settings.iter().filter(|settings| {
            let guild = settings.guild_id.as_ref();
            guild.is_none_or(|guild| self.identity.guilds.contains(guild))
        });
        let private = self.identity.user.private.as_ref();
        let ready = Ready {
            v: gateway::VERSION,
            user: &self.identity.user,
            guilds: match self.reshapes() {
                true => Guilds::Shaped(&parts),
                false => Guilds::AsTheyAre(self.as_they_are()?),
            },
            session_id: self.session.to_string(),
            static_client_session_id: self.session.to_string(),
            resume_gateway_url: self.resume_url,
            shard: self.shard,
            session_type: "normal",
            auth_session_id_hash: hex::encode(Sha256::digest(self.identity.token.0)),
            auth: Auth {
                authenticator_types: private
                    .map_or(&[], |private| private.authenticator_types.as_slice()),
            },
            private_channels: self.private_channels(dedupe),
            relationships: relationships(personal, dedupe),
            read_state: Listed::new(
                entries,
                has(Capabilities::VERSIONED_READ_STATES),
                // As MESSAGE_ACK counts.
                (Timestamp::now().0.unix_timestamp_nanos() / 1_000_000) as u64,
            ),
            user_guild_settings: Listed::new(
                guild_settings.collect(),
                has(Capabilities::VERSIONED_USER_GUILD_SETTINGS),
                personal.guild_settings.iter().map(|one| one.version).sum(),
            ),
            user_settings: &personal.settings,
            notes: (!has(Capabilities::LAZY_USER_NOTES)).then_some(&personal.notes),
            users: users.into_values().collect(),
            merged_members: dedupe.then(|| members(false)),
            presences: (!dedupe).then(|| self.presences()),
            merged_presences: (dedupe && !prioritized).then(presences),
            sessions: self.sessions(),
            stubs: Stubs {
                api_code_version: 1,
                ..Stubs::default()
            },
        };
        let supplemental = prioritized.then(|| {
            to_json(&Supplemental {
                guilds: self
                    .guilds
                    .iter()
                    .zip(&parts)
                    .map(|(guild, parts)| GuildSupplement {
                        id: guild.id,
                        voice_states: parts.voice_states,
                        activity_instances: [],
                    })
                    .collect(),
                merged_members: members(true),
                merged_presences: presences(),
                lazy_private_channels: [],
                disclose: [],
                game_invites: [],
            })
        });
        Ok(Bodies {
            ready: to_json(&ready),
            supplemental,
        })
    }

    /// Friends and partners who are online.
    fn presences(&self) -> Vec<PresenceView<'a>> {
        let known = self.identity.presences.iter();
        let views = known.map(|(id, presence)| {
            let user = PresenceUser::Id { id: *id };
            presence.view(user, None)
        });
        views.collect()
    }

    /// The same as merged presences have them.
    fn friends(&self) -> Vec<Value> {
        let known = self.identity.presences.iter().zip(self.presences());
        let lifted = known.filter_map(|((id, _), view)| {
            let mut lifted = serde_json::to_value(view).ok()?;
            let fields = lifted.as_object_mut()?;
            fields.remove("user");
            fields.insert("user_id".to_owned(), id.to_string().into());
            Some(lifted)
        });
        lifted.collect()
    }

    /// The user's other sessions, and this one.
    fn sessions(&self) -> Vec<SessionView<'a>> {
        let others = self.identity.sessions.iter();
        let others = others.filter(|other| other.id != self.own.id);
        SessionState::views(others.chain([self.own]))
    }

    /// Whether guilds are to be taken apart at all.
    fn reshapes(&self) -> bool {
        self.capabilities.intersects(
            Capabilities::DEDUPE_USER_OBJECTS
                | Capabilities::PRIORITIZED_READY_PAYLOAD
                | Capabilities::CLIENT_STATE_V2,
        )
    }

    fn parts(
        &self,
        users: &mut BTreeMap<Id<User>, &'a RawValue>,
    ) -> serde_json::Result<Vec<Parts<'a>>> {
        if !self.reshapes() {
            return Ok(Vec::new());
        }
        let me = self.identity.user.user.id;
        let guilds = self.guilds.iter();
        guilds
            .map(|guild| Parts::of(self.capabilities, me, guild, users))
            .collect()
    }

    fn as_they_are(&self) -> serde_json::Result<Vec<&'a RawValue>> {
        let guilds = self.guilds.iter();
        guilds
            .map(|guild| serde_json::from_slice(&guild.body))
            .collect()
    }

    fn private_channels(&self, dedupe: bool) -> Vec<Private<'a>> {
        let channels = self.identity.private_channels.iter();
        channels
            .map(|channel| {
                if !dedupe {
                    return Private::WithUsers(channel);
                }
                Private::WithIds {
                    id: channel.id,
                    kind: channel.kind,
                    last_message_id: channel.last_message_id,
                    last_pin_timestamp: channel.last_pin_timestamp,
                    flags: channel.flags,
                    recipient_ids: channel.recipients.iter().map(|user| user.id).collect(),
                    group: channel.group.as_ref(),
                }
            })
            .collect()
    }
}

fn relationships(personal: &Personal, dedupe: bool) -> Vec<Related<'_>> {
    let all = personal.relationships.iter();
    all.map(|relationship| Related {
        relationship,
        user_id: dedupe.then_some(relationship.id),
    })
    .collect()
}
