-- The efficiency metric Δv: its sum, its history, and the parts of sessions.

-- `units` is the sum in units of 2^-1200, in hexadecimal: nothing of it is lost over restarts. `value` is the
-- same as a number. A sum on another basis is another generation.
CREATE TABLE delta_v_account (
    account_key INTEGER PRIMARY KEY CHECK (account_key = 1),
    generation INTEGER NOT NULL CHECK (generation >= 1),
    since TEXT NOT NULL
        CHECK (since GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    reason TEXT,
    mapping TEXT NOT NULL,
    unit TEXT NOT NULL,
    basis_json TEXT NOT NULL CHECK (json_valid(basis_json)),
    units TEXT NOT NULL CHECK (units <> '' AND units NOT GLOB '*[^0-9a-f]*'),
    value REAL NOT NULL CHECK (value >= 0),
    seconds REAL NOT NULL CHECK (seconds >= 0),
    gap_sec REAL NOT NULL CHECK (gap_sec >= 0),
    samples INTEGER NOT NULL CHECK (samples >= 0),
    not_finite INTEGER NOT NULL CHECK (not_finite >= 0),
    overflowed INTEGER NOT NULL CHECK (overflowed >= 0),
    clamped INTEGER NOT NULL CHECK (clamped >= 0),
    corrected INTEGER NOT NULL CHECK (corrected >= 0),
    updated_at TEXT NOT NULL
        CHECK (updated_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z')
) STRICT;

-- Minutes and hours. `load_sec`, `velocity_sec` and `inertia_sec` are w, v and M times their seconds.
CREATE TABLE delta_v_history (
    width_sec INTEGER NOT NULL CHECK (width_sec IN (60, 3600)),
    start_ms INTEGER NOT NULL,
    generation INTEGER NOT NULL CHECK (generation >= 1),
    seconds REAL NOT NULL CHECK (seconds >= 0),
    gap_sec REAL NOT NULL CHECK (gap_sec >= 0),
    value REAL NOT NULL CHECK (value >= 0),
    joules REAL NOT NULL CHECK (joules >= 0),
    load_sec REAL NOT NULL,
    velocity_sec REAL NOT NULL,
    inertia_sec REAL NOT NULL,
    samples INTEGER NOT NULL CHECK (samples >= 0),
    refused INTEGER NOT NULL CHECK (refused >= 0),
    source TEXT NOT NULL,
    confidence TEXT NOT NULL CHECK (confidence IN ('high', 'medium', 'low', 'unknown')),
    PRIMARY KEY (width_sec, start_ms, generation)
) STRICT, WITHOUT ROWID;

CREATE TABLE delta_v_sessions (
    session_key INTEGER PRIMARY KEY REFERENCES session_ledger (session_key) ON DELETE CASCADE,
    generation INTEGER NOT NULL CHECK (generation >= 1),
    since TEXT NOT NULL
        CHECK (since GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    units TEXT NOT NULL CHECK (units <> '' AND units NOT GLOB '*[^0-9a-f]*'),
    value REAL NOT NULL CHECK (value >= 0),
    seconds REAL NOT NULL CHECK (seconds >= 0),
    joules REAL NOT NULL CHECK (joules >= 0),
    samples INTEGER NOT NULL CHECK (samples >= 0),
    refused INTEGER NOT NULL CHECK (refused >= 0),
    source TEXT NOT NULL,
    confidence TEXT NOT NULL CHECK (confidence IN ('high', 'medium', 'low', 'unknown'))
) STRICT;
