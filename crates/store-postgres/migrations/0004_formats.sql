-- Who reads which format (PROTOCOL V1). Daemons of before are of the format 1, and go on.

ALTER TABLE robata.workers ADD COLUMN format smallint NOT NULL DEFAULT 1;
-- The format that the request is frozen in: who reads only older ones does not adopt its attempt.
ALTER TABLE robata.start_requests ADD COLUMN format smallint NOT NULL DEFAULT 1;

-- Masters by their last mark, until it is an hour old.
CREATE TABLE robata.masters (
    id        uuid     PRIMARY KEY,
    format    smallint NOT NULL,
    marked_at bigint   NOT NULL
) WITH (fillfactor = 20);

-- The format in use.
INSERT INTO robata.meta (name, value) VALUES ('format', '1');
