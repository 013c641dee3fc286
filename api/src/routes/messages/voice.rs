//! Voice messages: one recording and nothing else. Spec: limits-and-errors › 50159 to 50162, 50173.

use base64::{Engine, engine::general_purpose::STANDARD};
use guildhall_shared::{Permissions, error_code::ErrorCode, model::Message};
use serde_json::Value;

use crate::{access::Place, error::Result};

/// Samples of a waveform, a byte each.
const SAMPLES_MAX: usize = 256;

/// Whether a filled message can be a voice message. Errors: 50159, 50160, 50161.
pub(super) fn check(message: &Message) -> Result<()> {
    let has_more =
        !message.content.is_empty() || !message.embeds.is_empty() || !message.components.is_empty();
    if has_more {
        return Err(ErrorCode::VoiceMessageContent.into());
    }
    let [recording] = message.attachments.as_slice() else {
        return Err(ErrorCode::VoiceMessageAttachment.into());
    };
    let kind = recording["content_type"].as_str().unwrap_or_default();
    if !kind.starts_with("audio/") {
        return Err(ErrorCode::VoiceMessageAttachment.into());
    }
    let lasts = recording["duration_secs"].as_f64();
    let is_told = lasts.is_some_and(|seconds| seconds > 0.0) && is_waveform(&recording["waveform"]);
    if is_told {
        Ok(())
    } else {
        Err(ErrorCode::VoiceMessageMetadata.into())
    }
}

fn is_waveform(waveform: &Value) -> bool {
    let samples = waveform
        .as_str()
        .and_then(|text| STANDARD.decode(text).ok());
    samples.is_some_and(|samples| (1..=SAMPLES_MAX).contains(&samples.len()))
}

/// Whether the caller may send one there. Errors: 50173.
pub(super) fn check_at(place: &Place) -> Result<()> {
    let needed = Permissions::SEND_VOICE_MESSAGES;
    if place.permissions().contains(needed) {
        Ok(())
    } else {
        Err(ErrorCode::CannotSendVoiceMessage.into())
    }
}
