//! Polls: votes, voters, the end. Spec: objects.md › Poll; limits-and-errors › Votes, polls.
//!
//! Question and answers are part of the message; `poll` counts, `poll_vote` has a row per
//! vote. Both change together under the guild's head lock.

use std::collections::BTreeMap;

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::Envelope,
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Channel, Emoji, Guild, User},
    model::{
        self, Member, Message, MessageKind, MessageReference, PartialEmoji, Poll, PollAnswer,
        PollAnswerCount, PollMedia, PollResults,
    },
};
use guildhall_store::user::UserRow;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgExecutor};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::{self, Audience},
    app::App,
    auth::CurrentUser,
    emoji::{custom_emoji, is_unicode_emoji},
    error::{Error, Result},
    extract::{Form, Json, Path, Query, from_zero, null_is_default},
    form::{Fault, FormErrors},
    routes::{messages, threads},
    rows::Rows,
};

const ANSWERS_MAX: usize = 10;
const QUESTION_MAX: usize = 300;
const ANSWER_MAX: usize = 55;
/// Hours.
const DURATION_MAX: i64 = 768;
const DURATION_DEFAULT: u32 = 24;
/// Polls that one round of housekeeping ends.
const ROUND_MAX: i64 = 200;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get_answer_voters))
        .routes(routes!(poll_vote))
        .routes(routes!(poll_expire))
}

/// A poll as a new message asks for it.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
#[schema(as = PollCreateRequest)]
pub(crate) struct NewPoll {
    question: Option<NewMedia>,
    answers: Option<Vec<NewAnswer>>,
    /// Hours: 1 to 768; 24 if not given.
    duration: Option<u32>,
    #[serde(deserialize_with = "null_is_default")]
    allow_multiselect: bool,
    /// 1.
    layout_type: Option<u8>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
#[schema(as = PollAnswerCreateRequest)]
struct NewAnswer {
    poll_media: Option<NewMedia>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
#[schema(as = PollMediaCreateRequest)]
struct NewMedia {
    text: Option<String>,
    emoji: Option<NewEmoji>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
#[schema(as = PollEmojiCreateRequest)]
struct NewEmoji {
    id: Option<Id<Emoji>>,
    name: Option<String>,
}

impl NewPoll {
    pub(crate) fn check(&self, form: &mut FormErrors) {
        if let Some(question) = form.required("poll.question", &self.question)
            && let Some(text) = form.required("poll.question.text", &question.text)
        {
            form.length("poll.question.text", text, 1..=QUESTION_MAX);
        }
        if let Some(answers) = form.required("poll.answers", &self.answers) {
            if !(1..=ANSWERS_MAX).contains(&answers.len()) {
                let max = ANSWERS_MAX;
                form.add("poll.answers", Fault::BadLength { min: 1, max });
            }
            for (index, answer) in answers.iter().enumerate().take(ANSWERS_MAX) {
                let at = format!("poll.answers.{index}.poll_media");
                if let Some(media) = form.required(&at, &answer.poll_media) {
                    let path = format!("{at}.text");
                    if let Some(text) = form.required(&path, &media.text) {
                        form.length(&path, text, 1..=ANSWER_MAX);
                    }
                }
            }
        }
        if let Some(hours) = self.duration {
            form.range("poll.duration", i64::from(hours), 1..=DURATION_MAX);
        }
        if self.layout_type.is_some_and(|layout| layout != 1) {
            form.add("poll.layout_type", Fault::Choices("(1)"));
        }
    }

