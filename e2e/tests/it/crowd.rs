//! Members by the thousand, made where a test needs many of them and not how they came.

use e2e::cluster::Cluster;
use guildhall_shared::{Id, id::marker::Guild};

/// Adds accounts named `walker 1 of …`, `walker 2 of …` … and makes them members of a guild that no session
/// has opened yet; their ids.
pub(crate) async fn add(cluster: &Cluster, guild: &str, count: i64) -> Vec<String> {
    let db = cluster.db().await.unwrap();
    let guild: Id<Guild> = guild.parse().unwrap();
    // Room for a million, below the ids of anybody who came in another way.
    let first = i64::from(rand::random::<u32>() | 1 << 31) << 20;
    for sql in [
        "insert into account (user_id, username, bot)
         select $1 + n, 'walker ' || n || ' of ' || $2, true from generate_series(1, $3) n",
        "insert into member (guild_id, user_id)
         select $2, $1 + n from generate_series(1, $3) n",
        "update guild set member_count = member_count + $3 where guild_id = $2 and $1 > 0",
    ] {
        sqlx::query(sql)
            .bind(first)
            .bind(guild.to_db())
            .bind(count)
            .execute(&db)
            .await
            .unwrap();
    }
    (1..=count).map(|n| (first + n).to_string()).collect()
}
