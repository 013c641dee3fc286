//! What a guild has besides channels and people: voice, stages, events, expressions.

use super::*;

fn voice(user: u64, channel: Option<u64>) -> Value {
    json!({
        "guild_id": HALL.to_string(), "channel_id": channel.map(|id| id.to_string()),
        "user_id": user.to_string(), "member": member(user, &[]), "session_id": "s",
        "deaf": false, "mute": false, "self_deaf": false, "self_mute": true, "self_stream": false,
        "self_video": false, "suppress": false, "request_to_speak_timestamp": null,
    })
}

fn event(channel: Option<u64>, status: u8) -> Value {
    json!({
        "id": "300", "guild_id": HALL.to_string(), "channel_id": channel.map(|id| id.to_string()),
        "creator_id": OWNER.to_string(), "name": "Party", "description": null, "image": null,
        "scheduled_start_time": "2030-01-01T00:00:00Z", "scheduled_end_time": null,
        "privacy_level": 2, "status": status, "entity_type": 2, "entity_id": null,
        "entity_metadata": null, "recurrence_rule": null, "guild_scheduled_event_exceptions": [],
    })
}

fn in_channel(channel: u64, intents: Intents) -> Visibility {
    Visibility::channel(id(channel), intents)
}

#[test]
fn who_is_in_voice_is_in_later_snapshots_of_those_who_see_the_channel() {
    let mut realm = hall();
    let vis = in_channel(STAFF, Intents::GUILD_VOICE_STATES);
    let state = voice(MOD, Some(STAFF));
    let effects = apply_vis(&mut realm, EventKind::VoiceStateUpdate, vis.clone(), &state);
    assert_eq!(told(&effects), ["VOICE_STATE_UPDATE"]);

    let shown = guild_create(&realm, OWNER);
    assert_eq!(shown["voice_states"][0]["user_id"], MOD.to_string());
    assert_eq!(shown["voice_states"][0]["self_mute"], true);
    assert!(shown["voice_states"][0].get("guild_id").is_none());
    assert!(shown["voice_states"][0].get("member").is_none());
    let members: Vec<&Value> = shown["members"].as_array().unwrap().iter().collect();
    assert_eq!(members.len(), 2);
    assert_eq!(members[1]["user"]["id"], MOD.to_string());
    let hidden = guild_create(&realm, ALICE);
    assert_eq!(hidden["voice_states"], json!([]));
    assert_eq!(hidden["members"].as_array().unwrap().len(), 1);

    apply_vis(
        &mut realm,
        EventKind::VoiceStateUpdate,
        vis,
        &voice(MOD, None),
    );
    assert_eq!(guild_create(&realm, OWNER)["voice_states"], json!([]));
}

#[test]
fn one_who_moves_out_of_sight_is_told_to_have_left() {
    let mut realm = hall();
    let to = |channel| {
        let mut vis = in_channel(channel, Intents::GUILD_VOICE_STATES);
        vis.regardless.push(id(MOD));
        vis
    };
    let kind = EventKind::VoiceStateUpdate;
    apply_vis(&mut realm, kind, to(OPEN), &voice(MOD, Some(OPEN)));
    let effects = apply_vis(&mut realm, kind, to(STAFF), &voice(MOD, Some(STAFF)));
    assert_eq!(
        told(&effects),
        ["VOICE_STATE_UPDATE to [12]", "VOICE_STATE_UPDATE"]
    );
    let Effect::EventTo(_, left) = &effects[0] else {
        panic!("{effects:?}")
    };
    let left: Value = serde_json::from_slice(&left.body).unwrap();
    assert_eq!(left["channel_id"], Value::Null);
    // Back where all see it: nobody loses sight of it.
    let effects = apply_vis(&mut realm, kind, to(OPEN), &voice(MOD, Some(OPEN)));
    assert_eq!(told(&effects), ["VOICE_STATE_UPDATE"]);
}

#[test]
fn who_gains_a_channel_hears_what_is_in_it() {
    let mut realm = hall();
    let vis = in_channel(STAFF, Intents::GUILD_VOICE_STATES);
    apply_vis(
        &mut realm,
        EventKind::VoiceStateUpdate,
        vis,
        &voice(MOD, Some(STAFF)),
    );
    let stage = json!({
        "id": "301", "guild_id": HALL.to_string(), "channel_id": STAFF.to_string(),
        "topic": "Talk", "privacy_level": 2, "discoverable_disabled": true,
        "guild_scheduled_event_id": null,
    });
    let vis = in_channel(STAFF, Intents::GUILDS);
    apply_vis(
        &mut realm,
        EventKind::StageInstanceCreate,
        vis.clone(),
        &stage,
    );
    let update = json!({"user": {"id": ALICE.to_string()}, "roles": [MODS.to_string()]});
    let effects = apply(&mut realm, EventKind::GuildMemberUpdate, &update);
    assert_eq!(
        told(&effects),
        [
            "view",
            "CHANNEL_CREATE to [12]",
            "VOICE_STATE_UPDATE to [12]",
            "STAGE_INSTANCE_CREATE to [12]",
            "GUILD_MEMBER_UPDATE"
        ]
    );
    assert_eq!(
        guild_create(&realm, ALICE)["stage_instances"],
        json!([stage])
    );
    apply_vis(&mut realm, EventKind::StageInstanceDelete, vis, &stage);
    assert_eq!(guild_create(&realm, ALICE)["stage_instances"], json!([]));
}