    /// The poll as it is stored and sent by its author, checked before. Errors: 520004.
    pub(crate) async fn open(&self, db: &mut PgConnection, author: Id<User>) -> Result<Poll> {
        let text = |media: &Option<NewMedia>| {
            let text = media.as_ref().and_then(|media| media.text.as_deref());
            text.map(|text| text.replace('\0', "").trim().to_owned())
        };
        let mut answers = Vec::new();
        for (index, answer) in self.answers.iter().flatten().enumerate() {
            let emoji = answer.poll_media.as_ref().and_then(|m| m.emoji.as_ref());
            let emoji = match emoji {
                Some(emoji) => resolve_emoji(db, author, emoji).await?,
                None => None,
            };
            answers.push(PollAnswer {
                answer_id: index as u16 + 1,
                poll_media: PollMedia {
                    text: text(&answer.poll_media),
                    emoji,
                },
            });
        }
        let hours = self.duration.unwrap_or(DURATION_DEFAULT);
        let now_ms = (Timestamp::now().0.unix_timestamp_nanos() / 1_000_000) as u64;
        Ok(Poll {
            question: PollMedia {
                text: text(&self.question),
                emoji: None,
            },
            results: Some(PollResults {
                is_finalized: false,
                answer_counts: Vec::new(),
            }),
            answers,
            expiry: Timestamp::from_unix_ms(now_ms + u64::from(hours) * 3_600_000),
            allow_multiselect: self.allow_multiselect,
            layout_type: 1,
        })
    }
}

/// Errors: 520004.
async fn resolve_emoji(
    db: &mut PgConnection,
    author: Id<User>,
    emoji: &NewEmoji,
) -> Result<Option<PartialEmoji>> {
    match emoji {
        NewEmoji { id: Some(id), .. } => {
            let found = custom_emoji(db, author, *id).await?;
            let found = found.ok_or(ErrorCode::InvalidPollEmoji)?;
            Ok(Some(found.emoji))
        }
        NewEmoji {
            name: Some(name), ..
        } if is_unicode_emoji(name) => Ok(Some(PartialEmoji {
            id: None,
            name: Some(name.clone()),
            animated: false,
        })),
        NewEmoji {
            id: None,
            name: None,
        } => Ok(None),
        NewEmoji { .. } => Err(ErrorCode::InvalidPollEmoji.into()),
    }
}

/// Starts counting, with the message's row.
pub(crate) async fn open(
    db: &mut PgConnection,
    channel: Id<Channel>,
    message: Id<marker::Message>,
    poll: &Poll,
) -> Result<()> {
    sqlx::query!(
        "insert into poll (channel_id, message_id, expires_at, multiple, counts)
         values ($1, $2, $3, $4, array_fill(0, array[$5::int]))",
        channel.to_db(),
        message.to_db(),
        poll.expiry.0,
        poll.allow_multiselect,
        poll.answers.len() as i32,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The results of polls as `viewer` sees them, by channel and message.
pub(crate) async fn results(
    db: impl PgExecutor<'_>,
    viewer: Id<User>,
    messages: &[(i64, i64)],
) -> Result<BTreeMap<(i64, i64), PollResults>> {
    let (channels, ids): (Vec<i64>, Vec<i64>) = messages.iter().copied().unzip();
    let rows = sqlx::query!(
        r#"select p.channel_id, p.message_id, p.finalized, p.counts,
                  array(select v.answer_id from poll_vote v
                        where v.channel_id = p.channel_id and v.message_id = p.message_id
                          and v.user_id = $3) as "voted!"
           from unnest($1::bigint[], $2::bigint[]) as wanted (channel_id, message_id)
           join poll p using (channel_id, message_id)"#,
        &channels,
        &ids,
        viewer.to_db(),
    )
    .fetch_all(db)
    .await?;
    let results = rows.into_iter().map(|row| {
        let counts = (1i16..).zip(&row.counts).filter(|&(_, &count)| count > 0);
        let counts = counts.map(|(answer, &count)| PollAnswerCount {
            id: answer as u16,
            count: count as u32,
            me_voted: row.voted.contains(&answer),
        });
        let results = PollResults {
            is_finalized: row.finalized,
            answer_counts: counts.collect(),
        };
        ((row.channel_id, row.message_id), results)
    });
    Ok(results.collect())
}

/// A poll as it goes to everybody.
pub(crate) fn as_nobody(mut poll: Poll) -> Poll {
    for count in poll.results.iter_mut().flat_map(|r| &mut r.answer_counts) {
        count.me_voted = false;
    }
    poll
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct VotersQuery {
    #[serde(default, deserialize_with = "from_zero")]
    after: Option<Id<User>>,
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
}

impl Form for VotersQuery {
    fn check(&self, form: &mut FormErrors) {
        if let Some(limit) = self.limit {
            form.range("limit", limit, 1..=100);
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct PollVoters {
    users: Vec<model::User>,
}

/// Who voted for an answer, by ascending id. Errors: 10003, 10008, 50001, 50013, 50035.
#[utoipa::path(
    get,
    path = "/channels/{channel_id}/polls/{message_id}/answers/{answer_id}",
    tag = "Polls",
    params(VotersQuery),
    responses((status = 200, body = PollVoters))
)]
async fn get_answer_voters(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id, answer_id)): Path<(Id<Channel>, Id<marker::Message>, i16)>,
    Query(query): Query<VotersQuery>,
) -> Result<Json<PollVoters>> {
    let mut db = app.db.acquire().await?;
    let needed = Permissions::VIEW_CHANNEL | Permissions::READ_MESSAGE_HISTORY;
    access::place(&mut db, &user, channel_id, needed).await?;
    sqlx::query!(
        "select from poll where channel_id = $1 and message_id = $2",
        channel_id.to_db(),
        message_id.to_db(),
    )
    .fetch_optional(&mut *db)
    .await?
    .ok_or(ErrorCode::UnknownMessage)?;
    let rows = sqlx::query_as!(
        UserRow,
        "select a.user_id, a.username, a.discriminator, a.global_name, a.avatar, a.banner,
                a.accent_color, a.bot, a.public_flags
         from poll_vote v join account a using (user_id)
         where v.channel_id = $1 and v.message_id = $2 and v.answer_id = $3 and v.user_id > $4
         order by v.user_id limit $5",
        channel_id.to_db(),
        message_id.to_db(),
        answer_id,
        query.after.map_or(0, Id::to_db),
        query.limit.unwrap_or(25),
    )
    .fetch_all(&mut *db)
    .await?;
    Ok(Json(PollVoters {
        users: rows.into_iter().map(model::User::from).collect(),
    }))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
struct Vote {
    /// All of the caller's answers; none takes the vote back.
    #[schema(value_type = Vec<String>)]
    answer_ids: Option<Vec<AnswerId>>,
}

/// A number, or a number as text.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
enum AnswerId {
    Number(i16),
    Text(#[serde(deserialize_with = "number_in_text")] i16),
}

fn number_in_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i16, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| D::Error::custom("not a number"))
}

impl Form for Vote {
    fn check(&self, form: &mut FormErrors) {
        if let Some(answers) = form.required("answer_ids", &self.answer_ids)
            && answers.len() > ANSWERS_MAX
        {
            let max = ANSWERS_MAX;
            form.add("answer_ids", Fault::BadLength { min: 0, max });
        }
    }
}

#[derive(Serialize)]
struct VoteEvent {
    user_id: Id<User>,
    channel_id: Id<Channel>,
    message_id: Id<marker::Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guild_id: Option<Id<Guild>>,
    answer_id: i16,
}

/// Replaces the caller's vote.
///
/// Errors: 10003, 10008, 20001, 50001, 50013, 50035, 50083, 520000, 520001.
#[utoipa::path(
    put,
    path = "/channels/{channel_id}/polls/{message_id}/answers/@me",
    tag = "Polls",
    responses((status = 204, description = "The vote counts"))
)]
async fn poll_vote(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id)): Path<(Id<Channel>, Id<marker::Message>)>,
    Json(body): Json<Vote>,
) -> Result<StatusCode> {
    user.require_human()?;
    let mut wanted: Vec<i16> = body
        .answer_ids
        .unwrap_or_default()
        .into_iter()
        .map(|answer| match answer {
            AnswerId::Number(answer) | AnswerId::Text(answer) => answer,
        })
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut tx = app.db.begin().await?;
    let needed = Permissions::VIEW_CHANNEL | Permissions::READ_MESSAGE_HISTORY;
    let place = access::place_for_change(&mut tx, &user, channel_id, needed).await?;
    place.require_unarchived()?;
    let poll = sqlx::query!(
        r#"select finalized or expires_at <= now() as "over!", multiple, counts from poll
           where channel_id = $1 and message_id = $2"#,
        channel_id.to_db(),
        message_id.to_db(),
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(ErrorCode::UnknownMessage)?;
    if poll.over {
        return Err(ErrorCode::PollExpired.into());
    }
    if wanted.len() > 1 && !poll.multiple {
        return Err(ErrorCode::PollVotingBlocked.into());
    }
    let answers = poll.counts.len() as i16;
    if wanted.iter().any(|answer| !(1..=answers).contains(answer)) {
        let message = "The poll has no such answer.";
        let fault = Fault::Other("BASE_TYPE_CHOICES", message.into());
        return Err(FormErrors::one("answer_ids", fault));
    }
    let had = sqlx::query_scalar!(
        "select answer_id from poll_vote
         where channel_id = $1 and message_id = $2 and user_id = $3",
        channel_id.to_db(),
        message_id.to_db(),
        user.id.to_db(),
    )
    .fetch_all(&mut *tx)
    .await?;
    let left: Vec<i16> = had
        .iter()
        .copied()
        .filter(|a| !wanted.contains(a))
        .collect();
    let new: Vec<i16> = wanted.into_iter().filter(|a| !had.contains(a)).collect();
    if left.is_empty() && new.is_empty() {
        return Ok(StatusCode::NO_CONTENT);
    }
    let mut counts = poll.counts;
    for &answer in &left {
        counts[answer as usize - 1] -= 1;
    }
    for &answer in &new {
        counts[answer as usize - 1] += 1;
    }
    sqlx::query!(
        "with counted as (
           update poll set counts = $4 where channel_id = $1 and message_id = $2
         ), gone as (
           delete from poll_vote
           where channel_id = $1 and message_id = $2 and user_id = $3 and answer_id = any($5)
         )
         insert into poll_vote (channel_id, message_id, answer_id, user_id)
         select $1, $2, answer_id, $3 from unnest($6::smallint[]) as new (answer_id)",
        channel_id.to_db(),
        message_id.to_db(),
        user.id.to_db(),
        &counts,
        &left,
        &new,
    )
    .execute(&mut *tx)
    .await?;
    let (audience, guild_id) = (place.audience(), place.guild_id());
    let mut events = Vec::new();
    for (kind, answers) in [
        (EventKind::MessagePollVoteRemove, left),
        (EventKind::MessagePollVoteAdd, new),
    ] {
        for answer_id in answers {
            let body = VoteEvent {
                user_id: user.id,
                channel_id,
                message_id,
                guild_id,
                answer_id,
            };
            let intents = Intents::GUILD_MESSAGE_POLLS;
            events.extend(audience.tell(&mut tx, kind, intents, &body).await?);
        }
    }
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

/// Ends the caller's own poll now. Errors: 10003, 10008, 50001, 50005, 50083, 520001, 520006.
#[utoipa::path(
    post,
    path = "/channels/{channel_id}/polls/{message_id}/expire",
    tag = "Polls",
    responses((status = 200, body = Message))
)]
async fn poll_expire(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id)): Path<(Id<Channel>, Id<marker::Message>)>,
) -> Result<Json<Message>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::VIEW_CHANNEL;
    let place = access::place_for_change(&mut tx, &user, channel_id, needed).await?;
    place.require_unarchived()?;
    let mut message = messages::load::message(&app.media, &mut tx, user.id, channel_id, message_id)
        .await?
        .ok_or(ErrorCode::UnknownMessage)?;
    let Some(poll) = &mut message.poll else {
        return Err(ErrorCode::CannotExpireNonPoll.into());
    };
    if message.author.id != user.id {
        return Err(ErrorCode::CannotEditOthersMessage.into());
    }
    if poll.results.as_ref().is_some_and(|r| r.is_finalized) {
        return Err(ErrorCode::PollExpired.into());
    }
    let now_ms = (Timestamp::now().0.unix_timestamp_nanos() / 1_000_000) as u64;
    poll.expiry = poll.expiry.min(Timestamp::from_unix_ms(now_ms));
    messages::store_changes(&mut tx, &message).await?;
    let events = finalize(&app, &mut tx, &place.audience(), &mut message).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(messages::shown_to(&user, place.guild_id(), message)))
}

