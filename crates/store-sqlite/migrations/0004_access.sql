-- Who may do what, and lists of who did what.

-- Revoked ones stay: from the first one on there ever was one, and a secret is never given out twice.
CREATE TABLE tokens (
    hash       BLOB    PRIMARY KEY, -- SHA-256 of the secret
    name       TEXT    NOT NULL,
    role       TEXT    NOT NULL,
    app        TEXT,
    created_at INTEGER NOT NULL,
    created_by TEXT    NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX tokens_in_force ON tokens (name) WHERE revoked_at IS NULL;

CREATE INDEX audit_by_app ON audit (app) WHERE app IS NOT NULL;
CREATE INDEX audit_by_whom ON audit (by);
CREATE INDEX audit_by_app_and_whom ON audit (app, by) WHERE app IS NOT NULL;
CREATE INDEX audit_by_job ON audit (job_id) WHERE job_id IS NOT NULL;

-- What an app is, for people.
ALTER TABLE catalog_apps ADD COLUMN description TEXT;
