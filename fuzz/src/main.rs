//! libFuzzer on the target that `FUZZ_TARGET` names; started by `cargo xtask fuzz`.

#![no_main]

use std::sync::OnceLock;

use guildhall_fuzz::{Target, target};
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let run = TARGET.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        target(&name).expect("FUZZ_TARGET names a target")
    });
    run(bytes);
});