/// Ends a poll: its MESSAGE_UPDATE, and the message that tells the result. The audience's
/// heads are locked.
async fn finalize(
    app: &App,
    db: &mut PgConnection,
    audience: &Audience,
    message: &mut Message,
) -> Result<Vec<Envelope>> {
    sqlx::query!(
        "update poll set finalized = true where channel_id = $1 and message_id = $2",
        message.channel_id.to_db(),
        message.id.to_db(),
    )
    .execute(&mut *db)
    .await?;
    if let Some(results) = message.poll.as_mut().and_then(|poll| poll.results.as_mut()) {
        results.is_finalized = true;
    }
    let member: Option<Member> = messages::author_member_in(db, audience.guild, message).await?;
    let mut events = messages::announce_update_in(db, audience, member.as_ref(), message).await?;
    let author = message.author.clone();
    let mut notice = messages::draft(app, message.channel_id, author, MessageKind::POLL_RESULT)?;
    notice.message_reference = Some(MessageReference {
        kind: 0,
        message_id: Some(message.id),
        channel_id: message.channel_id,
        guild_id: audience.guild,
    });
    notice.webhook_id = message.webhook_id;
    notice.embeds = message.poll.iter().map(result_embed).collect();
    events.extend(messages::post_in(db, audience, member.as_ref(), &notice).await?);
    Ok(events)
}

