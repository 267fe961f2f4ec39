-- The ledger's intelligence (specification 8.2.4-8.2.6, 9.2.2, 9.3.4, 9.4): aggregates, the performance
-- matrix, alerts, idempotency keys, and what retention must remember.

-- Who reported the session; part of its identity.
ALTER TABLE session_ledger ADD COLUMN source TEXT;

DROP TRIGGER session_ledger_identity;

CREATE TRIGGER session_ledger_identity
BEFORE UPDATE OF session_key, session_id, agent_id, started_at, run_id, source ON session_ledger
WHEN NEW.session_key IS NOT OLD.session_key
    OR NEW.session_id IS NOT OLD.session_id
    OR NEW.agent_id IS NOT OLD.agent_id
    OR NEW.started_at IS NOT OLD.started_at
    OR NEW.source IS NOT OLD.source
    OR (OLD.run_id IS NOT NULL AND NEW.run_id IS NOT OLD.run_id)
BEGIN
    SELECT RAISE(
        ABORT, 'session_ledger: session_id, agent_id, started_at, source and a set run_id never change'
    );
END;

-- Cache-token classes are counted apart: they have prices of their own.
ALTER TABLE session_usage_rows ADD COLUMN cache_read_tokens INTEGER CHECK (cache_read_tokens >= 0);
ALTER TABLE session_usage_rows ADD COLUMN cache_write_tokens INTEGER CHECK (cache_write_tokens >= 0);

DROP VIEW session_usage;

CREATE VIEW session_usage (
    session_id, prompt_tokens, completion_tokens, total_tokens, cache_read_tokens, cache_write_tokens,
    runtime_ms, cost_usd, cost_confidence, provider, pricing_version, computed_at, cost_source,
    cost_confidence_level, token_source, token_confidence, runtime_source, runtime_confidence
) AS
SELECT
    l.session_id, u.prompt_tokens, u.completion_tokens, u.total_tokens, u.cache_read_tokens,
    u.cache_write_tokens, u.runtime_ms, u.cost_usd, u.cost_confidence, u.provider, u.pricing_version,
    u.computed_at, u.cost_source, u.cost_confidence_level, u.token_source, u.token_confidence,
    u.runtime_source, u.runtime_confidence
FROM session_usage_rows AS u
JOIN session_ledger AS l ON l.session_key = u.session_key;

-- Columns left out of an INSERT into the view arrive as NULL; they get the table's defaults here.
CREATE TRIGGER session_usage_insert INSTEAD OF INSERT ON session_usage
BEGIN
    SELECT RAISE(ABORT, 'FOREIGN KEY constraint failed: session_usage.session_id')
    WHERE NOT EXISTS (SELECT 1 FROM session_ledger WHERE session_id = NEW.session_id);
    INSERT INTO session_usage_rows (
        session_key, prompt_tokens, completion_tokens, total_tokens, cache_read_tokens,
        cache_write_tokens, runtime_ms, cost_usd, cost_confidence, provider, pricing_version, computed_at,
        cost_source, cost_confidence_level, token_source, token_confidence, runtime_source,
        runtime_confidence
    )
    SELECT
        session_key, NEW.prompt_tokens, NEW.completion_tokens, NEW.total_tokens, NEW.cache_read_tokens,
        NEW.cache_write_tokens, NEW.runtime_ms, NEW.cost_usd, coalesce(NEW.cost_confidence, 'unknown'),
        NEW.provider, NEW.pricing_version, NEW.computed_at, coalesce(NEW.cost_source, 'unknown'),
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
        cache_read_tokens = NEW.cache_read_tokens,
        cache_write_tokens = NEW.cache_write_tokens,
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

