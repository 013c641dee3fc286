//! Voice states changed: by op 4 at a gateway, by moderators over REST, by what ends a stay.
//!
//! Every function locks the guild's head first, so that permissions hold to the commit, and
//! returns the events it numbered: publish them after it.

use guildhall_shared::{
    Permissions, Timestamp,
    envelope::{Envelope, Visibility},
    gateway::{EventKind, Intents},
    id::{
        Id,
        marker::{Channel, Guild, Role, User},
    },
    model::{ChannelKind, ChannelSettings, VoiceState, silenced_until},
    permissions::{self, MemberAccess, Overwrite},
};
use sqlx::{PgConnection, PgExecutor, types::Json};

use super::states;
use crate::{Result, events, guild};

/// Seconds a voice state outlives the last sign of life from its gateway.
pub const ALIVE_SECONDS: f64 = 90.0;

/// What op 4 asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub channel: Id<Channel>,
    pub session_id: String,
    pub self_mute: bool,
    pub self_deaf: bool,
    pub self_video: bool,
}

/// What became of a request.
#[derive(Debug)]
pub enum Connected {
    /// No such channel, no permission, or no room: nobody is told.
    Refused,
    Done {
        state: Box<VoiceState>,
        /// None if nothing changed.
        events: Vec<Envelope>,
        /// Whether the session needs a voice server for where it is now.
        entered: bool,
    },
}

/// Puts a user into a voice channel, or changes how they are in it.
pub async fn connect(
    db: &mut PgConnection,
    guild_id: Id<Guild>,
    user: Id<User>,
    wanted: &Wanted,
    trace: u128,
) -> Result<Connected> {
    lock(db, guild_id).await?;
    let Some(place) = Place::read(db, guild_id, user, wanted.channel).await? else {
        return Ok(Connected::Refused);
    };
    let held = place.permissions;
    let before = states(&mut *db, guild_id, Some(user), None).await?.pop();
    let stays = before
        .as_ref()
        .filter(|before| before.channel_id == Some(wanted.channel));
    // Who is in the channel may mute themselves there, whatever they may do: a moderator may have
    // moved them in, or they came while they could.
    let may_be_there =
        stays.is_some() || held.contains(Permissions::VIEW_CHANNEL | Permissions::CONNECT);
    if !place.kind.is_voice() || !may_be_there {
        return Ok(Connected::Refused);
    }
    if stays.is_none() && !held.contains(Permissions::MOVE_MEMBERS) {
        let others = states(&mut *db, guild_id, None, Some(wanted.channel)).await?;
        if place.user_limit > 0 && others.len() >= place.user_limit as usize {
            return Ok(Connected::Refused);
        }
    }
    let entered = stays.is_none_or(|stays| stays.session_id != wanted.session_id);
    let state = VoiceState {
        guild_id: Some(guild_id),
        channel_id: Some(wanted.channel),
        user_id: user,
        member: None,
        session_id: wanted.session_id.clone(),
        deaf: place.deaf,
        mute: place.mute,
        self_deaf: wanted.self_deaf,
        self_mute: wanted.self_mute,
        self_stream: stays.is_some_and(|stays| stays.self_stream),
        self_video: wanted.self_video && held.contains(Permissions::STREAM),
        suppress: stays.map_or_else(|| place.suppresses(), |stays| stays.suppress),
        request_to_speak_timestamp: stays.and_then(|stays| stays.request_to_speak_timestamp),
    };
    if before.as_ref() == Some(&state) {
        let (state, events) = (Box::new(state), Vec::new());
        return Ok(Connected::Done {
            state,
            events,
            entered,
        });
    }
    let (state, events) = put(db, guild_id, state, trace).await?;
    Ok(Connected::Done {
        state: Box::new(state),
        events,
        entered,
    })
}

