-- Applications that a user has installed for themselves: their commands go where the user goes.
-- Listed and taken back with what else the user allows the application.
alter table oauth2_grant add column installed boolean not null default false;
