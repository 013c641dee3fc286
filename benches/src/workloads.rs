//! Small fixed amounts of work, each of one pure part, to count instructions of.

use std::{hint::black_box, time::Instant};

use guildhall_gateway::{
    codec,
    compress::Compressors,
    dispatch::{Dispatch, Layout, Shape},
    format::{Compression, Encoding, Format},
};
use guildhall_shared::{
    Permissions, Timestamp, envelope::Envelope, gateway::EventKind, permissions::MemberAccess,
};
use shard_coordinator::placement::plan;

use crate::inputs::{self, id};

/// Prepares, then does its work this often.
pub type Workload = fn(u32);

const ETF: Format = Format {
    encoding: Encoding::Etf,
    compression: Compression::None,
};
const ZLIB: Format = Format {
    encoding: Encoding::Json,
    compression: Compression::Zlib,
};
const ZSTD: Format = Format {
    encoding: Encoding::Json,
    compression: Compression::Zstd,
};

/// All of them by name.
pub const WORKLOADS: [(&str, Workload); 16] = [
    ("layout_1", |times| layout(1, times)),
    ("layout_32", |times| layout(32, times)),
    ("number_32", number),
    ("form_etf", |times| form(ETF, times)),
    ("form_zlib", |times| form(ZLIB, times)),
    ("form_zstd", |times| form(ZSTD, times)),
    ("splice_zlib", |times| splice(ZLIB, times)),
    ("splice_zstd", |times| splice(ZSTD, times)),
    ("filter_1000", filter),
    ("classes_place", classes_place),
    ("classes_seen_by", classes_seen_by),
    ("envelope_encode", envelope_encode),
    ("envelope_decode", envelope_decode),
    ("command_heartbeat", |times| command("heartbeat", times)),
    ("command_identify", |times| command("identify", times)),
    ("placement_50x4096", placement),
];

fn layout(count: usize, times: u32) {
    let batch = inputs::dispatches(count);
    for _ in 0..times {
        black_box(Layout::of(black_box(&batch).iter()));
    }
}

fn number(times: u32) {
    let batch = inputs::dispatches(32);
    let mut layout = Layout::of(batch.iter());
    for s in 0..times {
        black_box(layout.numbered(black_box(1_000 + u64::from(s))));
    }
}

/// A form of a body from nothing, behind another one.
fn form(format: Format, times: u32) {
    let (mut compressors, now) = (Compressors::default(), Instant::now());
    let (before, body) = (inputs::said(1), inputs::said(2));
    for _ in 0..times {
        let before = Dispatch::new(EventKind::MessageCreate, black_box(&before), now);
        let dispatch = Dispatch::new(EventKind::MessageCreate, black_box(&body), now);
        let shape = Shape::new(format, 2, Some(&before));
        black_box(Layout::shaped(
            shape,
            [&dispatch].into_iter(),
            &mut compressors,
        ));
    }
}

/// A form that is there already, into one more stream.
fn splice(format: Format, times: u32) {
    let body = inputs::said(1);
    let dispatch = Dispatch::new(EventKind::MessageCreate, &body, Instant::now());
    let shape = Shape::new(format, 1, None);
    let mut layout = Layout::shaped(shape, [&dispatch].into_iter(), &mut Compressors::default());
    for s in 0..times {
        black_box(layout.numbered(black_box(1_000 + u64::from(s))));
    }
}

fn filter(times: u32) {
    let (hub, event) = (inputs::hub(1000), inputs::message(550));
    for _ in 0..times {
        hub.recipients(black_box(&event), |slot, variant| {
            black_box((slot, variant));
        });
    }
}

fn classes_place(times: u32) {
    let channels = inputs::channels(200, 20);
    for _ in 0..times {
        black_box(inputs::classes(black_box(&channels)));
    }
}

fn classes_seen_by(times: u32) {
    let classes = inputs::classes(&inputs::channels(200, 20));
    let roles: Vec<_> = (2..7).map(id).collect();
    let member = MemberAccess {
        user: id(50),
        is_owner: false,
        roles: &roles,
        communication_disabled_until: None,
    };
    let (base, now) = (Permissions::SEND_MESSAGES, Timestamp::from_unix_ms(0));
    for _ in 0..times {
        black_box(classes.seen_by(id(1), black_box(base), black_box(member), now));
    }
}

fn envelope_encode(times: u32) {
    let message = inputs::message(550);
    for _ in 0..times {
        black_box(black_box(&message).encode());
    }
}

fn envelope_decode(times: u32) {
    let encoded = inputs::message(550).encode();
    for _ in 0..times {
        let decoded = Envelope::decode(black_box(&encoded).clone());
        black_box(decoded).expect("we encoded it");
    }
}

fn command(name: &str, times: u32) {
    let commands = inputs::commands();
    let found = commands.iter().find(|(known, _)| *known == name);
    let (_, text) = found.expect("a command of the inputs");
    let mut copy = text.clone();
    for _ in 0..times {
        // The parser scribbles in it.
        copy.copy_from_slice(text);
        black_box(codec::parse(black_box(&mut copy))).expect("the commands are good");
    }
}

fn placement(times: u32) {
    let seen = inputs::settled(50, 4096);
    for _ in 0..times {
        black_box(plan(black_box(&seen)));
    }
}
