-- Whole jobs that came by the broker while the store did not serve (PROTOCOL I1, I3). The previous release knows nothing of it
-- and goes on.

-- One row for each id that came so. An alias answers with the first job of its key; a tombstone makes nothing.
CREATE TABLE robata.accepted (
    id       uuid PRIMARY KEY,
    first_id uuid,  -- the first job of its key, where that was taken
    gone_at  bigint -- when its job was pruned
);
CREATE INDEX accepted_aliases ON robata.accepted (first_id) WHERE first_id IS NOT NULL;
CREATE INDEX accepted_gone ON robata.accepted (gone_at) WHERE gone_at IS NOT NULL;

-- Times from which on ids may be in the broker and not here, until it was read to its end.
CREATE TABLE robata.outages (
    seq     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    since   bigint NOT NULL,
    over_at bigint
);
CREATE INDEX outages_open ON robata.outages (since) WHERE over_at IS NULL;
CREATE INDEX outages_over ON robata.outages (over_at) WHERE over_at IS NOT NULL;
