//! What the programs can be told, as `docs/settings.md` prints it.

use std::path::Path;

pub mod settings;

/// The root of the repository.
pub fn checkout() -> &'static Path {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    folder.parent().unwrap_or(folder)
}
