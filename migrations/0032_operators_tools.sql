-- What operators tell the coordinators, and who did what. Written by any coordinator, acted on
-- by the one that leads.

-- How the sessions of a draining node leave; null: they stay.
alter table cluster_node
    add column drain_since   timestamptz,
    add column drain_over_ms bigint;

-- Single moves: gone once the shard has arrived.
create table cluster_move (
    shard   integer primary key,
    node_id text not null
);

-- A row while only shards without a serving owner move.
create table cluster_pause (
    single boolean primary key default true check (single),
    since  timestamptz not null default now(),
    who    text not null
);

create table cluster_plan (
    plan_id     bigint generated always as identity primary key,
    -- draft, applying, done, aborted
    state       text not null default 'draft',
    made_at     timestamptz not null default now(),
    made_by     text not null,
    applied_at  timestamptz,
    applied_by  text,
    ended_at    timestamptz,
    changes     jsonb not null,
    -- SHA-256 of what it was made from, in hex: it is applied only while that is so.
    fingerprint text not null,
    outcome     jsonb not null,
    -- What was set before it was applied: an abort puts it back.
    settings_before jsonb
);
create unique index cluster_plan_one_runs_idx on cluster_plan (state) where state = 'applying';

-- How far the moves are, written by the leader.
create table cluster_progress (
    single boolean primary key default true check (single),
    term   bigint not null,
    state  jsonb
);
insert into cluster_progress (term) values (0);

-- The last move of each shard.
create table cluster_shard_move (
    shard     integer primary key,
    at        timestamptz not null default now(),
    from_node text,
    to_node   text,
    cause     text not null,
    term      bigint not null,
    version   bigint not null
);

create table cluster_audit (
    audit_id bigint generated always as identity primary key,
    at       timestamptz not null default now(),
    -- An operator's name, or coordinator/<id>.
    who      text not null,
    action   text not null,
    detail   jsonb not null,
    -- Of the map in use then; 0 before the first.
    term     bigint not null,
    version  bigint not null
);
