//! First pages beside last pages: a guild of 100,000 members, a channel of 1,000,000 messages.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures_util::{SinkExt, StreamExt};
use load_tests::{
    process::machine,
    report::{self, Aim},
    rest::{Rest, address},
    statistics::quantile,
    world::{self, Account},
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

/// The last page may take this much longer than the first: what differs is noise.
const AIM: f64 = 1.2;
/// Rows of one statement while filling the tables.
const BATCH: u32 = 50_000;

/// Ids below every one made today, so that the people made through REST are the newest.
const FIRST_MEMBER: i64 = 1_000_000_000;
const FIRST_MESSAGE: i64 = 2_000_000_000;
const FIRST_ENTRY: i64 = 3_000_000_000;
const FIRST_THREAD: i64 = 4_000_000_000;
/// The search index has a million messages to read.
const INDEX_TIMEOUT: Duration = Duration::from_secs(600);
/// GUILDS, GUILD_MEMBERS.
const INTENTS: u32 = 1 | 1 << 1;
/// Longest wait for a dispatch.
const DISPATCH_TIMEOUT: Duration = Duration::from_secs(60);

/// Measures lists and searches at both ends. Loopback and a private cluster only: it fills
/// tables of the database by hand.
#[derive(Args)]
pub(crate) struct Config {
    /// The API; its rate limits must be off.
    #[arg(long, env = "API_URL", default_value = "http://127.0.0.1:8080")]
    api_url: String,
    /// A gateway of the same cluster.
    #[arg(long, env = "GATEWAY_URL", default_value = "ws://127.0.0.1:8081")]
    gateway_url: String,
    /// The API's own database.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(2000..=1_000_000))]
    members: u32,
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=5_000_000))]
    messages: u32,
    /// Requests for each page.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(5..=1000))]
    requests: u16,
}

