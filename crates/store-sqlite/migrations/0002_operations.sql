-- What operators do: pause queues, drain workers, look at what could not be taken in.

CREATE TABLE paused (
    queue  TEXT    PRIMARY KEY,
    reason TEXT    NOT NULL,
    by     TEXT    NOT NULL,
    since  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Not NULL: asked to drain at that time.
ALTER TABLE workers ADD COLUMN drain_at INTEGER;

-- Open attempts by their realm, for `lose`.
CREATE INDEX attempts_in_realm ON attempts (realm) WHERE finalised_at IS NULL AND realm IS NOT NULL;

CREATE TABLE set_aside (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    source     TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    body       BLOB    NOT NULL,
    attributes TEXT    NOT NULL
) STRICT;
