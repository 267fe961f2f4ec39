-- LAN peers: whom the operator trusts, how far each sender has counted, and when peers were last there.

-- Keys that an operator trusted with `ambientctl peers trust`; those of the configuration are not in here.
CREATE TABLE peer_trust (
    key TEXT NOT NULL PRIMARY KEY CHECK (key GLOB 'ed25519:*' AND length(key) = 72),
    name TEXT NOT NULL DEFAULT '',
    added_at TEXT NOT NULL,
    added_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What must not be taken again, by the sender's key: lines as JSON, [[name, sequence, issued_at_ms], ...],
-- the one used last at the end. Written before what it guards.
CREATE TABLE peer_floors (
    key TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL CHECK (version >= 0),
    since_ms INTEGER NOT NULL CHECK (since_ms >= 0),
    lines_json TEXT NOT NULL CHECK (json_valid(lines_json))
) STRICT, WITHOUT ROWID;

-- This node's own line: numbers from next_sequence on were never used. since_ms is when this store began to
-- remember other senders.
CREATE TABLE peer_self (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    since_ms INTEGER NOT NULL CHECK (since_ms >= 0),
    line TEXT NOT NULL CHECK (line <> ''),
    next_sequence INTEGER NOT NULL CHECK (next_sequence >= 1)
) STRICT;

-- When a trusted peer was last linked and last compared with; names and addresses are what it said.
CREATE TABLE peer_seen (
    key TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL DEFAULT '',
    address TEXT NOT NULL DEFAULT '',
    seen_at TEXT,
    synced_at TEXT
) STRICT, WITHOUT ROWID;
