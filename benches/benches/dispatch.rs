//! Laying out a batch of dispatches, once per core, and numbering it, once per session.
//! A send of such a frame costs the kernel several microseconds: numbering is to vanish
//! beside it.

use std::{hint::black_box, rc::Rc, time::Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use guildhall_gateway::dispatch::{Dispatch, Layout};
use guildhall_shared::gateway::EventKind;

/// Of a MESSAGE_CREATE whose frame has 600 bytes.
const BODY_BYTES: usize = 547;

fn dispatches(count: usize) -> Vec<Rc<Dispatch>> {
    let body = vec![b'x'; BODY_BYTES];
    let now = Instant::now();
    (0..count)
        .map(|_| Dispatch::new(EventKind::MessageCreate, &body, now))
        .collect()
}

fn dispatch(c: &mut Criterion) {
    let mut group = c.benchmark_group("dispatch");
    for count in [1, 32] {
        let batch = dispatches(count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(BenchmarkId::new("layout", count), &batch, |b, batch| {
            b.iter(|| Layout::of(black_box(batch).iter()));
        });
        let mut layout = Layout::of(batch.iter());
        group.bench_function(BenchmarkId::new("number", count), |b| {
            let mut s = 1_000;
            b.iter(|| {
                s += count as u64;
                black_box(layout.numbered(black_box(s)));
            });
        });
        // What a session pays to find out that the others' layout is its own.
        group.bench_function(BenchmarkId::new("find", count), |b| {
            b.iter(|| layout.is_of(black_box(&batch).iter()));
        });
    }
    group.finish();
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
