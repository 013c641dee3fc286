//! The media server that voice is handed to: where it is, and the token it knows a client by.
//! Spec: gateway.md › Voice signalling.

use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;

use crate::{
    id::{Id, marker},
    model::VoiceState,
};

/// Where media is served and the key both sides know. Without one, clients are told to wait.
#[derive(Clone, Default)]
pub struct VoiceSettings {
    /// `host:port`, without a scheme.
    pub endpoint: Option<String>,
    key: Vec<u8>,
}

/// Reads `host:port`. Errors: a scheme, a path, an empty text.
pub fn endpoint(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('/') {
        return Err("must be host:port, without a scheme".to_owned());
    }
    Ok(text.to_owned())
}

impl VoiceSettings {
    pub fn new(endpoint: Option<String>, key: &str) -> Self {
        Self {
            endpoint,
            key: key.as_bytes().to_vec(),
        }
    }
}

impl std::fmt::Debug for VoiceSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VoiceSettings")
            .field("endpoint", &self.endpoint)
            .field("key", &"***")
            .finish()
    }
}

/// Body of VOICE_SERVER_UPDATE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VoiceServer {
    /// Hex HMAC-SHA256, under the media server's key, of guild, channel, user and session.
    pub token: String,
    pub guild_id: Id<marker::Guild>,
    /// Null: there is no media server; the client waits.
    pub endpoint: Option<String>,
    /// The only session that gets it.
    pub session_id: String,
}

impl VoiceServer {
    /// What somebody needs who has just entered a channel; `None` for who is in none.
    pub fn for_state(settings: &VoiceSettings, state: &VoiceState) -> Option<Self> {
        let (guild_id, channel_id) = (state.guild_id?, state.channel_id?);
        let text = format!(
            "guildhall voice {guild_id} {channel_id} {} {}",
            state.user_id, state.session_id
        );
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&settings.key).expect("HMAC takes keys of any length");
        mac.update(text.as_bytes());
        Some(Self {
            token: hex::encode(mac.finalize().into_bytes()),
            guild_id,
            endpoint: settings.endpoint.clone(),
            session_id: state.session_id.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(channel: Option<u64>) -> VoiceState {
        VoiceState {
            guild_id: Id::new(1),
            channel_id: channel.and_then(Id::new),
            user_id: Id::new(3).unwrap(),
            member: None,
            session_id: "s".to_owned(),
            deaf: false,
            mute: false,
            self_deaf: false,
            self_mute: false,
            self_stream: false,
            self_video: false,
            suppress: false,
            request_to_speak_timestamp: None,
        }
    }

    #[test]
    fn a_token_is_good_for_one_channel_and_one_key() {
        let settings = VoiceSettings::new(Some("voice:443".to_owned()), "key");
        let token = |settings: &VoiceSettings, channel| {
            VoiceServer::for_state(settings, &state(Some(channel)))
                .unwrap()
                .token
        };
        assert_eq!(token(&settings, 2), token(&settings, 2));
        assert_ne!(token(&settings, 2), token(&settings, 4));
        let other = VoiceSettings::new(None, "another");
        assert_ne!(token(&settings, 2), token(&other, 2));
        assert!(VoiceServer::for_state(&settings, &state(None)).is_none());
        assert!(!format!("{settings:?}").contains("107"));
    }
}
