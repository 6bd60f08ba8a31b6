-- What is told again and again takes turns, and no list and no clean-up walks over what it does not want.

-- How often a claim used up a reference (over a limit, paused) that was not noted as out yet: noting it is skipped then.
ALTER TABLE jobs ADD COLUMN used_up INTEGER NOT NULL DEFAULT 0;

-- Lists: of an app's queue; of a reason, with each state.
CREATE INDEX jobs_by_app_queue ON jobs (app, queue, state);
DROP INDEX jobs_by_reason;
CREATE INDEX jobs_by_reason ON jobs (reason, state) WHERE reason IS NOT NULL;
CREATE INDEX jobs_by_app_reason ON jobs (app, reason, state) WHERE reason IS NOT NULL;

-- Retention: a job with an idempotency key is kept longer than one without (PROTOCOL I3).
DROP INDEX jobs_ended;
CREATE INDEX jobs_ended ON jobs (app, state, finished_at) WHERE state > 2 AND idempotency_key IS NULL;
CREATE INDEX jobs_ended_keyed ON jobs (app, state, finished_at) WHERE state > 2 AND idempotency_key IS NOT NULL;

-- How often a log was told as to be removed: those told least go first.
ALTER TABLE logs_to_remove ADD COLUMN told INTEGER NOT NULL DEFAULT 0;
CREATE INDEX logs_to_remove_in_turn ON logs_to_remove (told);

-- The mark of a store that one process holds is a row of meta.
DROP TABLE marks;
