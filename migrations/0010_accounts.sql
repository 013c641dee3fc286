-- Sessions, second factors, tickets sent by mail, and what people keep about each other.

alter table account
    -- 0 active, 1 disabled by its owner (logging in enables it), 2 locked by an operator,
    -- 3 deleted: the row stays as the author of what it wrote.
    add column state smallint not null default 0;

-- What the list of sessions shows. Bots' tokens have neither.
alter table auth_token
    add column os text,
    add column platform text,
    -- Written at most every few minutes.
    add column last_used_at timestamptz not null default now();

-- A row is a second factor in use.
create table account_mfa (
    user_id        bigint primary key references account on delete cascade,
    -- Shared with the authenticator, at least 128 bits.
    totp_secret    bytea not null,
    -- The newest 30-second step a code was taken for: no code is taken twice.
    totp_step      bigint not null default 0,
    -- Backup codes are derived from the cluster's key and this, so they are not stored.
    backup_salt    bytea not null,
    -- Bit n: code n is used up.
    backup_used    integer not null default 0
);

-- Secrets that open one thing once: the second half of a login, links in mails.
-- Only the SHA-256 is stored.
create table account_ticket (
    ticket_hash bytea primary key,
    user_id     bigint not null references account on delete cascade,
    -- See api/src/tickets.rs.
    purpose     smallint not null,
    -- The address a mail went to.
    email       text,
    -- Wrong codes shown with it.
    attempts    smallint not null default 0,
    created_at  timestamptz not null default now(),
    expires_at  timestamptz not null
);
create index account_ticket_user_idx on account_ticket (user_id, purpose);
create index account_ticket_expires_idx on account_ticket (expires_at);

-- Work on an account that is too much for one transaction; done in steps by any process.
create table account_job (
    user_id  bigint not null references account on delete cascade,
    -- 1 tell its guilds of a changed user, 2 erase.
    kind     smallint not null,
    -- The guild the last step ended with.
    after_id bigint not null default 0,
    primary key (user_id, kind)
);

-- How user_id stands to other_id: 1 friend, 2 blocked, 3 was asked, 4 has asked.
create table relationship (
    user_id  bigint not null references account on delete cascade,
    other_id bigint not null references account on delete cascade,
    kind     smallint not null check (kind between 1 and 4),
    nickname text,
    since    timestamptz not null default now(),
    primary key (user_id, other_id)
);
create index relationship_other_idx on relationship (other_id);

-- Only what differs from the defaults: see shared/src/model/settings.rs.
create table user_settings (
    user_id  bigint primary key references account on delete cascade,
    settings jsonb not null
);

-- guild_id 0: of direct messages.
create table user_guild_settings (
    user_id  bigint not null references account on delete cascade,
    guild_id bigint not null,
    settings jsonb not null,
    primary key (user_id, guild_id)
);

create table user_note (
    user_id  bigint not null references account on delete cascade,
    about_id bigint not null references account on delete cascade,
    note     text not null,
    primary key (user_id, about_id)
);
