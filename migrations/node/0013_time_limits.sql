-- How long the work of a task may run, and since when it does by the boot clock. Work that was begun before this
-- has no limit.
ALTER TABLE assignments RENAME TO assignments_before;

CREATE TABLE assignments (
    task_id TEXT NOT NULL PRIMARY KEY CHECK (length(task_id) BETWEEN 1 AND 128),
    attempt INTEGER NOT NULL CHECK (attempt >= 1),
    task_type TEXT NOT NULL,
    away_policy TEXT NOT NULL CHECK (away_policy IN ('wait', 'move', 'stop')),
    away_after_ms INTEGER CHECK (away_after_ms > 0),
    state TEXT NOT NULL CHECK (state IN ('starting', 'running', 'completed', 'failed', 'stopped')),
    session_id TEXT CHECK (session_id <> ''),
    lease_id TEXT CHECK (lease_id <> ''),
    stop_cause TEXT CHECK (stop_cause IN ('away', 'verdict', 'time_limit')),
    result_json TEXT CHECK (json_valid(result_json)),
    told TEXT NOT NULL DEFAULT 'nothing' CHECK (told IN ('nothing', 'in_progress', 'ended')),
    given_at TEXT NOT NULL
        CHECK (given_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    ended_at TEXT
        CHECK (ended_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    limit_ms INTEGER CHECK (limit_ms > 0),
    begun_boot_id TEXT CHECK (begun_boot_id <> ''),
    begun_boot_ms INTEGER CHECK (begun_boot_ms >= 0),
    CHECK ((ended_at IS NOT NULL) = (state IN ('completed', 'failed', 'stopped')))
) STRICT;

INSERT INTO assignments (
    task_id, attempt, task_type, away_policy, away_after_ms, state, session_id, lease_id, stop_cause,
    result_json, told, given_at, ended_at
) SELECT
    task_id, attempt, task_type, away_policy, away_after_ms, state, session_id, lease_id, stop_cause,
    result_json, told, given_at, ended_at
FROM assignments_before;

DROP TABLE assignments_before;

CREATE INDEX assignments_open ON assignments (state) WHERE told <> 'ended';

CREATE INDEX assignments_by_session ON assignments (session_id) WHERE session_id IS NOT NULL;

CREATE INDEX assignments_by_end ON assignments (ended_at) WHERE told = 'ended';
