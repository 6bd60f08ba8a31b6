-- Migrations only add; removal comes one release later (PROTOCOL V1). Each runs in the one transaction of src/migrate.rs.
-- Times are milliseconds since 1970 by robata_now(). States are the numbers of src/word.rs. No foreign keys: every write goes
-- through the store, which locks the job first, and their triggers would cost more than the inserts.

CREATE SEQUENCE robata.job_seq;
CREATE SEQUENCE robata.attempt_seq;

-- The store's clock (PROTOCOL T1). Only tests set the offset.
CREATE FUNCTION robata.robata_now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT clock_timestamp() + coalesce(nullif(current_setting('robata.clock_offset', true), ''), '0')::bigint * interval '1 ms'
$$;
CREATE FUNCTION robata.millis() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT floor(extract(epoch FROM robata.robata_now()) * 1000)::bigint
$$;

CREATE TABLE robata.meta (
    name  text PRIMARY KEY,
    value text NOT NULL
);
INSERT INTO robata.meta (name, value) VALUES ('catalog_revision', '0');

-- Jobs, those that ended included. `seq` is the order in which jobs were stored, so that lists are keyset walks. A job is
-- updated when it is claimed and when its attempt ends, not in between; what moves more often stands in `queued`.
CREATE TABLE robata.jobs (
    seq                 bigint   PRIMARY KEY,
    id                  uuid     NOT NULL UNIQUE,
    app                 text     NOT NULL,
    job                 text     NOT NULL,
    queue               text     NOT NULL,
    executor            text     NOT NULL,
    queue_chosen        boolean  NOT NULL,
    one_off             boolean  NOT NULL,
    state               smallint NOT NULL,
    rank                smallint NOT NULL, -- minus the priority: what goes first is smallest
    reason              text,
    message             text,
    attempt             integer  NOT NULL DEFAULT 0,
    max_attempts        bigint   NOT NULL,
    by_hand             boolean  NOT NULL DEFAULT false, -- max_attempts was set by a retry by hand
    counted             integer  NOT NULL DEFAULT 0,
    platform            integer  NOT NULL DEFAULT 0,
    never_set_going     integer  NOT NULL DEFAULT 0,
    labels              text,
    idempotency_key     text,
    created_at          bigint   NOT NULL,
    run_at              bigint   NOT NULL,
    expires_at          bigint,
    moved_at            bigint   NOT NULL,
    first_claimed_at    bigint,
    started_at          bigint,
    finished_at         bigint,
    cancel_requested_at bigint
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02,
        autovacuum_vacuum_insert_scale_factor = 0.1);

-- Lists and the counts of max_running.
CREATE INDEX jobs_by_state ON robata.jobs (state, seq);
CREATE INDEX jobs_by_app ON robata.jobs (app, state, seq);
CREATE INDEX jobs_by_definition ON robata.jobs (app, job, state, seq);
CREATE INDEX jobs_by_queue ON robata.jobs (queue, state, seq);
CREATE INDEX jobs_by_app_queue ON robata.jobs (app, queue, state, seq);
CREATE INDEX jobs_by_reason ON robata.jobs (reason, state, seq) WHERE reason IS NOT NULL;
CREATE INDEX jobs_by_app_reason ON robata.jobs (app, reason, state, seq) WHERE reason IS NOT NULL;
-- What is due, expires, is past its retention: a job with an idempotency key is kept longer (PROTOCOL I3).
CREATE INDEX jobs_due ON robata.jobs (run_at) WHERE state = 0;
CREATE INDEX jobs_expiring ON robata.jobs (expires_at) WHERE state < 2 AND expires_at IS NOT NULL AND started_at IS NULL;
CREATE INDEX jobs_ended ON robata.jobs (app, state, finished_at) WHERE state > 2 AND idempotency_key IS NULL;
CREATE INDEX jobs_ended_keyed ON robata.jobs (app, state, finished_at) WHERE state > 2 AND idempotency_key IS NOT NULL;

