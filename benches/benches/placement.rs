//! Time to plan a cluster: the coordinator does it every second.
//! Aim: 1000 nodes × 16384 shards well under 200 ms, in each of the cases below.

use std::hint::black_box;

use benches::inputs::{nodes, settled};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use shard_coordinator::placement::{Observed, plan};

fn placement(c: &mut Criterion) {
    let mut group = c.benchmark_group("placement");
    for (count, shards) in [(2, 4096), (50, 4096), (1000, 16_384)] {
        let mut measure = |what: &str, seen: &Observed| {
            let id = BenchmarkId::new(what, format!("{count}x{shards}"));
            group.bench_with_input(id, seen, |b, seen| b.iter(|| plan(black_box(seen))));
        };
        let steady = settled(count, shards);
        measure("steady", &steady);

        let mut first = steady.clone();
        first.previous = None;
        measure("first", &first);

        let mut joined = steady.clone();
        joined.nodes = nodes(count + 1);
        measure("join", &joined);

        let mut died = steady.clone();
        died.nodes.remove(0);
        measure("death", &died);
    }
    group.finish();
}

criterion_group!(benches, placement);
criterion_main!(benches);
