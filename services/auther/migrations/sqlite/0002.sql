-- Serial numbers, windows that can be opened again, revocations, the audit log and tokens.
ALTER TABLE device ADD COLUMN serial TEXT NOT NULL DEFAULT '';
ALTER TABLE device ADD COLUMN suspended_s INTEGER;
UPDATE device SET suspended_s = unixepoch() WHERE suspended <> 0;
ALTER TABLE device DROP COLUMN suspended;
ALTER TABLE device ADD COLUMN enrolment_from_s INTEGER NOT NULL DEFAULT 0;
UPDATE device SET enrolment_from_s = added_s;
ALTER TABLE device ADD COLUMN enrolment_window_s INTEGER;
ALTER TABLE device ADD COLUMN replacing INTEGER NOT NULL DEFAULT 0;

CREATE TABLE revocation (
    mac       TEXT NOT NULL,
    key       BLOB NOT NULL,
    reason    TEXT NOT NULL,                     -- suspended, key-replaced or removed
    revoked_s INTEGER NOT NULL,
    PRIMARY KEY (mac, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    id           INTEGER PRIMARY KEY,            -- counts the changes, from 1
    at_s         INTEGER NOT NULL,
    who          TEXT NOT NULL,
    what         TEXT NOT NULL,
    mac          TEXT,
    entry_before TEXT,                           -- JSON
    entry_after  TEXT
) STRICT;
CREATE INDEX audit_mac ON audit (mac, id);

CREATE TABLE token (
    name       TEXT PRIMARY KEY,
    hash       BLOB NOT NULL UNIQUE,             -- SHA-256
    scope      TEXT NOT NULL,                    -- read or write
    created_s  INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    expires_s  INTEGER
) STRICT, WITHOUT ROWID;

-- One row. Who changes anything changes it first, and so waits for whoever is changing something.
CREATE TABLE state (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    changes     INTEGER NOT NULL,
    revocations INTEGER NOT NULL                 -- number of the list of revocations
) STRICT;
INSERT INTO state VALUES (1, 0, 1);