pub(crate) async fn run(config: &Config) -> Result<()> {
    println!("pages: {}", machine());
    let mut rest = Rest::connect(address(&config.api_url)?).await?;
    let owner = world::register(&mut rest).await?;
    let guild = world::make_guild(&mut rest, &owner).await?;
    let channel = world::make_channel(&mut rest, &owner, &guild, json!([])).await?;
    let bot = world::make_bot(&mut rest, &owner).await?;
    world::add_bot(&mut rest, &owner, &guild, &bot).await?;
    let mut db = PgConnection::connect(&config.database_url).await?;
    let first_member = fill_members(&mut db, config, &guild).await?;
    let first_message = fill_messages(&mut db, config, &channel, &owner).await?;
    println!("{} members, {} messages", config.members, config.messages);

    let others = fill_others(&mut db, config, (&guild, &channel, &owner)).await?;

    let mut pages = Pages {
        rest,
        token: format!("Bot {}", bot.token),
        requests: config.requests,
    };
    let members = format!("/guilds/{guild}/members");
    let late = first_member + i64::from(config.members) - 1002;
    pages
        .compare(
            "members, 1000 a page",
            &format!("{members}?limit=1000"),
            &format!("{members}?limit=1000&after={late}"),
        )
        .await?;
    pages
        .compare(
            "members by the start of their name",
            &format!("{members}/search?limit=10&query=crowd-0000"),
            &format!(
                "{members}/search?limit=10&query=crowd-{:07}",
                config.members - 5
            ),
        )
        .await?;
    chunk(config, &guild, &bot).await?;
    let messages = format!("/channels/{channel}/messages");
    let middle = first_message + i64::from(config.messages / 2);
    pages
        .compare(
            "messages, 100 a page: newest, oldest",
            &format!("{messages}?limit=100"),
            &format!("{messages}?limit=100&before={}", first_message + 100),
        )
        .await?;
    pages
        .compare(
            "messages, 100 a page: newest, around the middle",
            &format!("{messages}?limit=100"),
            &format!("{messages}?limit=100&around={middle}"),
        )
        .await?;

    // What follows takes permissions that the bot has not.
    pages.token.clone_from(&owner.token);
    let bans = format!("/guilds/{guild}/bans?limit=1000");
    let last = format!("{bans}&after={late}");
    pages.compare("bans, 1000 a page", &bans, &last).await?;
    let found = format!("/guilds/{guild}/bans/search?limit=10&query=crowd-");
    let (first, last) = (0, config.members - 5);
    pages
        .compare(
            "bans by the start of their name",
            &format!("{found}{first:07}"),
            &format!("{found}{last:07}"),
        )
        .await?;
    let entries = format!("/guilds/{guild}/audit-logs?limit=100");
    let last = format!("{entries}&before={}", FIRST_ENTRY + 100);
    pages
        .compare("audit log, 100 a page: newest, oldest", &entries, &last)
        .await?;
    let reactions = format!("{messages}/{first_message}/reactions/%F0%9F%91%8D?limit=100");
    let last = format!("{reactions}&after={}", late + 900);
    pages
        .compare("reactions, 100 a page", &reactions, &last)
        .await?;
    let threads = format!("/channels/{channel}/threads/archived/public?limit=100");
    let last = format!("{threads}&before={}", others.oldest_threads_before);
    pages
        .compare(
            "archived threads, 100 a page: newest, oldest",
            &threads,
            &last,
        )
        .await?;
    let found = format!("/channels/{channel}/threads/search?limit=25&sort_by=creation_time");
    let last = format!("{found}&offset=9975");
    pages
        .compare("threads found: first, 400th page", &found, &last)
        .await?;
    let pins = format!("{messages}/pins?limit=50");
    let last = format!("{pins}&before={}", others.oldest_pins_before);
    pages
        .compare("pins, 50 a page: newest, oldest", &pins, &last)
        .await?;
    let search = format!("{messages}/search?limit=25");
    pages.wait_for_index(&search).await?;
    // Autovacuum would, at a time of its own.
    sqlx::query("analyze message_search")
        .execute(&mut db)
        .await?;
    pages
        .compare(
            "search without words: first, 400th page",
            &format!("{search}&sort_order=desc"),
            &format!("{search}&sort_order=desc&offset=9975"),
        )
        .await?;
    pages
        .compare(
            "search by a word of every message: first, 400th page",
            &format!("{search}&content=message"),
            &format!("{search}&content=message&offset=9975"),
        )
        .await?;
    pages
        .compare(
            "search by words of one message: newest, oldest",
            &format!("{search}&content=number%20{}", config.messages - 1),
            &format!("{search}&content=number%200"),
        )
        .await
}

/// Where the last pages of what else was filled in begin.
struct Others {
    oldest_threads_before: String,
    oldest_pins_before: String,
}

