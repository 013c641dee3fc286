//! One deflate context for all of a connection's stream, as a server keeps that compresses for each
//! client: what bytes of the gateway's compressed streams are compared with.

use anyhow::{Context, Result};
use flate2::{Compress, Compression, FlushCompress};

/// What a flush may add to a text that cannot be compressed, and to spare.
const ROOM_BYTES: usize = 1024;

/// A stream of its own for dispatches, and how long it is.
pub struct TrueContext {
    compress: Compress,
    s: u64,
    bytes: u64,
}

impl Default for TrueContext {
    fn default() -> Self {
        Self {
            compress: Compress::new(Compression::default(), false),
            // READY and GUILD_CREATE came before.
            s: 3,
            bytes: 0,
        }
    }
}

impl TrueContext {
    /// The next dispatch, whose `d` is `body`.
    pub fn write(&mut self, name: &str, body: &[u8]) -> Result<()> {
        let head = format!(r#"{{"t":"{name}","s":{},"op":0,"d":"#, self.s);
        let text = [head.as_bytes(), body, b"}"].concat();
        let mut out = Vec::with_capacity(text.len() + ROOM_BYTES);
        self.compress
            .compress_vec(&text, &mut out, FlushCompress::Sync)
            .context("a dispatch was not compressed")?;
        self.s += 1;
        self.bytes += out.len() as u64;
        Ok(())
    }

    /// Of all dispatches.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_before_is_pointed_at() {
        let body = br#"{"content":"the quick brown fox jumps over the lazy dog"}"#;
        let mut context = TrueContext::default();
        context.write("MESSAGE_CREATE", body).unwrap();
        let first = context.bytes();
        context.write("MESSAGE_CREATE", body).unwrap();
        assert!(context.bytes() - first < first / 2);
    }
}
