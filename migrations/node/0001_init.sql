-- The node's ledger (specification 8.2, 9.2.2) and what local runs, the spool and the audit chain need.
--
-- Events and usage live in compact tables keyed by the integer `session_key`; the views `session_events`
-- and `session_usage` show them under the specification's names and columns and take INSERT, UPDATE and
-- DELETE with the same checks. Times are RFC 3339 text in UTC with milliseconds, except `at_ms`
-- (milliseconds since 1970), which the view shows as `event_ts`.

CREATE TABLE session_ledger (
    session_key INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL UNIQUE CHECK (session_id <> ''),
    run_id TEXT,
    agent_id TEXT NOT NULL CHECK (agent_id <> ''),
    agent_label TEXT NOT NULL,
    model_id TEXT NOT NULL,
    task_title TEXT,
    task_text TEXT,
    task_category TEXT,
    status TEXT NOT NULL
        CHECK (status IN ('success', 'failed', 'killed', 'cancelled', 'running', 'queued')),
    started_at TEXT NOT NULL
        CHECK (started_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    ended_at TEXT
        CHECK (ended_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    runtime_ms INTEGER CHECK (runtime_ms >= 0),
    artifact_count INTEGER NOT NULL DEFAULT 0 CHECK (artifact_count >= 0),
    error_code TEXT,
    error_message TEXT,
    source_version TEXT,
    ingested_at TEXT NOT NULL
        CHECK (ingested_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    running_since TEXT
        CHECK (running_since GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    gateway_session_id TEXT
) STRICT;

CREATE INDEX session_ledger_by_agent ON session_ledger (agent_id, started_at DESC);
CREATE INDEX session_ledger_by_status ON session_ledger (status, started_at DESC);
CREATE INDEX session_ledger_by_model ON session_ledger (model_id, started_at DESC);
CREATE INDEX session_ledger_by_category ON session_ledger (task_category, started_at DESC)
    WHERE task_category IS NOT NULL;
CREATE INDEX session_ledger_newest ON session_ledger (started_at DESC, session_id DESC);
CREATE INDEX session_ledger_by_end ON session_ledger (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX session_ledger_by_suffix ON session_ledger (substr(session_id, -4));
CREATE INDEX session_ledger_by_gateway_session ON session_ledger (gateway_session_id)
    WHERE gateway_session_id IS NOT NULL;

CREATE TRIGGER session_ledger_identity
BEFORE UPDATE OF session_key, session_id, agent_id, started_at, run_id ON session_ledger
WHEN NEW.session_key IS NOT OLD.session_key
    OR NEW.session_id IS NOT OLD.session_id
    OR NEW.agent_id IS NOT OLD.agent_id
    OR NEW.started_at IS NOT OLD.started_at
    OR (OLD.run_id IS NOT NULL AND NEW.run_id IS NOT OLD.run_id)
BEGIN
    SELECT RAISE(ABORT, 'session_ledger: session_id, agent_id, started_at and a set run_id never change');
END;

-- Full text over id, title and task; it keeps no copy of the text.
CREATE VIRTUAL TABLE session_search USING fts5 (
    session_id, task_title, task_text,
    content = 'session_ledger', content_rowid = 'session_key', tokenize = 'unicode61 remove_diacritics 2'
);

CREATE TRIGGER session_search_insert AFTER INSERT ON session_ledger
BEGIN
    INSERT INTO session_search (rowid, session_id, task_title, task_text)
    VALUES (NEW.session_key, NEW.session_id, NEW.task_title, NEW.task_text);
END;

CREATE TRIGGER session_search_update AFTER UPDATE OF task_title, task_text ON session_ledger
WHEN NEW.task_title IS NOT OLD.task_title OR NEW.task_text IS NOT OLD.task_text
BEGIN
    INSERT INTO session_search (session_search, rowid, session_id, task_title, task_text)
    VALUES ('delete', OLD.session_key, OLD.session_id, OLD.task_title, OLD.task_text);
    INSERT INTO session_search (rowid, session_id, task_title, task_text)
    VALUES (NEW.session_key, NEW.session_id, NEW.task_title, NEW.task_text);
END;

CREATE TRIGGER session_search_delete AFTER DELETE ON session_ledger
BEGIN
    INSERT INTO session_search (session_search, rowid, session_id, task_title, task_text)
    VALUES ('delete', OLD.session_key, OLD.session_id, OLD.task_title, OLD.task_text);
END;

-- `event_id` is stored only when it differs from `<session_id>:<seq>`.
CREATE TABLE session_event_rows (
    session_key INTEGER NOT NULL REFERENCES session_ledger (session_key) ON DELETE CASCADE,
    seq INTEGER NOT NULL CHECK (seq >= 1),
    event_type TEXT NOT NULL
        CHECK (event_type IN ('tool_call', 'message', 'state_transition', 'artifact', 'error', 'metric')),
    at_ms INTEGER NOT NULL,
    payload_json TEXT NOT NULL CHECK (json_valid(payload_json)),
    event_id TEXT CHECK (event_id <> ''),
    PRIMARY KEY (session_key, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX session_event_rows_by_time ON session_event_rows (session_key, at_ms);
CREATE UNIQUE INDEX session_event_rows_event_id ON session_event_rows (event_id) WHERE event_id IS NOT NULL;

CREATE VIEW session_events (event_id, session_id, seq, event_type, event_ts, payload_json) AS
SELECT
    coalesce(e.event_id, l.session_id || ':' || e.seq),
    l.session_id,
    e.seq,
    e.event_type,
    strftime('%Y-%m-%dT%H:%M:%fZ', e.at_ms / 1000.0, 'unixepoch'),
    e.payload_json
FROM session_event_rows AS e
JOIN session_ledger AS l ON l.session_key = e.session_key;

CREATE TRIGGER session_events_insert INSTEAD OF INSERT ON session_events
BEGIN
    SELECT RAISE(ABORT, 'FOREIGN KEY constraint failed: session_events.session_id')
    WHERE NOT EXISTS (SELECT 1 FROM session_ledger WHERE session_id = NEW.session_id);
    SELECT RAISE(ABORT, 'CHECK constraint failed: session_events.event_ts is RFC 3339 in UTC')
    WHERE NEW.event_ts IS NULL OR NEW.event_ts NOT GLOB '????-??-??T??:??:??*Z' OR strftime('%s', NEW.event_ts) IS NULL;
    INSERT INTO session_event_rows (session_key, seq, event_type, at_ms, payload_json, event_id)
    SELECT
        session_key,
        NEW.seq,
        NEW.event_type,
        strftime('%s', NEW.event_ts) * 1000 + CAST(substr(strftime('%f', NEW.event_ts), 4) AS INTEGER),
        NEW.payload_json,
        nullif(NEW.event_id, NEW.session_id || ':' || NEW.seq)
    FROM session_ledger
    WHERE session_id = NEW.session_id;
END;

CREATE TRIGGER session_events_update INSTEAD OF UPDATE ON session_events
BEGIN
    SELECT RAISE(ABORT, 'session_events: session_id, seq and event_id never change')
    WHERE NEW.session_id IS NOT OLD.session_id OR NEW.seq IS NOT OLD.seq OR NEW.event_id IS NOT OLD.event_id;
    SELECT RAISE(ABORT, 'CHECK constraint failed: session_events.event_ts is RFC 3339 in UTC')
    WHERE NEW.event_ts IS NULL OR NEW.event_ts NOT GLOB '????-??-??T??:??:??*Z' OR strftime('%s', NEW.event_ts) IS NULL;
    UPDATE session_event_rows
    SET event_type = NEW.event_type,
        at_ms = strftime('%s', NEW.event_ts) * 1000 + CAST(substr(strftime('%f', NEW.event_ts), 4) AS INTEGER),
        payload_json = NEW.payload_json
    WHERE session_key = (SELECT session_key FROM session_ledger WHERE session_id = OLD.session_id)
        AND seq = OLD.seq;
END;

CREATE TRIGGER session_events_delete INSTEAD OF DELETE ON session_events
BEGIN
    DELETE FROM session_event_rows
    WHERE session_key = (SELECT session_key FROM session_ledger WHERE session_id = OLD.session_id)
        AND seq = OLD.seq;
END;

-- Unknown is NULL, never 0. A cost that anything is known about names its price table.
CREATE TABLE session_usage_rows (
    session_key INTEGER PRIMARY KEY REFERENCES session_ledger (session_key) ON DELETE CASCADE,
    prompt_tokens INTEGER CHECK (prompt_tokens >= 0),
    completion_tokens INTEGER CHECK (completion_tokens >= 0),
    total_tokens INTEGER CHECK (total_tokens >= 0),
    runtime_ms INTEGER CHECK (runtime_ms >= 0),
    cost_usd REAL CHECK (cost_usd >= 0 AND cost_usd < 1e300),
    cost_confidence TEXT NOT NULL DEFAULT 'unknown'
        CHECK (cost_confidence IN ('exact', 'estimated', 'unknown')),
    provider TEXT,
    pricing_version TEXT CHECK (pricing_version <> ''),
    computed_at TEXT NOT NULL
        CHECK (computed_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    cost_source TEXT NOT NULL DEFAULT 'unknown'
        CHECK (cost_source IN ('provider_reported', 'estimated_from_pricing', 'unknown')),
    cost_confidence_level TEXT NOT NULL DEFAULT 'unknown'
        CHECK (cost_confidence_level IN ('high', 'medium', 'low', 'unknown')),
    token_source TEXT NOT NULL DEFAULT 'missing'
        CHECK (token_source IN ('provider_reported', 'derived', 'missing')),
    token_confidence TEXT NOT NULL DEFAULT 'unknown'
        CHECK (token_confidence IN ('high', 'medium', 'low', 'unknown')),
    runtime_source TEXT NOT NULL DEFAULT 'missing'
        CHECK (runtime_source IN ('provider_reported', 'derived', 'missing')),
    runtime_confidence TEXT NOT NULL DEFAULT 'unknown'
        CHECK (runtime_confidence IN ('high', 'medium', 'low', 'unknown')),
    CHECK (pricing_version IS NOT NULL OR cost_confidence = 'unknown'),
    CHECK (pricing_version IS NOT NULL OR cost_source <> 'estimated_from_pricing')
) STRICT;

CREATE INDEX session_usage_rows_by_pricing ON session_usage_rows (pricing_version)
    WHERE pricing_version IS NOT NULL;
CREATE INDEX session_usage_rows_by_computed ON session_usage_rows (computed_at DESC);

CREATE VIEW session_usage (
    session_id, prompt_tokens, completion_tokens, total_tokens, runtime_ms, cost_usd, cost_confidence,
    provider, pricing_version, computed_at, cost_source, cost_confidence_level, token_source,
    token_confidence, runtime_source, runtime_confidence
) AS
SELECT
    l.session_id, u.prompt_tokens, u.completion_tokens, u.total_tokens, u.runtime_ms, u.cost_usd,
    u.cost_confidence, u.provider, u.pricing_version, u.computed_at, u.cost_source,
    u.cost_confidence_level, u.token_source, u.token_confidence, u.runtime_source, u.runtime_confidence
FROM session_usage_rows AS u
JOIN session_ledger AS l ON l.session_key = u.session_key;

-- Columns left out of an INSERT into the view arrive as NULL; they get the table's defaults here.
CREATE TRIGGER session_usage_insert INSTEAD OF INSERT ON session_usage
BEGIN
    SELECT RAISE(ABORT, 'FOREIGN KEY constraint failed: session_usage.session_id')
    WHERE NOT EXISTS (SELECT 1 FROM session_ledger WHERE session_id = NEW.session_id);
    INSERT INTO session_usage_rows (
        session_key, prompt_tokens, completion_tokens, total_tokens, runtime_ms, cost_usd,
        cost_confidence, provider, pricing_version, computed_at, cost_source, cost_confidence_level,
        token_source, token_confidence, runtime_source, runtime_confidence
    )
    SELECT
        session_key, NEW.prompt_tokens, NEW.completion_tokens, NEW.total_tokens, NEW.runtime_ms,
        NEW.cost_usd, coalesce(NEW.cost_confidence, 'unknown'), NEW.provider, NEW.pricing_version,
        NEW.computed_at, coalesce(NEW.cost_source, 'unknown'),
        coalesce(NEW.cost_confidence_level, 'unknown'), coalesce(NEW.token_source, 'missing'),
        coalesce(NEW.token_confidence, 'unknown'), coalesce(NEW.runtime_source, 'missing'),
        coalesce(NEW.runtime_confidence, 'unknown')
    FROM session_ledger
    WHERE session_id = NEW.session_id;
END;

CREATE TRIGGER session_usage_update INSTEAD OF UPDATE ON session_usage
BEGIN
    SELECT RAISE(ABORT, 'session_usage: session_id never changes')
    WHERE NEW.session_id IS NOT OLD.session_id;
    UPDATE session_usage_rows
    SET prompt_tokens = NEW.prompt_tokens,
        completion_tokens = NEW.completion_tokens,
        total_tokens = NEW.total_tokens,
        runtime_ms = NEW.runtime_ms,
        cost_usd = NEW.cost_usd,
        cost_confidence = NEW.cost_confidence,
        provider = NEW.provider,
        pricing_version = NEW.pricing_version,
        computed_at = NEW.computed_at,
        cost_source = NEW.cost_source,
        cost_confidence_level = NEW.cost_confidence_level,
        token_source = NEW.token_source,
        token_confidence = NEW.token_confidence,
        runtime_source = NEW.runtime_source,
        runtime_confidence = NEW.runtime_confidence
    WHERE session_key = (SELECT session_key FROM session_ledger WHERE session_id = OLD.session_id);
END;

CREATE TRIGGER session_usage_delete INSTEAD OF DELETE ON session_usage
BEGIN
    DELETE FROM session_usage_rows
    WHERE session_key = (SELECT session_key FROM session_ledger WHERE session_id = OLD.session_id);
END;

-- What re-attaching to a local run needs; `spool_offset` moves in the transaction that adds the events.
CREATE TABLE local_runs (
    session_key INTEGER PRIMARY KEY REFERENCES session_ledger (session_key) ON DELETE CASCADE,
    attempt INTEGER NOT NULL CHECK (attempt >= 0),
    spool_offset INTEGER NOT NULL CHECK (spool_offset >= 0),
    output_events INTEGER NOT NULL CHECK (output_events >= 0),
    output_dropped INTEGER NOT NULL CHECK (output_dropped >= 0),
    end_cause TEXT,
    task_id TEXT
) STRICT;

-- Outcomes of spool tasks, kept longer than their sessions: a task id runs once.
CREATE TABLE spool_tasks (
    task_key INTEGER PRIMARY KEY,
    task_id TEXT NOT NULL UNIQUE CHECK (task_id <> ''),
    outcome TEXT NOT NULL CHECK (outcome <> ''),
    session_id TEXT,
    file_name TEXT NOT NULL,
    at TEXT NOT NULL
        CHECK (at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z')
) STRICT;

CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY CHECK (name <> ''),
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A hash chain: nothing in it is changed or removed.
CREATE TABLE audit_records (
    seq INTEGER PRIMARY KEY CHECK (seq >= 1),
    kind TEXT NOT NULL CHECK (kind <> ''),
    at TEXT NOT NULL
        CHECK (at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    actor TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail_json TEXT NOT NULL CHECK (json_valid(detail_json)),
    prev_hash TEXT NOT NULL CHECK (length(prev_hash) = 64),
    hash TEXT NOT NULL CHECK (length(hash) = 64)
) STRICT;

CREATE TRIGGER audit_records_keep BEFORE DELETE ON audit_records
BEGIN
    SELECT RAISE(ABORT, 'audit_records: records are never removed');
END;

CREATE TRIGGER audit_records_fixed BEFORE UPDATE ON audit_records
BEGIN
    SELECT RAISE(ABORT, 'audit_records: records never change');
END;
