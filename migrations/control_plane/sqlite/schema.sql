-- The schema after all migrations: a picture, tested against them. Never executed.

CREATE TABLE access_tokens (
    token_hash BLOB NOT NULL PRIMARY KEY CHECK (length(token_hash) >= 32),
    user_id TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    family_id TEXT NOT NULL,
    issued_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
    key_id TEXT NOT NULL PRIMARY KEY CHECK (key_id <> ''),
    user_id TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    key_hash BLOB NOT NULL UNIQUE CHECK (length(key_hash) >= 32),
    key_prefix TEXT NOT NULL,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL CHECK (json_valid(scopes)),
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    last_used_at INTEGER,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE connect_sessions (
    requester_id TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    session_id TEXT NOT NULL CHECK (session_id <> ''),
    task_id TEXT NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE,
    node_id TEXT NOT NULL REFERENCES nodes (node_id) ON DELETE CASCADE,
    token_hash BLOB NOT NULL UNIQUE CHECK (length(token_hash) >= 32),
    tunnel_protocol TEXT NOT NULL CHECK (tunnel_protocol IN ('mtls', 'wireguard', 'quic')),
    egress_profile TEXT NOT NULL CHECK (
        egress_profile IN ('allowlist_domains', 'protocol_limited', 'metered_general_egress')
    ),
    destination_policy_id TEXT NOT NULL,
    bandwidth_limit_mbps REAL NOT NULL CHECK (bandwidth_limit_mbps > 0),
    status TEXT NOT NULL CHECK (status IN ('active', 'ended', 'expired')),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    last_heartbeat_at INTEGER,
    ended_at INTEGER,
    end_reason TEXT,
    PRIMARY KEY (requester_id, session_id),
    CHECK ((status = 'active') = (ended_at IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE control_audit (
    seq INTEGER NOT NULL PRIMARY KEY CHECK (seq >= 1),
    kind TEXT NOT NULL,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL,
    prev_hash TEXT NOT NULL UNIQUE CHECK (length(prev_hash) = 64),
    hash TEXT NOT NULL CHECK (length(hash) = 64)
) STRICT;

CREATE TABLE device_credentials (
    credential_id TEXT NOT NULL PRIMARY KEY CHECK (credential_id <> ''),
    node_id TEXT NOT NULL REFERENCES nodes (node_id) ON DELETE CASCADE,
    token_hash BLOB NOT NULL UNIQUE CHECK (length(token_hash) >= 32),
    public_key BLOB NOT NULL CHECK (length(public_key) = 32),
    created_at INTEGER NOT NULL,
    rotated_from TEXT,
    revoked_at INTEGER,
    last_seq INTEGER NOT NULL DEFAULT 0 CHECK (last_seq >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE fleet_counters (
    name TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE fleet_items (
    revision INTEGER NOT NULL PRIMARY KEY,
    item_id BLOB NOT NULL UNIQUE CHECK (length(item_id) = 32),
    kind TEXT NOT NULL CHECK (kind IN ('policy', 'tombstone', 'lease', 'revocation', 'roster')),
    subject TEXT NOT NULL,
    owner_id TEXT REFERENCES users (user_id) ON DELETE CASCADE,
    node_id TEXT REFERENCES nodes (node_id) ON DELETE CASCADE,
    body BLOB NOT NULL,
    issuer BLOB NOT NULL CHECK (length(issuer) = 32),
    signature BLOB NOT NULL CHECK (length(signature) = 64),
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT;

CREATE TABLE join_tokens (
    token_hash BLOB NOT NULL PRIMARY KEY CHECK (length(token_hash) >= 32),
    token_id TEXT NOT NULL UNIQUE CHECK (token_id <> ''),
    owner_id TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    uses_left INTEGER NOT NULL CHECK (uses_left >= 0),
    node_id TEXT,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE node_audit (
    node_id TEXT NOT NULL REFERENCES nodes (node_id) ON DELETE CASCADE,
    incarnation INTEGER NOT NULL,
    seq INTEGER NOT NULL CHECK (seq >= 1),
    kind TEXT NOT NULL,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL,
    prev_hash TEXT NOT NULL CHECK (length(prev_hash) = 64),
    hash TEXT NOT NULL CHECK (length(hash) = 64),
    received_at INTEGER NOT NULL,
    PRIMARY KEY (node_id, incarnation, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE node_delta_v (
    node_id TEXT NOT NULL REFERENCES nodes (node_id) ON DELETE CASCADE,
    window_start INTEGER NOT NULL,
    window_end INTEGER NOT NULL,
    value REAL,
    samples INTEGER NOT NULL CHECK (samples >= 0),
    refused INTEGER NOT NULL CHECK (refused >= 0),
    source TEXT,
    confidence TEXT,
    PRIMARY KEY (node_id, window_start),
    CHECK (window_end > window_start)
) STRICT, WITHOUT ROWID;

CREATE TABLE node_heartbeat_history (
    heartbeat_id INTEGER NOT NULL PRIMARY KEY,
    node_id TEXT NOT NULL REFERENCES nodes (node_id) ON DELETE CASCADE,
    health_score REAL NOT NULL CHECK (health_score BETWEEN 0 AND 100),
    cpu_usage REAL CHECK (cpu_usage BETWEEN 0 AND 100),
    memory_usage REAL CHECK (memory_usage BETWEEN 0 AND 100),
    disk_usage REAL CHECK (disk_usage BETWEEN 0 AND 100),
    network_latency_ms INTEGER CHECK (network_latency_ms >= 0),
    active_tasks INTEGER NOT NULL CHECK (active_tasks >= 0),
    status TEXT NOT NULL CHECK (
        status IN ('online', 'unknown', 'offline', 'rejected', 'task_cleared', 'task_connected')
    ),
    metadata TEXT CHECK (json_valid(metadata)),
    recorded_at INTEGER NOT NULL,
    sampled_at INTEGER,
    incarnation INTEGER NOT NULL DEFAULT 1,
    report_seq INTEGER
) STRICT;

CREATE TABLE node_session_events (
    node_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    seq INTEGER NOT NULL CHECK (seq >= 1),
    event_id TEXT,
    event_type TEXT NOT NULL CHECK (
        event_type IN ('tool_call', 'message', 'state_transition', 'artifact', 'error', 'metric')
    ),
    at INTEGER NOT NULL,
    payload TEXT NOT NULL CHECK (json_valid(payload)),
    PRIMARY KEY (node_id, session_id, seq),
    FOREIGN KEY (node_id, session_id) REFERENCES node_sessions (node_id, session_id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE node_sessions (
    node_id TEXT NOT NULL REFERENCES nodes (node_id) ON DELETE CASCADE,
    session_id TEXT NOT NULL CHECK (session_id <> ''),
    stream_seq INTEGER NOT NULL,
    run_id TEXT,
    agent_id TEXT NOT NULL,
    agent_label TEXT NOT NULL,
    model_id TEXT NOT NULL,
    task_id TEXT,
    task_title TEXT,
    task_category TEXT,
    status TEXT NOT NULL CHECK (
        status IN ('queued', 'running', 'success', 'failed', 'killed', 'cancelled')
    ),
    started_at INTEGER NOT NULL,
    ended_at INTEGER,
    runtime_ms INTEGER CHECK (runtime_ms >= 0),
    artifact_count INTEGER NOT NULL DEFAULT 0 CHECK (artifact_count >= 0),
    error_code TEXT,
    error_message TEXT,
    source_version TEXT,
    gateway_session_id TEXT,
    PRIMARY KEY (node_id, session_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE node_streams (
    node_id TEXT NOT NULL REFERENCES nodes (node_id) ON DELETE CASCADE,
    stream TEXT NOT NULL CHECK (stream IN ('reports', 'audit', 'ledger', 'delta_v')),
    incarnation INTEGER NOT NULL,
    acked_seq INTEGER NOT NULL CHECK (acked_seq >= 0),
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (node_id, stream)
) STRICT, WITHOUT ROWID;

CREATE TABLE node_usage (
    node_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    stream_seq INTEGER NOT NULL,
    prompt_tokens INTEGER CHECK (prompt_tokens >= 0),
    completion_tokens INTEGER CHECK (completion_tokens >= 0),
    total_tokens INTEGER CHECK (total_tokens >= 0),
    cache_read_tokens INTEGER CHECK (cache_read_tokens >= 0),
    cache_write_tokens INTEGER CHECK (cache_write_tokens >= 0),
    runtime_ms INTEGER CHECK (runtime_ms >= 0),
    cost_usd REAL CHECK (cost_usd >= 0),
    cost_confidence TEXT NOT NULL CHECK (cost_confidence IN ('exact', 'estimated', 'unknown')),
    cost_source TEXT NOT NULL,
    cost_confidence_level TEXT NOT NULL,
    token_source TEXT NOT NULL,
    token_confidence TEXT NOT NULL,
    runtime_source TEXT NOT NULL,
    runtime_confidence TEXT NOT NULL,
    provider TEXT,
    pricing_version TEXT,
    computed_at INTEGER NOT NULL,
    PRIMARY KEY (node_id, session_id),
    FOREIGN KEY (node_id, session_id) REFERENCES node_sessions (node_id, session_id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE nodes (
    node_id TEXT NOT NULL PRIMARY KEY CHECK (node_id <> ''),
    owner_id TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    region TEXT NOT NULL,
    node_type TEXT NOT NULL CHECK (
        node_type IN ('compute', 'gateway', 'storage', 'validator', 'open_internet', 'feen_resonator', 'any')
    ),
    bandwidth_mbps REAL NOT NULL CHECK (bandwidth_mbps >= 0),
    cpu_cores INTEGER NOT NULL CHECK (cpu_cores >= 0),
    memory_gb REAL NOT NULL CHECK (memory_gb >= 0),
    gpu_available INTEGER NOT NULL CHECK (gpu_available IN (0, 1)),
    observability_port INTEGER CHECK (observability_port BETWEEN 1 AND 65535),
    health_score REAL NOT NULL CHECK (health_score BETWEEN 0 AND 100),
    status TEXT NOT NULL CHECK (status IN ('online', 'unknown', 'offline', 'rejected')),
    registered_at INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    last_heartbeat INTEGER,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER,
    report_interval_ms INTEGER NOT NULL CHECK (report_interval_ms > 0),
    incarnation INTEGER NOT NULL DEFAULT 1 CHECK (incarnation >= 1),
    state TEXT,
    delta_v REAL,
    audit_head_seq INTEGER,
    audit_head_hash TEXT,
    report_seq INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE refresh_tokens (
    token_hash BLOB NOT NULL PRIMARY KEY CHECK (length(token_hash) >= 32),
    family_id TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    parent_hash BLOB,
    issued_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at INTEGER,
    successor_hash BLOB,
    revoked_at INTEGER,
    revoked_reason TEXT,
    CHECK ((successor_hash IS NULL) = (used_at IS NULL))
) STRICT, WITHOUT ROWID;

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

CREATE TABLE task_assignments (
    task_id TEXT NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE,
    node_id TEXT NOT NULL REFERENCES nodes (node_id) ON DELETE CASCADE,
    assigned_at INTEGER NOT NULL,
    disconnected_at INTEGER,
    detach_reason TEXT,
    execution_status TEXT NOT NULL CHECK (
        execution_status IN ('assigned', 'in_progress', 'completed', 'failed', 'stopped')
    ),
    execution_started_at INTEGER,
    execution_completed_at INTEGER,
    session_id TEXT,
    attempt INTEGER NOT NULL CHECK (attempt >= 1),
    PRIMARY KEY (task_id, node_id),
    CHECK ((disconnected_at IS NULL) = (detach_reason IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE tasks (
    task_id TEXT NOT NULL PRIMARY KEY CHECK (task_id <> ''),
    creator_id TEXT REFERENCES users (user_id) ON DELETE SET NULL,
    task_type TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'running', 'completed', 'failed')),
    wasm_module TEXT,
    inputs TEXT NOT NULL CHECK (json_valid(inputs)),
    min_nodes INTEGER NOT NULL CHECK (min_nodes >= 1),
    max_execution_time_sec INTEGER NOT NULL CHECK (max_execution_time_sec >= 1),
    require_gpu INTEGER NOT NULL CHECK (require_gpu IN (0, 1)),
    require_proof INTEGER NOT NULL CHECK (require_proof IN (0, 1)),
    away_policy TEXT NOT NULL CHECK (away_policy IN ('wait', 'move', 'stop')),
    away_after_ms INTEGER CHECK (away_after_ms > 0),
    result TEXT CHECK (json_valid(result)),
    proof_id TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    completed_at INTEGER,
    CHECK (away_policy = 'wait' OR away_after_ms IS NOT NULL),
    CHECK ((status IN ('completed', 'failed')) = (completed_at IS NOT NULL))
) STRICT;

CREATE TABLE throttle_overrides (
    override_id TEXT NOT NULL PRIMARY KEY CHECK (override_id <> ''),
    tier TEXT NOT NULL CHECK (tier IN ('auth', 'node', 'task', 'proof', 'general', 'device')),
    network TEXT,
    user_id TEXT REFERENCES users (user_id) ON DELETE CASCADE,
    rpm INTEGER NOT NULL CHECK (rpm >= 1),
    burst INTEGER NOT NULL CHECK (burst >= 1),
    reason TEXT,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    CHECK ((network IS NULL) <> (user_id IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE users (
    user_id TEXT NOT NULL PRIMARY KEY CHECK (user_id <> ''),
    username TEXT NOT NULL UNIQUE CHECK (username <> ''),
    password_hash TEXT,
    role TEXT NOT NULL CHECK (role IN ('user', 'admin')),
    email TEXT,
    created_at INTEGER NOT NULL,
    last_login INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX access_tokens_by_expiry ON access_tokens (expires_at);

CREATE INDEX access_tokens_by_family ON access_tokens (family_id);

CREATE INDEX access_tokens_by_user ON access_tokens (user_id);

CREATE INDEX api_keys_by_user ON api_keys (user_id, created_at);

CREATE INDEX connect_sessions_by_task ON connect_sessions (task_id);

CREATE INDEX connect_sessions_due ON connect_sessions (expires_at) WHERE status = 'active';

CREATE UNIQUE INDEX connect_sessions_one_a_node ON connect_sessions (node_id) WHERE status = 'active';

CREATE INDEX device_credentials_by_node ON device_credentials (node_id, created_at);

CREATE INDEX fleet_items_by_expiry ON fleet_items (expires_at) WHERE expires_at IS NOT NULL;

CREATE INDEX fleet_items_by_subject ON fleet_items (kind, subject, revision);

CREATE INDEX join_tokens_by_owner ON join_tokens (owner_id, created_at);

CREATE INDEX node_heartbeat_history_by_node ON node_heartbeat_history (node_id, heartbeat_id);

CREATE INDEX node_heartbeat_history_events
ON node_heartbeat_history (node_id, recorded_at) WHERE status IN ('task_cleared', 'task_connected');

CREATE UNIQUE INDEX node_heartbeat_history_once
ON node_heartbeat_history (node_id, incarnation, report_seq) WHERE report_seq IS NOT NULL;

CREATE INDEX node_sessions_by_task ON node_sessions (task_id) WHERE task_id IS NOT NULL;

CREATE INDEX node_sessions_newest ON node_sessions (node_id, started_at, session_id);

CREATE INDEX nodes_by_owner ON nodes (owner_id, registered_at, node_id);

CREATE INDEX nodes_newest ON nodes (registered_at, node_id);

CREATE INDEX refresh_tokens_by_expiry ON refresh_tokens (expires_at);

CREATE INDEX refresh_tokens_by_family ON refresh_tokens (family_id);

CREATE INDEX refresh_tokens_by_user ON refresh_tokens (user_id);

CREATE INDEX task_assignments_current
ON task_assignments (node_id, assigned_at) WHERE disconnected_at IS NULL;

CREATE INDEX task_assignments_of_node ON task_assignments (node_id, assigned_at);

CREATE INDEX tasks_by_creator ON tasks (creator_id, created_at, task_id);

CREATE INDEX tasks_moving ON tasks (task_id) WHERE away_policy <> 'wait' AND status IN ('pending', 'running');

CREATE INDEX tasks_newest ON tasks (created_at, task_id);

CREATE INDEX tasks_open ON tasks (creator_id) WHERE status IN ('pending', 'running');

CREATE INDEX tasks_pending ON tasks (created_at, task_id) WHERE status = 'pending';

CREATE UNIQUE INDEX throttle_overrides_of_network ON throttle_overrides (network, tier);

CREATE UNIQUE INDEX throttle_overrides_of_user ON throttle_overrides (user_id, tier);

CREATE TRIGGER control_audit_keeps BEFORE DELETE ON control_audit
BEGIN
    SELECT RAISE(ABORT, 'control_audit: records are never removed');
END;

CREATE TRIGGER control_audit_stands BEFORE UPDATE ON control_audit
BEGIN
    SELECT RAISE(ABORT, 'control_audit: records never change');
END;
