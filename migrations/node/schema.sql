-- The schema after all migrations: a picture, tested against them. Never executed.

CREATE TABLE alert_notifications (
    notification_key INTEGER PRIMARY KEY,
    notifier TEXT NOT NULL CHECK (notifier <> ''),
    payload_json TEXT NOT NULL CHECK (json_valid(payload_json)),
    created_at TEXT NOT NULL
        CHECK (created_at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z')
) STRICT;

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
    hold_sec INTEGER NOT NULL DEFAULT 0 CHECK (hold_sec >= 0), renotify_sec INTEGER CHECK (renotify_sec >= 60),
    CHECK (critical_threshold >= warn_threshold),
    CHECK ((scope_type = 'global') = (scope_ref IS NULL))
) STRICT;

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

CREATE TABLE audit_checkpoints (
    checkpoint_key INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL CHECK (seq >= 1),
    note TEXT NOT NULL CHECK (note <> '')
) STRICT;

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

CREATE TABLE audit_state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    acknowledged_seq INTEGER NOT NULL DEFAULT 0 CHECK (acknowledged_seq >= 0),
    pruned_seq INTEGER NOT NULL DEFAULT 0 CHECK (pruned_seq BETWEEN 0 AND acknowledged_seq),
    pruned_hash TEXT NOT NULL DEFAULT '0000000000000000000000000000000000000000000000000000000000000000'
        CHECK (length(pruned_hash) = 64)
) STRICT;

CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY CHECK (name <> ''),
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

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

CREATE TABLE identity_rollovers (
    rollover_key INTEGER PRIMARY KEY,
    old_key TEXT NOT NULL CHECK (old_key GLOB 'ed25519:*'),
    new_key TEXT NOT NULL UNIQUE CHECK (new_key GLOB 'ed25519:*'),
    statement TEXT NOT NULL CHECK (statement <> '')
) STRICT;

