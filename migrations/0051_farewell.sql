-- What goes with a deleted account and is found by it: notes of others about it.
create index user_note_about_idx on user_note (about_id);
