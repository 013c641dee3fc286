//! Inputs and workloads of the benchmarks: the parts of the servers that do no I/O.
//!
//! `benches/` measures time with criterion; the binary `instructions` runs the same code a
//! fixed number of times, for `cargo xtask bench instructions` to count.

pub mod inputs;
pub mod workloads;