/// Bans, audit entries, reactions, archived threads, pins; as many as there may well be.
async fn fill_others(
    db: &mut PgConnection,
    config: &Config,
    (guild, channel, owner): (&str, &str, &Account),
) -> Result<Others> {
    let ids: [i64; 3] = [guild.parse()?, channel.parse()?, owner.id.parse()?];
    let [guild, channel, owner] = ids;
    let (member, message) = (FIRST_MEMBER, FIRST_MESSAGE);
    let members = config.members;
    // Members who are banned do not occur; the lists do not mind. All that is filled in are
    // numbers.
    let statements = format!(
        "insert into ban (guild_id, user_id)
         select {guild}, {member} + n from generate_series(0, {members} - 1) n;

         insert into audit_entry (entry_id, guild_id, action, user_id, target_id)
         select {FIRST_ENTRY} + n, {guild}, 22, {owner}, {member} + n
         from generate_series(0, {members} - 1) n;

         insert into reaction (channel_id, message_id, emoji, burst, user_id)
         select {channel}, {message}, '👍', false, {member} + n
         from generate_series(0, {members} - 1) n;
         insert into reaction_count (channel_id, message_id, emoji, emoji_name, normal)
         values ({channel}, {message}, '👍', '👍', {members});

         insert into channel (channel_id, guild_id, kind, name, parent_id)
         select {FIRST_THREAD} + n, {guild}, 11, 'thread', {channel}
         from generate_series(1, 20000) n;
         insert into thread (thread_id, guild_id, parent_id, owner_id, archived,
                             auto_archive_minutes, archive_at)
         select {FIRST_THREAD} + n, {guild}, {channel}, {owner}, true, 60,
                timestamptz '2026-01-01 00:00Z' + n * interval '1 minute'
         from generate_series(1, 20000) n;

         insert into pin (channel_id, message_id, pinned_at)
         select {channel}, {message} + n, timestamptz '2026-01-01 00:00Z' + n * interval '1 minute'
         from generate_series(1, 250) n;

         analyze ban, audit_entry, reaction, reaction_count, channel, thread, pin"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements))
        .execute(db)
        .await?;
    Ok(Others {
        oldest_threads_before: "2026-01-01T01:40:30Z".to_owned(),
        oldest_pins_before: "2026-01-01T00:50:30Z".to_owned(),
    })
}

/// Accounts in the guild; the first one's id.
async fn fill_members(db: &mut PgConnection, config: &Config, guild: &str) -> Result<i64> {
    let guild: i64 = guild.parse()?;
    let first = FIRST_MEMBER;
    for from in (0..config.members).step_by(BATCH as usize) {
        let count = BATCH.min(config.members - from);
        sqlx::query(
            "with made as (
               insert into account (user_id, username)
               select $1 + n, 'crowd-' || lpad(n::text, 7, '0')
               from generate_series($2::bigint, $2::bigint + $3::bigint - 1) n
               returning user_id
             )
             insert into member (guild_id, user_id) select $4, user_id from made",
        )
        .bind(first)
        .bind(i64::from(from))
        .bind(i64::from(count))
        .bind(guild)
        .execute(&mut *db)
        .await?;
    }
    sqlx::query("update guild set member_count = member_count + $2 where guild_id = $1")
        .bind(guild)
        .bind(i32::try_from(config.members)?)
        .execute(&mut *db)
        .await?;
    sqlx::query("analyze account, member").execute(db).await?;
    Ok(first)
}

/// Messages of `author`; the first one's id.
async fn fill_messages(
    db: &mut PgConnection,
    config: &Config,
    channel: &str,
    author: &Account,
) -> Result<i64> {
    let (channel, author): (i64, i64) = (channel.parse()?, author.id.parse()?);
    let first = FIRST_MESSAGE;
    for from in (0..config.messages).step_by(BATCH as usize) {
        let count = BATCH.min(config.messages - from);
        sqlx::query(
            "insert into message (channel_id, message_id, author_id, content)
             select $1, $2 + n, $3, 'message number ' || n
             from generate_series($4::bigint, $4::bigint + $5::bigint - 1) n",
        )
        .bind(channel)
        .bind(first)
        .bind(author)
        .bind(i64::from(from))
        .bind(i64::from(count))
        .execute(&mut *db)
        .await?;
    }
    sqlx::query("vacuum analyze message").execute(db).await?;
    Ok(first)
}

/// All members by op 8, 1000 a chunk: how long the last fifth takes beside the first.
async fn chunk(config: &Config, guild: &str, bot: &Account) -> Result<()> {
    let gateway = address(&config.gateway_url)?;
    let stream = TcpStream::connect(gateway).await.context("GATEWAY_URL")?;
    stream.set_nodelay(true)?;
    let url = format!("ws://{gateway}/?v=10&encoding=json");
    let (mut socket, _) = client_async(url, stream).await.context("GATEWAY_URL")?;
    let identify = json!({"op": 2, "d": {
        "token": bot.token,
        "intents": INTENTS,
        "properties": {"os": "linux", "browser": "load-tests", "device": "load-tests"},
    }});
    socket.send(Message::text(identify.to_string())).await?;
    dispatch(&mut socket, "GUILD_CREATE").await?;

    let all = json!({"op": 8, "d": {"guild_id": guild, "query": "", "limit": 0}});
    let mut times = vec![Instant::now()];
    socket.send(Message::text(all.to_string())).await?;
    let first = dispatch(&mut socket, "GUILD_MEMBERS_CHUNK").await?;
    times.push(Instant::now());
    let first: Value = serde_json::from_str(first.to_text()?)?;
    let count = first["d"]["chunk_count"].as_u64();
    for _ in 1..count.context("no chunk_count")? {
        dispatch(&mut socket, "GUILD_MEMBERS_CHUNK").await?;
        times.push(Instant::now());
    }
    let chunks = times.len() - 1;
    let fifth = (chunks / 5).max(1);
    let first = (times[fifth] - times[0]).as_secs_f64() * 1e3;
    let last = (times[chunks] - times[chunks - fifth]).as_secs_f64() * 1e3;
    report::section("members by op 8, 1000 a chunk");
    report::line("chunks", chunks);
    report::line("first fifth", format!("{first:.1} ms"));
    report::line("last fifth", format!("{last:.1} ms"));
    let (ratio, aim) = (last / first, Aim::AtMost(AIM));
    report::aim("last against first", ratio, " x", &aim);
    let what = "last against first: members by op 8";
    report::row(what, ratio, " x", &aim);
    Ok(())
}

