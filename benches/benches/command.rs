//! Commands of clients: our parser on simd-json, and the two JSON readers under it.
//!
//! simd-json is here because it is to be faster on what clients send: the last lines say
//! by how much, in this run.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use benches::inputs::commands;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use guildhall_gateway::codec;

/// Reads one text, which is its to overwrite.
type Reader = fn(&mut [u8]);

/// Reads per figure of the comparison.
const COMPARED: u32 = 50_000;

fn simd(text: &mut [u8]) {
    black_box(simd_json::to_owned_value(text)).expect("the commands are JSON");
}

fn serde(text: &mut [u8]) {
    black_box(serde_json::from_slice::<serde_json::Value>(text)).expect("the commands are JSON");
}

fn whole(text: &mut [u8]) {
    black_box(codec::parse(text)).expect("the commands are good");
}

fn command(c: &mut Criterion) {
    let mut group = c.benchmark_group("command");
    for (name, text) in commands() {
        group.throughput(Throughput::Bytes(text.len() as u64));
        let readers: [(&str, Reader); 3] =
            [("codec", whole), ("simd_json", simd), ("serde_json", serde)];
        for (reader, read) in readers {
            group.bench_with_input(BenchmarkId::new(reader, name), &text, |b, text| {
                // Each reads a fresh copy: simd-json scribbles in it.
                b.iter_batched_ref(
                    || text.clone(),
                    |text| read(black_box(text)),
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
    compare();
}

/// Time of simd-json over time of serde_json, the copy of the text in both.
fn compare() {
    for (name, text) in commands() {
        let (simd, serde) = (time(&text, simd), time(&text, serde));
        let ratio = simd.as_secs_f64() / serde.as_secs_f64();
        println!(
            "{name}, {} bytes: simd-json {simd:?}, serde_json {serde:?}: {ratio:.2} x",
            text.len()
        );
    }
}

/// Per read.
fn time(text: &[u8], read: Reader) -> Duration {
    let mut copy = text.to_vec();
    let started = Instant::now();
    for _ in 0..COMPARED {
        copy.copy_from_slice(text);
        read(black_box(&mut copy));
    }
    started.elapsed() / COMPARED
}

criterion_group!(benches, command);
criterion_main!(benches);
