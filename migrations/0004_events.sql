-- The numbered event log of every realm (a guild or a user), and the cluster's own tables.

create table realm_head (
    realm_id  bigint primary key,
    shard     integer not null,
    era       integer not null default 1,
    -- Number of the realm's newest event; 0 before the first.
    seq       bigint not null default 0,
    -- Number of the newest event that changed what somebody may do: a permission
    -- check made at this number still holds while it stands.
    state_seq bigint not null default 0
) with (fillfactor = 50); -- updated per event: leave room for HOT updates

-- Partitioned by time so that old events go by dropping a table, never row by row.
-- shared/src/envelope.rs says what kind, vis and body hold.
create table realm_event (
    realm_id bigint not null,
    seq      bigint not null,
    shard    integer not null,
    era      integer not null,
    at       timestamptz not null default clock_timestamp(),
    kind     smallint not null,
    vis      bytea not null,
    body     bytea not null,
    alt      bytea,
    primary key (realm_id, seq, at)
) partition by range (at);
create index realm_event_shard_at_idx on realm_event (shard, at) include (realm_id, seq);

-- Process ids inside snowflakes: one API process holds one of 1024 numbers.
create table snowflake_worker (
    worker_id integer primary key check (worker_id between 0 and 1023),
    holder    text not null,
    until     timestamptz not null
);

create table cluster_term (
    single boolean primary key default true check (single),
    term   bigint not null,
    holder text not null,
    until  timestamptz not null
);
insert into cluster_term (term, holder, until) values (0, '', now());

create table cluster_node (
    node_id text primary key,
    weight  real not null default 1 check (weight > 0),
    -- active, cordoned, draining
    state   text not null default 'active'
);

create table cluster_pin (
    shard   integer primary key,
    node_id text not null
);

-- Fixed when the cluster is created; every process compares it with its own setting.
create table cluster_setting (
    key   text primary key,
    value text not null
);
