-- Places besides guild channels: threads, DMs and group DMs. All are rows of `channel`, so that
-- whatever belongs to a channel (messages, webhooks, pins) belongs to any of them alike.

-- What a thread has besides its row in `channel` (name, parent_id, settings: slowmode, flags,
-- last pin). How many members it has is counted in thread_member.
create table thread (
    thread_id    bigint primary key references channel on delete cascade,
    guild_id     bigint not null,
    parent_id    bigint not null,
    owner_id     bigint not null,
    archived     boolean not null default false,
    locked       boolean not null default false,
    -- Private threads only: whether who is no moderator may add people.
    invitable    boolean,
    auto_archive_minutes integer not null,
    -- Last change of archived or of auto_archive_minutes.
    archive_at   timestamptz not null default now(),
    -- Last message or unarchiving: what auto-archiving counts from.
    active_at    timestamptz not null default now(),
    -- Messages in it now (without the starter), and ever sent.
    message_count integer not null default 0,
    total_message_sent integer not null default 0,
    applied_tags bigint[] not null default '{}'
);
create index thread_active_idx on thread (guild_id, parent_id) where not archived;
create index thread_archived_idx on thread (parent_id, archive_at desc, thread_id desc) where archived;
create index thread_parent_idx on thread (parent_id, thread_id);
create index thread_idle_idx on thread (active_at) where not archived;

-- Goes with the guild membership.
create table thread_member (
    thread_id bigint not null references thread on delete cascade,
    user_id   bigint not null,
    guild_id  bigint not null,
    joined_at timestamptz not null default now(),
    flags     integer not null default 0,
    muted     boolean not null default false,
    -- {"end_time","selected_time_window"}, as on the wire.
    mute_config jsonb,
    primary key (thread_id, user_id),
    foreign key (guild_id, user_id) references member on delete cascade
);
create index thread_member_user_idx on thread_member (user_id, thread_id desc);
create index thread_member_member_idx on thread_member (guild_id, user_id);

-- A group DM's owner and picture; a DM of two has none.
alter table channel add column owner_id bigint;
alter table channel add column icon text;

-- Who is in a DM or group DM.
create table private_recipient (
    channel_id bigint not null references channel on delete cascade,
    user_id    bigint not null references account on delete cascade,
    nick       text,
    -- The user does not list it; the next message opens it again.
    closed     boolean not null default false,
    primary key (channel_id, user_id)
);
create index private_recipient_user_idx on private_recipient (user_id, channel_id desc);

-- Two users have one DM at most.
create table private_pair (
    low_id     bigint not null,
    high_id    bigint not null,
    channel_id bigint not null references channel on delete cascade,
    primary key (low_id, high_id),
    check (low_id < high_id)
);
create index private_pair_channel_idx on private_pair (channel_id);

-- What was deleted but still has rows without foreign keys: housekeeping deletes them in
-- bounded batches (api/src/collect.rs), then the entry.
create table collect (
    -- 1: everything kept by channel_id.
    kind smallint not null,
    id   bigint not null,
    at   timestamptz not null default now(),
    primary key (kind, id)
);
create index collect_at_idx on collect (at);
