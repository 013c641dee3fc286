-- Who is timed out stays so, also who leaves and comes back: until when, while they are no member.
create table silenced_leaver (
    guild_id bigint not null,
    user_id  bigint not null,
    until    timestamptz not null,
    primary key (guild_id, user_id)
);
create index silenced_leaver_until_idx on silenced_leaver (until);
