-- Every upload to a slot is a file of its own, so that none replaces what a message was checked
-- with. The newest counts, until a message shows one of them.
alter table media_file add column slot bigint;
create index media_file_slot_idx on media_file (slot) where slot is not null;
