//! Time to plan a cluster: the coordinator does it every second.
//! Aim: 1000 nodes × 16384 shards well under 200 ms, in each of the cases below.

use std::hint::black_box;

use benches::inputs::{nodes, settled};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use guildhall_shared::cluster_map::Assignment;
use shard_coordinator::motion::{Inputs, Voluntary, step};
use shard_coordinator::node::Standing;
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

        // A tenth of the nodes carries three times the load of the others.
        let mut hot = steady.clone();
        let map = steady
            .previous
            .as_ref()
            .expect("a settled cluster has a map");
        let tenth = u16::try_from(count.div_ceil(10)).expect("places are counted in u16");
        let load = |shard: &Assignment| match shard.owner {
            Some(owner) if owner < tenth => 3_000,
            _ => 1_000,
        };
        hot.loads = map.shards.iter().map(load).collect();
        measure("load", &hot);

        let mut draining = steady.clone();
        draining.nodes[0].standing = Standing::Draining;
        let target = plan(&draining);
        let id = BenchmarkId::new("step", format!("{count}x{shards}"));
        let inputs = Inputs {
            seen: &draining,
            target: &target,
            open: &[],
            per_node_max: 8,
            voluntary: Voluntary::Go,
        };
        group.bench_with_input(id, &inputs, |b, inputs| b.iter(|| step(black_box(inputs))));
    }
    group.finish();
}

criterion_group!(benches, placement);
criterion_main!(benches);
