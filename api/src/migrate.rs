//! The database's schema: bringing it up to date, and refusing to serve without it.

use std::sync::LazyLock;

use sqlx::{Connection, PgConnection, PgPool, migrate::Migrator};

use crate::{config::MigrateConfig, housekeeping, start::StartError};

/// Those that a later release has applied are left alone: its schema serves this one, too, and
/// going back to this one may run its `migrate` again.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!("../migrations");
    migrations.set_ignore_missing(true);
    migrations
});

/// Applies what is missing, under sqlx's own lock, and fixes the cluster's number of shards.
///
/// Errors: another number of shards than the cluster was created with.
pub async fn run(config: &MigrateConfig) -> Result<(), StartError> {
    // No time limits here: a migration may take long.
    let db = PgPool::connect(config.database_url.reveal()).await?;
    MIGRATIONS.run(&db).await?;
    sqlx::query!(
        "insert into cluster_setting (key, value) values ('shards', $1) on conflict do nothing",
        config.cluster_shards.to_string(),
    )
    .execute(&db)
    .await?;
    check_shards(&mut *db.acquire().await?, config.cluster_shards).await?;
    housekeeping::create_partitions(&db).await?;
    db.close().await;
    tracing::info!("the database is up to date");
    Ok(())
}

/// Errors: migrations are missing, or the cluster has another number of shards.
pub async fn check(db: &PgPool, shards: u16) -> Result<(), StartError> {
    let mut db = db.acquire().await?;
    db.ping().await?;
    // sqlx's own table: absent until the first migration, hence no checked query.
    let applied: Vec<i64> =
        sqlx::query_scalar("select version from _sqlx_migrations where success")
            .fetch_all(&mut *db)
            .await
            .map_err(|_| StartError::NotMigrated)?;
    if !MIGRATIONS
        .iter()
        .all(|known| applied.contains(&known.version))
    {
        return Err(StartError::NotMigrated);
    }
    check_shards(&mut db, shards).await
}

async fn check_shards(db: &mut PgConnection, own: u16) -> Result<(), StartError> {
    let cluster = sqlx::query_scalar!("select value from cluster_setting where key = 'shards'")
        .fetch_optional(db)
        .await?
        .ok_or(StartError::NotMigrated)?;
    if cluster == own.to_string() {
        Ok(())
    } else {
        Err(StartError::OtherShards { own, cluster })
    }
}
