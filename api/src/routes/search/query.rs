//! What a search asks for: its parameters, and the statement that answers.

use guildhall_shared::{
    Id,
    id::marker::{Any, Channel, Message, Role, User},
};
use serde::Deserialize;
use sqlx::{Connection, PgConnection};
use utoipa::IntoParams;

use super::index;
use crate::{
    error::Result,
    form::{Fault, FormErrors},
};

const CONTENT_MAX: usize = 1024;
const LIMIT_MAX: i64 = 25;
const OFFSET_MAX: i64 = 9975;
/// Values of one repeated parameter.
const VALUES_MAX: usize = 500;
/// Matches that are looked for in each of several channels, however many these are.
const PORTION_MIN: i64 = 4;
/// How much more of a channel the next portion of it is.
const GROWTH: i64 = 4;
/// One picture for all portions. A plan that is kept for all values has no use for the index of
/// words, and judges a long channel like a short one: each search has its own.
const BEGIN: &str = "begin isolation level repeatable read read only; \
                     set local plan_cache_mode = force_custom_plan";

/// The documented parameters; lists by repeating the key.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "for the OpenAPI document: Search::parse reads the query"
)]
pub(super) struct SearchParams {
    /// Words that all must occur.
    #[param(max_length = 1024)]
    content: Option<String>,
    slop: Option<u8>,
    author_id: Option<Vec<Id<User>>>,
    /// `user`, `bot`, `webhook`; with `-` in front: not.
    author_type: Option<Vec<String>>,
    mentions: Option<Vec<Id<User>>>,
    mentions_role_id: Option<Vec<Id<Role>>>,
    replied_to_user_id: Option<Vec<Id<User>>>,
    replied_to_message_id: Option<Vec<Id<Message>>>,
    mention_everyone: Option<bool>,
    min_id: Option<Id<Message>>,
    max_id: Option<Id<Message>>,
    /// `link`, `embed`, `file`, `image`, `video`, `sound`, `sticker`, `poll`, `snapshot`;
    /// with `-` in front: not.
    has: Option<Vec<String>>,
    link_hostname: Option<Vec<String>>,
    embed_provider: Option<Vec<String>>,
    embed_type: Option<Vec<String>>,
    attachment_extension: Option<Vec<String>>,
    attachment_filename: Option<Vec<String>>,
    pinned: Option<bool>,
    channel_id: Option<Vec<Id<Channel>>>,
    include_nsfw: Option<bool>,
    /// `timestamp` or `relevance`, which puts the newest 10,000 matches in its order.
    sort_by: Option<String>,
    /// `desc` or `asc`.
    sort_order: Option<String>,
    #[param(minimum = 1, maximum = 25)]
    limit: Option<u8>,
    #[param(maximum = 9975)]
    offset: Option<u16>,
}

/// A search, checked.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Search {
    content: Option<String>,
    authors: Vec<i64>,
    author_kinds: Vec<i16>,
    author_kinds_not: Vec<i16>,
    mentions: Vec<i64>,
    mention_roles: Vec<i64>,
    replied_to_users: Vec<i64>,
    replied_to: Vec<i64>,
    mention_everyone: Option<bool>,
    min_id: Option<i64>,
    max_id: Option<i64>,
    has: i32,
    has_not: i32,
    hosts: Vec<String>,
    embed_providers: Vec<String>,
    embed_types: Vec<String>,
    extensions: Vec<String>,
    filenames: Vec<String>,
    pinned: Option<bool>,
    pub(super) channels: Vec<Id<Channel>>,
    pub(super) include_nsfw: bool,
    by_relevance: bool,
    ascending: bool,
    limit: Option<i64>,
    offset: i64,
}

/// The places of a page's matches, by channel and message.
struct Hits {
    channels: Vec<i64>,
    messages: Vec<i64>,
    /// Matches in all, those beyond the page included.
    total: i64,
}

/// Matches to look for: of each channel so many after its start.
#[derive(Default)]
struct Wanted {
    channels: Vec<i64>,
    starts: Vec<i64>,
    takes: Vec<i64>,
}