/// The next dispatch of this name; whatever else comes is passed over.
async fn dispatch(socket: &mut WebSocketStream<TcpStream>, name: &str) -> Result<Message> {
    let start = format!("{{\"t\":\"{name}\",");
    loop {
        let message = tokio::time::timeout(DISPATCH_TIMEOUT, socket.next()).await;
        let message = message.with_context(|| format!("no {name}"))?;
        let message = message.context("the gateway closed the connection")??;
        if message.is_text() && message.to_text()?.starts_with(&start) {
            return Ok(message);
        }
    }
}

struct Pages {
    rest: Rest,
    token: String,
    requests: u16,
}

impl Pages {
    /// Both pages in turns, so that a busy machine is busy for both.
    async fn compare(&mut self, what: &str, first: &str, last: &str) -> Result<()> {
        let (mut firsts, mut lasts) = (Vec::new(), Vec::new());
        self.time(first).await?;
        self.time(last).await?;
        for _ in 0..self.requests {
            firsts.push(self.time(first).await?.as_secs_f64() * 1e3);
            lasts.push(self.time(last).await?.as_secs_f64() * 1e3);
        }
        firsts.sort_by(f64::total_cmp);
        lasts.sort_by(f64::total_cmp);
        report::section(what);
        let line = |values: &[f64]| {
            format!(
                "p50 {:.2} ms, p99 {:.2} ms",
                quantile(values, 0.5),
                quantile(values, 0.99)
            )
        };
        report::line("first page", line(&firsts));
        report::line("last page", line(&lasts));
        let ratio = quantile(&lasts, 0.5) / quantile(&firsts, 0.5);
        report::aim("last against first", ratio, " x", &Aim::AtMost(AIM));
        report::row(
            &format!("last page against first: {what}"),
            ratio,
            " x",
            &Aim::AtMost(AIM),
        );
        Ok(())
    }

    async fn time(&mut self, path: &str) -> Result<Duration> {
        let started = Instant::now();
        let status = self.rest.send("GET", path, &self.token, b"").await?;
        let taken = started.elapsed();
        ensure!(status == 200, "{path}: {status}");
        let page: Value = serde_json::from_slice(self.rest.body())?;
        // Some lists are a field of their answer.
        let lists = ["audit_log_entries", "threads", "items", "messages"];
        let list = lists.iter().find_map(|list| page[*list].as_array());
        let list = list.or_else(|| page.as_array());
        let list = list.with_context(|| format!("{path}: no list"))?;
        ensure!(!list.is_empty(), "{path}: an empty page");
        Ok(taken)
    }

    /// A search is answered 202 while the channel is being indexed.
    async fn wait_for_index(&mut self, path: &str) -> Result<()> {
        let started = Instant::now();
        while self.rest.send("GET", path, &self.token, b"").await? != 200 {
            ensure!(started.elapsed() < INDEX_TIMEOUT, "{path}: not indexed");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let took = started.elapsed().as_secs_f64();
        report::section("search index of the channel, made by the first search");
        report::line("ready after", format!("{took:.1} s"));
        Ok(())
    }
}
