-- Accounts, their tokens, and the applications that bots belong to.

create table account (
    user_id       bigint primary key,
    username      text not null,
    -- '0' for unique names; kept as text because the wire wants text.
    discriminator text not null default '0',
    global_name   text,
    avatar        text,
    banner        text,
    accent_color  integer,
    bio           text not null default '',
    pronouns      text not null default '',
    email         text,
    password_hash text,
    bot           boolean not null default false,
    verified      boolean not null default false,
    locale        text not null default 'en-US',
    flags         bigint not null default 0,
    public_flags  bigint not null default 0,
    date_of_birth date,
    created_at    timestamptz not null default now()
);
create unique index account_username_key on account (lower(username));
create unique index account_email_key on account (lower(email)) where email is not null;

-- Only the SHA-256 of a token is stored: a stolen table opens no account.
create table auth_token (
    token_hash   bytea primary key,
    user_id      bigint not null references account on delete cascade,
    created_at   timestamptz not null default now()
);
create index auth_token_user_idx on auth_token (user_id);

-- application_id is the bot's user id, as for every application made today.
create table application (
    application_id bigint primary key references account (user_id) on delete cascade,
    owner_id       bigint not null references account (user_id),
    name           text not null,
    description    text not null default '',
    icon           text,
    flags          bigint not null default 0,
    bot_public     boolean not null default true,
    -- Hex Ed25519 public key, 64 digits.
    verify_key     text not null,
    redirect_uris  text[] not null default '{}',
    created_at     timestamptz not null default now()
);
create index application_owner_idx on application (owner_id);