/// Matches of one channel, in the order asked for; fewer than `take` if there are no more.
struct Portion {
    channel_id: i64,
    take: i64,
    messages: Vec<i64>,
}

/// `$head`, which says of which channel messages `s` are, all that a search asks of a message, and
/// `$tail`. An absent condition is null or empty. `$own` are the parameters from `$21` on.
macro_rules! matching {
    ($search:ident, $row:ident, [$($head:literal),+], [$($tail:literal),+], $channels:expr,
     $($own:expr),+ $(,)?) => {
        sqlx::query_as!(
            $row,
            $($head +)+ r#"
            and ($2::text is null or s.words @@ plainto_tsquery('simple', $2))
            and (cardinality($3::bigint[]) = 0 or s.author_id = any($3))
            and (cardinality($4::smallint[]) = 0 or s.author_kind = any($4))
            and s.author_kind <> all($5::smallint[])
            and (cardinality($6::bigint[]) = 0 or s.mentions && $6)
            and (cardinality($7::bigint[]) = 0 or s.mention_roles && $7)
            and (cardinality($8::bigint[]) = 0 or s.replied_to = any($8))
            and ($9::bool is null or s.mention_everyone = $9)
            and ($10::bigint is null or s.message_id > $10)
            and ($11::bigint is null or s.message_id < $11)
            and ($12::int = 0 or s.has & $12 = $12)
            and ($13::int = 0 or s.has & $13 = 0)
            and (cardinality($14::text[]) = 0 or s.hosts && $14)
            and (cardinality($15::text[]) = 0 or exists (
              select from unnest(s.filenames) f
              where substring(f from '\.([^.]*)$') = any($15)))
            and (cardinality($16::text[]) = 0 or exists (
              select from unnest(s.filenames) f, unnest($16) wanted
              where strpos(f, wanted) > 0))
            and ($17::bool is null or $17 = exists (
              select from pin p
              where p.channel_id = s.channel_id and p.message_id = s.message_id))
            and (cardinality($18::bigint[]) = 0 or exists (
              select from message_search r
              where r.channel_id = s.channel_id and r.message_id = s.replied_to
                and r.author_id = any($18)))
            and (cardinality($19::text[]) = 0 or exists (
              select from message m, jsonb_array_elements(m.extra -> 'embeds') e
              where m.channel_id = s.channel_id and m.message_id = s.message_id
                and lower(e #>> '{provider,name}') = any($19)))
            and (cardinality($20::text[]) = 0 or exists (
              select from message m, jsonb_array_elements(m.extra -> 'embeds') e
              where m.channel_id = s.channel_id and m.message_id = s.message_id
                and replace(e ->> 'type', 'gifv', 'gif') = any($20)))
"# $(+ $tail)+,
            $channels,
            $search.content,
            &$search.authors,
            &$search.author_kinds,
            &$search.author_kinds_not,
            &$search.mentions,
            &$search.mention_roles,
            &$search.replied_to,
            $search.mention_everyone,
            $search.min_id,
            $search.max_id,
            $search.has,
            $search.has_not,
            &$search.hosts,
            &$search.extensions,
            &$search.filenames,
            $search.pinned,
            &$search.replied_to_users,
            &$search.embed_providers,
            &$search.embed_types,
            $($own),+
        )
    };
}

impl Search {
    /// Errors: 50035.
    pub(super) fn parse(query: &str) -> Result<Self> {
        let mut search = Self::default();
        let mut form = FormErrors::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            search.read(&key, &value, &mut form);
        }
        let lists = [
            ("author_id", search.authors.len(), 100),
            ("mentions", search.mentions.len(), 100),
            ("mentions_role_id", search.mention_roles.len(), 100),
            ("replied_to_user_id", search.replied_to_users.len(), 100),
            ("replied_to_message_id", search.replied_to.len(), 100),
            ("link_hostname", search.hosts.len(), 100),
            ("embed_provider", search.embed_providers.len(), 100),
            ("attachment_extension", search.extensions.len(), 100),
            ("attachment_filename", search.filenames.len(), 100),
            ("channel_id", search.channels.len(), VALUES_MAX),
        ];
        for (key, len, max) in lists {
            if len > max {
                form.add(key, Fault::BadLength { min: 0, max });
            }
        }
        form.finish()?;
        Ok(search)
    }

    fn read(&mut self, key: &str, value: &str, form: &mut FormErrors) {
        match key {
            "content" => {
                form.length(key, value, 0..=CONTENT_MAX);
                let text = value.replace('\0', "").trim().to_owned();
                self.content = Some(text).filter(|text| !text.is_empty());
            }
            "author_id" => self.authors.extend(id(key, value, form)),
            "author_type" => {
                const KINDS: [(&str, i16); 3] = [("user", 0), ("bot", 1), ("webhook", 2)];
                let (name, not) = negated(value);
                match KINDS.iter().find(|(kind, _)| *kind == name) {
                    Some(&(_, kind)) if not => self.author_kinds_not.push(kind),
                    Some(&(_, kind)) => self.author_kinds.push(kind),
                    None => form.add(key, not_enum(value)),
                }
            }
            "mentions" => self.mentions.extend(id(key, value, form)),
            "mentions_role_id" => self.mention_roles.extend(id(key, value, form)),
            "replied_to_user_id" => self.replied_to_users.extend(id(key, value, form)),
            "replied_to_message_id" => self.replied_to.extend(id(key, value, form)),
            "mention_everyone" => self.mention_everyone = flag(key, value, form),
            "min_id" => self.min_id = id(key, value, form),
            "max_id" => self.max_id = id(key, value, form),
            "has" => {
                const PARTS: [(&str, i32); 9] = [
                    ("link", index::LINK),
                    ("embed", index::EMBED),
                    ("file", index::FILE),
                    ("image", index::IMAGE),
                    ("video", index::VIDEO),
                    ("sound", index::SOUND),
                    ("sticker", index::STICKER),
                    ("poll", index::POLL),
                    ("snapshot", index::SNAPSHOT),
                ];
                let (name, not) = negated(value);
                match PARTS.iter().find(|(part, _)| *part == name) {
                    Some(&(_, bit)) if not => self.has_not |= bit,
                    Some(&(_, bit)) => self.has |= bit,
                    None => form.add(key, not_enum(value)),
                }
            }
            "link_hostname" => self.hosts.extend(word(key, value, 256, form)),
            "embed_provider" => self.embed_providers.extend(word(key, value, 256, form)),
            "embed_type" => match value {
                "image" | "video" | "gif" | "sound" | "article" => {
                    self.embed_types.push(value.to_owned());
                }
                _ => form.add(key, not_enum(value)),
            },
            "attachment_extension" => {
                let word = word(key, value, 256, form);
                let word = word.map(|word| word.trim_start_matches('.').to_owned());
                self.extensions.extend(word);
            }
            "attachment_filename" => self.filenames.extend(word(key, value, 1024, form)),
            "pinned" => self.pinned = flag(key, value, form),
            "channel_id" => {
                let channel = id(key, value, form);
                self.channels.extend(channel.map(Id::<Channel>::from_db));
            }
            "include_nsfw" => self.include_nsfw = flag(key, value, form).unwrap_or(false),
            "sort_by" => match value {
                "timestamp" => self.by_relevance = false,
                "relevance" => self.by_relevance = true,
                _ => form.add(key, not_enum(value)),
            },
            "sort_order" => match value {
                "desc" => self.ascending = false,
                "asc" => self.ascending = true,
                _ => form.add(key, not_enum(value)),
            },
            "limit" => self.limit = number(key, value, 1..=LIMIT_MAX, form),
            "offset" => self.offset = number(key, value, 0..=OFFSET_MAX, form).unwrap_or(0),
            "slop" => {
                number(key, value, 0..=100, form);
            }
            _ => {}
        }
    }

    /// How many messages match (at most `total_max`), and those of the page.
    pub(super) async fn run(
        &self,
        db: &mut PgConnection,
        channels: &[Id<Channel>],
        total_max: i64,
    ) -> Result<(i64, Vec<(Id<Channel>, Id<Message>)>)> {
        let channels: Vec<i64> = channels.iter().map(|channel| channel.to_db()).collect();
        let has_index = self.content.is_some() || !self.authors.is_empty();
        let mut tx = db.begin_with(BEGIN).await?;
        let hits = if channels.len() == 1 || has_index {
            self.counted(&mut tx, &channels, total_max).await?
        } else {
            self.merged(&mut tx, &channels, total_max).await?
        };
        tx.commit().await?;
        let channels = hits.channels.into_iter().map(Id::from_db);
        let places = channels.zip(hits.messages.into_iter().map(Id::from_db));
        Ok((hits.total, places.collect()))
    }

    /// By one statement. Of one channel the newest, or oldest, matches are found along its index:
    /// so place and order are part of the text. Counting walks past every page, and a page is cut
    /// out of what was counted: a late one costs what the first one does. By relevance what was
    /// counted, the newest matches, is put in order.
    async fn counted(
        &self,
        db: &mut PgConnection,
        channels: &[i64],
        total_max: i64,
    ) -> Result<Hits> {
        macro_rules! counted {
            ($place:literal, $order:literal, $rank:literal) => {
                matching!(
                    self,
                    Hits,
                    [
                        r#"select coalesce((array_agg(hit.channel_id))
         [$23::bigint + 1:$23::bigint + $22::bigint], '{}') as "channels!",
       coalesce((array_agg(hit.message_id))
         [$23::bigint + 1:$23::bigint + $22::bigint], '{}') as "messages!",
       count(*) as "total!"
from (
  select counted.channel_id, counted.message_id
  from (
    select s.channel_id, s.message_id, s.words
    from message_search s
    where s.channel_id = "#,
                        $place
                    ],
                    [
                        "    order by s.message_id ",
                        $order,
                        "
    limit $21
  ) counted
  order by ",
                        $rank,
                        "counted.message_id ",
                        $order,
                        "
) hit"
                    ],
                    channels,
                    total_max,
                    self.limit.unwrap_or(LIMIT_MAX),
                    self.offset,
                )
                .fetch_one(db)
                .await?
            };
        }
        let by_relevance = self.by_relevance && self.content.is_some();
        Ok(match (channels.len(), by_relevance, self.ascending) {
            (1, true, _) => counted!(
                "($1::bigint[])[1]",
                "desc",
                "ts_rank(counted.words, plainto_tsquery('simple', $2)) desc, "
            ),
            (1, false, true) => counted!("($1::bigint[])[1]", "asc", ""),
            (1, false, false) => counted!("($1::bigint[])[1]", "desc", ""),
            (_, true, _) => counted!(
                "any($1::bigint[])",
                "desc",
                "ts_rank(counted.words, plainto_tsquery('simple', $2)) desc, "
            ),
            (_, false, true) => counted!("any($1::bigint[])", "asc", ""),
            (_, false, false) => counted!("any($1::bigint[])", "desc", ""),
        })
    }

    /// Of several channels, where nothing but the order in each of them helps: the first matches
    /// of each, then more of those whose next ones may still be counted. What was read of these
    /// is counted up to now, so a round reads [`GROWTH`] times `total_max` at most, and each
    /// message of the channels is looked at once, those of others never.
    async fn merged(
        &self,
        db: &mut PgConnection,
        channels: &[i64],
        total_max: i64,
    ) -> Result<Hits> {
        let (start, mut end) = if self.ascending {
            (0, i64::MAX)
        } else {
            (i64::MAX, 0)
        };
        let take = total_max / channels.len().max(1) as i64 + PORTION_MIN;
        let mut wanted = Wanted {
            channels: channels.to_vec(),
            starts: vec![start; channels.len()],
            takes: vec![take; channels.len()],
        };
        let mut found: Vec<(i64, i64)> = Vec::new();
        while !wanted.channels.is_empty() {
            let portions = self.portions(db, &wanted, end).await?;
            for portion in &portions {
                let messages = portion.messages.iter();
                found.extend(messages.map(|&message| (message, portion.channel_id)));
            }
            found.sort_unstable();
            if !self.ascending {
                found.reverse();
            }
            found.truncate(total_max as usize);
            if found.len() as i64 == total_max
                && let Some(&(last, _)) = found.last()
            {
                end = last;
            }
            wanted = Wanted::default();
            for portion in portions {
                let Some(&last) = portion.messages.last() else {
                    continue;
                };
                let is_all = (portion.messages.len() as i64) < portion.take;
                let counts = if self.ascending {
                    last < end
                } else {
                    last > end
                };
                if counts && !is_all {
                    wanted.channels.push(portion.channel_id);
                    wanted.starts.push(last);
                    wanted.takes.push(portion.take * GROWTH);
                }
            }
        }
        let total = found.len() as i64;
        let page = found.into_iter().skip(self.offset as usize);
        let limit = self.limit.unwrap_or(LIMIT_MAX) as usize;
        let (messages, channels) = page.take(limit).unzip();
        Ok(Hits {
            channels,
            messages,
            total,
        })
    }

    /// The next matches of each channel, before `end`.
    async fn portions(
        &self,
        db: &mut PgConnection,
        wanted: &Wanted,
        end: i64,
    ) -> Result<Vec<Portion>> {
        macro_rules! portions {
            ($after:literal, $before:literal, $order:literal) => {
                matching!(
                    self,
                    Portion,
                    [
                        r#"select c.channel_id as "channel_id!", c.take as "take!", array(
    select s.message_id
    from message_search s
    where s.channel_id = c.channel_id and s.message_id "#,
                        $after,
                        " c.start and s.message_id ",
                        $before,
                        " $21::bigint"
                    ],
                    [
                        "    order by s.message_id ",
                        $order,
                        r#"
    limit c.take
  ) as "messages!"
from unnest($1::bigint[], $22::bigint[], $23::bigint[]) c (channel_id, start, take)"#
                    ],
                    &wanted.channels,
                    end,
                    &wanted.starts,
                    &wanted.takes,
                )
                .fetch_all(db)
                .await?
            };
        }
        Ok(if self.ascending {
            portions!(">", "<", "asc")
        } else {
            portions!("<", ">", "desc")
        })
    }
}

