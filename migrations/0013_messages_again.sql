-- What follows 0006: work that outlives a request, the search index, read states.

-- Published announcements whose copies have not all been made (routes/webhooks/followers.rs).
create table crosspost_job (
    channel_id bigint not null,
    message_id bigint not null,
    at         timestamptz not null default now(),
    primary key (channel_id, message_id)
);

-- The search index: one row per message. A channel's new messages are added when somebody
-- searches it (routes/search/index.rs), so that sending pays nothing for it; edits and deletes
-- change the row with the message.
create table message_search (
    channel_id bigint not null,
    message_id bigint not null,
    author_id  bigint not null,
    -- 0 user, 1 bot, 2 webhook.
    author_kind smallint not null,
    words      tsvector not null,
    -- Bits: see routes/search/index.rs.
    has        integer not null,
    mention_everyone boolean not null,
    mentions   bigint[] not null,
    mention_roles bigint[] not null,
    replied_to bigint,
    -- Hosts of links, lower case.
    hosts      text[] not null,
    -- Names of attachments, lower case.
    filenames  text[] not null,
    primary key (channel_id, message_id)
);
create index message_search_words_idx on message_search using gin (words);
create index message_search_author_idx on message_search (author_id, message_id desc);

-- How far a channel is indexed: every message up to this id is.
create table message_search_channel (
    channel_id bigint primary key,
    indexed_to bigint not null default 0
);

-- What people have read, by channel.
create table read_state (
    user_id    bigint not null references account on delete cascade,
    channel_id bigint not null,
    last_message_id bigint not null default 0,
    mention_count integer not null default 0,
    last_pin_at timestamptz,
    -- Days since 2015-01-01.
    last_viewed integer,
    primary key (user_id, channel_id)
);
create index read_state_channel_idx on read_state (channel_id);

-- Who was mentioned by name, for the list of recent mentions. Forgotten after some days by
-- housekeeping; rows of deleted messages are passed over until then.
create table user_mention (
    user_id    bigint not null,
    message_id bigint not null,
    channel_id bigint not null,
    primary key (user_id, message_id)
);
create index user_mention_message_idx on user_mention (message_id);
create index user_mention_channel_idx on user_mention (channel_id);
