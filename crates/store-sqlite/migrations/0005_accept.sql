-- Whole jobs that came by the broker while the store did not serve (PROTOCOL I1, I3).

-- One row for each id that came so. An alias answers with the first job of its key; a tombstone makes nothing.
CREATE TABLE accepted (
    id       BLOB PRIMARY KEY,
    first_id BLOB,   -- the first job of its key, where that was taken
    gone_at  INTEGER -- when its job was pruned
) STRICT, WITHOUT ROWID;
CREATE INDEX accepted_aliases ON accepted (first_id) WHERE first_id IS NOT NULL;
CREATE INDEX accepted_gone ON accepted (gone_at) WHERE gone_at IS NOT NULL;

-- Times from which on ids may be in the broker and not here, until it was read to its end.
CREATE TABLE outages (
    seq     INTEGER PRIMARY KEY,
    since   INTEGER NOT NULL,
    over_at INTEGER
) STRICT;
CREATE INDEX outages_open ON outages (since) WHERE over_at IS NULL;
CREATE INDEX outages_over ON outages (over_at) WHERE over_at IS NOT NULL;
