//! Laying out a batch of dispatches, once per core, and numbering it, once per session.
//! A send of such a frame costs the kernel several microseconds: numbering is to vanish
//! beside it.
//!
//! The last lines are a broadcast to real sockets in every format, each against plain JSON
//! in the same run: CPU of the sending thread, and bytes.

use std::{
    fs,
    hint::black_box,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    rc::Rc,
    thread,
    time::Instant,
};

use benches::inputs::said;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use guildhall_gateway::{
    compress::Compressors,
    dispatch::{self, Dispatch, Layout, Shape},
    format::{Compression, Encoding, Format},
};
use guildhall_shared::gateway::EventKind;

/// Of a MESSAGE_CREATE whose frame has 600 bytes.
const BODY_BYTES: usize = 547;
/// Sessions of the broadcast, and dispatches that each gets.
const SESSIONS: usize = 200;
const BROADCASTS: u64 = 400;

const FORMATS: [(&str, Format); 6] = [
    ("json", format(Encoding::Json, Compression::None)),
    (
        "json zlib-stream",
        format(Encoding::Json, Compression::Zlib),
    ),
    (
        "json zstd-stream",
        format(Encoding::Json, Compression::Zstd),
    ),
    ("etf", format(Encoding::Etf, Compression::None)),
    ("etf zlib-stream", format(Encoding::Etf, Compression::Zlib)),
    ("etf zstd-stream", format(Encoding::Etf, Compression::Zstd)),
];

const fn format(encoding: Encoding, compression: Compression) -> Format {
    Format {
        encoding,
        compression,
    }
}

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
            b.iter(|| layout.is_of(Shape::plain(), black_box(&batch).iter()));
        });
    }
    group.finish();

    // A form of a body, from nothing.
    let mut group = c.benchmark_group("form");
    let mut compressors = Compressors::default();
    let (before, body) = (said(1), said(2));
    for (name, format) in FORMATS {
        for chained in [false, true] {
            let name = format!("{name}{}", if chained { " chained" } else { "" });
            group.bench_function(name, |b| {
                b.iter(|| {
                    let before = Dispatch::new(EventKind::MessageCreate, &before, Instant::now());
                    let dispatch = Dispatch::new(EventKind::MessageCreate, &body, Instant::now());
                    let shape = Shape::new(format, 2, chained.then_some(&before));
                    Layout::shaped(shape, [&dispatch].into_iter(), &mut compressors)
                });
            });
        }
    }
    group.finish();

    // What a session pays to have such a form in its own stream: its `s`, and the sum over it.
    let mut group = c.benchmark_group("splice");
    for (name, format) in FORMATS {
        let bodies = [said(1), said(2)]
            .map(|body| Dispatch::new(EventKind::MessageCreate, &body, Instant::now()));
        let mut layout =
            Layout::shaped(Shape::new(format, 2, None), bodies.iter(), &mut compressors);
        group.bench_function(name, |b| {
            let mut s = 1_000;
            b.iter(|| {
                s += 2;
                black_box(layout.numbered(black_box(s)));
            });
        });
    }
    group.finish();
    broadcast();
}

/// CPU that this thread has used, nanoseconds.
fn cpu_ns() -> u64 {
    let times = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = times.split(' ').next().unwrap_or_default();
    first.parse().unwrap_or(0)
}

/// Sockets whose other ends are read by threads of their own.
fn sockets() -> std::io::Result<Vec<TcpStream>> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let mut sockets = Vec::new();
    for _ in 0..SESSIONS {
        let mut reader = TcpStream::connect(address)?;
        thread::spawn(move || {
            let mut room = [0; 64 * 1024];
            while reader.read(&mut room).is_ok_and(|read| read > 0) {}
        });
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn broadcast() {
    let bodies: Vec<Vec<u8>> = (0..BROADCASTS).map(said).collect();
    let mut plain = None;
    for (name, format) in FORMATS {
        let Ok(mut sockets) = sockets() else {
            println!("broadcast: no sockets");
            return;
        };
        let hello = dispatch::payload(format, true, guildhall_gateway::codec::HELLO);
        for socket in &mut sockets {
            socket.write_all(&hello).expect("the readers read");
        }
        let (mut compressors, mut before) = (Compressors::default(), None);
        let (mut bytes, start) = (0, cpu_ns());
        for (s, body) in (1..).zip(&bodies) {
            let dispatch = Dispatch::new(EventKind::MessageCreate, body, Instant::now());
            let shape = Shape::new(format, s, before.as_ref());
            let mut layout = Layout::shaped(shape, [&dispatch].into_iter(), &mut compressors);
            for socket in &mut sockets {
                let frames = layout.numbered(s);
                bytes += frames.len();
                socket.write_all(frames).expect("the readers read");
            }
            drop(layout);
            before = Some(dispatch);
        }
        let sends = (SESSIONS as u64 * BROADCASTS) as f64;
        let (cpu, bytes) = ((cpu_ns() - start) as f64 / sends, bytes as f64 / sends);
        let &mut (plain_cpu, plain_bytes) = plain.get_or_insert((cpu, bytes));
        println!(
            "broadcast {name:<17} {:.2} us CPU per delivery ({:.2} x json), {bytes:.0} bytes ({:.2} x json)",
            cpu / 1e3,
            cpu / plain_cpu,
            bytes / plain_bytes,
        );
    }
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
