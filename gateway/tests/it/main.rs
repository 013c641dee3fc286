//! The gateway on real Postgres and Redis.

mod node;
