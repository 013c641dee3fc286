//! Migrating, and refusing to serve without it.

use guildhall_api::{
    app::StartError,
    config::{MigrateConfig, Secret},
    migrate,
};
use sqlx::PgPool;

/// The URL of a test's own database.
async fn url(db: &PgPool) -> Secret {
    let name: String = sqlx::query_scalar("select current_database()")
        .fetch_one(db)
        .await
        .unwrap();
    let url = std::env::var("DATABASE_URL").unwrap();
    let (server, _) = url.rsplit_once('/').unwrap();
    Secret::from(format!("{server}/{name}"))
}

#[sqlx::test(migrations = false)]
async fn an_empty_database_is_migrated_once_and_for_one_number_of_shards(db: PgPool) {
    let refused = migrate::check(&db, 64).await;
    assert!(matches!(refused, Err(StartError::NotMigrated)));

    let database_url = url(&db).await;
    let config = |cluster_shards| MigrateConfig {
        database_url: database_url.clone(),
        cluster_shards,
    };
    let own = config(64);
    let (one, two) = tokio::join!(migrate::run(&own), migrate::run(&own));
    one.unwrap();
    two.unwrap();
    migrate::check(&db, 64).await.unwrap();

    let other = migrate::run(&config(128)).await;
    assert!(matches!(
        other,
        Err(StartError::OtherShards { own: 128, .. })
    ));
    let other = migrate::check(&db, 128).await;
    assert!(matches!(
        other,
        Err(StartError::OtherShards { own: 128, .. })
    ));

    let partitions: i64 = sqlx::query_scalar(
        "select count(*) from pg_inherits where inhparent = 'realm_event'::regclass",
    )
    .fetch_one(&db)
    .await
    .unwrap();
    assert!(partitions > 12, "{partitions}");
}
