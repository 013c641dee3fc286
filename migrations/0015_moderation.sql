-- Members, roles and bans of large guilds; automod.

alter table role
    add column secondary_color integer,
    add column tertiary_color  integer;

-- Days on which accounts used the API: prune removes whom nobody has seen for long.
create table account_seen (
    user_id bigint primary key,
    -- UTC.
    seen_on date not null
);

-- Names are searched by their beginning; "C" order makes that a range of the index.
create index account_username_prefix_idx on account (lower(username) collate "C");
create index account_global_name_prefix_idx on account (lower(global_name) collate "C")
    where global_name is not null;
create index member_nick_prefix_idx on member (guild_id, lower(nick) collate "C")
    where nick is not null;

-- Roles that are gone, while members still hold them: taken from them in batches.
create table deleted_role (
    guild_id bigint not null,
    role_id  bigint not null,
    primary key (guild_id, role_id)
);

alter table ban add column created_at timestamptz not null default now();

create table automod_rule (
    rule_id          bigint primary key,
    guild_id         bigint not null,
    creator_id       bigint not null,
    name             text not null,
    event_type       smallint not null,
    trigger_type     smallint not null,
    enabled          boolean not null,
    -- As on the wire: api/src/routes/automod.
    trigger_metadata jsonb not null,
    actions          jsonb not null,
    exempt_roles     bigint[] not null default '{}',
    exempt_channels  bigint[] not null default '{}'
);
create index automod_rule_guild_idx on automod_rule (guild_id, rule_id);
