-- Interactions: what users asked of applications, and what was answered.

create table interaction (
    interaction_id      bigint primary key,
    -- SHA-256 of the token.
    token_hash          bytea not null unique,
    application_id      bigint not null references application on delete cascade,
    user_id             bigint not null,
    guild_id            bigint,
    channel_id          bigint not null,
    -- 2 command, 3 component, 4 autocomplete, 5 modal.
    kind                smallint not null,
    nonce               text,
    -- 0: waits for its answer, 1: answered, 2: not answered in time.
    state               smallint not null default 0,
    -- Type of the callback it was answered with.
    response            smallint,
    response_message_id bigint,
    -- What follow-ups need: see api/src/routes/interactions.
    context             jsonb not null,
    created_at          timestamptz not null default now()
);
create index interaction_created_idx on interaction (created_at);
create index interaction_waiting_idx on interaction (created_at) where state = 0;
create index interaction_application_idx on interaction (application_id);

-- Messages that answered an interaction.
create table interaction_message (
    interaction_id bigint not null references interaction on delete cascade,
    message_id     bigint not null,
    -- An ephemeral message, which is in no channel: as its user got it. Null for others.
    ephemeral      jsonb,
    primary key (interaction_id, message_id)
);
create index interaction_message_idx on interaction_message (message_id);

-- Files live as long as a row shows them: those a user attached, and those of ephemeral
-- messages, which look as in message.extra. The argument is the column's name.
create function media_follow_json() returns trigger language plpgsql as $$
declare
    before text[] := '{}';
    after text[] := '{}';
    gone text[];
    come text[];
begin
    if tg_op <> 'INSERT' then
        before := media_of_message(to_jsonb(old) -> tg_argv[0]);
    end if;
    if tg_op <> 'DELETE' then
        after := media_of_message(to_jsonb(new) -> tg_argv[0]);
    end if;
    select array_agg(path) into come from unnest(after) path where path <> all(before);
    select array_agg(path) into gone from unnest(before) path where path <> all(after);
    if come is not null then
        perform media_use(come, 1);
    end if;
    if gone is not null then
        perform media_use(gone, -1);
    end if;
    return null;
end $$;
create trigger media_inserted after insert on interaction for each row
    when (new.context ? 'attachments') execute function media_follow_json('context');
create trigger media_deleted after delete on interaction for each row
    when (old.context ? 'attachments') execute function media_follow_json('context');
create trigger media_inserted after insert on interaction_message for each row
    when (new.ephemeral is not null) execute function media_follow_json('ephemeral');
create trigger media_updated after update on interaction_message for each row
    when (old.ephemeral is distinct from new.ephemeral)
    execute function media_follow_json('ephemeral');
create trigger media_deleted after delete on interaction_message for each row
    when (old.ephemeral is not null) execute function media_follow_json('ephemeral');

-- Bots that were added before integrations were stored.
insert into integration (guild_id, integration_id, application_id, role_id, created_at)
select m.guild_id, p.application_id, p.application_id,
       (select min(r.role_id) from role r
        where r.guild_id = m.guild_id and r.bot_id = p.application_id),
       m.joined_at
from application p join member m on m.user_id = p.application_id
on conflict do nothing;
