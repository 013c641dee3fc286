//! `cargo run -p deploy`: renews `docs/settings.md` and `docs/metrics.md`.

use std::fs;

use anyhow::{Context, Result};
use deploy::{metrics, settings};

fn main() -> Result<()> {
    for (file, page) in [
        (settings::FILE, settings::page()),
        (metrics::FILE, metrics::page()?),
    ] {
        let file = deploy::checkout().join(file);
        fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
