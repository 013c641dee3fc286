-- A picture that a webhook was given for one message (avatar_url) stays while the message does:
-- see 0007_media.sql. Messages written by older code do not name theirs and are not counted.

create or replace function media_of_message(extra jsonb) returns text[] language sql immutable as $$
    select coalesce(array_agg(distinct path), '{}')
    from (
        select 'attachments/' || (id #>> '{}') as path
        from (
            select jsonb_path_query(extra, '$.attachments[*].id') as id
            union all
            select jsonb_path_query(extra, '$.embedded_files[*]')
            union all
            select jsonb_path_query(extra, '$.components.**.attachment_id')
            union all
            select jsonb_path_query(extra, '$.message_snapshots[*].message.attachments[*].id')
        ) attachment
        union all
        select extra #>> '{persona,picture}'
    ) shown
    where path is not null
$$;

drop trigger media_inserted on message;
create trigger media_inserted after insert on message for each row
    when (new.extra ?| array['attachments', 'embedded_files', 'components', 'message_snapshots',
                             'persona'])
    execute function media_follow_message();
drop trigger media_deleted on message;
create trigger media_deleted after delete on message for each row
    when (old.extra ?| array['attachments', 'embedded_files', 'components', 'message_snapshots',
                             'persona'])
    execute function media_follow_message();
