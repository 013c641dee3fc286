//! Compressed streams without a compressor per connection.
//!
//! A text that many clients get is compressed once per core, with an empty window (or with
//! the text before it as dictionary, see [`crate::dispatch`]), and the result is spliced into
//! every client's stream. Only what lies inside one message may be pointed at, so pieces can
//! be put together in any order. docs/decisions/0012 says why.

pub mod zlib;
pub mod zstd;

/// Texts longer than this are compressed fast rather than well: they are one client's alone
/// (READY, GUILD_CREATE), and a core must not stand still for them. Bytes.
const LARGE_BYTES: usize = 128 * 1024;

/// The compressors of a core, made when first needed.
#[derive(Default)]
pub struct Compressors {
    pub zlib: zlib::Zlib,
    pub zstd: zstd::Zstd,
}

impl std::fmt::Debug for Compressors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressors").finish_non_exhaustive()
    }
}