-- One small row for each queued job: what goes out next (PROTOCOL O2) and what is out (O3). Apart from the jobs, so that a
-- publication touches three small indexes and the history none.
CREATE TABLE robata.queued (
    id             uuid     PRIMARY KEY,
    seq            bigint   NOT NULL,
    queue          text     NOT NULL,
    executor       text     NOT NULL,
    rank           smallint NOT NULL,
    app            text     NOT NULL,
    job            text     NOT NULL,
    attempt        integer  NOT NULL, -- the number of the attempt to be
    published_at   bigint,
    publications   integer  NOT NULL DEFAULT 0,
    broker_key     text,
    -- How often a claim gave it back (over a limit, paused) that was not noted as out yet: noting it is skipped then.
    used_up        integer  NOT NULL DEFAULT 0,
    -- A master that was given the reference, and until when no other is: it is about to publish it.
    given_to       uuid,
    given_until    bigint
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX queued_to_go ON robata.queued (queue, executor, rank, app, job, seq) WHERE published_at IS NULL;
CREATE INDEX queued_out ON robata.queued (queue, executor, published_at) WHERE published_at IS NOT NULL;

-- What is read only when a job is claimed or shown singly.
CREATE TABLE robata.job_data (
    seq         bigint PRIMARY KEY,
    payload     bytea  NOT NULL,
    env         text,
    definition  text,
    traceparent text
);

CREATE TABLE robata.labels (
    key   text   NOT NULL,
    value text   NOT NULL,
    seq   bigint NOT NULL,
    PRIMARY KEY (key, value, seq)
);

-- Idempotency keys (PROTOCOL I3), in a table of their own.
CREATE TABLE robata.keys (
    app     text   NOT NULL,
    key     text   NOT NULL,
    seq     bigint NOT NULL,
    request bytea  NOT NULL,
    PRIMARY KEY (app, key)
);

CREATE TABLE robata.workers (
    incarnation uuid    PRIMARY KEY,
    host        text    NOT NULL,
    pid         bigint  NOT NULL,
    executors   text    NOT NULL,
    started_at  bigint  NOT NULL,
    seen_at     bigint  NOT NULL,
    lease_until bigint  NOT NULL,
    ended_at    bigint,
    draining    boolean NOT NULL DEFAULT false
) WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE TABLE robata.attempts (
    seq                bigint   PRIMARY KEY,
    job_id             uuid     NOT NULL,
    number             integer  NOT NULL,
    app                text     NOT NULL,
    holder             uuid     NOT NULL,
    epoch              bigint   NOT NULL,
    claim              uuid     NOT NULL,
    worker             text     NOT NULL,
    state              smallint NOT NULL,
    reason             text,
    detail             text,
    message            text,
    exit_code          integer,
    signal             integer,
    image              text,
    image_digest       text,
    definition_version bigint,
    executor           text     NOT NULL,
    realm              text,
    handle             text,
    counted            boolean,
    stop_cause         text,
    created_at         bigint   NOT NULL,
    moved_at           bigint   NOT NULL,
    started_at         bigint,
    finished_at        bigint,
    finalised_at       bigint,
    followed_until     bigint,
    waiting_reason     text,
    waiting_message    text,
    waiting_since      bigint,
    log_state          smallint NOT NULL DEFAULT 0,
    log_reason         text,
    log_bytes          bigint   NOT NULL DEFAULT 0,
    log_removed_at     bigint,
    UNIQUE (job_id, number)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
CREATE INDEX attempts_open ON robata.attempts (holder, seq) WHERE finalised_at IS NULL;
CREATE INDEX attempts_in_realm ON robata.attempts (realm) WHERE finalised_at IS NULL AND realm IS NOT NULL;
CREATE INDEX attempts_claimed ON robata.attempts (claim) WHERE finalised_at IS NULL;
CREATE INDEX attempts_logs ON robata.attempts (app, finalised_at) WHERE finalised_at IS NOT NULL AND log_removed_at IS NULL;

-- Frozen start requests (PROTOCOL O6), kept until the attempt is finalised.
CREATE TABLE robata.start_requests (
    attempt bigint PRIMARY KEY,
    request text   NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- Logs that must be removed, told again until they are: those told least often go first.
CREATE TABLE robata.logs_to_remove (
    job_id uuid    NOT NULL,
    number integer NOT NULL,
    told   integer NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, number)
);
CREATE INDEX logs_to_remove_in_turn ON robata.logs_to_remove (told, job_id, number);

-- Counts, kept in the transaction that moves the jobs, each line's in several rows whose sum counts: transactions that run
-- side by side add to different ones, so that none waits for another's commit. `out` is the part of `queued` in the broker.
CREATE TABLE robata.counters (
    queue     text     NOT NULL,
    executor  text     NOT NULL,
    shard     smallint NOT NULL,
    scheduled bigint   NOT NULL DEFAULT 0,
    queued    bigint   NOT NULL DEFAULT 0,
    running   bigint   NOT NULL DEFAULT 0,
    out       bigint   NOT NULL DEFAULT 0,
    PRIMARY KEY (queue, executor, shard)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);

-- A row for each max_running, locked by claims in the order of the key (PROTOCOL O6).
CREATE TABLE robata.limits (
    scope text PRIMARY KEY
);

CREATE TABLE robata.pauses (
    queue  text   PRIMARY KEY,
    reason text   NOT NULL,
    by     text   NOT NULL,
    since  bigint NOT NULL
);

-- Messages that could not be taken in.
CREATE TABLE robata.set_aside (
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         bigint NOT NULL,
    source     text   NOT NULL,
    reason     text   NOT NULL,
    body       bytea  NOT NULL,
    attributes text   NOT NULL
);

-- The catalog.
CREATE TABLE robata.catalog_queues (
    name     text PRIMARY KEY,
    settings text NOT NULL
);
CREATE TABLE robata.catalog_apps (
    name        text PRIMARY KEY,
    options     text NOT NULL,
    max_running bigint,
    retention   text NOT NULL
);
CREATE TABLE robata.catalog_definitions (
    app        text   NOT NULL,
    job        text   NOT NULL,
    options    text   NOT NULL,
    definition text   NOT NULL,
    version    bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (app, job)
);

-- Who changed the catalog or acted on a job, queue or worker.
CREATE TABLE robata.audit (
    seq    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     bigint NOT NULL,
    by     text   NOT NULL,
    action text   NOT NULL,
    app    text,
    name   text,
    job_id uuid
);

-- The masters' marks (PROTOCOL H4): when the last one was written, and since when they came without a gap.
CREATE TABLE robata.marks (
    one            boolean PRIMARY KEY DEFAULT true CHECK (one),
    at             bigint  NOT NULL,
    unbroken_since bigint  NOT NULL
) WITH (fillfactor = 20);
