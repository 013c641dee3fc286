//! READY. Spec: gateway.md › READY.

use std::collections::BTreeMap;

use bytes::Bytes;
use guildhall_shared::{
    Id, gateway,
    id::marker::User,
    model::{PrivateChannel, Relationship, UnavailableGuild, UserGuildSettings, UserSettings},
};
use guildhall_store::personal::Personal;
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use crate::{bus::Identity, session::SessionId};

/// What both kinds of account get; the rest is empty but expected by some library.
#[derive(Serialize)]
struct Ready<'a, G: Serialize> {
    v: u8,
    user: &'a guildhall_shared::model::CurrentUser,
    guilds: G,
    session_id: String,
    resume_gateway_url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<(u32, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<Application>,
    session_type: &'static str,
    /// None of bots: they learn of them by messages.
    private_channels: &'a [PrivateChannel],
    relationships: &'a [Relationship],
    presences: [Value; 0],
    guild_join_requests: [Value; 0],
    geo_ordered_rtc_regions: [Value; 0],
    user_settings: Settings<'a>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    for_users: Option<ForUsers<'a>>,
    _trace: [Value; 0],
}

#[derive(Serialize)]
struct Application {
    id: guildhall_shared::Id<guildhall_shared::id::marker::Application>,
    flags: u64,
}

#[derive(Default, Serialize)]
struct Empty {}

/// A bot's are an empty object.
#[derive(Serialize)]
#[serde(untagged)]
enum Settings<'a> {
    Of(&'a UserSettings),
    None(Empty),
}

/// What clients of people read besides.
#[derive(Serialize)]
struct ForUsers<'a> {
    read_state: [Value; 0],
    user_guild_settings: &'a [UserGuildSettings],
    users: [Value; 0],
    merged_members: Vec<Value>,
    sessions: [Value; 0],
    connected_accounts: [Value; 0],
    notes: &'a BTreeMap<Id<User>, String>,
    consents: Empty,
    experiments: [Value; 0],
    guild_experiments: [Value; 0],
    friend_suggestion_count: u32,
    country_code: &'static str,
}

/// A bot's READY: its guilds follow one by one.
pub(super) fn for_bot(
    identity: &Identity,
    session: SessionId,
    resume_url: &str,
    shard: Option<(u32, u32)>,
) -> Vec<u8> {
    let guilds: Vec<UnavailableGuild> = identity
        .guilds
        .iter()
        .map(|&id| UnavailableGuild {
            id,
            unavailable: true,
        })
        .collect();
    ready(identity, guilds, session, resume_url, shard, None)
}

/// A user's READY, with its guilds whole; each is the JSON of a GUILD_CREATE.
pub(super) fn for_user(
    identity: &Identity,
    guilds: &[Bytes],
    session: SessionId,
    resume_url: &str,
    shard: Option<(u32, u32)>,
) -> Vec<u8> {
    let guilds: Vec<&RawValue> = guilds
        .iter()
        .filter_map(|guild| serde_json::from_slice(guild).ok())
        .collect();
    let personal = identity.personal.as_deref();
    let for_users = ForUsers {
        read_state: [],
        user_guild_settings: personal.map_or(&[], |personal| &personal.guild_settings),
        users: [],
        merged_members: Vec::new(),
        sessions: [],
        connected_accounts: [],
        notes: personal.map_or(&NO_NOTES, |personal| &personal.notes),
        consents: Empty {},
        experiments: [],
        guild_experiments: [],
        friend_suggestion_count: 0,
        country_code: "",
    };
    ready(
        identity,
        guilds,
        session,
        resume_url,
        shard,
        Some(for_users),
    )
}

static NO_NOTES: BTreeMap<Id<User>, String> = BTreeMap::new();