-- One row per UTC day of started_at, agent, model and category ('' where there is none, so that no key part
-- is NULL and none is doubled). Only ended sessions count. Costs are added as whole nano-dollars: such sums
-- are exact, whatever the order. The last six tell how many of the runs had a figure, and from where.
CREATE TABLE daily_usage_agg (
    agg_key INTEGER PRIMARY KEY,
    bucket_date TEXT NOT NULL CHECK (bucket_date GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]'),
    agent_id TEXT NOT NULL,
    model_id TEXT NOT NULL,
    task_category TEXT NOT NULL,
    runs_total INTEGER NOT NULL DEFAULT 0 CHECK (runs_total >= 0),
    runtime_ms_total INTEGER NOT NULL DEFAULT 0 CHECK (runtime_ms_total >= 0),
    prompt_tokens_total INTEGER NOT NULL DEFAULT 0 CHECK (prompt_tokens_total >= 0),
    completion_tokens_total INTEGER NOT NULL DEFAULT 0 CHECK (completion_tokens_total >= 0),
    total_tokens_total INTEGER NOT NULL DEFAULT 0 CHECK (total_tokens_total >= 0),
    cost_usd_total REAL NOT NULL DEFAULT 0 CHECK (cost_usd_total >= 0),
    updated_at TEXT NOT NULL
        CHECK (updated_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    cost_nano_total INTEGER NOT NULL DEFAULT 0 CHECK (cost_nano_total >= 0),
    tokens_reported INTEGER NOT NULL DEFAULT 0 CHECK (tokens_reported >= 0),
    tokens_derived INTEGER NOT NULL DEFAULT 0 CHECK (tokens_derived >= 0),
    runtime_reported INTEGER NOT NULL DEFAULT 0 CHECK (runtime_reported >= 0),
    runtime_derived INTEGER NOT NULL DEFAULT 0 CHECK (runtime_derived >= 0),
    cost_reported INTEGER NOT NULL DEFAULT 0 CHECK (cost_reported >= 0),
    cost_derived INTEGER NOT NULL DEFAULT 0 CHECK (cost_derived >= 0),
    UNIQUE (bucket_date, agent_id, model_id, task_category)
) STRICT;

-- What of a session is in the aggregates: its bucket and figures. The difference to what its rows say now is
-- what is to be added. Sources: 0 reported by the provider, 1 derived, 2 missing.
CREATE TABLE session_accounted (
    session_key INTEGER PRIMARY KEY REFERENCES session_ledger (session_key) ON DELETE CASCADE,
    agg_key INTEGER NOT NULL,
    runtime_ms INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL,
    tokens_source INTEGER NOT NULL CHECK (tokens_source BETWEEN 0 AND 2),
    runtime_source INTEGER NOT NULL CHECK (runtime_source BETWEEN 0 AND 2),
    cost_source INTEGER NOT NULL CHECK (cost_source BETWEEN 0 AND 2)
) STRICT;

-- Of each UTC day: how often ended sessions of it were added or changed, and whether its buckets are to be
-- built from the sessions again.
CREATE TABLE usage_days (
    bucket_date TEXT NOT NULL PRIMARY KEY
        CHECK (bucket_date GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]'),
    revision INTEGER NOT NULL DEFAULT 1,
    is_incomplete INTEGER NOT NULL DEFAULT 0 CHECK (is_incomplete IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_days_incomplete ON usage_days (bucket_date) WHERE is_incomplete;

CREATE TRIGGER daily_usage_agg_lost AFTER DELETE ON daily_usage_agg
WHEN OLD.runs_total > 0
BEGIN
    INSERT INTO usage_days (bucket_date, is_incomplete) VALUES (OLD.bucket_date, 1)
    ON CONFLICT (bucket_date) DO UPDATE SET revision = revision + 1, is_incomplete = 1;
END;

-- What was there before there were aggregates.
INSERT INTO usage_days (bucket_date, is_incomplete)
SELECT DISTINCT substr(started_at, 1, 10), 1 FROM session_ledger;

-- The matrix of a range and a scope, as computed at `updated_at`. `scope` names the filters and what the rows
-- are split by; `agent_id` and `task_category` are '' where the row is of all of them. The facts are good as
-- long as `revision` is the sum of the days' revisions and all `window_rows` rows are there.
CREATE TABLE model_perf_agg (
    window_start TEXT NOT NULL,
    window_end TEXT NOT NULL,
    scope TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    task_category TEXT NOT NULL,
    model_id TEXT NOT NULL,
    runs_total INTEGER NOT NULL CHECK (runs_total >= 0),
    success_count INTEGER NOT NULL CHECK (success_count >= 0),
    failure_count INTEGER NOT NULL CHECK (failure_count >= 0),
    killed_count INTEGER NOT NULL CHECK (killed_count >= 0),
    cancelled_count INTEGER NOT NULL CHECK (cancelled_count >= 0),
    success_rate REAL NOT NULL CHECK (success_rate BETWEEN 0 AND 1),
    median_runtime_ms REAL CHECK (median_runtime_ms >= 0),
    median_cost_usd REAL CHECK (median_cost_usd >= 0),
    sample_warning INTEGER NOT NULL CHECK (sample_warning IN (0, 1)),
    updated_at TEXT NOT NULL
        CHECK (updated_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    p95_runtime_ms INTEGER CHECK (p95_runtime_ms >= 0),
    runtime_known INTEGER NOT NULL CHECK (runtime_known >= 0),
    cost_known INTEGER NOT NULL CHECK (cost_known >= 0),
    revision INTEGER NOT NULL,
    window_rows INTEGER NOT NULL CHECK (window_rows >= 1),
    PRIMARY KEY (window_start, window_end, scope, agent_id, task_category, model_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX model_perf_agg_by_end ON model_perf_agg (window_end);

CREATE TABLE alert_rules (
    rule_id TEXT NOT NULL PRIMARY KEY CHECK (rule_id <> ''),
    enabled INTEGER NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
    metric TEXT NOT NULL
        CHECK (metric IN (
            'daily_cost_usd', 'runtime_p95_ms', 'failure_rate', 'budget_usd', 'gateway_away_sec',
            'missed_heartbeats', 'outbox_depth'
        )),
    scope_type TEXT NOT NULL CHECK (scope_type IN ('global', 'agent', 'model', 'agent_model')),
    scope_ref TEXT CHECK (scope_ref IS NULL OR json_valid(scope_ref)),
    warn_threshold REAL NOT NULL,
    critical_threshold REAL NOT NULL,
    window TEXT NOT NULL CHECK (window IN ('5m', '1h', '24h', '7d')),
    comparison TEXT NOT NULL CHECK (comparison IN ('gt', 'gte')),
    dedup_cooldown_sec INTEGER NOT NULL DEFAULT 300 CHECK (dedup_cooldown_sec >= 0),
    created_at TEXT NOT NULL
        CHECK (created_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    updated_at TEXT NOT NULL
        CHECK (updated_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    name TEXT,
    hold_sec INTEGER NOT NULL DEFAULT 0 CHECK (hold_sec >= 0),
    CHECK (critical_threshold >= warn_threshold),
    CHECK ((scope_type = 'global') = (scope_ref IS NULL))
) STRICT;

-- Severity (`status`) and life cycle are two things: a warning may be active or kept quiet.
CREATE TABLE alert_state (
    rule_id TEXT NOT NULL PRIMARY KEY REFERENCES alert_rules (rule_id) ON DELETE CASCADE,
    status TEXT NOT NULL DEFAULT 'ok' CHECK (status IN ('ok', 'warning', 'critical', 'resolved')),
    lifecycle_state TEXT NOT NULL DEFAULT 'resolved'
        CHECK (lifecycle_state IN ('active', 'suppressed', 'resolved')),
    suppressed_until TEXT
        CHECK (suppressed_until GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    last_value REAL,
    last_evaluated_at TEXT
        CHECK (last_evaluated_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    last_transition_at TEXT
        CHECK (last_transition_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    last_notified_at TEXT
        CHECK (last_notified_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    active_fingerprint TEXT,
    told TEXT NOT NULL DEFAULT 'ok' CHECK (told IN ('ok', 'warning', 'critical')),
    quiet_until TEXT
        CHECK (quiet_until GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    warning_since TEXT
        CHECK (warning_since GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    critical_since TEXT
        CHECK (critical_since GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    no_data_since TEXT
        CHECK (no_data_since GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    acknowledged_at TEXT
        CHECK (acknowledged_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    acknowledged_by TEXT,
    muted_at TEXT
        CHECK (muted_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    muted_until TEXT
        CHECK (muted_until GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    CHECK ((lifecycle_state = 'resolved') = (status IN ('ok', 'resolved')))
) STRICT;

CREATE INDEX alert_state_by_transition ON alert_state (status, last_transition_at DESC);
CREATE INDEX alert_state_by_lifecycle ON alert_state (lifecycle_state, suppressed_until);

-- Notifications that a notifier has not delivered yet.
CREATE TABLE alert_notifications (
    notification_key INTEGER PRIMARY KEY,
    notifier TEXT NOT NULL CHECK (notifier <> ''),
    payload_json TEXT NOT NULL CHECK (json_valid(payload_json)),
    created_at TEXT NOT NULL
        CHECK (created_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z')
) STRICT;

CREATE INDEX alert_notifications_by_notifier ON alert_notifications (notifier, notification_key);

-- What was taken in under which idempotency key (9.3.4).
CREATE TABLE ingest_keys (
    key TEXT NOT NULL PRIMARY KEY CHECK (key <> ''),
    session_key INTEGER NOT NULL REFERENCES session_ledger (session_key) ON DELETE CASCADE,
    fingerprint TEXT NOT NULL,
    at TEXT NOT NULL
        CHECK (at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z')
) STRICT, WITHOUT ROWID;

CREATE INDEX ingest_keys_by_session ON ingest_keys (session_key);

-- Small facts of this node's own, such as how far retention has come.
CREATE TABLE node_settings (
    name TEXT NOT NULL PRIMARY KEY CHECK (name <> ''),
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
