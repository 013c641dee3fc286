//! Searching the threads of a channel. Spec: endpoints › thread_search.

use axum::extract::{RawQuery, State};
use guildhall_shared::{
    Id, Permissions,
    id::marker::{Channel, Tag},
    model::{Message, Thread, ThreadMember},
};
use guildhall_store::ids_from_db;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};

use super::lists::{parent, shown};
use crate::{
    app::App,
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path, Query},
    form::{Fault, FormErrors},
    routes::messages,
};

const LIMIT_DEFAULT: i64 = 25;
const OFFSET_MAX: i64 = 9975;
const TAGS_MAX: usize = 20;
/// More hits than these are not counted.
const COUNTED_MAX: i64 = 10_000;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct Search {
    /// Part of the name; 100 characters at most.
    name: Option<String>,
    /// 0 to 100. Accepted; names are compared by parts.
    slop: Option<i64>,
    min_id: Option<Id<Channel>>,
    max_id: Option<Id<Channel>>,
    /// `match_all` or `match_some` of the tags.
    tag_setting: Option<String>,
    archived: Option<bool>,
    /// `relevance`, `creation_time`, `last_message_time` or `archive_time`.
    sort_by: Option<String>,
    /// `asc` or `desc`.
    sort_order: Option<String>,
    /// 1 to 25.
    limit: Option<i64>,
    /// 0 to 9975.
    offset: Option<i64>,
}

impl Form for Search {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = &self.name {
            form.length("name", name, 0..=100);
        }
        for (path, value, allowed) in [
            ("slop", self.slop, 0..=100),
            ("limit", self.limit, 1..=25),
            ("offset", self.offset, 0..=OFFSET_MAX),
        ] {
            if let Some(value) = value {
                form.range(path, value, allowed);
            }
        }
        let sorts: [&str; 4] = [
            "relevance",
            "creation_time",
            "last_message_time",
            "archive_time",
        ];
        for (path, value, choices) in [
            (
                "tag_setting",
                &self.tag_setting,
                &["match_all", "match_some"][..],
            ),
            ("sort_by", &self.sort_by, &sorts[..]),
            ("sort_order", &self.sort_order, &["asc", "desc"][..]),
        ] {
            if let Some(value) = value
                && !choices.contains(&value.as_str())
            {
                form.add(path, Fault::NotEnum(value.chars().take(100).collect()));
            }
        }
    }
}

/// The threads of a page.
struct Hits {
    threads: Vec<i64>,
    /// Hits in all, those beyond the page included.
    total: i64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Found {
    threads: Vec<Thread>,
    members: Vec<ThreadMember>,
    has_more: bool,
    total_results: i64,
    first_messages: Vec<Message>,
}

/// `tag` may be given many times, or once with commas.
fn tags_of(query: Option<&str>) -> Result<Vec<Id<Tag>>> {
    let mut tags = Vec::new();
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    for (_, value) in pairs.filter(|(key, _)| key == "tag" || key == "tag[]") {
        for id in value.split(',').filter(|id| !id.is_empty()) {
            let fault = || Fault::NotSnowflake(id.chars().take(100).collect());
            tags.push(id.parse().map_err(|_| FormErrors::one("tag", fault()))?);
        }
    }
    if tags.len() > TAGS_MAX {
        let (min, max) = (0, TAGS_MAX);
        return Err(FormErrors::one("tag", Fault::BadLength { min, max }));
    }
    Ok(tags)
}

/// Public threads, and private ones that the caller is in or manages.
///
/// Errors: 10003, 50001, 50013, 50024, 50035.
#[utoipa::path(
    get,
    path = "/channels/{channel_id}/threads/search",
    tag = "Threads",
    params(Search),
    responses((status = 200, body = Found))
)]
pub(super) async fn thread_search(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    Query(query): Query<Search>,
    RawQuery(raw): RawQuery,
) -> Result<Json<Found>> {
    let tags = tags_of(raw.as_deref())?;
    let mut db = app.db.acquire().await?;
    let needed = Permissions::READ_MESSAGE_HISTORY;
    let access = parent(&mut db, &user, channel_id, needed).await?;
    let moderates = access.permissions().contains(Permissions::MANAGE_THREADS);
    let hits = hits(&mut db, channel_id, &user, moderates, &query, &tags).await?;
    let ids: Vec<Id<Channel>> = ids_from_db(hits.threads);
    let (threads, members) = shown(&mut db, &user, &ids).await?;
    let mut first_messages = Vec::new();
    for thread in &threads {
        // The first message of a post has the post's id; of another thread it is in the parent.
        let place = match access.channel.kind.is_forum() {
            true => thread.id,
            false => channel_id,
        };
        let first =
            messages::load::message(&app.media, &mut db, user.id, place, thread.id.cast()).await?;
        let guild = Some(access.guild.id);
        first_messages.extend(first.map(|first| messages::shown_to(&user, guild, first)));
    }
    Ok(Json(Found {
        has_more: query.offset.unwrap_or(0) + (ids.len() as i64) < hits.total,
        threads,
        members,
        total_results: hits.total,
        first_messages,
    }))
}

