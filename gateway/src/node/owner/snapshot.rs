//! `d` of a GUILD_CREATE for one session. Spec: gateway.md › GUILD_CREATE contents.

use bytes::Bytes;
use guildhall_shared::{
    Id,
    id::marker::User,
    model::{Channel, GatewayGuild, Member},
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
    let members: Vec<&Member> = if request.members && !large {
        state.members.values().collect()
    } else {
        vec![own]
    };
    let mut channels: Vec<&Channel> = state
        .channels
        .values()
        .filter(|channel| {
            let class = state.classes.of(channel.id);
            class.is_some_and(|class| classes.contains(&class))
        })
        .collect();
    channels.sort_by_key(|channel| (channel.position, channel.id));
    let guild = GatewayGuild {
        guild: &state.guild,
        joined_at: own.joined_at,
        large,
        unavailable: request.unavailable,
        member_count: state.member_count,
        voice_states: Vec::new(),
        members,
        channels,
        threads: Vec::new(),
        presences: Vec::new(),
        stage_instances: Vec::new(),
        guild_scheduled_events: Vec::new(),
        soundboard_sounds: Vec::new(),
    };
    let json = serde_json::to_vec(&guild).expect("a guild has string keys and finite numbers");
    Some(json.into())
}
