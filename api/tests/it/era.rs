//! What `guildhall-api raise-era` does.

use guildhall_api::era;
use sqlx::PgPool;

#[sqlx::test(migrations = "../migrations")]
async fn the_era_of_every_realm_rises_by_one_batch_by_batch(db: PgPool) {
    sqlx::query("insert into realm_head (realm_id, shard, era, seq) select n, 0, n % 3 + 1, n from generate_series(1, 7) n")
        .execute(&db)
        .await
        .unwrap();
    assert_eq!(era::raise_all(&db, 3).await.unwrap(), 7);
    let heads: Vec<(i64, i32, i64)> =
        sqlx::query_as("select realm_id, era, seq from realm_head order by realm_id")
            .fetch_all(&db)
            .await
            .unwrap();
    let wanted: Vec<(i64, i32, i64)> = (1..=7).map(|n| (n, n as i32 % 3 + 2, n)).collect();
    assert_eq!(heads, wanted);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_empty_database_has_no_era_to_raise(db: PgPool) {
    assert_eq!(era::raise_all(&db, 3).await.unwrap(), 0);
}
