-- Session leases that this node has activated: active ones, and ended ones while a lease could be used again.
-- Times that end in _ms are milliseconds since 1970 by trusted time; boot_ms counts since the machine's start.
CREATE TABLE session_leases (
    jti TEXT PRIMARY KEY CHECK (length(jti) BETWEEN 1 AND 128),
    issuer BLOB NOT NULL CHECK (length(issuer) = 32),
    session_id TEXT NOT NULL,
    policy_id TEXT NOT NULL,
    body BLOB NOT NULL CHECK (length(body) <= 16384),
    state TEXT NOT NULL CHECK (state IN ('active', 'ended')),
    end_reason TEXT CHECK ((end_reason IS NULL) = (state = 'active')),
    activated_at TEXT NOT NULL,
    ended_at TEXT CHECK ((ended_at IS NULL) = (state = 'active')),
    activated_ms INTEGER NOT NULL,
    exp_ms INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    boot_ms INTEGER NOT NULL CHECK (boot_ms >= 0),
    elapsed_ms INTEGER NOT NULL CHECK (elapsed_ms >= 0),
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    denied INTEGER NOT NULL CHECK (denied >= 0)
) STRICT;

CREATE INDEX session_leases_by_state ON session_leases (state, activated_at);
CREATE INDEX session_leases_by_expiry ON session_leases (exp_ms);
CREATE UNIQUE INDEX session_leases_one_a_session ON session_leases (session_id) WHERE state = 'active';

-- Leases that their issuers took back, also those that this node has not seen yet.
CREATE TABLE lease_revocations (
    jti TEXT NOT NULL CHECK (length(jti) BETWEEN 1 AND 128),
    issuer BLOB NOT NULL CHECK (length(issuer) = 32),
    issued_ms INTEGER NOT NULL,
    received_at TEXT NOT NULL,
    PRIMARY KEY (jti, issuer)
) STRICT, WITHOUT ROWID;

CREATE INDEX lease_revocations_by_time ON lease_revocations (issued_ms);
