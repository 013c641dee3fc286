//! Voice states and open stages.

pub mod change;

use guildhall_shared::{
    Timestamp,
    id::{Id, marker},
    model::{StageInstance, VoiceState},
};
use sqlx::PgExecutor;
use time::OffsetDateTime;

use crate::Result;

/// Columns of `voice_state` and its `member` that make a [`VoiceState`].
#[derive(Debug)]
struct VoiceRow {
    guild_id: i64,
    user_id: i64,
    channel_id: i64,
    session_id: String,
    self_mute: bool,
    self_deaf: bool,
    self_video: bool,
    self_stream: bool,
    suppress: bool,
    request_to_speak_at: Option<OffsetDateTime>,
    deaf: bool,
    mute: bool,
}

impl From<VoiceRow> for VoiceState {
    fn from(row: VoiceRow) -> Self {
        Self {
            guild_id: Some(Id::from_db(row.guild_id)),
            channel_id: Some(Id::from_db(row.channel_id)),
            user_id: Id::from_db(row.user_id),
            member: None,
            session_id: row.session_id,
            deaf: row.deaf,
            mute: row.mute,
            self_deaf: row.self_deaf,
            self_mute: row.self_mute,
            self_stream: row.self_stream,
            self_video: row.self_video,
            suppress: row.suppress,
            request_to_speak_timestamp: row.request_to_speak_at.map(Timestamp),
        }
    }
}

/// Who is in voice in a guild, without their member objects; all, or one user.
pub async fn states(
    db: impl PgExecutor<'_>,
    guild: Id<marker::Guild>,
    user: Option<Id<marker::User>>,
    channel: Option<Id<marker::Channel>>,
) -> Result<Vec<VoiceState>> {
    // A plan that is kept for all values has no use for the index if the user may be anybody.
    macro_rules! select {
        ($place:literal) => {
            sqlx::query_as!(
                VoiceRow,
                "select v.guild_id, v.user_id, v.channel_id, v.session_id, v.self_mute, v.self_deaf,
                        v.self_video, v.self_stream, v.suppress, v.request_to_speak_at, m.deaf,
                        m.mute
                 from voice_state v join member m using (guild_id, user_id)
                 where "
                    + $place
                    + " and ($2::bigint is null or v.user_id = $2)
                   and ($3::bigint is null or v.channel_id = $3)
                 order by v.joined_at, v.user_id",
                guild.to_db(),
                user.map(Id::to_db),
                channel.map(Id::to_db),
            )
            .fetch_all(db)
            .await?
        };
    }
    let rows = match user {
        Some(_) => select!("v.guild_id = $1 and v.user_id = $2"),
        None => select!("v.guild_id = $1"),
    };
    Ok(rows.into_iter().map(VoiceState::from).collect())
}

/// The open stages of a guild; all, or the one of a channel.
pub async fn stages(
    db: impl PgExecutor<'_>,
    guild: Id<marker::Guild>,
    channel: Option<Id<marker::Channel>>,
) -> Result<Vec<StageInstance>> {
    let rows = sqlx::query!(
        "select stage_id, guild_id, channel_id, topic, privacy_level, discoverable_disabled, event_id
         from stage_instance
         where guild_id = $1 and ($2::bigint is null or channel_id = $2)
         order by stage_id",
        guild.to_db(),
        channel.map(Id::to_db),
    )
    .fetch_all(db)
    .await?;
    let stages = rows.into_iter().map(|row| StageInstance {
        id: Id::from_db(row.stage_id),
        guild_id: Id::from_db(row.guild_id),
        channel_id: Id::from_db(row.channel_id),
        topic: row.topic,
        privacy_level: row.privacy_level as u8,
        discoverable_disabled: row.discoverable_disabled,
        guild_scheduled_event_id: row.event_id.map(Id::from_db),
    });
    Ok(stages.collect())
}
