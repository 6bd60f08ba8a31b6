-- Migrations only add; removal comes one release later (PROTOCOL V1).
-- Times are milliseconds since 1970 by the wall clock. States are the numbers of src/word.rs.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The hot rows: small, moved often. `seq` is the order in which jobs were stored, so that every index below ends in it
-- for nothing, and lists are keyset walks.
CREATE TABLE jobs (
    seq                 INTEGER PRIMARY KEY,
    id                  BLOB    NOT NULL UNIQUE,
    app                 TEXT    NOT NULL,
    job                 TEXT    NOT NULL,
    queue               TEXT    NOT NULL,
    executor            TEXT    NOT NULL,
    queue_chosen        INTEGER NOT NULL,
    state               INTEGER NOT NULL,
    rank                INTEGER NOT NULL, -- minus the priority: what goes first is smallest
    reason              TEXT,
    message             TEXT,
    attempt             INTEGER NOT NULL DEFAULT 0,
    max_attempts        INTEGER NOT NULL,
    by_hand             INTEGER NOT NULL DEFAULT 0, -- max_attempts was set by a retry by hand
    counted             INTEGER NOT NULL DEFAULT 0,
    platform            INTEGER NOT NULL DEFAULT 0,
    never_set_going     INTEGER NOT NULL DEFAULT 0,
    labels              TEXT,
    idempotency_key     TEXT,
    created_at          INTEGER NOT NULL,
    run_at              INTEGER NOT NULL,
    expires_at          INTEGER,
    moved_at            INTEGER NOT NULL,
    first_claimed_at    INTEGER,
    started_at          INTEGER,
    finished_at         INTEGER,
    cancel_requested_at INTEGER,
    published_at        INTEGER,
    publications        INTEGER NOT NULL DEFAULT 0,
    broker_key          TEXT
) STRICT;

-- Lists and the counts of max_running.
CREATE INDEX jobs_by_state ON jobs (state);
CREATE INDEX jobs_by_app ON jobs (app, state);
CREATE INDEX jobs_by_definition ON jobs (app, job, state);
CREATE INDEX jobs_by_queue ON jobs (queue, state);
CREATE INDEX jobs_by_reason ON jobs (reason) WHERE reason IS NOT NULL;
-- What goes out next, in groups (PROTOCOL O2); what is out (O3).
CREATE INDEX jobs_to_go ON jobs (queue, executor, rank, app, job) WHERE state = 1 AND published_at IS NULL;
CREATE INDEX jobs_out ON jobs (queue, executor, published_at) WHERE state = 1 AND published_at IS NOT NULL;
-- What is due, expires, is past its retention.
CREATE INDEX jobs_due ON jobs (run_at) WHERE state = 0;
CREATE INDEX jobs_expiring ON jobs (expires_at) WHERE state < 2 AND expires_at IS NOT NULL AND started_at IS NULL;
CREATE INDEX jobs_ended ON jobs (app, state, finished_at) WHERE state > 2;

-- What is read only when a job is claimed or shown singly.
CREATE TABLE job_data (
    seq         INTEGER PRIMARY KEY REFERENCES jobs (seq) ON DELETE CASCADE,
    payload     BLOB NOT NULL,
    env         TEXT,
    definition  TEXT,
    traceparent TEXT
) STRICT;

CREATE TABLE labels (
    key   TEXT    NOT NULL,
    value TEXT    NOT NULL,
    seq   INTEGER NOT NULL,
    PRIMARY KEY (key, value, seq)
) STRICT, WITHOUT ROWID;

-- Idempotency keys (PROTOCOL I3), in a table of their own.
CREATE TABLE keys (
    app     TEXT    NOT NULL,
    key     TEXT    NOT NULL,
    seq     INTEGER NOT NULL,
    request BLOB    NOT NULL,
    PRIMARY KEY (app, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE workers (
    incarnation BLOB    PRIMARY KEY,
    host        TEXT    NOT NULL,
    pid         INTEGER NOT NULL,
    executors   TEXT    NOT NULL,
    started_at  INTEGER NOT NULL,
    seen_at     INTEGER NOT NULL,
    ended_at    INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX workers_live ON workers (incarnation) WHERE ended_at IS NULL;

CREATE TABLE attempts (
    seq                INTEGER PRIMARY KEY,
    job_id             BLOB    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    number             INTEGER NOT NULL,
    app                TEXT    NOT NULL,
    holder             BLOB    NOT NULL,
    epoch              INTEGER NOT NULL,
    claim              BLOB    NOT NULL,
    worker             TEXT    NOT NULL,
    state              INTEGER NOT NULL,
    reason             TEXT,
    detail             TEXT,
    message            TEXT,
    exit_code          INTEGER,
    signal             INTEGER,
    image              TEXT,
    image_digest       TEXT,
    definition_version INTEGER,
    executor           TEXT    NOT NULL,
    realm              TEXT,
    handle             TEXT,
    counted            INTEGER,
    stop_cause         TEXT,
    created_at         INTEGER NOT NULL,
    moved_at           INTEGER NOT NULL,
    started_at         INTEGER,
    finished_at        INTEGER,
    finalised_at       INTEGER,
    followed_until     INTEGER,
    waiting_reason     TEXT,
    waiting_message    TEXT,
    waiting_since      INTEGER,
    log_state          INTEGER NOT NULL DEFAULT 0,
    log_reason         TEXT,
    log_bytes          INTEGER NOT NULL DEFAULT 0,
    log_removed_at     INTEGER,
    UNIQUE (job_id, number)
) STRICT;
CREATE INDEX attempts_open ON attempts (holder) WHERE finalised_at IS NULL;
CREATE INDEX attempts_claimed ON attempts (claim) WHERE finalised_at IS NULL;
CREATE INDEX attempts_logs ON attempts (app, finalised_at) WHERE finalised_at IS NOT NULL AND log_removed_at IS NULL;

-- Frozen start requests (PROTOCOL O6), kept until the attempt is finalised.
CREATE TABLE start_requests (
    attempt INTEGER PRIMARY KEY REFERENCES attempts (seq) ON DELETE CASCADE,
    request TEXT NOT NULL
) STRICT;

-- Logs that must be removed, told again until they are.
CREATE TABLE logs_to_remove (
    job_id BLOB    NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (job_id, number)
) STRICT, WITHOUT ROWID;

-- Counts, kept in the transaction that moves the jobs; `out` is the part of `queued` that is in the broker.
CREATE TABLE counters (
    queue     TEXT    NOT NULL,
    executor  TEXT    NOT NULL,
    scheduled INTEGER NOT NULL DEFAULT 0,
    queued    INTEGER NOT NULL DEFAULT 0,
    running   INTEGER NOT NULL DEFAULT 0,
    out       INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (queue, executor)
) STRICT, WITHOUT ROWID;

-- The catalog.
CREATE TABLE catalog_queues (
    name     TEXT PRIMARY KEY,
    settings TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE catalog_apps (
    name        TEXT PRIMARY KEY,
    options     TEXT NOT NULL,
    max_running INTEGER,
    retention   TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE catalog_definitions (
    app        TEXT    NOT NULL,
    job        TEXT    NOT NULL,
    options    TEXT    NOT NULL,
    definition TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (app, job)
) STRICT, WITHOUT ROWID;

-- Who changed the catalog or acted on a job.
CREATE TABLE audit (
    seq    INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    by     TEXT    NOT NULL,
    action TEXT    NOT NULL,
    app    TEXT,
    name   TEXT,
    job_id BLOB
) STRICT;

-- The masters' marks (PROTOCOL H4).
CREATE TABLE marks (
    master BLOB PRIMARY KEY,
    at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
