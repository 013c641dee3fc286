-- A stage on which nobody has spoken for minutes is closed. Since when: a speaker has last left or
-- stepped down, or the stage has been opened. Whether somebody speaks now is in voice_state.
alter table stage_instance add column silent_since timestamptz not null default now();
