//! Migrating, and refusing to serve without it; how the tables would lie on many servers.

use std::{collections::BTreeMap, fs, path::Path};

use guildhall_api::{
    config::{MigrateConfig, Secret},
    migrate,
    start::StartError,
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

    // Who goes back to this release has the schema of the next one.
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (999999, 'of the next release', true, '', 0)",
    )
    .execute(&db)
    .await
    .unwrap();
    migrate::run(&own).await.unwrap();
    migrate::check(&db, 64).await.unwrap();

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

/// A table's name, its columns, and those of its primary key.
type Table = (String, Vec<String>, Vec<String>);

#[sqlx::test(migrations = "../migrations")]
async fn the_page_on_citus_has_every_table_as_it_is(db: PgPool) {
    let tables: Vec<Table> = sqlx::query_as(
        "select c.relname::text,
                array(select a.attname::text from pg_attribute a
                      where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
                array(select a.attname::text from pg_attribute a
                      join pg_index i on i.indrelid = a.attrelid and i.indisprimary
                      where a.attrelid = c.oid and a.attnum = any(i.indkey))
         from pg_class c
         where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
           and not c.relispartition and c.relname <> '_sqlx_migrations'",
    )
    .fetch_all(&db)
    .await
    .unwrap();
    let tables = tables.into_iter();
    let mut tables: BTreeMap<String, (Vec<String>, Vec<String>)> = tables
        .map(|(name, columns, key)| (name, (columns, key)))
        .collect();

    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/citus.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| "));
    for row in rows.skip(1) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let (by, says_key, named) = (cells[2].trim_matches('`'), cells[3], cells[4]);
        for name in named.split(' ').map(|name| name.trim_matches('`')) {
            let table = tables.remove(name);
            let (columns, key) =
                table.unwrap_or_else(|| panic!("{name} is no table, or there twice"));
            if !by.is_empty() {
                assert!(columns.iter().any(|column| column == by), "{name}");
                let has = key.iter().any(|column| column == by);
                assert_eq!(has, says_key == "has it", "{name}: {key:?}");
            }
        }
    }
    assert!(tables.is_empty(), "not on the page: {:?}", tables.keys());
}
