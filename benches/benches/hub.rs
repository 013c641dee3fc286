//! Who of a core's sessions gets an event: a thousand sessions of as many bots in a guild,
//! a tenth of which may not view the channel or did not ask for messages.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use guildhall_gateway::{bus::ViewChange, hub::Hub};
use guildhall_shared::{
    Id,
    envelope::{Alt, Durability, Envelope, Visibility},
    gateway::{EventKind, Intents},
    shard::Position,
};

const POSITION: Position = Position { era: 1, seq: 7 };

fn id<T>(id: u64) -> Id<T> {
    Id::new(id).expect("ids of this bench start at 1")
}

fn hub(sessions: u32) -> Hub {
    let mut hub = Hub::default();
    let user = |slot: u32| id(1_000 + u64::from(slot));
    for slot in 0..sessions {
        hub.join(id(1), user(slot), slot);
    }
    let realm = hub.get_mut(id(1)).expect("sessions joined it");
    realm.set_position(POSITION);
    realm.replace_view(ViewChange {
        channels: vec![(id(5), Some(0)), (id(6), Some(1))],
        users: (0..sessions)
            .map(|slot| {
                let classes = if slot % 20 == 0 { vec![1] } else { vec![0, 1] };
                (user(slot), Some(classes))
            })
            .collect(),
    });
    for slot in 0..sessions {
        let intents = match slot % 20 {
            1 => Intents::GUILDS,
            2 => Intents::GUILDS | Intents::GUILD_MESSAGES,
            _ => Intents::GUILDS | Intents::GUILD_MESSAGES | Intents::MESSAGE_CONTENT,
        };
        realm.attach(user(slot), slot, intents, POSITION.seq);
    }
    hub
}

fn message() -> Envelope {
    Envelope {
        realm: id(1),
        durability: Durability::Durable(Position {
            seq: POSITION.seq + 1,
            ..POSITION
        }),
        kind: EventKind::MessageCreate,
        vis: Visibility::channel(id(5), Intents::GUILD_MESSAGES),
        at_ms: 0,
        trace: 0,
        body: Bytes::new(),
        alt: Some(Alt {
            full_for: vec![id(1_003)],
            body: Bytes::new(),
        }),
    }
}

fn recipients(c: &mut Criterion) {
    let mut group = c.benchmark_group("hub");
    for sessions in [10, 1000] {
        let (hub, event) = (hub(sessions), message());
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
