-- What the next release adds, for tests alone: this one must run over it.

CREATE TABLE next (
    id INTEGER PRIMARY KEY
) STRICT;
