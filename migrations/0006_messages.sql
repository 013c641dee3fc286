-- What hangs on messages: reactions, pins, poll votes; webhooks; the search index; read states.
-- No foreign keys to message: see 0003. Rows of a deleted message go with it or, where they
-- may be many, soon after it (message_leftover).

alter table message add column pinned boolean not null default false;

-- One row per emoji and message, in the order of the first reactions.
create table reaction_count (
    channel_id bigint not null,
    message_id bigint not null,
    -- What tells emojis apart: the id of a custom one, else its characters without U+FE0F.
    emoji      text not null,
    -- Null for a unicode emoji.
    emoji_id   bigint,
    emoji_name text,
    animated   boolean not null default false,
    normal     integer not null default 0,
    burst      integer not null default 0,
    first_at   timestamptz not null default clock_timestamp(),
    primary key (channel_id, message_id, emoji)
);

create table reaction (
    channel_id bigint not null,
    message_id bigint not null,
    emoji      text not null,
    burst      boolean not null,
    user_id    bigint not null,
    primary key (channel_id, message_id, emoji, burst, user_id)
);

create table pin (
    channel_id bigint not null,
    message_id bigint not null,
    pinned_at  timestamptz not null default clock_timestamp(),
    primary key (channel_id, message_id)
);
create index pin_at_idx on pin (channel_id, pinned_at desc, message_id desc);

-- Question and answers are in the message's extra.
create table poll (
    channel_id bigint not null,
    message_id bigint not null,
    expires_at timestamptz not null,
    finalized  boolean not null default false,
    multiple   boolean not null,
    -- Votes of the answers 1, 2, ...
    counts     integer[] not null,
    primary key (channel_id, message_id)
);
create index poll_expires_idx on poll (expires_at) where not finalized;

create table poll_vote (
    channel_id bigint not null,
    message_id bigint not null,
    answer_id  smallint not null,
    user_id    bigint not null,
    primary key (channel_id, message_id, answer_id, user_id)
);
create index poll_vote_user_idx on poll_vote (channel_id, message_id, user_id);

-- Deleted messages whose reactions and votes housekeeping still has to delete.
create table message_leftover (
    channel_id bigint not null,
    message_id bigint not null,
    primary key (channel_id, message_id)
);

-- 1 incoming, 2 channel follower, 3 application.
create table webhook (
    webhook_id bigint primary key,
    kind       smallint not null,
    guild_id   bigint not null references guild on delete cascade,
    channel_id bigint not null references channel on delete cascade,
    creator_id bigint references account on delete set null,
    name       text not null,
    avatar     text,
    token      text unique,
    application_id bigint,
    -- Followers: where the messages come from.
    source_guild_id   bigint,
    source_channel_id bigint,
    created_at timestamptz not null default now()
);
create index webhook_channel_idx on webhook (channel_id);
create index webhook_guild_idx on webhook (guild_id);
create index webhook_source_idx on webhook (source_channel_id) where source_channel_id is not null;

-- Copies of a crossposted message: edits and deletes of the source reach them.
create table crosspost (
    source_id  bigint not null,
    channel_id bigint not null,
    message_id bigint not null,
    primary key (source_id, channel_id)
);
