-- Who reads which format (PROTOCOL V1). Daemons of before are of the format 1.

ALTER TABLE workers ADD COLUMN format INTEGER NOT NULL DEFAULT 1;
-- The format that the request is frozen in: who reads only older ones does not adopt its attempt.
ALTER TABLE start_requests ADD COLUMN format INTEGER NOT NULL DEFAULT 1;
