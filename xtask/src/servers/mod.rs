//! Private Postgres and Redis: found on the machine, started on loopback with
//! random passwords, stopped when their value is dropped.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use xtask::servers::{Binaries, Postgres, Redis};
//!
//! let binaries = Binaries::find()?;
//! let mut postgres = Postgres::temporary(&binaries)?;
//! let mut redis = Redis::temporary(&binaries)?;
//! println!("{} {}", postgres.url("guildhall"), redis.url());
//! redis.kill(); // kill -9
//! redis.start_again()?; // same port, same password, empty
//! # Ok(()) }
//! ```
//!
//! Blocking calls; from async code use them through `spawn_blocking`. Never
//! touches a server it did not start itself.

mod binaries;
mod postgres;
mod redis;
mod scratch;
mod secrets;

pub use binaries::Binaries;
pub(crate) use binaries::{POSTGRES_VARIABLE, REDIS_VARIABLE, version};
pub use postgres::{Postgres, PostgresOptions};
pub use redis::{Redis, RedisOptions, RedisTls, form_cluster, move_slot};
pub use scratch::scratch_root;
pub(crate) use scratch::{
    can_enter, checkout, checkout_hash, postgres_account, scratch_folder, sweep, target_folder,
};
pub use secrets::random_secret;
pub(crate) use secrets::write_private;
