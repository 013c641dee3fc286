//! `cargo run -p deploy`: renews `docs/settings.md`.

use std::fs;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let file = deploy::checkout().join(deploy::settings::FILE);
    fs::write(&file, deploy::settings::page())
        .with_context(|| format!("cannot write {}", file.display()))
}
