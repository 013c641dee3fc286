//! Channels put into classes of equal visibility, and what of them a member sees: an owner does
//! the first when a guild is opened, the second for every member that subscribes or whose
//! roles change.

use std::hint::black_box;

use benches::inputs::{self, id};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use guildhall_shared::{Permissions, Timestamp, permissions::MemberAccess};

fn classes(c: &mut Criterion) {
    let mut group = c.benchmark_group("classes");
    for (channels, roles) in [(50, 5), (500, 50)] {
        let name = format!("{channels}x{roles}");
        let list = inputs::channels(channels, roles);
        group.throughput(Throughput::Elements(channels));
        group.bench_with_input(BenchmarkId::new("place", &name), &list, |b, list| {
            b.iter(|| inputs::classes(black_box(list)));
        });
        let classes = inputs::classes(&list);
        let held: Vec<_> = (2..7).map(id).collect();
        let member = MemberAccess {
            user: id(50),
            is_owner: false,
            roles: &held,
            communication_disabled_until: None,
        };
        let (base, now) = (Permissions::SEND_MESSAGES, Timestamp::from_unix_ms(0));
        group.bench_function(BenchmarkId::new("seen_by", &name), |b| {
            b.iter(|| classes.seen_by(id(1), black_box(base), black_box(member), now));
        });
    }
    group.finish();
}

criterion_group!(benches, classes);
criterion_main!(benches);