CREATE TABLE ingest_keys (
    key TEXT NOT NULL PRIMARY KEY CHECK (key <> ''),
    session_key INTEGER NOT NULL REFERENCES session_ledger (session_key) ON DELETE CASCADE,
    fingerprint TEXT NOT NULL,
    at TEXT NOT NULL
        CHECK (at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z')
) STRICT, WITHOUT ROWID;

CREATE TABLE lease_revocations (
    jti TEXT NOT NULL CHECK (length(jti) BETWEEN 1 AND 128),
    issuer BLOB NOT NULL CHECK (length(issuer) = 32),
    issued_ms INTEGER NOT NULL,
    received_at TEXT NOT NULL,
    PRIMARY KEY (jti, issuer)
) STRICT, WITHOUT ROWID;

CREATE TABLE local_runs (
    session_key INTEGER PRIMARY KEY REFERENCES session_ledger (session_key) ON DELETE CASCADE,
    attempt INTEGER NOT NULL CHECK (attempt >= 0),
    spool_offset INTEGER NOT NULL CHECK (spool_offset >= 0),
    output_events INTEGER NOT NULL CHECK (output_events >= 0),
    output_dropped INTEGER NOT NULL CHECK (output_dropped >= 0),
    end_cause TEXT,
    task_id TEXT
) STRICT;

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

CREATE TABLE node_settings (
    name TEXT NOT NULL PRIMARY KEY CHECK (name <> ''),
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox_flight (
    seq INTEGER PRIMARY KEY CHECK (seq >= 1),
    session_key INTEGER NOT NULL,
    first_event INTEGER NOT NULL CHECK (first_event >= 1),
    last_event INTEGER NOT NULL CHECK (last_event >= 0)
) STRICT;

CREATE TABLE outbox_reports (
    seq INTEGER PRIMARY KEY CHECK (seq >= 1),
    at_ms INTEGER NOT NULL,
    priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 9),
    body BLOB NOT NULL CHECK (length(body) BETWEEN 2 AND 65536)
) STRICT;

CREATE TABLE outbox_sessions (
    session_key INTEGER PRIMARY KEY,
    from_event INTEGER NOT NULL CHECK (from_event >= 1)
) STRICT;

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

CREATE TABLE outbox_streams (
    stream TEXT NOT NULL PRIMARY KEY CHECK (stream IN ('reports', 'audit', 'ledger', 'delta_v', 'results')),
    last_seq INTEGER NOT NULL DEFAULT 0 CHECK (last_seq >= 0),
    acked_seq INTEGER NOT NULL DEFAULT 0 CHECK (acked_seq >= 0),
    acknowledged INTEGER NOT NULL DEFAULT 0 CHECK (acknowledged >= 0),
    dropped INTEGER NOT NULL DEFAULT 0 CHECK (dropped >= 0),
    refused INTEGER NOT NULL DEFAULT 0 CHECK (refused >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE peer_distrust (
    key TEXT NOT NULL PRIMARY KEY CHECK (key GLOB 'ed25519:*' AND length(key) = 72),
    added_at TEXT NOT NULL,
    added_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE peer_floors (
    key TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL CHECK (version >= 0),
    since_ms INTEGER NOT NULL CHECK (since_ms >= 0),
    lines_json TEXT NOT NULL CHECK (json_valid(lines_json))
) STRICT, WITHOUT ROWID;

CREATE TABLE peer_roster (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL CHECK (revision >= 1),
    body BLOB NOT NULL CHECK (length(body) <= 16384),
    issuer BLOB NOT NULL CHECK (length(issuer) = 32),
    signature BLOB NOT NULL CHECK (length(signature) = 64),
    taken_at TEXT NOT NULL
) STRICT;

CREATE TABLE peer_seen (
    key TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL DEFAULT '',
    address TEXT NOT NULL DEFAULT '',
    seen_at TEXT,
    synced_at TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE peer_self (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    since_ms INTEGER NOT NULL CHECK (since_ms >= 0),
    line TEXT NOT NULL CHECK (line <> ''),
    next_sequence INTEGER NOT NULL CHECK (next_sequence >= 1)
) STRICT;

CREATE TABLE peer_trust (
    key TEXT NOT NULL PRIMARY KEY CHECK (key GLOB 'ed25519:*' AND length(key) = 72),
    name TEXT NOT NULL DEFAULT '',
    added_at TEXT NOT NULL,
    added_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE policy_floors (
    policy_id TEXT NOT NULL,
    issuer BLOB NOT NULL CHECK (length(issuer) = 32),
    revision INTEGER NOT NULL CHECK (revision >= 1),
    removed INTEGER NOT NULL CHECK (removed BETWEEN 0 AND revision),
    keep_until INTEGER NOT NULL,
    PRIMARY KEY (policy_id, issuer)
) STRICT, WITHOUT ROWID;

CREATE TABLE policy_hosts (
    host TEXT NOT NULL,
    policy_id TEXT NOT NULL,
    PRIMARY KEY (host, policy_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE policy_items (
    item_id BLOB PRIMARY KEY CHECK (length(item_id) = 32),
    policy_id TEXT NOT NULL CHECK (length(policy_id) BETWEEN 1 AND 64),
    kind TEXT NOT NULL CHECK (kind IN ('policy', 'tombstone')),
    revision INTEGER NOT NULL CHECK (revision >= 1),
    in_force INTEGER NOT NULL CHECK (in_force IN (0, 1)),
    not_after INTEGER NOT NULL,
    issued_at INTEGER NOT NULL,
    issuer BLOB NOT NULL CHECK (length(issuer) = 32),
    body BLOB NOT NULL CHECK (length(body) <= 16384),
    signature BLOB NOT NULL CHECK (length(signature) = 64),
    way TEXT NOT NULL CHECK (way IN ('control_plane', 'operator', 'peer')),
    sender TEXT NOT NULL,
    received_at INTEGER NOT NULL
) STRICT;

CREATE TABLE schema_migrations (
    version INTEGER PRIMARY KEY CHECK (version >= 1),
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at TEXT NOT NULL
) STRICT;

CREATE TABLE schema_migrations_lock (
    lock INTEGER PRIMARY KEY CHECK (lock = 1),
    owner_pid INTEGER NOT NULL,
    owner_start_time TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    acquired_at TEXT NOT NULL
) STRICT;

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

CREATE TABLE session_counts (
    agent_id TEXT NOT NULL,
    model_id TEXT NOT NULL,
    task_category TEXT NOT NULL,
    status TEXT NOT NULL,
    sessions INTEGER NOT NULL CHECK (sessions >= 0),
    PRIMARY KEY (agent_id, model_id, task_category, status)
) STRICT, WITHOUT ROWID;

CREATE TABLE session_day_counts (
    bucket_date TEXT NOT NULL PRIMARY KEY,
    sessions INTEGER NOT NULL CHECK (sessions >= 0)
) STRICT, WITHOUT ROWID;

CREATE VIRTUAL TABLE session_end_search USING fts5 (
    ending, content = 'session_id_ends', content_rowid = 'session_key', detail = none, columnsize = 0
);

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
, source TEXT) STRICT;

CREATE VIRTUAL TABLE session_search USING fts5 (
    session_id, task_title, task_text,
    content = 'session_ledger', content_rowid = 'session_key', tokenize = 'unicode61 remove_diacritics 2'
);

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
        CHECK (runtime_confidence IN ('high', 'medium', 'low', 'unknown')), cache_read_tokens INTEGER CHECK (cache_read_tokens >= 0), cache_write_tokens INTEGER CHECK (cache_write_tokens >= 0),
    CHECK (pricing_version IS NOT NULL OR cost_confidence = 'unknown'),
    CHECK (pricing_version IS NOT NULL OR cost_source <> 'estimated_from_pricing')
) STRICT;

CREATE TABLE spool_tasks (
    task_key INTEGER PRIMARY KEY,
    task_id TEXT NOT NULL UNIQUE CHECK (task_id <> ''),
    outcome TEXT NOT NULL CHECK (outcome <> ''),
    session_id TEXT,
    file_name TEXT NOT NULL,
    at TEXT NOT NULL
        CHECK (at GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z')
) STRICT;

CREATE TABLE usage_days (
    bucket_date TEXT NOT NULL PRIMARY KEY
        CHECK (bucket_date GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]'),
    revision INTEGER NOT NULL DEFAULT 1,
    is_incomplete INTEGER NOT NULL DEFAULT 0 CHECK (is_incomplete IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE INDEX alert_notifications_by_notifier ON alert_notifications (notifier, notification_key);

CREATE INDEX alert_state_by_lifecycle ON alert_state (lifecycle_state, suppressed_until);

CREATE INDEX alert_state_by_transition ON alert_state (status, last_transition_at DESC);

CREATE INDEX assignments_by_end ON assignments (ended_at) WHERE told = 'ended';

CREATE INDEX assignments_by_session ON assignments (session_id) WHERE session_id IS NOT NULL;

CREATE INDEX assignments_open ON assignments (state) WHERE told <> 'ended';

CREATE INDEX audit_checkpoints_seq ON audit_checkpoints (seq);

CREATE INDEX ingest_keys_by_session ON ingest_keys (session_key);

CREATE INDEX lease_revocations_by_time ON lease_revocations (issued_ms);

CREATE INDEX model_perf_agg_by_end ON model_perf_agg (window_end);

CREATE INDEX policy_floors_by_time ON policy_floors (keep_until);

CREATE INDEX policy_hosts_by_policy ON policy_hosts (policy_id);

CREATE INDEX policy_items_by_expiry ON policy_items (not_after);

CREATE UNIQUE INDEX policy_items_by_policy ON policy_items (policy_id, in_force);

CREATE INDEX session_event_rows_by_time ON session_event_rows (session_key, at_ms);

CREATE UNIQUE INDEX session_event_rows_event_id ON session_event_rows (event_id) WHERE event_id IS NOT NULL;

CREATE INDEX session_leases_by_expiry ON session_leases (exp_ms);

CREATE INDEX session_leases_by_state ON session_leases (state, activated_at);

CREATE UNIQUE INDEX session_leases_one_a_session ON session_leases (session_id) WHERE state = 'active';

CREATE INDEX session_ledger_by_agent
    ON session_ledger (agent_id, started_at DESC, status, model_id, task_category);

CREATE INDEX session_ledger_by_category ON session_ledger (task_category, started_at DESC, status)
    WHERE task_category IS NOT NULL;

CREATE INDEX session_ledger_by_end ON session_ledger (ended_at) WHERE ended_at IS NOT NULL;

CREATE INDEX session_ledger_by_gateway_session ON session_ledger (gateway_session_id)
    WHERE gateway_session_id IS NOT NULL;

CREATE INDEX session_ledger_by_model
    ON session_ledger (model_id, started_at DESC, status, task_category);

CREATE INDEX session_ledger_by_status ON session_ledger (status, started_at DESC);

CREATE INDEX session_ledger_newest ON session_ledger (started_at DESC, session_id DESC);

CREATE INDEX session_usage_rows_by_computed ON session_usage_rows (computed_at DESC);

CREATE INDEX session_usage_rows_by_pricing ON session_usage_rows (pricing_version)
    WHERE pricing_version IS NOT NULL;

CREATE INDEX usage_days_incomplete ON usage_days (bucket_date) WHERE is_incomplete;

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

CREATE VIEW session_id_ends (session_key, ending) AS
SELECT session_key, hex(substr(session_id, -4)) FROM session_ledger;

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

CREATE TRIGGER audit_breaks_keep BEFORE DELETE ON audit_breaks
BEGIN
    SELECT RAISE(ABORT, 'audit_breaks: breaks are never forgotten');
END;

CREATE TRIGGER audit_checkpoints_fixed BEFORE UPDATE ON audit_checkpoints
BEGIN
    SELECT RAISE(ABORT, 'audit_checkpoints: checkpoints never change');
END;

CREATE TRIGGER audit_checkpoints_keep BEFORE DELETE ON audit_checkpoints
WHEN OLD.seq > (SELECT pruned_seq FROM audit_state)
BEGIN
    SELECT RAISE(ABORT, 'audit_checkpoints: a checkpoint goes with the records that it signs');
END;

CREATE TRIGGER audit_records_fixed BEFORE UPDATE ON audit_records
BEGIN
    SELECT RAISE(ABORT, 'audit_records: records never change');
END;

CREATE TRIGGER audit_records_keep BEFORE DELETE ON audit_records
WHEN OLD.seq > (SELECT pruned_seq FROM audit_state)
BEGIN
    SELECT RAISE(ABORT, 'audit_records: only acknowledged records that were pruned are removed');
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

CREATE TRIGGER audit_state_keep BEFORE DELETE ON audit_state
BEGIN
    SELECT RAISE(ABORT, 'audit_state: the row stays');
END;

CREATE TRIGGER daily_usage_agg_lost AFTER DELETE ON daily_usage_agg
WHEN OLD.runs_total > 0
BEGIN
    INSERT INTO usage_days (bucket_date, is_incomplete) VALUES (OLD.bucket_date, 1)
    ON CONFLICT (bucket_date) DO UPDATE SET revision = revision + 1, is_incomplete = 1;
END;

CREATE TRIGGER identity_rollovers_fixed BEFORE UPDATE ON identity_rollovers
BEGIN
    SELECT RAISE(ABORT, 'identity_rollovers: statements never change');
END;

CREATE TRIGGER identity_rollovers_keep BEFORE DELETE ON identity_rollovers
BEGIN
    SELECT RAISE(ABORT, 'identity_rollovers: statements are never removed');
END;

CREATE TRIGGER outbox_event_insert AFTER INSERT ON session_event_rows
WHEN (SELECT joined FROM outbox_state)
BEGIN
    INSERT INTO outbox_sessions (session_key, from_event) VALUES (NEW.session_key, NEW.seq)
    ON CONFLICT DO UPDATE SET from_event = excluded.from_event WHERE from_event > excluded.from_event;
END;

CREATE TRIGGER outbox_session_delete AFTER DELETE ON session_ledger
WHEN EXISTS (SELECT 1 FROM outbox_sessions WHERE session_key = OLD.session_key)
BEGIN
    DELETE FROM outbox_sessions WHERE session_key = OLD.session_key;
    UPDATE outbox_streams SET dropped = dropped + 1 WHERE stream = 'ledger';
END;

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

CREATE TRIGGER session_counts_delete AFTER DELETE ON session_ledger
BEGIN
    UPDATE session_counts SET sessions = sessions - 1
    WHERE agent_id = OLD.agent_id AND model_id = OLD.model_id
        AND task_category = coalesce(OLD.task_category, '') AND status = OLD.status;
    DELETE FROM session_counts
    WHERE agent_id = OLD.agent_id AND model_id = OLD.model_id
        AND task_category = coalesce(OLD.task_category, '') AND status = OLD.status AND sessions = 0;
END;

CREATE TRIGGER session_counts_insert AFTER INSERT ON session_ledger
BEGIN
    INSERT INTO session_counts (agent_id, model_id, task_category, status, sessions)
    VALUES (NEW.agent_id, NEW.model_id, coalesce(NEW.task_category, ''), NEW.status, 1)
    ON CONFLICT DO UPDATE SET sessions = sessions + 1;
END;

CREATE TRIGGER session_counts_update AFTER UPDATE OF model_id, task_category, status ON session_ledger
WHEN NEW.status IS NOT OLD.status
    OR NEW.model_id IS NOT OLD.model_id
    OR NEW.task_category IS NOT OLD.task_category
BEGIN
    UPDATE session_counts SET sessions = sessions - 1
    WHERE agent_id = OLD.agent_id AND model_id = OLD.model_id
        AND task_category = coalesce(OLD.task_category, '') AND status = OLD.status;
    DELETE FROM session_counts
    WHERE agent_id = OLD.agent_id AND model_id = OLD.model_id
        AND task_category = coalesce(OLD.task_category, '') AND status = OLD.status AND sessions = 0;
    INSERT INTO session_counts (agent_id, model_id, task_category, status, sessions)
    VALUES (NEW.agent_id, NEW.model_id, coalesce(NEW.task_category, ''), NEW.status, 1)
    ON CONFLICT DO UPDATE SET sessions = sessions + 1;
END;

CREATE TRIGGER session_day_counts_delete AFTER DELETE ON session_ledger
BEGIN
    UPDATE session_day_counts SET sessions = sessions - 1 WHERE bucket_date = substr(OLD.started_at, 1, 10);
    DELETE FROM session_day_counts WHERE bucket_date = substr(OLD.started_at, 1, 10) AND sessions = 0;
END;

CREATE TRIGGER session_day_counts_insert AFTER INSERT ON session_ledger
BEGIN
    INSERT INTO session_day_counts (bucket_date, sessions) VALUES (substr(NEW.started_at, 1, 10), 1)
    ON CONFLICT DO UPDATE SET sessions = sessions + 1;
END;

CREATE TRIGGER session_events_delete INSTEAD OF DELETE ON session_events
BEGIN
    DELETE FROM session_event_rows
    WHERE session_key = (SELECT session_key FROM session_ledger WHERE session_id = OLD.session_id)
        AND seq = OLD.seq;
END;

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

CREATE TRIGGER session_search_delete AFTER DELETE ON session_ledger
BEGIN
    INSERT INTO session_search (session_search, rowid, session_id, task_title, task_text)
    SELECT 'delete', OLD.session_key, OLD.session_id, OLD.task_title, OLD.task_text
    WHERE NOT EXISTS (SELECT 1 FROM session_search_pending WHERE session_key = OLD.session_key);
    INSERT INTO session_end_search (session_end_search, rowid, ending)
    SELECT 'delete', OLD.session_key, hex(substr(OLD.session_id, -4))
    WHERE NOT EXISTS (SELECT 1 FROM session_search_pending WHERE session_key = OLD.session_key);
    DELETE FROM session_search_pending WHERE session_key = OLD.session_key;
END;

CREATE TRIGGER session_search_insert AFTER INSERT ON session_ledger
BEGIN
    INSERT INTO session_search_pending (session_key) VALUES (NEW.session_key);
END;

CREATE TRIGGER session_search_update AFTER UPDATE OF task_title, task_text ON session_ledger
WHEN (NEW.task_title IS NOT OLD.task_title OR NEW.task_text IS NOT OLD.task_text)
    AND NOT EXISTS (SELECT 1 FROM session_search_pending WHERE session_key = OLD.session_key)
BEGIN
    INSERT INTO session_search (session_search, rowid, session_id, task_title, task_text)
    VALUES ('delete', OLD.session_key, OLD.session_id, OLD.task_title, OLD.task_text);
    INSERT INTO session_end_search (session_end_search, rowid, ending)
    VALUES ('delete', OLD.session_key, hex(substr(OLD.session_id, -4)));
    INSERT INTO session_search_pending (session_key) VALUES (NEW.session_key);
END;

CREATE TRIGGER session_usage_delete INSTEAD OF DELETE ON session_usage
BEGIN
    DELETE FROM session_usage_rows
    WHERE session_key = (SELECT session_key FROM session_ledger WHERE session_id = OLD.session_id);
END;

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
