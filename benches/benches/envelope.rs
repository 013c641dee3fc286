//! An event on its way between processes: the API encodes it once, each gateway that needs
//! it decodes it once.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use guildhall_shared::{
    Id,
    envelope::{Alt, Durability, Envelope, Visibility},
    gateway::{EventKind, Intents},
    shard::Position,
};

fn id<T>(id: u64) -> Id<T> {
    Id::new(id).expect("ids of this bench are not zero")
}

/// A MESSAGE_CREATE whose body has this many bytes.
fn message(bytes: usize) -> Envelope {
    Envelope {
        realm: id(1 << 40),
        durability: Durability::Durable(Position { era: 1, seq: 1_000 }),
        kind: EventKind::MessageCreate,
        vis: Visibility::channel(id(1 << 41), Intents::GUILD_MESSAGES),
        at_ms: 1_700_000_000_000,
        trace: 7,
        body: Bytes::from(vec![b'x'; bytes]),
        alt: Some(Alt {
            full_for: vec![id(1 << 42)],
            body: Bytes::from(vec![b'x'; bytes / 2]),
        }),
    }
}

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