/// Ends a user's stay, if they are in voice; only that of `session` if one is given.
pub async fn disconnect(
    db: &mut PgConnection,
    guild_id: Id<Guild>,
    user: Id<User>,
    session: Option<&str>,
    trace: u128,
) -> Result<Vec<Envelope>> {
    lock(db, guild_id).await?;
    let state = states(&mut *db, guild_id, Some(user), None).await?.pop();
    match state.filter(|state| session.is_none_or(|session| state.session_id == session)) {
        Some(state) => leave(db, guild_id, state, trace).await,
        None => Ok(Vec::new()),
    }
}

/// Ends everybody's stay in a channel that is going.
pub async fn empty_channel(
    db: &mut PgConnection,
    guild_id: Id<Guild>,
    channel: Id<Channel>,
    trace: u128,
) -> Result<Vec<Envelope>> {
    lock(db, guild_id).await?;
    let mut events = Vec::new();
    for state in states(&mut *db, guild_id, None, Some(channel)).await? {
        events.extend(leave(db, guild_id, state, trace).await?);
    }
    Ok(events)
}

/// Moves a user who is in voice to another voice channel, whatever they may do there: the
/// caller has checked the mover. `None` if the user is not in voice.
pub async fn move_to(
    db: &mut PgConnection,
    guild_id: Id<Guild>,
    user: Id<User>,
    channel: Id<Channel>,
    trace: u128,
) -> Result<Option<(VoiceState, Vec<Envelope>)>> {
    lock(db, guild_id).await?;
    let Some(mut state) = states(&mut *db, guild_id, Some(user), None).await?.pop() else {
        return Ok(None);
    };
    if state.channel_id == Some(channel) {
        return Ok(Some((state, Vec::new())));
    }
    let place = Place::read(db, guild_id, user, channel).await?;
    state.channel_id = Some(channel);
    state.suppress = place.is_some_and(|place| place.suppresses());
    state.request_to_speak_timestamp = None;
    put(db, guild_id, state, trace).await.map(Some)
}

/// Stores a state as it is given and tells of it. Its channel is there.
pub async fn put(
    db: &mut PgConnection,
    guild_id: Id<Guild>,
    state: VoiceState,
    trace: u128,
) -> Result<(VoiceState, Vec<Envelope>)> {
    let Some(channel) = state.channel_id else {
        return Ok((state, Vec::new()));
    };
    let before = states(&mut *db, guild_id, Some(state.user_id), None).await?;
    let left = before.first().and_then(|before| before.channel_id);
    sqlx::query!(
        "insert into voice_state (guild_id, user_id, channel_id, session_id, self_mute, self_deaf,
                                  self_video, self_stream, suppress, request_to_speak_at,
                                  alive_until)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, now() + make_interval(secs => $11))
         on conflict (guild_id, user_id) do update
         set channel_id = excluded.channel_id, session_id = excluded.session_id,
             self_mute = excluded.self_mute, self_deaf = excluded.self_deaf,
             self_video = excluded.self_video, self_stream = excluded.self_stream,
             suppress = excluded.suppress, request_to_speak_at = excluded.request_to_speak_at,
             joined_at = case when voice_state.channel_id = excluded.channel_id
                              then voice_state.joined_at else now() end,
             alive_until = case when voice_state.session_id = excluded.session_id
                                then voice_state.alive_until else excluded.alive_until end",
        guild_id.to_db(),
        state.user_id.to_db(),
        channel.to_db(),
        state.session_id,
        state.self_mute,
        state.self_deaf,
        state.self_video,
        state.self_stream,
        state.suppress,
        state.request_to_speak_timestamp.map(|at| at.0),
        ALIVE_SECONDS,
    )
    .execute(&mut *db)
    .await?;
    let spoke = before.first().filter(|before| !before.suppress);
    let spoke = spoke.and_then(|before| before.channel_id);
    if let Some(stage) = spoke.filter(|&from| from != channel || state.suppress) {
        note_silence(&mut *db, guild_id, stage).await?;
    }
    let (state, mut events) = announce(&mut *db, guild_id, channel, state, trace).await?;
    if left != Some(channel) {
        for channel in left.into_iter().chain([channel]) {
            events.extend(begin_or_end(&mut *db, guild_id, channel, trace).await?);
        }
    }
    Ok((state, events))
}

