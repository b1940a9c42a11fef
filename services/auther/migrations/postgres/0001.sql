-- The same tables as in SQLite. Every one has a primary key, so that logical replication carries
-- changes of its rows, and none has a sequence, which it would not carry. The row of `state` is made
-- by the auther that may write here: on a subscriber it comes from the publisher.
CREATE TABLE device (
    mac                TEXT COLLATE "C" PRIMARY KEY, -- 02:00:5e:10:00:01
    serial             TEXT NOT NULL,
    note               TEXT NOT NULL,
    sessions_max       BIGINT NOT NULL,
    suspended_s        BIGINT,                       -- seconds since 1970, as all times here
    added_s            BIGINT NOT NULL,
    enrolment_from_s   BIGINT NOT NULL,
    enrolment_window_s BIGINT,
    replacing          BIGINT NOT NULL,              -- 0 or 1
    key                BYTEA,                        -- fingerprint; NULL until the first login
    bound_s            BIGINT,
    last_login_s       BIGINT,
    software           TEXT,
    other_key_logins   BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE revocation (
    mac       TEXT COLLATE "C" NOT NULL,
    key       BYTEA NOT NULL,
    reason    TEXT NOT NULL,                         -- suspended, key-replaced or removed
    revoked_s BIGINT NOT NULL,
    PRIMARY KEY (mac, key)
);

CREATE TABLE audit (
    id           BIGINT PRIMARY KEY,                 -- counts the changes, from 1
    at_s         BIGINT NOT NULL,
    who          TEXT NOT NULL,
    what         TEXT NOT NULL,
    mac          TEXT COLLATE "C",
    entry_before TEXT,                               -- JSON
    entry_after  TEXT
);
CREATE INDEX audit_mac ON audit (mac, id);

CREATE TABLE token (
    name       TEXT COLLATE "C" PRIMARY KEY,
    hash       BYTEA NOT NULL UNIQUE,                -- SHA-256
    scope      TEXT NOT NULL,                        -- read or write
    created_s  BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    expires_s  BIGINT
);

-- One row. Who changes anything changes it first, and so waits for whoever is changing something.
CREATE TABLE state (
    one         BIGINT PRIMARY KEY CHECK (one = 1),
    changes     BIGINT NOT NULL,
    revocations BIGINT NOT NULL                      -- number of the list of revocations
);
