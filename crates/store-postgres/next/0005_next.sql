-- What the next release adds, for tests alone: this one must run over it.

ALTER TABLE robata.workers ADD COLUMN next text;
CREATE TABLE robata.next (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY
);
