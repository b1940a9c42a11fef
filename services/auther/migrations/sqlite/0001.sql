CREATE TABLE device (
    mac              TEXT PRIMARY KEY,           -- 02:00:5e:10:00:01
    note             TEXT NOT NULL,
    sessions_max     INTEGER NOT NULL,
    suspended        INTEGER NOT NULL DEFAULT 0,
    added_s          INTEGER NOT NULL,           -- seconds since 1970, as all times here
    key              BLOB,                       -- fingerprint; NULL until the first login
    bound_s          INTEGER,
    last_login_s     INTEGER,
    software         TEXT,
    other_key_logins INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
