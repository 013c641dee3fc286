-- Applications: their settings and secrets, what users granted them (OAuth2), their commands.

alter table application
    -- interactions_endpoint_url, tags, install_params, ...: see shared/src/model/application.rs
    add column settings    jsonb not null default '{}',
    -- SHA-256 of the client secret; null until the first one is made.
    add column secret_hash bytea,
    -- Set by the owner's request; its bot leaves its guilds, then the row goes.
    add column deleted_at  timestamptz;
create index application_deleted_idx on application (application_id) where deleted_at is not null;

-- What a user allows an application, over all its tokens.
create table oauth2_grant (
    grant_id       bigint primary key,
    user_id        bigint not null references account on delete cascade,
    application_id bigint not null references application on delete cascade,
    scopes         text[] not null,
    created_at     timestamptz not null default now(),
    unique (user_id, application_id)
);
create index oauth2_grant_application_idx on oauth2_grant (application_id);

-- Of codes and tokens only the SHA-256 is stored.
create table oauth2_code (
    code_hash      bytea primary key,
    application_id bigint not null references application on delete cascade,
    user_id        bigint not null references account on delete cascade,
    scopes         text[] not null,
    redirect_uri   text not null,
    -- PKCE: the challenge in its S256 form; null if the client sent none.
    code_challenge text,
    expires_at     timestamptz not null
);
create index oauth2_code_expires_idx on oauth2_code (expires_at);
create index oauth2_code_application_idx on oauth2_code (application_id);
create index oauth2_code_user_idx on oauth2_code (user_id);

create table oauth2_token (
    token_hash     bytea primary key,
    -- Null for client credentials, which are not refreshed.
    refresh_hash   bytea unique,
    application_id bigint not null references application on delete cascade,
    user_id        bigint not null references account on delete cascade,
    scopes         text[] not null,
    expires_at     timestamptz not null,
    -- The row goes then; a refresh token outlives its access token.
    forget_at      timestamptz not null
);
create index oauth2_token_forget_idx on oauth2_token (forget_at);
create index oauth2_token_application_idx on oauth2_token (application_id, user_id);
create index oauth2_token_user_idx on oauth2_token (user_id);

create table application_command (
    command_id     bigint primary key,
    application_id bigint not null references application on delete cascade,
    -- Null: in every guild of the application, and in its direct messages.
    guild_id       bigint references guild on delete cascade,
    kind           smallint not null,
    name           text not null,
    -- A new snowflake with every change.
    version        bigint not null,
    -- description, options, localizations, ...: see shared/src/model/command.rs
    body           jsonb not null
);
create unique index application_command_name_key
    on application_command (application_id, coalesce(guild_id, 0), kind, name);
create index application_command_guild_idx on application_command (guild_id) where guild_id is not null;

-- Who may use a command (or, where target_id is the application's id, all its commands) in a guild.
create table application_command_permission (
    guild_id       bigint not null references guild on delete cascade,
    application_id bigint not null references application on delete cascade,
    target_id      bigint not null,
    -- [{"id","type","permission"}], as on the wire.
    permissions    jsonb not null,
    primary key (guild_id, application_id, target_id)
);
create index application_command_permission_application_idx
    on application_command_permission (application_id);
