-- Whom the control plane says this node may trust on the LAN, and whom the operator does not trust all the same.

-- The newest roster that was taken, as its issuer signed it: it is held against the issuers of the day again.
CREATE TABLE peer_roster (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL CHECK (revision >= 1),
    body BLOB NOT NULL CHECK (length(body) <= 16384),
    issuer BLOB NOT NULL CHECK (length(issuer) = 32),
    signature BLOB NOT NULL CHECK (length(signature) = 64),
    taken_at TEXT NOT NULL
) STRICT;

-- Keys that no roster makes trusted.
CREATE TABLE peer_distrust (
    key TEXT NOT NULL PRIMARY KEY CHECK (key GLOB 'ed25519:*' AND length(key) = 72),
    added_at TEXT NOT NULL,
    added_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;
