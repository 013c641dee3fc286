-- Messages. (channel_id, message_id) is the order in which every list reads them.
-- No foreign keys: the writer checks the channel under the realm's row lock,
-- and a busy table should not pay for the same check twice.

create table message (
    channel_id bigint not null,
    message_id bigint not null,
    author_id  bigint not null,
    kind       smallint not null default 0,
    flags      bigint not null default 0,
    content    text not null,
    edited_at  timestamptz,
    tts        boolean not null default false,
    mention_everyone boolean not null default false,
    -- User and role ids that were really mentioned (after allowed_mentions).
    mentions   bigint[] not null default '{}',
    mention_roles bigint[] not null default '{}',
    -- embeds, message_reference, ...: see shared/src/model/message.rs. Null when there are none.
    extra      jsonb,
    primary key (channel_id, message_id)
);

-- One (channel, author, enforced nonce) makes one message (I15). Rows are
-- forgotten after a few minutes by the API's housekeeping.
create table message_nonce (
    channel_id bigint not null,
    author_id  bigint not null,
    nonce      text not null,
    message_id bigint not null,
    at         timestamptz not null default now(),
    primary key (channel_id, author_id, nonce)
);
create index message_nonce_at_idx on message_nonce (at);
