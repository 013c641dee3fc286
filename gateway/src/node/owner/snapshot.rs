//! `d` of a GUILD_CREATE for one session. Spec: gateway.md › GUILD_CREATE contents.

use bytes::Bytes;
use guildhall_shared::{
    Id, Timestamp,
    id::marker::User,
    model::{Channel, GatewayGuild, Member, VoiceState},
};

use super::guild::GuildState;
use crate::bus::{ClassId, SnapshotRequest};

/// The guild as `user` sees it who sees `classes`; `None` for one who is no member.
pub(crate) fn guild_create(
    state: &GuildState,
    user: Id<User>,
    classes: &[ClassId],
    request: &SnapshotRequest,
) -> Option<Bytes> {
    let own = state.members.get(&user)?;
    let large = state.member_count > u64::from(request.large_threshold);
    let sees = |channel| {
        let class = state.classes.of(channel);
        class.is_some_and(|class| classes.contains(&class))
    };
    let voice_states: Vec<&VoiceState> = state
        .voice_states
        .values()
        .filter(|voice| voice.channel_id.is_some_and(sees))
        .collect();
    let members: Vec<&Member> = if request.members && !large {
        state.members.values().collect()
    } else {
        let in_voice = voice_states.iter().map(|voice| voice.user_id);
        let others = in_voice.filter(|&other| other != user);
        std::iter::once(own)
            .chain(others.filter_map(|other| state.members.get(&other)))
            .collect()
    };
    let mut channels: Vec<&Channel> = state
        .channels
        .values()
        .filter(|channel| sees(channel.id))
        .collect();
    channels.sort_by_key(|channel| (channel.position, channel.id));
    let guild = GatewayGuild {
        guild: &state.guild,
        joined_at: own.joined_at,
        large,
        unavailable: request.unavailable,
        member_count: state.member_count,
        voice_states,
        members,
        channels,
        threads: state.threads_seen_by(user, Timestamp::now(), sees),
        presences: Vec::new(),
        stage_instances: state
            .stages
            .values()
            .filter(|stage| sees(stage.channel_id))
            .collect(),
        guild_scheduled_events: state
            .events
            .values()
            .filter(|event| event.channel_id.is_none_or(sees))
            .collect(),
        soundboard_sounds: state.sounds.values().collect(),
    };
    let json = serde_json::to_vec(&guild).expect("a guild has string keys and finite numbers");
    Some(json.into())
}