/// Notes since when a channel has had somebody in it, when its first one has come or its last
/// one has left, and tells of it.
async fn begin_or_end(
    db: &mut PgConnection,
    guild_id: Id<Guild>,
    channel: Id<Channel>,
    trace: u128,
) -> Result<Option<Envelope>> {
    #[derive(serde::Serialize)]
    struct StartTime {
        id: Id<Channel>,
        guild_id: Id<Guild>,
        voice_start_time: Option<i64>,
    }
    let changed = sqlx::query!(
        r#"update channel c
           set settings = case when o.occupied
               then c.settings || jsonb_build_object('voice_start_time',
                                                     floor(extract(epoch from now()))::bigint)
               else c.settings - 'voice_start_time' end
           from (select exists (select from voice_state
                                where guild_id = $1 and channel_id = $2) as occupied) o
           where c.channel_id = $2 and (c.settings ? 'voice_start_time') <> o.occupied
           returning (c.settings ->> 'voice_start_time')::bigint as "voice_start_time?""#,
        guild_id.to_db(),
        channel.to_db(),
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some(changed) = changed else {
        return Ok(None);
    };
    let body = serde_json::to_vec(&StartTime {
        id: channel,
        guild_id,
        voice_start_time: changed.voice_start_time,
    })?;
    let vis = Visibility::channel(channel, Intents::GUILDS);
    let kind = EventKind::VoiceChannelStartTimeUpdate;
    let event = events::append(db, guild_id, kind, vis, body.into(), None, trace).await?;
    Ok(Some(event))
}

/// Notes when somebody stops speaking in a channel: housekeeping closes stages on which nobody has
/// spoken for minutes.
async fn note_silence(
    db: &mut PgConnection,
    guild_id: Id<Guild>,
    channel: Id<Channel>,
) -> Result<()> {
    sqlx::query!(
        "update stage_instance set silent_since = now() where guild_id = $1 and channel_id = $2",
        guild_id.to_db(),
        channel.to_db(),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// A gateway's sign of life for its sessions.
pub async fn keep_alive(db: impl PgExecutor<'_>, sessions: &[String]) -> Result<()> {
    sqlx::query!(
        "update voice_state set alive_until = now() + make_interval(secs => $2)
         where session_id = any($1)",
        sessions,
        ALIVE_SECONDS,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Tells of a state that is stored, or whose `mute` or `deaf` changed with the member.
pub async fn announce(
    db: &mut PgConnection,
    guild_id: Id<Guild>,
    channel: Id<Channel>,
    mut state: VoiceState,
    trace: u128,
) -> Result<(VoiceState, Vec<Envelope>)> {
    let user = state.user_id;
    state.guild_id = Some(guild_id);
    state.member = guild::member(&mut *db, guild_id, user).await?;
    let body: bytes::Bytes = serde_json::to_vec(&state)?.into();
    let mut vis = Visibility::channel(channel, Intents::GUILD_VOICE_STATES);
    vis.regardless.push(user);
    let kind = EventKind::VoiceStateUpdate;
    let mut envelopes =
        vec![events::append(&mut *db, guild_id, kind, vis, body.clone(), None, trace).await?];
    let place = Place::read(db, guild_id, user, channel).await?;
    let sees = place.is_some_and(|place| place.permissions.contains(Permissions::VIEW_CHANNEL));
    if !sees {
        let vis = Visibility::users(vec![user]);
        envelopes.push(events::append(db, guild_id, kind, vis, body, None, trace).await?);
    }
    Ok((state, envelopes))
}

async fn leave(
    db: &mut PgConnection,
    guild_id: Id<Guild>,
    mut state: VoiceState,
    trace: u128,
) -> Result<Vec<Envelope>> {
    sqlx::query!(
        "delete from voice_state where guild_id = $1 and user_id = $2",
        guild_id.to_db(),
        state.user_id.to_db(),
    )
    .execute(&mut *db)
    .await?;
    let Some(channel) = state.channel_id.take() else {
        return Ok(Vec::new());
    };
    if !state.suppress {
        note_silence(&mut *db, guild_id, channel).await?;
    }
    state.suppress = false;
    state.request_to_speak_timestamp = None;
    let (_, mut events) = announce(&mut *db, guild_id, channel, state, trace).await?;
    events.extend(begin_or_end(db, guild_id, channel, trace).await?);
    Ok(events)
}

async fn lock(db: &mut PgConnection, guild_id: Id<Guild>) -> Result<()> {
    // A statement of its own: the next one must see what was committed while this one waited.
    sqlx::query!(
        "select realm_id from realm_head where realm_id = $1 for update",
        guild_id.to_db(),
    )
    .fetch_optional(db)
    .await?;
    Ok(())
}

/// A member at a voice channel.
struct Place {
    kind: ChannelKind,
    /// 0: no limit.
    user_limit: u32,
    permissions: Permissions,
    mute: bool,
    deaf: bool,
}

impl Place {
    /// `None` if there is no such member or channel in the guild.
    async fn read(
        db: &mut PgConnection,
        guild_id: Id<Guild>,
        user: Id<User>,
        channel: Id<Channel>,
    ) -> Result<Option<Self>> {
        let row = sqlx::query!(
            r#"select g.owner_id, m.roles, m.communication_disabled_until, m.flags, m.mute, m.deaf,
                      c.kind,
                      c.overwrites as "overwrites: Json<Vec<Overwrite>>",
                      c.settings as "settings: Json<ChannelSettings>",
                      r.ids as "role_ids!", r.permissions as "permissions!"
               from guild g
               join member m on m.guild_id = g.guild_id and m.user_id = $2
               join channel c on c.guild_id = g.guild_id and c.channel_id = $3
               cross join lateral (
                 select array_agg(role_id) as ids, array_agg(permissions) as permissions
                 from role where role.guild_id = g.guild_id
                   and (role_id = g.guild_id or role_id = any(m.roles))
               ) r
               where g.guild_id = $1"#,
            guild_id.to_db(),
            user.to_db(),
            channel.to_db(),
        )
        .fetch_optional(db)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let roles: Vec<Id<Role>> = crate::ids_from_db(row.roles);
        let access = MemberAccess {
            user,
            is_owner: row.owner_id == user.to_db(),
            roles: &roles,
            communication_disabled_until: silenced_until(
                row.flags as u64,
                row.communication_disabled_until.map(Timestamp),
            ),
        };
        let bits_of = |role: Id<Role>| {
            let mut pairs = row.role_ids.iter().zip(&row.permissions);
            pairs
                .find(|(id, _)| **id == role.to_db())
                .map(|(_, &bits)| Permissions::from_bits_truncate(bits as u64))
        };
        let now = Timestamp::now();
        let base = permissions::base(guild_id, access, bits_of, now);
        let kind = ChannelKind(row.kind as u8);
        Ok(Some(Self {
            kind,
            user_limit: row.settings.0.user_limit.unwrap_or_default(),
            permissions: permissions::in_channel(
                base,
                guild_id,
                access,
                &row.overwrites.0,
                kind.class(),
                now,
            ),
            mute: row.mute,
            deaf: row.deaf,
        }))
    }

    /// Whether one who enters cannot speak: on a stage everybody starts in the audience.
    fn suppresses(&self) -> bool {
        self.kind == ChannelKind::STAGE || !self.permissions.contains(Permissions::SPEAK)
    }
}