#[test]
fn who_loses_a_channel_hears_the_end_of_what_is_in_it() {
    let mut realm = hall();
    for user in [MOD, ALICE] {
        let vis = in_channel(OPEN, Intents::GUILD_VOICE_STATES);
        let kind = EventKind::VoiceStateUpdate;
        apply_vis(&mut realm, kind, vis, &voice(user, Some(OPEN)));
    }
    let stage = json!({
        "id": "301", "guild_id": HALL.to_string(), "channel_id": OPEN.to_string(),
        "topic": "Talk", "privacy_level": 2, "discoverable_disabled": true,
        "guild_scheduled_event_id": null,
    });
    let vis = in_channel(OPEN, Intents::GUILDS);
    apply_vis(&mut realm, EventKind::StageInstanceCreate, vis, &stage);
    let vis = in_channel(OPEN, Intents::GUILD_SCHEDULED_EVENTS);
    let kind = EventKind::GuildScheduledEventCreate;
    apply_vis(&mut realm, kind, vis, &event(Some(OPEN), 1));

    let hidden = json!(channel(OPEN, hidden_but_for_mods()));
    let effects = apply(&mut realm, EventKind::ChannelUpdate, &hidden);
    assert_eq!(
        told(&effects),
        [
            "view",
            "CHANNEL_UPDATE",
            "CHANNEL_UPDATE to [12]",
            "VOICE_STATE_UPDATE to [12]",
            "VOICE_STATE_UPDATE to [12]",
            "STAGE_INSTANCE_DELETE to [12]",
            "GUILD_SCHEDULED_EVENT_DELETE to [12]",
            "CHANNEL_DELETE to [12]"
        ]
    );
    let left = effects.iter().filter_map(|effect| match effect {
        Effect::EventTo(_, event) if event.kind == EventKind::VoiceStateUpdate => {
            let body: Value = serde_json::from_slice(&event.body).unwrap();
            assert_eq!(body["channel_id"], Value::Null);
            Some((body["user_id"].clone(), event.vis.except.clone()))
        }
        _ => None,
    });
    // Alice stays in voice, whatever she sees.
    let of = |user: u64| (json!(user.to_string()), vec![id::<marker::User>(user)]);
    assert_eq!(left.collect::<Vec<_>>(), [of(MOD), of(ALICE)]);
}

#[test]
fn an_event_that_was_for_all_ends_for_those_who_do_not_see_its_new_channel() {
    let mut realm = hall();
    let intents = Intents::GUILD_SCHEDULED_EVENTS;
    let create = EventKind::GuildScheduledEventCreate;
    let vis = Visibility::realm(intents);
    apply_vis(&mut realm, create, vis, &event(None, 1));
    let update = EventKind::GuildScheduledEventUpdate;
    let vis = in_channel(STAFF, intents);
    let effects = apply_vis(&mut realm, update, vis, &event(Some(STAFF), 1));
    assert_eq!(
        told(&effects),
        [
            "GUILD_SCHEDULED_EVENT_DELETE to [12]",
            "GUILD_SCHEDULED_EVENT_UPDATE"
        ]
    );
}

#[test]
fn events_are_shown_while_they_are_open_to_those_who_see_their_channel() {
    let mut realm = hall();
    let intents = Intents::GUILD_SCHEDULED_EVENTS;
    let vis = in_channel(OPEN, intents);
    let create = EventKind::GuildScheduledEventCreate;
    apply_vis(&mut realm, create, vis, &event(Some(OPEN), 1));
    let names = |realm: &Realm, user| {
        let shown = guild_create(realm, user);
        shown["guild_scheduled_events"].as_array().unwrap().len()
    };
    assert_eq!((names(&realm, OWNER), names(&realm, ALICE)), (1, 1));
    let update = EventKind::GuildScheduledEventUpdate;
    let hide = |realm: &mut Realm| {
        let vis = in_channel(STAFF, intents);
        let effects = apply_vis(realm, update, vis, &event(Some(STAFF), 2));
        let gone = "GUILD_SCHEDULED_EVENT_DELETE to [12]";
        assert_eq!(told(&effects), [gone, "GUILD_SCHEDULED_EVENT_UPDATE"]);
        assert_eq!((names(realm, OWNER), names(realm, ALICE)), (1, 0));
    };
    hide(&mut realm);
    apply_vis(
        &mut realm,
        update,
        Visibility::realm(intents),
        &event(None, 2),
    );
    assert_eq!(names(&realm, ALICE), 1);
    // From elsewhere, where all saw it, into a channel that is hidden from some.
    hide(&mut realm);
    apply_vis(
        &mut realm,
        update,
        Visibility::realm(intents),
        &event(None, 3),
    );
    assert_eq!(names(&realm, OWNER), 0);
}

#[test]
fn expressions_are_in_later_snapshots() {
    let mut realm = hall();
    let emojis = json!({"guild_id": HALL.to_string(), "emojis": [{"id": "400", "name": "wave"}]});
    apply(&mut realm, EventKind::GuildEmojisUpdate, &emojis);
    let stickers = json!({"guild_id": HALL.to_string(), "stickers": [{"id": "401"}]});
    apply(&mut realm, EventKind::GuildStickersUpdate, &stickers);
    let sound = json!({"sound_id": "402", "name": "ding", "volume": 1.0});
    apply(&mut realm, EventKind::GuildSoundboardSoundCreate, &sound);
    let shown = guild_create(&realm, ALICE);
    assert_eq!(shown["emojis"], emojis["emojis"]);
    assert_eq!(shown["stickers"], stickers["stickers"]);
    assert_eq!(shown["soundboard_sounds"], json!([sound]));
    let gone = json!({"sound_id": "402", "guild_id": HALL.to_string()});
    apply(&mut realm, EventKind::GuildSoundboardSoundDelete, &gone);
    assert_eq!(guild_create(&realm, ALICE)["soundboard_sounds"], json!([]));
}
