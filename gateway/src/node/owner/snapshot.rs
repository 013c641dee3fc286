//! `d` of a GUILD_CREATE for one session. Spec: gateway.md › GUILD_CREATE contents.

use bytes::Bytes;
use guildhall_shared::{
    Id, Timestamp,
    id::marker::User,
    model::{Channel, GatewayGuild, Member, Presence, PresenceUser, PresenceView, VoiceState},
};

use super::{guild::GuildState, presence::Presences};
use crate::bus::{ClassId, SnapshotRequest};

/// Members above which presences are not listed, whatever the intents.
const LISTED_MEMBERS_MAX: u64 = 75_000;

/// The guild as `user` sees it who sees `classes`; `None` for one who is no member.
pub(crate) fn guild_create(
    state: &GuildState,
    presences: &Presences,
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
    // One's own is no secret: a moderator may have moved one where one does not see.
    let voice_states: Vec<&VoiceState> = state
        .voice_states
        .values()
        .filter(|voice| voice.user_id == user || voice.channel_id.is_some_and(sees))
        .collect();
    let listed = request.presences && state.member_count <= LISTED_MEMBERS_MAX;
    let mut shown: Vec<(Id<User>, Presence)> = match listed {
        true => presences
            .online()
            .filter(|(user, _)| state.members.contains_key(user))
            .collect(),
        false => Vec::new(),
    };
    shown.sort_unstable_by_key(|(user, _)| *user);
    let members: Vec<&Member> = if request.members && !large {
        state.members.values().collect()
    } else if listed {
        let stands_out = |(user, member): &(&Id<User>, &Member)| {
            let online = shown.binary_search_by_key(*user, |(user, _)| *user).is_ok();
            // They are by user: thousands may be in voice, and tens of thousands be members.
            let in_voice = || voice_states.binary_search_by_key(*user, |voice| voice.user_id);
            online || !member.roles.is_empty() || member.nick.is_some() || in_voice().is_ok()
        };
        let all = state.members.iter();
        let others = all.filter(|(other, _)| **other != user).filter(stands_out);
        std::iter::once(own)
            .chain(others.map(|(_, member)| member))
            .collect()
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
        presences: shown.iter().map(view).collect(),
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

/// A presence by its user's id.
pub(super) fn view((user, presence): &(Id<User>, Presence)) -> PresenceView<'_> {
    presence.view(PresenceUser::Id { id: *user }, None)
}
