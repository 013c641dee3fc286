//! JSON error codes. Spec: limits-and-errors › Errors.

macro_rules! codes {
    ($($name:ident = $code:literal, $status:literal, $message:literal;)*) => {
        /// An error a REST call can end with: its `code`, its HTTP status, its message.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $(#[doc = $message] $name),* }

        impl ErrorCode {
            pub const fn code(self) -> u32 { match self { $(Self::$name => $code),* } }
            pub const fn status(self) -> u16 { match self { $(Self::$name => $status),* } }
            pub const fn message(self) -> &'static str { match self { $(Self::$name => $message),* } }
        }
    };
}

codes! {
    BadRequest = 0, 400, "400: Bad Request";
    Unauthorized = 0, 401, "401: Unauthorized";
    NotFound = 0, 404, "404: Not Found";
    MethodNotAllowed = 0, 405, "405: Method Not Allowed";
    InternalServerError = 0, 500, "500: Internal Server Error";
    ServiceUnavailable = 0, 503, "503: Service Unavailable";
    UnknownAccount = 10001, 404, "Unknown Account";
    UnknownApplication = 10002, 404, "Unknown Application";
    UnknownChannel = 10003, 404, "Unknown Channel";
    UnknownGuild = 10004, 404, "Unknown Guild";
    UnknownInvite = 10006, 404, "Unknown Invite";
    UnknownMember = 10007, 404, "Unknown Member";
    UnknownMessage = 10008, 404, "Unknown Message";
    UnknownOverwrite = 10009, 404, "Unknown permission overwrite";
    UnknownRole = 10011, 404, "Unknown Role";
    UnknownUser = 10013, 404, "Unknown User";
    UnknownSession = 10020, 404, "Unknown Session";
    UnknownBan = 10026, 404, "Unknown Ban";
    BotsCannotUse = 20001, 403, "Bots cannot use this endpoint";
    OnlyBotsCanUse = 20002, 403, "Only bots can use this endpoint";
    NotAuthorizedOnApplication = 20012, 403, "You are not authorized to perform this action on this application";
    SlowmodeRateLimit = 20016, 429, "This action cannot be performed due to slowmode rate limit";
    OnlyOwner = 20018, 403, "Only the owner of this account can perform this action";
    MaximumGuilds = 30001, 400, "Maximum number of guilds reached (100)";
    MaximumRoles = 30005, 400, "Maximum number of guild roles reached (250)";
    MaximumChannels = 30013, 400, "Maximum number of guild channels reached (500)";
    MaximumInvites = 30016, 400, "Maximum number of invites reached (1000)";
    MaximumMembers = 30019, 400, "Maximum number of server members reached";
    RequestEntityTooLarge = 40005, 413, "Request entity too large";
    BannedFromGuild = 40007, 403, "The user is banned from this guild";
    TargetNotInVoice = 40032, 400, "Target user is not connected to voice.";
    MissingAccess = 50001, 403, "Missing Access";
    CannotOnDm = 50003, 403, "Cannot execute action on a DM channel";
    CannotEditOthersMessage = 50005, 403, "Cannot edit a message authored by another user";
    EmptyMessage = 50006, 400, "Cannot send an empty message";
    NonTextChannel = 50008, 400, "Cannot send messages in a non-text channel";
    BotlessApplication = 50010, 400, "OAuth2 application does not have a bot";
    MissingPermissions = 50013, 403, "Missing Permissions";
    InvalidRole = 50028, 400, "Invalid Role";
    SystemMessage = 50021, 403, "Cannot execute action on a system message";
    InvalidChannelType = 50024, 400, "Cannot execute action on this channel type";
    MessageTooOld = 50034, 400, "A message provided was too old to bulk delete";
    InvalidFormBody = 50035, 400, "Invalid Form Body";
    InvalidApiVersion = 50041, 400, "Invalid API version";
    InvalidGuild = 50055, 400, "Invalid Guild";
    OwnershipToBot = 50132, 400, "Ownership cannot be transferred to a bot user";
    InvalidJson = 50109, 400, "The request body contains invalid JSON.";
    NoReadMessageHistory = 160002, 403, "Cannot reply without permission to read message history";
}
