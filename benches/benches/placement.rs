//! Time to plan a cluster: the coordinator does it every second.
//! Aim: 1000 nodes × 16384 shards well under 200 ms, in each of the cases below.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use shard_coordinator::node::{Node, Standing, Weight};
use shard_coordinator::placement::{Observed, plan};

fn nodes(count: usize) -> Vec<Node> {
    let node = |n: usize| Node {
        id: format!("gateway-{n:04}"),
        relay_addr: format!("10.0.{}.{}:9000", n / 256, n % 256),
        weight: Weight::NORMAL,
        standing: Standing::Accepting,
    };
    (0..count).map(node).collect()
}

/// A cluster that has settled on its plan.
fn settled(count: usize, shards: u16) -> Observed {
    let mut seen = Observed {
        shards,
        nodes: nodes(count),
        pins: BTreeMap::new(),
        previous: None,
    };
    seen.previous = Some(plan(&seen).into_map(Default::default()));
    seen
}

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
