//! Events as they cross Redis and the links between gateways.

use bytes::Bytes;
use guildhall_shared::envelope::Envelope;

/// Start and end that a body for readers without content shares with the other one, as told
/// since events are stored so.
const PATCH_BYTES: usize = 8;

/// What decodes survives another round. Not byte for byte: unknown bits of permissions and
/// intents are dropped, and other bodies are told by how they differ, in the shortest way.
pub(crate) fn envelope(bytes: &[u8]) {
    let Ok(envelope) = Envelope::decode(Bytes::copy_from_slice(bytes)) else {
        return;
    };
    let encoded = envelope.encode();
    match &envelope.alt {
        None => assert_eq!(encoded.len(), bytes.len(), "as long as before"),
        Some(alt) => {
            let more = PATCH_BYTES * (1 + alt.parts.len());
            assert!(encoded.len() <= bytes.len() + more, "longer");
        }
    }
    let again = Envelope::decode(encoded);
    assert_eq!(again.as_ref(), Ok(&envelope), "another round");
}
