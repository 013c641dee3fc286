-- What goes with a deleted account, and is found by it: notes of others about it, and events that it
-- was interested in.
create index user_note_about_idx on user_note (about_id);
create index if not exists scheduled_event_user_user_idx on scheduled_event_user (user_id);
