-- What READY of people says is unread. Mentions are counted when it is read, not when they are
-- made: a message to @everyone costs one row, however many members the guild has.

alter table read_state
    -- What calls up to this message are in mention_count; later ones are counted when read.
    add column counted_to bigint not null default 0,
    -- The same of mentions by name, whose rows are forgotten after some days.
    add column named_to bigint not null default 0;

-- Taken off the list of recent mentions by its reader; it still counts as one.
alter table user_mention add column dismissed boolean not null default false;

-- Few of a channel's messages call roles or everyone.
create index message_called_idx on message (channel_id, message_id)
    where mention_everyone or mention_roles <> '{}';

-- A guild's channels without its threads, of which there may be many more.
create index channel_place_idx on channel (guild_id) where kind not in (10, 11, 12);
