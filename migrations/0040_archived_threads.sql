-- Archived threads of a channel are listed by their door: open ones, or private ones, which alone
-- say who may add people (`invitable`). With the door in the index the list needs no look at
-- `channel`, for which the planner read the whole table when few rows were left to list.
create index thread_archived_open_idx on thread (parent_id, archive_at desc, thread_id desc)
    where archived and invitable is null;
create index thread_archived_private_idx on thread (parent_id, archive_at desc, thread_id desc)
    where archived and invitable is not null;
drop index thread_archived_idx;
