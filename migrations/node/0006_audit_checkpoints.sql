-- How far the chain was acknowledged by a control plane, and the record up to which it was pruned: the next
-- record still follows on its hash. One row, which only ever moves forward.
CREATE TABLE audit_state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    acknowledged_seq INTEGER NOT NULL DEFAULT 0 CHECK (acknowledged_seq >= 0),
    pruned_seq INTEGER NOT NULL DEFAULT 0 CHECK (pruned_seq BETWEEN 0 AND acknowledged_seq),
    pruned_hash TEXT NOT NULL DEFAULT '0000000000000000000000000000000000000000000000000000000000000000'
        CHECK (length(pruned_hash) = 64)
) STRICT;

INSERT INTO audit_state (one) VALUES (1);

CREATE TRIGGER audit_state_keep BEFORE DELETE ON audit_state
BEGIN
    SELECT RAISE(ABORT, 'audit_state: the row stays');
END;

CREATE TRIGGER audit_state_forward BEFORE UPDATE ON audit_state
WHEN NEW.acknowledged_seq < OLD.acknowledged_seq
    OR NEW.acknowledged_seq > max(
        OLD.pruned_seq, coalesce((SELECT max(seq) FROM audit_records), 0)
    )
    OR NEW.pruned_seq < OLD.pruned_seq
    OR (NEW.pruned_seq = OLD.pruned_seq AND NEW.pruned_hash <> OLD.pruned_hash)
    OR (
        NEW.pruned_seq > OLD.pruned_seq
        AND NEW.pruned_hash IS NOT (SELECT hash FROM audit_records WHERE seq = NEW.pruned_seq)
    )
BEGIN
    SELECT RAISE(ABORT, 'audit_state: moves forward only, along the records');
END;

-- Records may go once the anchor says so, and it may only stand at an acknowledged one.
DROP TRIGGER audit_records_keep;
CREATE TRIGGER audit_records_keep BEFORE DELETE ON audit_records
WHEN OLD.seq > (SELECT pruned_seq FROM audit_state)
BEGIN
    SELECT RAISE(ABORT, 'audit_records: only acknowledged records that were pruned are removed');
END;

-- Signed heads of the chain, as notes. Not keyed by `seq`: after a break the same number may be signed again.
CREATE TABLE audit_checkpoints (
    checkpoint_key INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL CHECK (seq >= 1),
    note TEXT NOT NULL CHECK (note <> '')
) STRICT;

CREATE INDEX audit_checkpoints_seq ON audit_checkpoints (seq);

CREATE TRIGGER audit_checkpoints_fixed BEFORE UPDATE ON audit_checkpoints
BEGIN
    SELECT RAISE(ABORT, 'audit_checkpoints: checkpoints never change');
END;

CREATE TRIGGER audit_checkpoints_keep BEFORE DELETE ON audit_checkpoints
WHEN OLD.seq > (SELECT pruned_seq FROM audit_state)
BEGIN
    SELECT RAISE(ABORT, 'audit_checkpoints: a checkpoint goes with the records that it signs');
END;

-- Where the chain was found not to hold. `note` is the checkpoint that says so, if one does.
CREATE TABLE audit_breaks (
    break_key INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL CHECK (seq >= 1),
    reason TEXT NOT NULL CHECK (reason <> ''),
    note TEXT,
    found_at TEXT NOT NULL
        CHECK (found_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    accepted_at TEXT
        CHECK (accepted_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    accepted_by TEXT,
    CHECK ((accepted_at IS NULL) = (accepted_by IS NULL))
) STRICT;

CREATE TRIGGER audit_breaks_keep BEFORE DELETE ON audit_breaks
BEGIN
    SELECT RAISE(ABORT, 'audit_breaks: breaks are never forgotten');
END;

-- Which key followed which, with the statement that both have signed. Kept for ever.
CREATE TABLE identity_rollovers (
    rollover_key INTEGER PRIMARY KEY,
    old_key TEXT NOT NULL CHECK (old_key GLOB 'ed25519:*'),
    new_key TEXT NOT NULL UNIQUE CHECK (new_key GLOB 'ed25519:*'),
    statement TEXT NOT NULL CHECK (statement <> '')
) STRICT;

CREATE TRIGGER identity_rollovers_fixed BEFORE UPDATE ON identity_rollovers
BEGIN
    SELECT RAISE(ABORT, 'identity_rollovers: statements never change');
END;

CREATE TRIGGER identity_rollovers_keep BEFORE DELETE ON identity_rollovers
BEGIN
    SELECT RAISE(ABORT, 'identity_rollovers: statements are never removed');
END;
