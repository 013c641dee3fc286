-- Whether a name begins so, in any case: a range of the index of names (0015), whose end is the
-- greatest text with the beginning. Postgres puts it into the statement, so that the index serves.
create function begins(name text, beginning text) returns boolean
language sql immutable parallel safe
return lower(name) collate "C" >= lower(beginning) collate "C"
   and lower(name) collate "C" <= (lower(beginning) || chr(1114111)) collate "C";