fn negated(value: &str) -> (&str, bool) {
    match value.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (value, false),
    }
}

fn not_enum(value: &str) -> Fault {
    Fault::NotEnum(value.chars().take(100).collect())
}

fn id(key: &str, value: &str, form: &mut FormErrors) -> Option<i64> {
    match value.parse::<Id<Any>>() {
        Ok(id) => Some(id.to_db()),
        Err(_) => {
            form.add(key, Fault::NotSnowflake(value.chars().take(100).collect()));
            None
        }
    }
}

fn flag(key: &str, value: &str, form: &mut FormErrors) -> Option<bool> {
    match value {
        "True" | "true" | "1" => Some(true),
        "False" | "false" | "0" => Some(false),
        _ => {
            form.add(key, Fault::NotBool);
            None
        }
    }
}

fn number(
    key: &str,
    value: &str,
    allowed: std::ops::RangeInclusive<i64>,
    form: &mut FormErrors,
) -> Option<i64> {
    match value.parse() {
        Ok(number) => {
            form.range(key, number, allowed);
            Some(number)
        }
        Err(_) => {
            form.add(key, Fault::NotInt(value.chars().take(100).collect()));
            None
        }
    }
}

fn word(key: &str, value: &str, max: usize, form: &mut FormErrors) -> Option<String> {
    form.length(key, value, 0..=max);
    Some(value.replace('\0', "").to_lowercase()).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_keys_make_lists() {
        let search = Search::parse(
            "content=a+b&author_id=1&author_id=2&has=link&has=-file&sort_order=asc&limit=5&x=y",
        )
        .unwrap();
        assert_eq!(search.content.as_deref(), Some("a b"));
        assert_eq!(search.authors, [1, 2]);
        assert_eq!((search.has, search.has_not), (index::LINK, index::FILE));
        assert!(search.ascending && search.limit == Some(5));
        for wrong in [
            "limit=26",
            "offset=9976",
            "has=x",
            "author_id=x",
            "pinned=2",
            "sort_by=x",
        ] {
            assert!(Search::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_query_panics(query: String) {
            let _ = Search::parse(&query);
        }
    }
}
