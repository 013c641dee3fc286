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
    TooManyRequests = 0, 429, "You are being rate limited.";
    InternalServerError = 0, 500, "500: Internal Server Error";
    ServiceUnavailable = 0, 503, "503: Service Unavailable";
    UnknownAccount = 10001, 404, "Unknown Account";
    UnknownApplication = 10002, 404, "Unknown Application";
    UnknownChannel = 10003, 404, "Unknown Channel";
    UnknownGuild = 10004, 404, "Unknown Guild";
    UnknownIntegration = 10005, 404, "Unknown Integration";
    UnknownInvite = 10006, 404, "Unknown Invite";
    UnknownMember = 10007, 404, "Unknown Member";
    UnknownMessage = 10008, 404, "Unknown Message";
    UnknownOverwrite = 10009, 404, "Unknown permission overwrite";
    UnknownRole = 10011, 404, "Unknown Role";
    UnknownUser = 10013, 404, "Unknown User";
    UnknownEmoji = 10014, 404, "Unknown Emoji";
    InvalidEmoji = 10014, 400, "Unknown Emoji";
    UnknownWebhook = 10015, 404, "Unknown Webhook";
    UnknownSession = 10020, 404, "Unknown Session";
    UnknownBan = 10026, 404, "Unknown Ban";
    UnknownGuildTemplate = 10057, 404, "Unknown guild template";
    UnknownVoiceState = 10065, 404, "Unknown Voice State";
    UnknownStageInstance = 10067, 404, "Unknown Stage Instance";
    UnknownWelcomeScreen = 10069, 404, "Unknown Guild Welcome Screen";
    UnknownScheduledEvent = 10070, 404, "Unknown Guild Scheduled Event";
    UnknownScheduledEventUser = 10071, 404, "Unknown Guild Scheduled Event User";
    UnknownTargetUsersJob = 10124, 404, "Unknown invite target users job";
    UnknownTargetUsers = 10129, 404, "Unknown invite target users";
    BotsCannotUse = 20001, 403, "Bots cannot use this endpoint";
    OnlyBotsCanUse = 20002, 403, "Only bots can use this endpoint";
    NotAuthorizedOnApplication = 20012, 403, "You are not authorized to perform this action on this application";
    SlowmodeRateLimit = 20016, 429, "This action cannot be performed due to slowmode rate limit";
    OnlyOwner = 20018, 403, "Only the owner of this account can perform this action";
    MaximumGuilds = 30001, 400, "Maximum number of guilds reached (100)";
    MaximumPins = 30003, 400, "Maximum number of pins reached for the channel (250)";
    MaximumFriends = 30002, 400, "Maximum number of friends reached (1000)";
    MaximumRoles = 30005, 400, "Maximum number of guild roles reached (250)";
    MaximumWebhooks = 30007, 400, "Maximum number of webhooks reached (15)";
    MaximumReactions = 30010, 400, "Maximum number of reactions reached (20)";
    MaximumChannels = 30013, 400, "Maximum number of guild channels reached (500)";
    MaximumInvites = 30016, 400, "Maximum number of invites reached (1000)";
    MaximumMembers = 30019, 400, "Maximum number of server members reached";
    MaximumRecipients = 30004, 400, "Maximum number of recipients reached (10)";
    MaximumThreadMembers = 30033, 400, "Maximum number of thread participants has been reached (1000)";
    VerificationNeeded = 40002, 403, "You need to verify your account in order to perform this action.";
    RequestEntityTooLarge = 40005, 413, "Request entity too large";
    FeatureDisabled = 40006, 503, "This feature has been temporarily disabled server-side";
    HasTemplate = 30031, 400, "Guild already has a template";
    MaximumScheduledEvents = 30038, 400, "Maximum number of uncompleted guild scheduled events reached (100)";
    InvitesPaused = 40006, 403, "This feature has been temporarily disabled server-side";
    BannedFromGuild = 40007, 403, "The user is banned from this guild";
    OwnsGuilds = 40011, 400, "You must transfer ownership of any owned guilds before deleting your account";
    TargetNotInVoice = 40032, 400, "Target user is not connected to voice.";
    AlreadyCrossposted = 40033, 400, "This message has already been crossposted.";
    OneParentAtATime = 40009, 400, "Only one channel can have a parent_id modified at a time";
    TagNamesUnique = 40061, 400, "Tag names must be unique";
    NoUsableTags = 40066, 400, "There are no tags available that can be set by non-moderators";
    TagRequired = 40067, 400, "A tag is required to create a forum post in this channel";
    MissingAccess = 50001, 403, "Missing Access";
    CannotOnDm = 50003, 403, "Cannot execute action on a DM channel";
    WidgetDisabled = 50004, 403, "Guild widget disabled";
    CannotEditOthersMessage = 50005, 403, "Cannot edit a message authored by another user";
    EmptyMessage = 50006, 400, "Cannot send an empty message";
    CannotSendToUser = 50007, 403, "Cannot send messages to this user";
    NonTextChannel = 50008, 400, "Cannot send messages in a non-text channel";
    BotlessApplication = 50010, 400, "OAuth2 application does not have a bot";
    VanityTaken = 50020, 400, "Invite code was either invalid or taken";
    MissingPermissions = 50013, 403, "Missing Permissions";
    InvalidWebhookToken = 50027, 401, "Invalid Webhook Token";
    NoteTooLong = 50015, 400, "Note was too long";
    InvalidRole = 50028, 400, "Invalid Role";
    SystemMessage = 50021, 403, "Cannot execute action on a system message";
    InvalidChannelType = 50024, 400, "Cannot execute action on this channel type";
    InvalidRecipients = 50033, 400, "Invalid Recipient(s)";
    MessageTooOld = 50034, 400, "A message provided was too old to bulk delete";
    InvalidFormBody = 50035, 400, "Invalid Form Body";
    InvalidApiVersion = 50041, 400, "Invalid API version";
    InvalidMessageType = 50068, 400, "Invalid message type";
    SystemWebhook = 50073, 400, "Cannot modify a system webhook";
    InvalidGuild = 50055, 400, "Invalid Guild";
    CommunityChannel = 50074, 400, "Cannot delete a channel required for Community guilds";
    ThreadArchived = 50083, 400, "Tried to perform an operation on an archived thread, such as editing a message or adding a user to the thread";
    EventEntityMismatch = 50091, 400, "The entity type of the event is different from the entity you are trying to start the event for";
    OwnershipToBot = 50132, 400, "Ownership cannot be transferred to a bot user";
    InvalidJson = 50109, 400, "The request body contains invalid JSON.";
    ReactionBlocked = 90001, 403, "Reaction was blocked";
    IndexNotReady = 110000, 202, "Index not yet available. Try again later";
    CannotForwardUnreadable = 160014, 400, "You cannot forward a message whose content you cannot read";
    ForumWebhookNeedsThread = 220001, 400, "Webhooks posted to forum channels must have a thread_name or thread_id";
    ForumWebhookThreadTwice = 220002, 400, "Webhooks posted to forum channels cannot have both a thread_name and thread_id";
    WebhookThreadOnlyInForums = 220003, 400, "Webhooks can only create threads in forum channels";
    PollVotingBlocked = 520000, 400, "Poll voting blocked";
    PollExpired = 520001, 400, "Poll expired";
    InvalidChannelTypeForPoll = 520002, 400, "Invalid channel type for poll creation";
    CannotEditPoll = 520003, 400, "Cannot edit a poll message";
    InvalidPollEmoji = 520004, 400, "Cannot use an emoji included with the poll";
    CannotExpireNonPoll = 520006, 400, "Cannot expire a non-poll message";
    NoMutualGuilds = 50278, 403, "Cannot send messages to this user due to having no mutual guilds";
    SecondFactorInUse = 60001, 400, "This account is already enrolled in two-factor authentication";
    NoSecondFactor = 60002, 400, "This account is not enrolled in two-factor authentication";
    SecondFactorRequired = 60003, 401, "Two factor is required for this operation";
    InvalidTotpSecret = 60005, 400, "Invalid two-factor secret";
    InvalidTicket = 60006, 400, "Invalid two-factor auth ticket";
    InvalidTotpCode = 60008, 400, "Invalid two-factor code";
    FriendRequestsDisabled = 80000, 400, "Incoming friend requests disabled.";
    FriendRequestBlocked = 80001, 400, "Friend request blocked.";
    BotsHaveNoFriends = 80002, 400, "Bots cannot have friends.";
    FriendRequestToSelf = 80003, 400, "Cannot send friend request to self.";
    NoSuchUsername = 80004, 400, "No users with DiscordTag exist";
    NotFriends = 80006, 400, "You need to be friends in order to make this change.";
    AlreadyFriends = 80007, 400, "You are already friends with that user.";
    NoReadMessageHistory = 160002, 403, "Cannot reply without permission to read message history";
    ThreadExists = 160004, 400, "A thread has already been created for this message";
    ThreadLocked = 160005, 400, "Thread is locked";
    MaximumThreads = 160006, 400, "Maximum number of active threads reached";
    MaximumAnnouncementThreads = 160007, 400, "Maximum number of active announcement threads reached";
    BulkBanFailed = 500_000, 400, "Failed to ban users";
    StageOpen = 150006, 400, "The Stage is already open";
    FinishedEvent = 180000, 400, "Cannot update a finished event";
    OnboardingRequirements = 350000, 400, "Cannot enable onboarding, requirements are not met";
}