/// The embed of a poll's result: no victor when nobody voted or several lead.
fn result_embed(poll: &Poll) -> Value {
    let counts = poll
        .results
        .iter()
        .flat_map(|results| &results.answer_counts);
    let total: u32 = counts.clone().map(|count| count.count).sum();
    let most = counts.clone().map(|count| count.count).max().unwrap_or(0);
    let mut leading = counts.filter(|count| count.count == most);
    let victor = match (leading.next(), leading.next()) {
        (Some(victor), None) => Some(victor.id),
        _ => None,
    };
    let mut fields = Vec::new();
    let mut field = |name: &str, value: String| {
        fields.push(json!({ "name": name, "value": value, "inline": false }));
    };
    let question = poll.question.text.clone().unwrap_or_default();
    field("poll_question_text", question);
    field("victor_answer_votes", most.to_string());
    field("total_votes", total.to_string());
    if let Some(answer) = victor.and_then(|id| poll.answers.iter().find(|a| a.answer_id == id)) {
        field("victor_answer_id", answer.answer_id.to_string());
        if let Some(text) = &answer.poll_media.text {
            field("victor_answer_text", text.clone());
        }
        if let Some(emoji) = &answer.poll_media.emoji {
            if let Some(id) = emoji.id {
                field("victor_answer_emoji_id", id.to_string());
                field("victor_answer_emoji_animated", emoji.animated.to_string());
            }
            if let Some(name) = &emoji.name {
                field("victor_answer_emoji_name", name.clone());
            }
        }
    }
    json!({ "type": "poll_result", "fields": fields })
}

