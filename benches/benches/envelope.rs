//! An event on its way between processes: the API encodes it once, each gateway that needs
//! it decodes it once.

use std::hint::black_box;

use benches::inputs::message;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use guildhall_shared::envelope::Envelope;

fn envelope(c: &mut Criterion) {
    let mut group = c.benchmark_group("envelope");
    for bytes in [550, 8_000] {
        let message = message(bytes);
        let encoded = message.encode();
        group.throughput(Throughput::Bytes(encoded.len() as u64));
        group.bench_with_input(BenchmarkId::new("encode", bytes), &message, |b, message| {
            b.iter(|| black_box(message).encode());
        });
        group.bench_with_input(BenchmarkId::new("decode", bytes), &encoded, |b, encoded| {
            b.iter(|| Envelope::decode(black_box(encoded).clone()));
        });
    }
    group.finish();
}

criterion_group!(benches, envelope);
criterion_main!(benches);
