//! First pages beside last pages: a guild of 100,000 members, a channel of 1,000,000 messages.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use load_tests::{
    process::machine,
    report::{self, Aim, quantile},
    rest::{Rest, address},
    world::{self, Account},
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

/// The last page may take this much longer than the first: what differs is noise.
const AIM: f64 = 1.2;
/// Rows of one statement while filling the tables.
const BATCH: u32 = 50_000;

/// Measures lists and searches at both ends. Loopback and a private cluster only: it fills
/// tables of the database by hand.
#[derive(Parser)]
struct Config {
    /// The API; its rate limits must be off.
    #[arg(long, env = "API_URL", default_value = "http://127.0.0.1:8080")]
    api_url: String,
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

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let config = Config::parse();
    println!("pages: {}", machine());
    let mut rest = Rest::connect(address(&config.api_url)?).await?;
    let owner = world::register(&mut rest).await?;
    let guild = world::make_guild(&mut rest, &owner).await?;
    let channel = world::make_channel(&mut rest, &owner, &guild, json!([])).await?;
    let bot = world::make_bot(&mut rest, &owner).await?;
    world::add_bot(&mut rest, &owner, &guild, &bot).await?;
    let mut db = PgConnection::connect(&config.database_url).await?;
    let first_member = fill_members(&mut db, &config, &guild).await?;
    let first_message = fill_messages(&mut db, &config, &channel, &owner).await?;
    println!("{} members, {} messages", config.members, config.messages);

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
        .await
}

/// Accounts in the guild; the first one's id.
async fn fill_members(db: &mut PgConnection, config: &Config, guild: &str) -> Result<i64> {
    let guild: i64 = guild.parse()?;
    // Below every id made today, so that the people made through REST are the newest.
    let first = 1_000_000_000_i64;
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
    let first = 2_000_000_000_i64;
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
        Ok(())
    }

    async fn time(&mut self, path: &str) -> Result<Duration> {
        let started = Instant::now();
        let status = self.rest.send("GET", path, &self.token, b"").await?;
        let taken = started.elapsed();
        ensure!(status == 200, "{path}: {status}");
        let page: Value = serde_json::from_slice(self.rest.body())?;
        let page = page
            .as_array()
            .with_context(|| format!("{path}: no list"))?;
        ensure!(!page.is_empty(), "{path}: an empty page");
        Ok(taken)
    }
}
