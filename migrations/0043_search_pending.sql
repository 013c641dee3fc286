-- What is indexed goes to a list first and into the index of words when that is full; until then
-- each search reads all of it, once for every word. 128 kB are read in no time, and are still
-- enough for the index to be filled as fast as with the 4 MB that are the default.
alter index message_search_words_idx set (gin_pending_list_limit = 128);
