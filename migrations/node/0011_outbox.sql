-- What waits for the control plane. Audit records and sessions are not copied: what is new of them is noted.

-- `joined`: changes of sessions are noted. `membership` names the node's registration that all numbers below
-- belong to. All request numbers up to `request_seq` may have been used. Sessions that were there before the
-- node joined are noted one by one: those behind `history_after`, up to `history_upto`.
CREATE TABLE outbox_state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    joined INTEGER NOT NULL DEFAULT 0 CHECK (joined IN (0, 1)),
    membership TEXT NOT NULL DEFAULT '',
    request_seq INTEGER NOT NULL DEFAULT 0 CHECK (request_seq >= 0),
    history_after INTEGER NOT NULL DEFAULT 0 CHECK (history_after >= 0),
    history_upto INTEGER NOT NULL DEFAULT 0 CHECK (history_upto >= 0),
    policies_revision INTEGER NOT NULL DEFAULT 0 CHECK (policies_revision >= 0),
    leases_revision INTEGER NOT NULL DEFAULT 0 CHECK (leases_revision >= 0),
    contact_ms INTEGER,
    contact_boot_id TEXT,
    contact_boot_ms INTEGER CHECK (contact_boot_ms >= 0),
    CHECK ((contact_ms IS NULL) = (contact_boot_id IS NULL) AND (contact_ms IS NULL) = (contact_boot_ms IS NULL))
) STRICT;

INSERT INTO outbox_state (one) VALUES (1);

-- `last_seq` is the highest number given, `acked_seq` the highest one that the control plane has kept.
-- `dropped` went since there was no room, or with what retention removed; `refused` since it was refused.
CREATE TABLE outbox_streams (
    stream TEXT NOT NULL PRIMARY KEY CHECK (stream IN ('reports', 'audit', 'ledger', 'delta_v', 'results')),
    last_seq INTEGER NOT NULL DEFAULT 0 CHECK (last_seq >= 0),
    acked_seq INTEGER NOT NULL DEFAULT 0 CHECK (acked_seq >= 0),
    acknowledged INTEGER NOT NULL DEFAULT 0 CHECK (acknowledged >= 0),
    dropped INTEGER NOT NULL DEFAULT 0 CHECK (dropped >= 0),
    refused INTEGER NOT NULL DEFAULT 0 CHECK (refused >= 0)
) STRICT, WITHOUT ROWID;

INSERT INTO outbox_streams (stream) VALUES ('reports'), ('audit'), ('ledger'), ('delta_v'), ('results');

CREATE TABLE outbox_reports (
    seq INTEGER PRIMARY KEY CHECK (seq >= 1),
    at_ms INTEGER NOT NULL,
    priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 9),
    body BLOB NOT NULL CHECK (length(body) BETWEEN 2 AND 65536)
) STRICT;

-- Sessions of which something is new; their events from `from_event` on.
CREATE TABLE outbox_sessions (
    session_key INTEGER PRIMARY KEY,
    from_event INTEGER NOT NULL CHECK (from_event >= 1)
) STRICT;

-- What was given a number and is not acknowledged: always the same events under the same number.
CREATE TABLE outbox_flight (
    seq INTEGER PRIMARY KEY CHECK (seq >= 1),
    session_key INTEGER NOT NULL,
    first_event INTEGER NOT NULL CHECK (first_event >= 1),
    last_event INTEGER NOT NULL CHECK (last_event >= 0)
) STRICT;

-- Work that the control plane gave this node. `told` is the last word about it that the control plane has.
CREATE TABLE assignments (
    task_id TEXT NOT NULL PRIMARY KEY CHECK (length(task_id) BETWEEN 1 AND 128),
    attempt INTEGER NOT NULL CHECK (attempt >= 1),
    task_type TEXT NOT NULL,
    away_policy TEXT NOT NULL CHECK (away_policy IN ('wait', 'move', 'stop')),
    away_after_ms INTEGER CHECK (away_after_ms > 0),
    state TEXT NOT NULL CHECK (state IN ('starting', 'running', 'completed', 'failed', 'stopped')),
    session_id TEXT CHECK (session_id <> ''),
    lease_id TEXT CHECK (lease_id <> ''),
    stop_cause TEXT CHECK (stop_cause IN ('away', 'verdict')),
    result_json TEXT CHECK (json_valid(result_json)),
    told TEXT NOT NULL DEFAULT 'nothing' CHECK (told IN ('nothing', 'in_progress', 'ended')),
    given_at TEXT NOT NULL
        CHECK (given_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    ended_at TEXT
        CHECK (ended_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    CHECK ((ended_at IS NOT NULL) = (state IN ('completed', 'failed', 'stopped')))
) STRICT;

CREATE INDEX assignments_open ON assignments (state) WHERE told <> 'ended';

CREATE INDEX assignments_by_session ON assignments (session_id) WHERE session_id IS NOT NULL;

CREATE INDEX assignments_by_end ON assignments (ended_at) WHERE told = 'ended';

CREATE TRIGGER outbox_session_insert AFTER INSERT ON session_ledger
WHEN (SELECT joined FROM outbox_state)
BEGIN
    INSERT INTO outbox_sessions (session_key, from_event) VALUES (NEW.session_key, 4611686018427387904)
    ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER outbox_session_update AFTER UPDATE ON session_ledger
WHEN (SELECT joined FROM outbox_state)
BEGIN
    INSERT INTO outbox_sessions (session_key, from_event) VALUES (NEW.session_key, 4611686018427387904)
    ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER outbox_session_delete AFTER DELETE ON session_ledger
WHEN EXISTS (SELECT 1 FROM outbox_sessions WHERE session_key = OLD.session_key)
BEGIN
    DELETE FROM outbox_sessions WHERE session_key = OLD.session_key;
    UPDATE outbox_streams SET dropped = dropped + 1 WHERE stream = 'ledger';
END;

CREATE TRIGGER outbox_usage_insert AFTER INSERT ON session_usage_rows
WHEN (SELECT joined FROM outbox_state)
BEGIN
    INSERT INTO outbox_sessions (session_key, from_event) VALUES (NEW.session_key, 4611686018427387904)
    ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER outbox_usage_update AFTER UPDATE ON session_usage_rows
WHEN (SELECT joined FROM outbox_state)
BEGIN
    INSERT INTO outbox_sessions (session_key, from_event) VALUES (NEW.session_key, 4611686018427387904)
    ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER outbox_event_insert AFTER INSERT ON session_event_rows
WHEN (SELECT joined FROM outbox_state)
BEGIN
    INSERT INTO outbox_sessions (session_key, from_event) VALUES (NEW.session_key, NEW.seq)
    ON CONFLICT DO UPDATE SET from_event = excluded.from_event WHERE from_event > excluded.from_event;
END;
