//! Migrating, and refusing to serve without it.

use std::{fs, path::Path};

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

/// Programs of before go on while a migration runs and after it: nothing that they name goes away,
/// and no row that they write is refused for a column they do not know.
#[test]
fn migrations_take_nothing_from_programs_that_run() {
    const TAKEN: [&str; 6] = [
        "drop table",
        "drop column",
        "drop default",
        "set not null",
        " rename ",
        "alter column",
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let mut columns = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let sql = fs::read_to_string(&path).unwrap().to_lowercase();
        let code = sql.lines().filter_map(|line| line.split("--").next());
        let words: Vec<&str> = code.flat_map(str::split_whitespace).collect();
        for statement in words.join(" ").split(';') {
            for taken in TAKEN {
                assert!(
                    !statement.contains(taken),
                    "{}: {statement}",
                    path.display()
                );
            }
            for column in statement.split("add column").skip(1) {
                let column = column.split(',').next().unwrap_or_default();
                let optional = !column.contains("not null") || column.contains("default");
                assert!(optional, "{}: {statement}", path.display());
                columns += 1;
            }
        }
    }
    assert!(columns > 10, "only {columns} columns were added");
}