fn ready<G: Serialize>(
    identity: &Identity,
    guilds: G,
    session: SessionId,
    resume_url: &str,
    shard: Option<(u32, u32)>,
    for_users: Option<ForUsers<'_>>,
) -> Vec<u8> {
    let personal: Option<&Personal> = identity.personal.as_deref();
    let ready = Ready {
        v: gateway::VERSION,
        user: &identity.user,
        guilds,
        session_id: session.to_string(),
        resume_gateway_url: resume_url,
        shard,
        application: identity
            .application
            .map(|(id, flags)| Application { id, flags }),
        session_type: "normal",
        private_channels: &identity.private_channels,
        relationships: personal.map_or(&[], |personal| &personal.relationships),
        presences: [],
        guild_join_requests: [],
        geo_ordered_rtc_regions: [],
        user_settings: personal.map_or(Settings::None(Empty {}), |personal| {
            Settings::Of(&personal.settings)
        }),
        for_users,
        _trace: [],
    };
    serde_json::to_vec(&ready).expect("READY has string keys and no failing serializer")
}

#[cfg(test)]
mod tests {
    use guildhall_shared::{
        Timestamp,
        gateway::Intents,
        model::{self, CurrentUser, RelationshipKind, StoredGuildSettings, Theme},
        shard::Position,
        token::TokenHash,
    };

    use super::*;

    fn user(id: u64, name: &str) -> model::User {
        model::User {
            id: Id::new(id).unwrap(),
            username: name.to_owned(),
            discriminator: "0".to_owned(),
            global_name: None,
            avatar: None,
            bot: false,
            public_flags: 0,
            flags: 0,
            banner: None,
            accent_color: None,
            avatar_decoration_data: None,
            collectibles: None,
            primary_guild: None,
        }
    }

    fn identity(personal: Option<Personal>) -> Identity {
        Identity {
            user: CurrentUser {
                user: user(1, "alice"),
                mfa_enabled: false,
                locale: "en-US".to_owned(),
                verified: true,
                email: None,
                premium_type: 0,
                bio: String::new(),
                pronouns: String::new(),
                private: None,
            },
            token: TokenHash([0; 32]),
            intents: Intents::empty(),
            application: None,
            position: Position { era: 1, seq: 0 },
            guilds: Vec::new(),
            private_channels: Vec::new(),
            personal: personal.map(Box::new),
        }
    }

    fn session() -> SessionId {
        SessionId::new(0, 0, [0; 10])
    }

    #[test]
    fn people_find_what_is_theirs_in_ready() {
        let mut personal = Personal::default();
        personal.settings.theme = Theme::Light;
        personal.relationships.push(Relationship {
            id: Id::new(2).unwrap(),
            kind: RelationshipKind::Friend,
            user: user(2, "bob"),
            nickname: Some("Bobby".to_owned()),
            is_spam_request: false,
            stranger_request: false,
            user_ignored: false,
            since: Timestamp::now(),
        });
        personal
            .notes
            .insert(Id::new(2).unwrap(), "from work".to_owned());
        let settings = StoredGuildSettings::default().into_wire(Id::new(5));
        personal.guild_settings.push(settings);
        let ready = for_user(&identity(Some(personal)), &[], session(), "ws://x", None);
        let ready: Value = serde_json::from_slice(&ready).unwrap();
        assert_eq!(ready["relationships"][0]["type"], 1);
        assert_eq!(ready["relationships"][0]["user"]["username"], "bob");
        assert_eq!(ready["user_settings"]["theme"], "light");
        assert_eq!(ready["user_guild_settings"][0]["guild_id"], "5");
        assert_eq!(ready["notes"]["2"], "from work");
    }

    #[test]
    fn bots_get_the_same_fields_empty() {
        let ready = for_bot(&identity(None), session(), "ws://x", Some((0, 1)));
        let ready: Value = serde_json::from_slice(&ready).unwrap();
        assert_eq!(ready["relationships"], serde_json::json!([]));
        assert_eq!(ready["user_settings"], serde_json::json!({}));
        assert!(ready.get("notes").is_none());
    }
}
