//! Why the server closes a gateway socket. Spec: gateway.md › Close codes.

/// The number is the WebSocket close code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// WebSocket's own: the frame breaks RFC 6455. Clients resume.
    Protocol = 1002,
    /// WebSocket's own: text that is not UTF-8. Clients resume.
    InvalidUtf8 = 1007,
    /// Internal failure, shutdown, missed heartbeat, slow reader. Clients resume.
    UnknownError = 4000,
    UnknownOpcode = 4001,
    DecodeError = 4002,
    NotAuthenticated = 4003,
    AuthenticationFailed = 4004,
    AlreadyAuthenticated = 4005,
    InvalidSeq = 4007,
    RateLimited = 4008,
    SessionTimedOut = 4009,
    InvalidShard = 4010,
    ShardingRequired = 4011,
    InvalidApiVersion = 4012,
    InvalidIntents = 4013,
    DisallowedIntents = 4014,
    TooManySessions = 4015,
}

impl CloseCode {
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// Text sent beside the code.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Protocol => "Protocol error.",
            Self::InvalidUtf8 => "Invalid UTF-8.",
            Self::UnknownError => "Unknown error.",
            Self::UnknownOpcode => "Unknown opcode.",
            Self::DecodeError => "Decode error.",
            Self::NotAuthenticated => "Not authenticated.",
            Self::AuthenticationFailed => "Authentication failed.",
            Self::AlreadyAuthenticated => "Already authenticated.",
            Self::InvalidSeq => "Invalid seq.",
            Self::RateLimited => "You are being rate limited.",
            Self::SessionTimedOut => "Session timed out.",
            Self::InvalidShard => "Invalid shard.",
            Self::ShardingRequired => "Sharding required.",
            Self::InvalidApiVersion => "Invalid API version.",
            Self::InvalidIntents => "Invalid intent(s).",
            Self::DisallowedIntents => "Disallowed intent(s).",
            Self::TooManySessions => "Too many sessions.",
        }
    }

    /// Whether the session outlives this close and may be resumed.
    pub const fn is_resumable(self) -> bool {
        matches!(
            self,
            Self::Protocol
                | Self::InvalidUtf8
                | Self::UnknownError
                | Self::UnknownOpcode
                | Self::DecodeError
                | Self::AlreadyAuthenticated
                | Self::RateLimited
        )
    }
}
