//! The private servers, on the real programs of this machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use xtask::servers::{Binaries, Postgres, PostgresOptions, Redis, random_secret, scratch_root};

/// A new folder, named as those that a later run removes if this one is killed.
fn scratch(kind: &str) -> Result<PathBuf> {
    let name = format!("{kind}-{}", std::process::id());
    let folder = scratch_root()?.join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn kept_in(folder: &Path) -> Result<PostgresOptions> {
    Ok(PostgresOptions {
        folder: folder.to_owned(),
        port: None,
        password: random_secret()?,
        durable: false,
        connections_max: 20,
        log: folder.join("postgres.log"),
        pid_file: Some(folder.join("postgres.pid")),
        dies_with_parent: false,
    })
}

#[test]
fn a_data_folder_is_whole_as_soon_as_it_is_there() {
    let programs = Binaries::find().unwrap().postgres;
    let folder = scratch("whole").unwrap();
    let options = kept_in(&folder).unwrap();
    let data = folder.join("data");
    let start = thread::spawn(move || Postgres::start(&programs, options));
    while !data.join("PG_VERSION").exists() && !start.is_finished() {
        thread::sleep(Duration::from_millis(1));
    }
    // Which initdb makes after the other.
    let whole = data.join("global/pg_control").exists();
    drop(start.join().unwrap().unwrap());
    assert!(whole);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn data_is_served_by_the_version_that_made_it() {
    let programs = Binaries::find().unwrap().postgres;
    let folder = scratch("version").unwrap();
    let options = kept_in(&folder).unwrap();
    drop(Postgres::start(&programs, options.clone()).unwrap());
    // Of another version, or of none.
    let others = folder.join("others");
    fs::create_dir(&others).unwrap();
    symlink("/bin/echo", others.join("postgres")).unwrap();
    drop(Postgres::start(&others, options).unwrap());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_killed_postgres_comes_back_with_its_data_folder_and_port() {
    let binaries = Binaries::find().unwrap();
    let mut server = Postgres::temporary(&binaries).unwrap();
    let (port, data, pid) = (server.port(), server.data_folder(), server.pid());
    server.kill();
    assert_eq!(server.pid(), None);
    server.start_again().unwrap();
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), pid);
    drop(server);
    assert!(!data.exists());
}

#[test]
fn a_killed_redis_comes_back_on_its_port() {
    let binaries = Binaries::find().unwrap();
    let mut server = Redis::temporary(&binaries).unwrap();
    let port = server.port();
    server.flush().unwrap();
    server.kill();
    assert!(server.flush().is_err());
    server.start_again().unwrap();
    assert_eq!(server.port(), port);
    server.flush().unwrap();
}
