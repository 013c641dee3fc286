//! Who of a core's sessions gets an event: a thousand sessions of as many bots in a guild,
//! a tenth of which may not view the channel or did not ask for messages.

use std::hint::black_box;

use benches::inputs::{hub, message};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn recipients(c: &mut Criterion) {
    let mut group = c.benchmark_group("hub");
    for sessions in [10, 1000] {
        let (hub, event) = (hub(sessions), message(0));
        group.throughput(Throughput::Elements(sessions.into()));
        group.bench_function(BenchmarkId::new("recipients", sessions), |b| {
            b.iter(|| {
                hub.recipients(black_box(&event), |slot, variant| {
                    black_box((slot, variant));
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, recipients);
criterion_main!(benches);
