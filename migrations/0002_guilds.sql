-- Guilds and everything inside them. Optional settings that no query filters on
-- live in one jsonb column, so a new field of the protocol needs no migration.

create table guild (
    guild_id     bigint primary key,
    name         text not null,
    owner_id     bigint not null references account (user_id),
    icon         text,
    description  text,
    member_count integer not null default 0,
    -- verification_level, afk_channel_id, system_channel_id, features, ...: see shared/src/model/guild.rs
    settings     jsonb not null default '{}'
);
create index guild_owner_idx on guild (owner_id);

create table role (
    guild_id    bigint not null references guild on delete cascade,
    role_id     bigint not null,
    name        text not null,
    color       integer not null default 0,
    hoist       boolean not null default false,
    position    integer not null,
    permissions bigint not null,
    managed     boolean not null default false,
    mentionable boolean not null default false,
    -- The bot whose managed role this is.
    bot_id      bigint,
    primary key (guild_id, role_id)
);

create table channel (
    channel_id  bigint primary key,
    guild_id    bigint references guild on delete cascade,
    kind        smallint not null,
    name        text,
    position    integer not null default 0,
    parent_id   bigint,
    -- [{"id","type","allow","deny"}], as on the wire.
    overwrites  jsonb not null default '[]',
    -- topic, nsfw, bitrate, user_limit, rate_limit_per_user, ...: see shared/src/model/channel.rs
    settings    jsonb not null default '{}'
);
create index channel_guild_idx on channel (guild_id);

create table member (
    guild_id  bigint not null references guild on delete cascade,
    user_id   bigint not null references account,
    nick      text,
    roles     bigint[] not null default '{}',
    joined_at timestamptz not null default now(),
    communication_disabled_until timestamptz,
    deaf      boolean not null default false,
    mute      boolean not null default false,
    pending   boolean not null default false,
    flags     bigint not null default 0,
    primary key (guild_id, user_id)
);
create index member_user_idx on member (user_id, guild_id);

create table ban (
    guild_id bigint not null references guild on delete cascade,
    user_id  bigint not null references account,
    reason   text,
    primary key (guild_id, user_id)
);

create table invite (
    code       text primary key,
    guild_id   bigint not null references guild on delete cascade,
    channel_id bigint not null references channel on delete cascade,
    inviter_id bigint references account on delete set null,
    max_age    integer not null,
    max_uses   integer not null,
    uses       integer not null default 0,
    temporary  boolean not null default false,
    created_at timestamptz not null default now(),
    expires_at timestamptz
);
create index invite_guild_idx on invite (guild_id);
create index invite_channel_idx on invite (channel_id);
