-- Invites to group DMs. Apart from those of guilds: they have no guild, roles or targets, and what only
-- knows `invite` finds none of them.
create table group_invite (
    channel_id bigint not null references channel on delete cascade,
    code       text not null unique,
    inviter_id bigint not null references account on delete cascade,
    -- Seconds, at most a week.
    max_age    integer not null,
    uses       integer not null default 0,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    primary key (channel_id, code)
);
create index group_invite_expires_idx on group_invite (expires_at);
