//! The private servers, on the real programs of this machine.

use xtask::servers::{Binaries, Postgres, Redis};

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
