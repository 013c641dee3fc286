-- Who leaves a guild is interested in none of its events any more: of the many who are, the rows of
-- one user are found by their id.
create index scheduled_event_user_user_idx on scheduled_event_user (user_id);
-- Those who have left before.
delete from scheduled_event_user u using scheduled_event e
where e.event_id = u.event_id
  and not exists (select from member m where m.guild_id = e.guild_id and m.user_id = u.user_id);
