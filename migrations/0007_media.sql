-- Files in the object store, and what is made of them: emojis, stickers, sounds, images.
--
-- A file is written before the row that shows it commits, and removed after the last such row
-- has gone. media_file knows every file there is or may be: a crash between two steps leaves a
-- row here that housekeeping collects, never a file that nothing knows and never a wanted row
-- without its file.

create table media_file (
    -- attachments/<id>, avatars/<user>/<hash>, emojis/<id>, ...: the key in the object store.
    path         text primary key,
    content_type text not null,
    size         bigint not null,
    -- Of images, where known.
    width        integer,
    height       integer,
    -- Rows that show it; counted by the triggers below.
    uses         integer not null default 0,
    -- When an unused file goes; null while it is used.
    collect_at   timestamptz
);
create index media_file_collect_idx on media_file (collect_at) where collect_at is not null;

-- Counts rows that began (delta 1) or ceased (-1) to show files. A file that is no longer
-- there fails the transaction: the client tries again with a new upload.
create function media_use(used text[], delta integer) returns void language plpgsql as $$
declare
    found_count integer;
begin
    -- Locked in one order, so that nobody waits in a circle.
    perform from media_file where path = any(used) order by path for update;
    update media_file
    set uses = greatest(uses + delta, 0),
        collect_at = case when uses + delta > 0 then null else now() end
    where path = any(used);
    get diagnostics found_count = row_count;
    if delta > 0 and found_count < cardinality(used) then
        raise exception 'a file is gone before it was used' using errcode = 'serialization_failure';
    end if;
end $$;

-- The path of the file that a column shows: folder holds {columns}, field is a column or
-- settings.key.
create function media_path(folder text, field text, shown jsonb) returns text
language plpgsql immutable as $$
declare
    name text := shown #>> string_to_array(field, '.');
    part text;
begin
    if name is null then
        return null;
    end if;
    for part in select (regexp_matches(folder, '\{(\w+)\}', 'g'))[1] loop
        folder := replace(folder, '{' || part || '}', shown ->> part);
    end loop;
    return folder || '/' || name;
end $$;

create function media_follow() returns trigger language plpgsql as $$
declare
    before text;
    after text;
begin
    if tg_op <> 'INSERT' then
        before := media_path(tg_argv[0], tg_argv[1], to_jsonb(old));
    end if;
    if tg_op <> 'DELETE' then
        after := media_path(tg_argv[0], tg_argv[1], to_jsonb(new));
    end if;
    if after is distinct from before then
        if after is not null then
            perform media_use(array[after], 1);
        end if;
        if before is not null then
            perform media_use(array[before], -1);
        end if;
    end if;
    return null;
end $$;

-- Makes a column (or key of a jsonb column: settings.banner) one that shows files of a folder.
-- Rows without a file cost a comparison.
create function media_follow_column(shown regclass, folder text, field text)
returns void language plpgsql as $$
declare
    expression text := case strpos(field, '.')
        when 0 then format('%%s.%I', field)
        else format('(%%s.%I ->> %L)', split_part(field, '.', 1), split_part(field, '.', 2)) end;
    old_value text := format(expression, 'old');
    new_value text := format(expression, 'new');
    name text := 'media_' || replace(field, '.', '_');
begin
    execute format(
        'create trigger %I after insert on %s for each row when (%s is not null)
         execute function media_follow(%L, %L)',
        name || '_inserted', shown, new_value, folder, field);
    execute format(
        'create trigger %I after update on %s for each row when (%s is distinct from %s)
         execute function media_follow(%L, %L)',
        name || '_updated', shown, old_value, new_value, folder, field);
    execute format(
        'create trigger %I after delete on %s for each row when (%s is not null)
         execute function media_follow(%L, %L)',
        name || '_deleted', shown, old_value, folder, field);
end $$;

