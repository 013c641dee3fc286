-- What banned people wrote lately and is still to be deleted: in steps, by any process.
create table ban_purge (
    guild_id   bigint not null,
    -- A snowflake: of one ban, or of all of a request.
    purge_id   bigint not null,
    user_ids   bigint[] not null,
    -- The least and the greatest id of a message that goes.
    since_id   bigint not null,
    until_id   bigint not null,
    -- Where the last step ended: channels before this one are done, and of it messages up to this.
    channel_id bigint not null default 0,
    message_id bigint not null default 0,
    -- When somebody was at it last.
    at         timestamptz not null default now(),
    primary key (guild_id, purge_id)
);
create index ban_purge_at_idx on ban_purge (at);
