-- Who may do what, and lists of who did what. The previous release knows nothing of it and goes on.

-- Revoked ones stay: from the first one on there ever was one, and a secret is never given out twice.
CREATE TABLE robata.tokens (
    hash       bytea  PRIMARY KEY, -- SHA-256 of the secret
    name       text   NOT NULL,
    role       text   NOT NULL,
    app        text,
    created_at bigint NOT NULL,
    created_by text   NOT NULL,
    expires_at bigint,
    revoked_at bigint
);
CREATE UNIQUE INDEX tokens_in_force ON robata.tokens (name) WHERE revoked_at IS NULL;

-- Lists go newest first. The negative number is in no other index, so that no planner takes the primary key for the short way
-- and reads all that others did.
CREATE INDEX audit_by_app ON robata.audit (app, (-seq)) WHERE app IS NOT NULL;
CREATE INDEX audit_by_whom ON robata.audit (by, (-seq));
CREATE INDEX audit_by_app_and_whom ON robata.audit (app, by, (-seq)) WHERE app IS NOT NULL;
CREATE INDEX audit_by_job ON robata.audit (job_id, (-seq)) WHERE job_id IS NOT NULL;

-- What an app is, for people.
ALTER TABLE robata.catalog_apps ADD COLUMN description text;