/// The page, and how many there are to be paged through: the first ones by the order asked for.
async fn hits(
    db: &mut PgConnection,
    channel: Id<Channel>,
    user: &CurrentUser,
    moderates: bool,
    query: &Search,
    tags: &[Id<Tag>],
) -> Result<Hits> {
    let pattern = query.name.as_deref().map(like);
    let match_all = query.tag_setting.as_deref() == Some("match_all");
    // A page is cut out of what is counted, so that a late one costs what the first one does.
    // Threads tell by themselves whether they are private: `channel` is asked for names alone.
    macro_rules! search {
        ($order:literal) => {
            sqlx::query_as!(
                Hits,
                r#"select coalesce((array_agg(hit.thread_id))
                          [$12::bigint + 1:$12::bigint + $11::bigint], '{}') as "threads!",
                      count(*) as "total!"
               from (
                 select t.thread_id
                 from thread t
                 where t.parent_id = $1
                   and t.thread_id > $3 and t.thread_id < $4
                   and (cardinality($5::bigint[]) = 0
                        or case when $6 then t.applied_tags @> $5 else t.applied_tags && $5 end)
                   and ($7::bool is null or t.archived = $7)
                   and (t.invitable is null or $8 or exists (
                     select from thread_member m
                     where m.thread_id = t.thread_id and m.user_id = $9))
                   and ($2::text is null or exists (
                     select from channel c
                     where c.channel_id = t.thread_id and c.name ilike $2))
                 order by "#
                    + $order
                    + r#"
                 limit $10
               ) hit"#,
                channel.to_db(),
                pattern,
                query.min_id.map_or(0, Id::to_db),
                query.max_id.map_or(i64::MAX, Id::to_db),
                &guildhall_store::ids_to_db(tags),
                match_all,
                query.archived,
                moderates,
                user.id.to_db(),
                COUNTED_MAX,
                query.limit.unwrap_or(LIMIT_DEFAULT),
                query.offset.unwrap_or(0),
            )
            .fetch_one(db)
            .await?
        };
    }
    let ascending = query.sort_order.as_deref() == Some("asc");
    Ok(match (query.sort_by.as_deref(), ascending) {
        (Some("creation_time"), true) => search!("t.thread_id"),
        (Some("creation_time"), false) => search!("t.thread_id desc"),
        (Some("archive_time"), true) => search!("t.archive_at, t.thread_id"),
        (Some("archive_time"), false) => search!("t.archive_at desc, t.thread_id"),
        (_, true) => search!("t.active_at, t.thread_id"),
        (_, false) => search!("t.active_at desc, t.thread_id"),
    })
}

/// A pattern that finds `text` anywhere.
fn like(text: &str) -> String {
    let mut pattern = String::from("%");
    for letter in text.replace('\0', "").chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}