/// Ends polls whose time is over, each in a transaction of its own.
pub(crate) async fn end_expired(app: &App) -> Result<()> {
    let over = sqlx::query!(
        "select p.channel_id, p.message_id, m.author_id
         from poll p join message m using (channel_id, message_id)
         where not p.finalized and p.expires_at <= now()
         order by p.expires_at limit $1",
        ROUND_MAX,
    )
    .fetch_all(&app.db)
    .await?;
    let mut rows = Rows::default();
    for row in over {
        let (channel, id) = (Id::from_db(row.channel_id), Id::from_db(row.message_id));
        rows.done(end_one(app, channel, id, Id::from_db(row.author_id)).await)?;
    }
    Ok(())
}

async fn end_one(
    app: &App,
    channel: Id<Channel>,
    id: Id<marker::Message>,
    author: Id<User>,
) -> Result<()> {
    let mut tx = app.db.begin().await?;
    let audience = match access::audience_for_change(&mut tx, channel).await {
        Ok(audience) => audience,
        // The channel is being deleted, and the poll with it.
        Err(Error::Code(ErrorCode::UnknownChannel)) => return Ok(()),
        Err(error) => return Err(error),
    };
    let message = messages::load::message(&app.media, &mut tx, author, channel, id).await?;
    // Another process was quicker, or it was deleted.
    let Some(mut message) = message.filter(|message| {
        let results = message.poll.as_ref().and_then(|poll| poll.results.as_ref());
        results.is_some_and(|results| !results.is_finalized)
    }) else {
        return Ok(());
    };
    let mut events = wake(&mut tx, &audience).await?;
    events.extend(finalize(app, &mut tx, &audience, &mut message).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(())
}

/// The result wakes an archived thread, as any message does. Beside as many active ones as a guild
/// may have it stays asleep, and the poll ends all the same.
async fn wake(db: &mut PgConnection, audience: &Audience) -> Result<Vec<Envelope>> {
    match threads::wake(db, audience).await {
        Err(Error::Code(ErrorCode::MaximumThreads | ErrorCode::MaximumAnnouncementThreads)) => {
            Ok(Vec::new())
        }
        woken => woken,
    }
}
