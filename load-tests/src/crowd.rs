//! Many bots at once, put into the database by hand: through REST, 50,000 of them would take
//! longer than what is measured with them.

use anyhow::{Context, Result};
use guildhall_shared::{Id, token::Token};
use sqlx::PgConnection;

use crate::world::Account;

/// Rows of one statement.
const BATCH: usize = 10_000;
/// Bits of a snowflake below its time: one bot per millisecond, so that their realms lie on as
/// many shards as those of people who came one after the other.
const TIME_SHIFT: u32 = 22;
/// Long before anything made through REST, and far from another run's.
const FIRST_MS: u64 = 40_000_000_000;
const RUN_MS: u64 = 1 << 20;

/// Makes `count` bots that `owner` has, all of them members of `guild` if one is given.
pub async fn make_bots(
    db: &mut PgConnection,
    owner: &Account,
    guild: Option<&str>,
    count: usize,
    shards: u16,
) -> Result<Vec<Account>> {
    let run = u64::from(rand::random::<u16>());
    let first = FIRST_MS + run * RUN_MS;
    let owner: i64 = owner.id.parse()?;
    let guild: Option<i64> = guild.map(str::parse).transpose()?;
    let mut bots = Vec::with_capacity(count);
    for from in (0..count).step_by(BATCH) {
        let (mut ids, mut hashes) = (Vec::new(), Vec::new());
        for place in from..count.min(from + BATCH) {
            let id = (first + place as u64) << TIME_SHIFT;
            let token = Token::mint(Id::new(id).context("an id of zero")?, 0, rand::random());
            ids.push(id as i64);
            hashes.push(token.hash().0.to_vec());
            bots.push(Account {
                id: id.to_string(),
                token: token.reveal().to_owned(),
            });
        }
        sqlx::query(
            "with made as (
               insert into account (user_id, username, bot, verified)
               select id, 'bot-' || id, true, true from unnest($1::bigint[]) id
               returning user_id
             ), application as (
               insert into application (application_id, owner_id, name, verify_key, flags)
               select user_id, $3, 'load', repeat('0', 64), $4 from made
             ), head as (
               insert into realm_head (realm_id, shard)
               select user_id, (user_id >> 22) % $5 from made
             ), member as (
               insert into member (guild_id, user_id)
               select $6, user_id from made where $6 is not null
             )
             insert into auth_token (token_hash, user_id)
             select token_hash, id from unnest($1::bigint[], $2::bytea[]) t (id, token_hash)",
        )
        .bind(&ids)
        .bind(&hashes)
        .bind(owner)
        .bind(guildhall_shared::model::Application::FLAGS_NEW as i64)
        .bind(i32::from(shards))
        .bind(guild)
        .execute(&mut *db)
        .await?;
    }
    if let Some(guild) = guild {
        sqlx::query("update guild set member_count = member_count + $2 where guild_id = $1")
            .bind(guild)
            .bind(i32::try_from(count)?)
            .execute(&mut *db)
            .await?;
    }
    // What follows reads by index, not by the statistics of an empty table.
    sqlx::query("analyze account, member, auth_token, application, realm_head")
        .execute(db)
        .await?;
    Ok(bots)
}
