-- What a guild has besides channels, roles and members, and how a guild goes.

-- A guild's row goes at once, and with it the guild for everybody. What was the guild's is
-- collected afterwards in small batches, so these tables no longer cascade: one statement over
-- a guild of 100,000 members would hold its locks for seconds.
create table deleted_guild (
    guild_id bigint primary key,
    at       timestamptz not null default now()
);
create function note_deleted_guild() returns trigger language plpgsql as $$
begin
    insert into deleted_guild (guild_id) values (old.guild_id) on conflict do nothing;
    return null;
end $$;
create trigger guild_deleted after delete on guild
    for each row execute function note_deleted_guild();
alter table role    drop constraint role_guild_id_fkey;
alter table channel drop constraint channel_guild_id_fkey;
alter table member  drop constraint member_guild_id_fkey;
alter table ban     drop constraint ban_guild_id_fkey;
alter table invite  drop constraint invite_guild_id_fkey;

-- Who is in which voice channel. `mute` and `deaf` by moderators are the member's.
create table voice_state (
    guild_id    bigint not null,
    user_id     bigint not null,
    channel_id  bigint not null,
    -- The gateway session that joined.
    session_id  text not null,
    self_mute   boolean not null default false,
    self_deaf   boolean not null default false,
    self_video  boolean not null default false,
    self_stream boolean not null default false,
    -- In the audience of a stage.
    suppress    boolean not null default false,
    request_to_speak_at timestamptz,
    joined_at   timestamptz not null default now(),
    -- The gateway that holds the session moves it on; what it has left behind is ended by housekeeping.
    alive_until timestamptz not null,
    primary key (guild_id, user_id)
) with (fillfactor = 50);
create index voice_state_channel_idx on voice_state (channel_id);

create table stage_instance (
    stage_id   bigint primary key,
    guild_id   bigint not null,
    channel_id bigint not null unique,
    topic      text not null,
    privacy_level smallint not null default 2,
    discoverable_disabled boolean not null default true,
    event_id   bigint
);
create index stage_instance_guild_idx on stage_instance (guild_id);

create table scheduled_event (
    event_id    bigint primary key,
    guild_id    bigint not null,
    channel_id  bigint,
    creator_id  bigint not null,
    name        text not null,
    description text,
    image       text,
    starts_at   timestamptz not null,
    ends_at     timestamptz,
    privacy_level smallint not null default 2,
    -- 1 scheduled, 2 active, 3 completed, 4 cancelled.
    status      smallint not null default 1,
    -- 1 stage, 2 voice, 3 external.
    entity_type smallint not null,
    entity_id   bigint,
    location    text,
    -- As on the wire; null for an event that happens once.
    recurrence_rule jsonb
);
create index scheduled_event_guild_idx on scheduled_event (guild_id, event_id);
create index scheduled_event_open_idx on scheduled_event (starts_at) where status in (1, 2);

-- One date of a recurring event that is moved or cancelled.
create table scheduled_event_exception (
    event_id     bigint not null references scheduled_event on delete cascade,
    -- A snowflake of original_at.
    exception_id bigint not null,
    -- The date by the rule that this replaces.
    original_at  timestamptz not null,
    starts_at    timestamptz,
    ends_at      timestamptz,
    canceled     boolean not null default false,
    primary key (event_id, exception_id)
);

-- Who is interested: in all dates (exception_id 0) or in one of them.
create table scheduled_event_user (
    event_id     bigint not null references scheduled_event on delete cascade,
    exception_id bigint not null default 0,
    user_id      bigint not null,
    primary key (event_id, exception_id, user_id)
);

create table guild_template (
    code        text primary key,
    guild_id    bigint not null unique,
    creator_id  bigint not null,
    name        text not null,
    description text,
    usage_count integer not null default 0,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    -- The guild as it was, with small numbers for ids: see api/src/routes/templates.
    snapshot    jsonb not null
);

-- Bots (and whatever else) connected to a guild. For a bot the id is its application's.
create table integration (
    guild_id       bigint not null,
    integration_id bigint not null,
    application_id bigint not null,
    -- Who added it.
    user_id        bigint,
    role_id        bigint,
    scopes         text[] not null default '{bot,applications.commands}',
    created_at     timestamptz not null default now(),
    primary key (guild_id, integration_id)
);
create index integration_application_idx on integration (application_id);

create table welcome_screen (
    guild_id    bigint primary key,
    enabled     boolean not null default false,
    description text,
    -- [{"channel_id","description","emoji_id","emoji_name"}], as on the wire.
    channels    jsonb not null default '[]'
);

create table onboarding (
    guild_id bigint primary key,
    enabled  boolean not null default false,
    mode     smallint not null default 0,
    default_channel_ids bigint[] not null default '{}',
    -- As on the wire.
    prompts  jsonb not null default '[]'
);

create table vanity_url (
    guild_id bigint primary key,
    -- Compared without regard to case.
    code     text not null,
    uses     integer not null default 0
);
create unique index vanity_url_code_key on vanity_url (lower(code));

alter table invite
    add column flags bigint not null default 0,
    add column target_type smallint,
    add column target_user_id bigint,
    add column target_application_id bigint,
    add column event_id bigint,
    add column role_ids bigint[] not null default '{}',
    -- Only the users of invite_target_user may take it.
    add column targeted boolean not null default false;
create index invite_expires_idx on invite (expires_at) where expires_at is not null;

create table invite_target_user (
    code    text not null references invite on delete cascade,
    user_id bigint not null,
    primary key (code, user_id)
);

create table invite_target_job (
    code         text primary key references invite on delete cascade,
    -- 1 processing, 2 completed, 3 failed.
    status       smallint not null,
    total        integer not null,
    processed    integer not null,
    error        text,
    created_at   timestamptz not null default now(),
    completed_at timestamptz
);
