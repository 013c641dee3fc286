//! What the programs can be told and what they count, as `docs/settings.md` and `docs/metrics.md`
//! print it.

use std::path::Path;

pub mod metrics;
pub mod settings;

/// The root of the repository.
pub fn checkout() -> &'static Path {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    folder.parent().unwrap_or(folder)
}