-- Attachments of a message: those listed, those its embeds and components show, and those of
-- messages it forwards.
create function media_of_message(extra jsonb) returns text[] language sql immutable as $$
    select coalesce(array_agg(distinct 'attachments/' || (id #>> '{}')), '{}')
    from (
        select jsonb_path_query(extra, '$.attachments[*].id') as id
        union all
        select jsonb_path_query(extra, '$.embedded_files[*]')
        union all
        select jsonb_path_query(extra, '$.components.**.attachment_id')
        union all
        select jsonb_path_query(extra, '$.message_snapshots[*].message.attachments[*].id')
    ) shown
$$;

create function media_follow_message() returns trigger language plpgsql as $$
declare
    before text[] := '{}';
    after text[] := '{}';
    gone text[];
    come text[];
begin
    if tg_op <> 'INSERT' then
        before := media_of_message(old.extra);
    end if;
    if tg_op <> 'DELETE' then
        after := media_of_message(new.extra);
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
create trigger media_inserted after insert on message for each row
    when (new.extra ?| array['attachments', 'embedded_files', 'components', 'message_snapshots'])
    execute function media_follow_message();
create trigger media_updated after update on message for each row
    when (old.extra is distinct from new.extra)
    execute function media_follow_message();
create trigger media_deleted after delete on message for each row
    when (old.extra ?| array['attachments', 'embedded_files', 'components', 'message_snapshots'])
    execute function media_follow_message();

alter table member add column avatar text, add column banner text;
alter table role add column icon text, add column unicode_emoji text;

select media_follow_column('account', 'avatars/{user_id}', 'avatar');
select media_follow_column('account', 'banners/{user_id}', 'banner');
select media_follow_column('application', 'app-icons/{application_id}', 'icon');
select media_follow_column('guild', 'icons/{guild_id}', 'icon');
select media_follow_column('guild', 'splashes/{guild_id}', 'settings.splash');
select media_follow_column('guild', 'discovery-splashes/{guild_id}', 'settings.discovery_splash');
select media_follow_column('guild', 'banners/{guild_id}', 'settings.banner');
select media_follow_column('member', 'guilds/{guild_id}/users/{user_id}/avatars', 'avatar');
select media_follow_column('member', 'guilds/{guild_id}/users/{user_id}/banners', 'banner');
select media_follow_column('role', 'role-icons/{role_id}', 'icon');

-- Of a guild or of an application. Their number per owner is small enough to cascade.
create table emoji (
    emoji_id       bigint primary key,
    guild_id       bigint references guild on delete cascade,
    application_id bigint references application on delete cascade,
    name           text not null,
    -- Only members with one of these may use it; empty: everybody.
    roles          bigint[] not null default '{}',
    animated       boolean not null,
    available      boolean not null default true,
    creator_id     bigint,
    check ((guild_id is null) <> (application_id is null))
);
create index emoji_guild_idx on emoji (guild_id) where guild_id is not null;
create index emoji_application_idx on emoji (application_id) where application_id is not null;
select media_follow_column('emoji', 'emojis', 'emoji_id');

create table sticker (
    sticker_id  bigint primary key,
    guild_id    bigint not null references guild on delete cascade,
    name        text not null,
    description text,
    tags        text not null,
    -- 1 PNG, 2 APNG, 3 Lottie, 4 GIF.
    format      smallint not null,
    available   boolean not null default true,
    creator_id  bigint
);
create index sticker_guild_idx on sticker (guild_id);
select media_follow_column('sticker', 'stickers', 'sticker_id');

create table soundboard_sound (
    sound_id   bigint primary key,
    guild_id   bigint not null references guild on delete cascade,
    name       text not null,
    -- 0 to 1.
    volume     double precision not null,
    emoji_id   bigint,
    emoji_name text,
    available  boolean not null default true,
    creator_id bigint
);
create index soundboard_sound_guild_idx on soundboard_sound (guild_id);
select media_follow_column('soundboard_sound', 'soundboard-sounds', 'sound_id');
