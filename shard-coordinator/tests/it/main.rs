//! Coordinators on real Postgres and Redis. Each test has its own database and its own
//! Redis database number; channels are shared, so no test listens on one.

mod cluster;
mod harness;
